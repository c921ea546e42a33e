"""The past of a document, from its history alone: what it showed, what changed, why, and who could not have known."""

from __future__ import annotations

import copy
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ClusterError, InvalidRequest, PermissionDenied, UnknownDocument
from cluster.examples.chat import Room
from cluster.examples.poll import Poll
from cluster.examples.tictactoe import CellTaken, Game
from cluster.ids import Position, Principal
from cluster.replay.audit import audit
from cluster.replay.timeline import ABSENT, at, causes, difference, shown
from cluster.replay.verify import Replay
from cluster.simulate import Simulation

ANN, BEN = Principal("ann", "acme"), Principal("ben", "acme")


@pytest.fixture(name="game")
def played_game() -> Simulation:
    game = Game.simulate(by="ann@acme")
    ann, ben = game.visitor("ann@acme"), game.visitor("ben@acme")
    ben.join()
    for number, cell in enumerate((4, 0, 2)):
        (ann, ben)[number % 2].play(cell=cell)
    with pytest.raises(CellTaken):
        ben.play(cell=4)
    ben.play(cell=6)
    return game


def test_every_position_is_what_it_was_when_it_was_the_present() -> None:
    room = Room.simulate(by="ann@acme", title="tea")
    ann, ben = room.visitor("ann@acme"), room.visitor("ben@acme")
    seen: list[tuple[int, Any, Any]] = []

    def look() -> None:
        assert ann.position is not None
        seen.append((ann.position.index, ann.view(), ben.view()))

    look()
    for text in ("one", "two"):
        ann.say(text=text)
        look()
    ann.invite(who="ben@acme")
    look()
    ann.expel(who="ben@acme")
    look()
    history = room.history()
    for index, to_ann, to_ben in seen:
        position, instance = at(history, index)
        assert position == Position(1, index)
        assert shown(instance, ANN) == to_ann
        assert shown(instance, BEN) == to_ben
    assert shown(at(history, 0)[1], None)["members"] == ["ann@acme"]


def test_difference_is_the_patch_between_two_positions(game: Simulation) -> None:
    before, after, patch = difference(game.history(), 2, 4, ANN)
    assert (before, after) == (Position(1, 2), Position(1, 4))
    assert {(each["op"], each["path"], each["value"]) for each in patch} == {
        ("replace", "/board/4", "X"),
        ("replace", "/board/0", "O"),
        ("replace", "/moves", 2),
    }


def test_a_difference_replays_the_history_once(game: Simulation, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []
    step = Replay.step

    def counted(replay: Replay, row: dict[str, Any]) -> Any:
        ran.append(row["position"]["index"])
        return step(replay, row)

    monkeypatch.setattr(Replay, "step", counted)
    history = game.history()
    difference(history, 2, 4, ANN)
    assert ran == [1, 2, 3, 4]
    for first, last in ((0, 4), (9, 0), (2, 99), (4, 2)):
        with pytest.raises(UnknownDocument):
            difference(history, first, last, ANN)


def test_causes_are_the_commands_that_changed_a_value_and_no_others(game: Simulation) -> None:
    (cell,) = causes(game.history(), "/board/4")[1:]
    assert (cell.position, cell.row["sender"], cell.before, cell.after) == (Position(1, 3), "ann@acme", "", "X")
    moves = causes(game.history(), "/moves")
    assert [(cause.position.index, cause.after) for cause in moves] == [(1, 0), (3, 1), (4, 2), (5, 3), (7, 4)]
    assert moves[0].before is ABSENT
    assert causes(game.history(), "/nothing/here") == []
    with pytest.raises(InvalidRequest):
        causes(game.history(), "board")


def test_a_position_that_never_was_is_refused(game: Simulation) -> None:
    history = game.history()
    for index, epoch in ((8, 0), (99, 0), (1, 2)):
        with pytest.raises(UnknownDocument):
            at(history, index, epoch)
    broken = copy.deepcopy(history)
    del broken["commands"][0]
    with pytest.raises(InvalidRequest):
        at(broken, 3)
    broken = copy.deepcopy(history)
    del broken["commands"][2]["seed"]
    with pytest.raises(InvalidRequest):
        at(broken, 3)


def test_a_deleted_document_has_its_past_and_no_present() -> None:
    room = Room.simulate(by="ann@acme", title="tea")
    ann = room.visitor("ann@acme")
    ann.delete()
    with pytest.raises(UnknownDocument):
        at(room.history(), 0)
    assert shown(at(room.history(), 1)[1], ANN)["title"] == "tea"
    ann.create(title="coffee")
    assert shown(at(room.history(), 0)[1], ANN)["title"] == "coffee"
    assert shown(at(room.history(), 1, epoch=1)[1], ANN)["title"] == "tea"


def test_what_a_viewer_may_not_see_can_be_changed_without_a_byte_of_theirs_changing() -> None:
    poll = Poll.simulate(by="ann@acme", question="?", options=["red", "blue"])
    ann, ben = poll.visitor("ann@acme"), poll.visitor("ben@acme")
    ann.vote(option="red")
    ben.vote(option="red")
    hidden = audit(poll.history(), BEN, 2, '{"option": "blue"}')
    assert hidden.hidden
    assert (hidden.viewed, hidden.views) == (3, ["voters", "result", "mine"])
    ann.close()
    seen = audit(poll.history(), BEN, 2, '{"option": "blue"}')
    assert (seen.hidden, seen.differing, seen.first) == (False, 1, Position(1, 4))
    assert {operation["path"] for operation in seen.seen} == {"/result/red", "/result/blue"}


def test_an_audit_changes_the_words_itself_and_says_what_it_tried() -> None:
    room = Room.simulate(by="ann@acme", title="tea")
    room.visitor("ann@acme").say(text="The plan: 9 o'clock")
    found = audit(room.history(), BEN, 2, None)
    assert found.hidden
    assert json.loads(found.became) == {"text": "Gur cyna: 9 b'pybpx"}
    assert not audit(room.history(), ANN, 2, None).hidden
    with pytest.raises(InvalidRequest):
        audit(room.history(), BEN, 7, None)
    with pytest.raises(ClusterError):
        audit(room.history(), BEN, 2, '{"no such": 1}')


CLUB = """
from cluster import Command, Document, Principal, field, on, read


class Club(Document):
    open: bool = field.public(True)

    @read.gate
    def enter(self, who: Principal) -> bool:
        return self.open

    @on.message
    def close(self, ctx: Command) -> None:
        self.open = False
"""


def test_a_gate_that_said_no_then_says_no_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "club_of_a_test.py").write_text(CLUB)
    monkeypatch.syspath_prepend(str(tmp_path))
    club = importlib.import_module("club_of_a_test").Club.simulate()
    club.visitor("ann@acme").close()
    assert shown(at(club.history(), 1)[1], ANN) == {"open": True}
    with pytest.raises(PermissionDenied):
        shown(at(club.history(), 2)[1], ANN)
    assert shown(at(club.history(), 2)[1], None) == {"open": False}
    del sys.modules["club_of_a_test"]


def test_replay_of_a_simulation_verifies_its_chain(game: Simulation) -> None:
    verdict = game.replay()
    assert (verdict.equal, verdict.chain, verdict.commands) == (True, "verified", 7)


def test_a_simulation_goes_on_from_where_a_history_ends(game: Simulation, tmp_path: Path) -> None:
    history = game.history()
    history["commands"] = history["commands"][:5]
    history["position"] = {"epoch": 1, "index": 5}
    file = tmp_path / "game.json"
    file.write_text(json.dumps(history))
    forked = Game.simulate(history=str(file))
    ann, ben = forked.visitor("ann@acme"), forked.visitor("ben@acme")
    assert ben.view() == shown(at(game.history(), 5)[1], BEN)
    ben.play(cell=8)
    assert ann.view()["board"] == ["O", "", "X", "", "X", "", "", "", "O"]
    assert ben.position == Position(1, 6)
    forked.restart()
    assert ann.view()["moves"] == 4
