"""An operator's repair of one document: budget and limits, undo, views, and what the order may be."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from cluster.documents.repairing import REASON_BYTES_MAX, check_order
from cluster.documents.runtime import REPAIR_CHANNEL, Code, Invocation, Settings
from cluster.errors import ClusterError, InvalidPatch, InvalidPayload, InvalidRequest, TooLarge, UnknownChannel
from cluster.ids import Principal

SOURCE = """
from cluster import Command, Document, Principal, Record, Table, anyone, field, on, read

class Line(Record):
    author: Principal
    text: str

class Room(Document):
    @read.policy
    def is_author(self, line: Line, who: Principal) -> bool:
        return line.author == who

    gate = anyone
    title: str = field.public("")
    secret: int = field.private(1)
    lines: Table[Line] = field.visible(is_author)

    @on.message
    def say(self, ctx: Command, text: str) -> None:
        self.lines.put(Line(ctx.sender, text))

    @read.view
    def doubled(self) -> int:
        return 2 * self.secret
"""


def order(*patch: dict[str, Any], reason: str = "a test", **more: Any) -> bytes:
    return json.dumps({"patch": list(patch), "reason": reason, **more}).encode()


def invocation(payload: bytes, index: int = 9) -> Invocation:
    return Invocation(REPAIR_CHANNEL, payload, Principal("operator", "acme"), 1_700_000_000_000, bytes(range(32)), index)


@pytest.fixture(name="room")
def room_of_a_source(stage: Callable[..., Any]) -> Any:
    room = stage(SOURCE)
    room.run("say", text="hello")
    return room


def test_a_repair_writes_private_fields_and_views_follow(room: Any) -> None:
    assert room.view()["doubled"] == 2
    follow = room.instance.projection(Principal("alice", "acme"))
    payload = order(
        {"op": "replace", "path": "/secret", "value": 21},
        {"op": "add", "path": "/lines/-", "value": {"author": "bob@acme", "text": "not hers"}},
        {"op": "add", "path": "/lines/-", "value": {"author": "alice@acme", "text": "hers"}},
    )
    room.instance.check_repair(invocation(payload))
    outcome = room.instance.repair(invocation(payload))
    assert outcome.code is Code.OK
    assert outcome.writes
    assert room.view()["doubled"] == 42
    patch = json.loads(follow.advance([outcome.changes]))
    assert {each["value"] if each["path"] == "/doubled" else each["value"]["text"] for each in patch} == {42, "hers"}
    assert b"not hers" not in json.dumps(room.view()).encode()
    assert [line["text"] for line in room.instance.state()["lines"].values()] == ["hello", "not hers", "hers"]


def test_a_trial_changes_nothing_and_a_repair_is_the_same_twice(room: Any, stage: Callable[..., Any]) -> None:
    other = stage(SOURCE)
    other.run("say", text="hello")
    payload = order({"op": "add", "path": "/lines/-", "value": {"author": "bob@acme", "text": "x"}})
    before = room.instance.dump()
    room.instance.check_repair(invocation(payload))
    assert room.instance.dump() == before
    one, two = (each.instance.repair(invocation(payload)) for each in (room, other))
    assert one.writes == two.writes
    assert room.instance.dump() == other.instance.dump() != before


def test_what_does_not_fit_is_refused_whole(room: Any) -> None:
    before = room.instance.dump()
    payload = order({"op": "replace", "path": "/title", "value": "x"}, {"op": "replace", "path": "/secret", "value": "x"})
    for ending in (room.instance.check_repair, room.instance.repair):
        with pytest.raises(InvalidPatch, match="operation 1"):
            ending(invocation(payload))
        assert room.instance.dump() == before
    assert room.run("say", text="it goes on").code is Code.OK


@pytest.mark.parametrize("settings", [Settings(state_bytes_max=2_000), Settings(steps_max=300)])
def test_limits_of_the_space_hold_for_operators(stage: Callable[..., Any], settings: Settings) -> None:
    room = stage(SOURCE, settings)
    before = room.instance.dump()
    payload = order({"op": "replace", "path": "/title", "value": "x" * 5_000})
    with pytest.raises(TooLarge):
        room.instance.check_repair(invocation(payload))
    assert room.instance.dump() == before
    small = order({"op": "replace", "path": "/title", "value": "x" * 500})
    assert room.instance.repair(invocation(small)).code is Code.OK


def test_an_order_is_canonical_whatever_its_spelling() -> None:
    spelt = b'{ "reason":"why",  "thaw": false, "patch": [ {"value": 1.0, "path":"/a", "op":"add"} ], "expect": [1, 7] }'
    canonical = check_order(spelt, Settings())
    assert check_order(canonical, Settings()) == canonical
    assert json.loads(canonical)["expect"] == [1, 7]


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        (b"[]", InvalidPayload),
        (b"{", InvalidPayload),
        (b"{}", InvalidPatch),
        (order({"op": "frob", "path": "/a"}), InvalidPatch),
        (order({"op": "remove", "path": "/a"}, more=1), InvalidPatch),
        (order({"op": "remove", "path": "/a"}, expect=[1]), InvalidPatch),
        (order({"op": "remove", "path": "/a"}, reason=" "), InvalidRequest),
        (order({"op": "remove", "path": "/a"}, reason="x" * (REASON_BYTES_MAX + 1)), TooLarge),
        (order(), InvalidRequest),
        (order({"op": "add", "path": "/a", "value": "x" * 2_000_000}), TooLarge),
    ],
)
def test_what_can_not_be_an_order_never_gets_into_a_log(payload: bytes, error: type[ClusterError]) -> None:
    with pytest.raises(error):
        check_order(payload, Settings())


def test_no_message_is_a_repair(room: Any) -> None:
    with pytest.raises(UnknownChannel):
        room.program.check(REPAIR_CHANNEL, order({"op": "replace", "path": "/title", "value": "x"}))
