"""A past that becomes a document of its own, and a past as one principal saw it, which tells nothing else."""

from __future__ import annotations

import base64
import importlib
import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import DocumentExists, InvalidRequest, PermissionDenied, UnknownDocument
from cluster.examples.auction import Auction
from cluster.examples.cards import Cards
from cluster.examples.text import SharedText
from cluster.ids import DocumentId, Position, Principal
from cluster.replay.timeline import at, cut, end, seen_by, shown
from cluster.replay.verify import replay
from cluster.session.operations import Kind
from cluster.simulate import Simulation

BEN = Principal("ben", "acme")


@pytest.fixture(name="game")
def dealt_game() -> Simulation:
    game = Cards.simulate(by="ann@acme", seed=3)
    ann, ben = game.visitor("ann@acme"), game.visitor("ben@acme")
    ben.sit()
    ann.deal()
    ann.draw()
    ben.draw()
    return game


def order(history: dict[str, Any], **other: Any) -> dict[str, Any]:
    live = end(history)
    assert live.instance is not None
    return {
        "source": history["document"],
        "position": [live.epoch, live.index],
        "seen_by": "",
        "code": live.code_hash.hex(),
        "state": base64.b64encode(live.instance.dump()).decode(),
    } | other


def test_a_past_as_somebody_saw_it_holds_nothing_that_was_hidden_from_them(game: Simulation) -> None:
    history = game.history()
    instance = at(history, 0)[1]
    past, left_out = seen_by(history, BEN)
    text = json.dumps(past)
    whole, seen = shown(instance, None), shown(instance, BEN)
    hidden = {name: held for name, held in whole["hands"].items() if held["owner"] != "ben@acme"}
    assert len(hidden) == 6
    for name in hidden:
        assert name not in text
    for row in history["commands"]:
        assert row["seed"] not in text
    assert "stock" not in past["seen"]["view"]
    assert json.dumps(whole["stock"][:3])[1:-1] not in text
    assert left_out == []
    again = end(past)
    assert again.position == Position(1, 5)
    assert shown(at(past, 0)[1], BEN) == seen | {"counts": {"ann@acme": 0, "ben@acme": 6}}, "views count what is there"
    assert shown(at(past, 0)[1], None)["stock"] == []


def test_changing_a_secret_does_not_change_the_file_of_who_could_not_see_it() -> None:
    files = []
    for seed in (1, 2):
        auction = Auction.simulate(by="seller@acme", title="A vase", minutes=10, seed=0)
        auction.visitor("ann@acme").bid(cents=100 * seed)
        files.append(seen_by(auction.history(), BEN)[0])
    assert files[0] == files[1]


def test_a_test_goes_on_from_what_somebody_saw(game: Simulation, tmp_path: Path) -> None:
    past, _ = seen_by(game.history(), BEN)
    file = tmp_path / "seen.json"
    file.write_text(json.dumps(past))
    forked = Cards.simulate(history=str(file))
    ben = forked.visitor("ben@acme")
    assert ben.view()["hands"] == game.visitor("ben@acme").view()["hands"]
    assert len(ben.view()["hands"]) == 6
    with pytest.raises(UnknownDocument):
        at(past, 2)
    assert replay(past).commands == 0


def test_who_was_not_admitted_saw_nothing() -> None:
    auction = Auction.simulate(by="seller@acme", title="A vase", minutes=10)
    with pytest.raises(PermissionDenied):
        seen_by(auction.history(), Principal("eve", "elsewhere"))


def test_a_fork_in_a_cluster_begins_where_its_source_was_and_its_history_replays(game: Simulation) -> None:
    history = cut(game.history(), Position(1, 4))
    copy = DocumentId("simulated", "copy")
    assert game.node.operator(Kind.FORK, copy, "root@acme", order(history)) == Position(1, 5)
    live = game.node.document(copy)
    assert live.instance is not None
    assert json.loads(live.instance.view(BEN)) == shown(at(history, 4)[1], BEN)
    made = game.node.history(copy)
    assert [(row["kind"], row["sender"], row["position"]["index"]) for row in made["commands"]] == [("fork", "root@acme", 5)]
    assert (replay(made).equal, replay(made).chain) == (True, "verified")
    with pytest.raises(DocumentExists):
        game.node.operator(Kind.FORK, copy, "root@acme", order(history))
    game.restart()
    assert game.node.document(copy).instance is not None
    assert game.visitor("ben@acme").position == Position(1, 5), "the source is where it was"


def test_a_fork_has_nothing_armed_and_calls_nobody_a_second_time() -> None:
    auction = Auction.simulate(by="seller@acme", title="A vase", minutes=10)
    auction.visitor("ann@acme").bid(cents=100)
    history = auction.history()
    copy = DocumentId("simulated", "copy")
    auction.node.operator(Kind.FORK, copy, "root@acme", order(history))
    made = auction.node.document(copy)
    assert made.due_ms is None
    auction.advance(timedelta(hours=1))
    assert auction.visitor("ann@acme").view()["closed"]
    assert [row["kind"] for row in auction.node.history(copy)["commands"]] == ["fork"]


def test_an_order_that_can_not_be_makes_nothing(game: Simulation) -> None:
    history, copy = game.history(), DocumentId("simulated", "copy")
    wrong: list[tuple[dict[str, Any], str]] = [
        (order(history, code="00" * 32), "never deployed"),
        (order(history, state=base64.b64encode(b"nothing").decode()), "no state"),
        (order(history, state=base64.b64encode(b"\x81\xa1x\x01").decode()), "can not be loaded"),
        (order(history, position=[0, 0]), "the position"),
        ({"source": "x"}, "orders no fork"),
    ]
    for told, why in wrong:
        with pytest.raises(InvalidRequest, match=why):
            game.node.operator(Kind.FORK, copy, "root@acme", told)
    assert game.node.document(copy).epoch == 0


def test_texts_of_a_fork_are_edited_at_the_positions_that_clients_see() -> None:
    """A text remembers at which index it was edited; a fork whose index began anew would refuse edits for a while."""
    note = SharedText.simulate(by="ann@acme")
    ann = note.visitor("ann@acme")
    for number in range(5):
        ann.edit(patches=[{"at": 0, "insert": str(number)}])
    copy = DocumentId("simulated", "copy")
    position = note.node.operator(Kind.FORK, copy, "root@acme", order(note.history()))
    assert position == Position(1, 7)
    note.key = copy.key
    carl, dave = note.visitor("carl@acme"), note.visitor("dave@acme")
    carl.edit(patches=[{"at": 0, "insert": "> "}], base=position.index)
    dave.edit(patches=[{"at": 5, "insert": "!"}], base=position.index)
    assert carl.view()["body"] == "> 43210!"


LETTERS = """
from cluster import Command, Document, Principal, Record, Table, anyone, field, on, read


class Letter(Record):
    @read.policy
    def is_reader(self, who: Principal) -> bool:
        return who == self.reader

    reader: Principal
    body: str = field.visible(is_reader)


class Box(Document):
    gate = anyone
    letters: Table[Letter] = field.public()

    @on.message
    def send(self, ctx: Command, reader: Principal, body: str) -> None:
        self.letters.put(Letter(reader, body))
"""


def test_a_record_of_which_only_a_part_was_shown_is_left_out_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "letters_of_a_test.py").write_text(LETTERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    box = importlib.import_module("letters_of_a_test").Box.simulate()
    ann = box.visitor("ann@acme")
    ann.send("send", {"reader": "ben@acme", "body": "to ben"})
    ann.send("send", {"reader": "cid@acme", "body": "to cid"})
    past, left_out = seen_by(box.history(), BEN)
    assert "to cid" not in json.dumps(past)
    letters = shown(at(past, 0)[1], None)["letters"]
    assert [letter["body"] for letter in letters.values()] == ["to ben"]
    (hidden,) = [name for name, letter in past["seen"]["view"]["letters"].items() if letter["reader"] == "cid@acme"]
    assert left_out == [f"/letters/{hidden}"]
    del sys.modules["letters_of_a_test"]
