"""An operator's repair in a node: one command of the log, told to viewers and replayed; refused, it leaves no trace."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from cluster.documents.loader import BundleLoader
from cluster.documents.runtime import Code
from cluster.errors import DocumentDeleted, DocumentFrozen, InvalidPatch, InvalidRequest, PositionMoved, UnknownDocument
from cluster.examples.chat import Room
from cluster.ids import DocumentId, Position, Principal
from cluster.replay.audit import audit
from cluster.replay.shadow import Past, shadow
from cluster.replay.timeline import at, causes, repaired, shown
from cluster.replay.verify import replay
from cluster.session.operations import Kind
from cluster.shard.document import FREEZE_AFTER_DIVERGENCE, FREEZE_AFTER_POISON
from cluster.simulate import Simulation

TITLE = [{"op": "replace", "path": "/title", "value": "coffee"}]
DOCUMENT = DocumentId("simulated", "document")


@pytest.fixture(name="room")
def made_room() -> Simulation:
    room = Room.simulate(by="ann@acme", title="tea")
    room.visitor("ann@acme").say(text="hello")
    return room


def test_a_repair_is_one_command_with_who_and_why_and_viewers_get_its_patch(room: Simulation) -> None:
    screen = room.visitor("ben@acme").watch()
    assert room.repair(TITLE, reason="a typo", by="root@acme") == Position(1, 3)
    assert (screen.view["title"], screen.position) == ("coffee", Position(1, 3))
    assert screen.patches[1:] == [TITLE]
    row = room.history()["commands"][-1]
    assert (row["kind"], row["sender"], row["code"]) == ("repair", "root@acme", "OK")
    assert json.loads(row["payload"]) == {"patch": TITLE, "reason": "a typo", "expect": None, "thaw": False}
    assert (room.replay().equal, room.replay().chain) == (True, "verified")
    room.restart()
    assert room.visitor("ann@acme").view()["title"] == "coffee"


def test_neither_gate_nor_policy_nor_handler_is_asked_and_privacy_holds(room: Simulation) -> None:
    ben, ann = room.visitor("ben@acme").watch(), room.visitor("ann@acme").watch()
    line = {"author": "ann@acme", "text": "by hand", "sent": "2030-01-01T12:00:00.000Z"}
    room.repair([{"op": "add", "path": "/messages/-", "value": line}], reason="lost in an import")
    assert [each["text"] for each in ann.view["messages"].values()] == ["hello", "by hand"]
    assert all(b"by hand" not in received for received in ben.received)
    assert (ben.position, ben.patches[-1]) == (Position(1, 3), [])


def test_a_refused_repair_leaves_no_trace(room: Simulation) -> None:
    before = room.node.document(DOCUMENT).record()
    history = room.history()
    with pytest.raises(InvalidPatch, match=r"operation 1 \(replace /title\): expected str, got int"):
        room.repair([*TITLE, {"op": "replace", "path": "/title", "value": 3}], reason="wrong")
    with pytest.raises(PositionMoved) as moved:
        room.repair(TITLE, reason="late", expect=Position(1, 1))
    assert moved.value.details["current"] == "1.2"
    with pytest.raises(InvalidRequest):
        room.repair([], reason="nothing")
    with pytest.raises(InvalidRequest):
        room.repair(TITLE, reason="")
    assert room.history() == history
    after = room.node.document(DOCUMENT)
    assert (after.position, after.record()) == (Position(1, 2), before)


def test_compare_and_set_lets_one_of_two_repairs_through(room: Simulation) -> None:
    assert room.repair(TITLE, reason="first", expect=Position(1, 2)) == Position(1, 3)
    with pytest.raises(PositionMoved):
        room.repair([{"op": "replace", "path": "/title", "value": "milk"}], reason="second", expect=Position(1, 2))
    assert room.visitor("ann@acme").view()["title"] == "coffee"


def test_there_is_nothing_to_repair_where_no_document_is(room: Simulation) -> None:
    with pytest.raises(UnknownDocument):
        Room.simulate(by=None).repair(TITLE, reason="none")
    room.visitor("ann@acme").delete()
    with pytest.raises(DocumentDeleted):
        room.repair(TITLE, reason="gone")


def test_what_was_frozen_with_an_isolated_command_is_repaired_and_thawed_by_one_order(room: Simulation) -> None:
    ann, live = room.visitor("ann@acme"), room.node.document(DOCUMENT)
    live.frozen = FREEZE_AFTER_POISON
    with pytest.raises(DocumentFrozen):
        ann.say(text="refused")
    room.repair(TITLE, reason="half of it")
    assert live.frozen
    room.repair([], reason="it is well", thaw=True)
    ann.say(text="taken")
    assert ann.view()["title"] == "coffee"
    room.restart()
    assert not room.node.document(DOCUMENT).frozen
    assert room.replay().equal


def test_where_replicas_differ_no_patch_can_make_them_equal(room: Simulation) -> None:
    room.node.document(DOCUMENT).frozen = FREEZE_AFTER_DIVERGENCE
    with pytest.raises(DocumentFrozen):
        room.repair(TITLE, reason="no", thaw=True)


def test_the_past_of_a_document_goes_on_behind_a_thaw(room: Simulation) -> None:
    other = Room.simulate(by="ann@acme", title="milk")
    record = other.node.document(DOCUMENT).record()
    room.node.document(DOCUMENT).frozen = FREEZE_AFTER_DIVERGENCE
    order = {"node": "n2", "reason": "n2 is right", "epoch": 2, "record": base64.b64encode(record).decode()}
    assert room.node.operator(Kind.THAW, DOCUMENT, "root@acme", order) == Position(2, 2)
    ann = room.visitor("ann@acme")
    ann.say(text="after it")
    assert (ann.position, ann.view()["title"]) == (Position(2, 3), "milk")
    history = room.history()
    assert [row["kind"] for row in history["commands"]] == ["create", "send", "thaw", "send"]
    assert (room.replay().equal, room.replay().chain) == (True, "verified")
    assert shown(at(history, 2, 1)[1], None)["title"] == "tea"
    (chosen,) = causes(history, "/title")[1:]
    assert (chosen.row["kind"], chosen.before, chosen.after) == ("thaw", "tea", "milk")
    room.restart()
    assert room.visitor("ann@acme").view()["title"] == "milk"


def test_the_past_of_a_document_crosses_repairs(room: Simulation, tmp_path: Path) -> None:
    room.repair(TITLE, reason="a typo", by="root@acme")
    room.visitor("ann@acme").say(text="after it")
    history = room.history()
    assert shown(at(history, 2)[1], None)["title"] == "tea"
    assert shown(at(history, 3)[1], None)["title"] == "coffee"
    (cause,) = causes(history, "/title")[1:]
    assert (cause.position, cause.row["kind"], cause.row["sender"], cause.after) == (
        Position(1, 3),
        "repair",
        "root@acme",
        "coffee",
    )
    found = audit(history, Principal("ben", "acme"), 2, None)
    assert [(each.position, each.sender, each.reason) for each in found.repairs] == [(Position(1, 3), "root@acme", "a typo")]
    assert found.hidden
    with pytest.raises(InvalidRequest, match="operator"):
        audit(history, Principal("ben", "acme"), 3, None)
    file = tmp_path / "room.json"
    file.write_text(json.dumps(history))
    assert Room.simulate(history=str(file)).visitor("ann@acme").view()["title"] == "coffee"


def test_replay_tells_a_repair_that_was_changed_in_the_file(room: Simulation) -> None:
    room.repair(TITLE, reason="a typo")
    history = room.history()
    history["commands"][-1]["payload"] = history["commands"][-1]["payload"].replace("coffee", "cocoa")
    assert replay(history).chain == "differs"
    history["commands"][-1]["payload"] = history["commands"][-1]["payload"].replace("/title", "/no_such")
    (difference,) = replay(history).differences[:1]
    assert (difference.what, difference.logged, difference.replayed) == ("code", "OK", "REJECTED")


def test_a_dry_run_tells_what_would_change_and_changes_nothing(room: Simulation) -> None:
    history = room.history()
    order = json.dumps({"patch": TITLE, "reason": "to see", "expect": [1, 2]}).encode()
    assert repaired(history, order, Principal("root", "acme")) == (Position(1, 2), TITLE)
    with pytest.raises(PositionMoved):
        repaired(history, order.replace(b"[1, 2]", b"[1, 1]"), Principal("root", "acme"))
    with pytest.raises(InvalidPatch):
        repaired(history, order.replace(b"/title", b"/none"), Principal("root", "acme"))
    assert room.history() == history


def test_shadow_replay_repairs_on_both_sides(room: Simulation) -> None:
    room.repair(TITLE, reason="a typo")
    history = room.history()
    programs = {
        bytes.fromhex(name): BundleLoader().load(base64.b64decode(encoded)) for name, encoded in history["bundles"].items()
    }
    past = [_past(row) for row in history["commands"]]
    (program,) = programs.values()
    found = shadow(DOCUMENT, past, programs, program)
    assert (found.commands, found.differences) == (3, [])


def _past(row: dict[str, Any]) -> Past:
    place = row["position"]
    assert row["code"] == Code.OK.name
    return Past(
        row["kind"],
        row["channel"],
        row["payload"].encode(),
        Principal.parse(row["sender"]),
        row["time_ms"],
        bytes.fromhex(row["seed"]),
        place["epoch"],
        place["index"],
        row["code"],
        bytes.fromhex(row["code_hash"]),
    )
