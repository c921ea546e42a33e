"""What a handler emits leaves with its command or not at all, has a bound, and is no part of the state."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from cluster.documents import bundle
from cluster.documents.emitting import EVENTS_BYTES_MAX, EVENTS_MAX
from cluster.documents.loader import BundleLoader
from cluster.documents.meter import METER
from cluster.documents.runtime import Code
from cluster.errors import InvalidBundle
from cluster.ids import Principal

SOURCE = """
from cluster import Command, Document, Event, OrderedSet, Principal, Record, Refused, anyone, field, on, read

class Note(Record):
    text: str

class Rolled(Event):
    face: int
    note: Note

class No(Refused):
    pass

class Stage(Document):
    gate = anyone
    members: OrderedSet[Principal] = field.private()
    count: int = field.public(0)

    @read.policy
    def is_member(self, who: Principal) -> bool:
        return who in self.members

    @read.policy
    def is_high(self, rolled: Rolled, who: Principal) -> bool:
        return rolled.face > 3 and who in self.members

    @read.policy
    def fails(self, who: Principal) -> bool:
        return 1 // 0 == 0

    @on.message
    def join(self, ctx: Command) -> None:
        self.members.add(ctx.sender)

    @on.message
    def roll(self, ctx: Command, face: int, how: str = "all") -> None:
        note = Note("one")
        if how == "members":
            ctx.emit(Rolled(face, note), to=self.is_member)
        elif how == "high":
            ctx.emit(Rolled(face, note), to=self.is_high)
        elif how == "failing":
            ctx.emit(Rolled(face, note), to=self.fails)
        else:
            ctx.emit(Rolled(face, note))
        note.text = "another"
        if how == "refused":
            raise No()
        if how == "bug":
            raise ValueError(face)
        if how == "counted":
            self.count += 1

    @on.message
    def many(self, ctx: Command, count: int, text: str) -> None:
        for face in range(count):
            ctx.emit(Rolled(face, Note(text)))

    @on.message
    def swallow(self, ctx: Command) -> None:
        for face in range(100):
            try:
                ctx.emit(Rolled(face, Note("")))
            except Exception:
                pass

    @on.message
    def wrong(self, ctx: Command, what: int) -> None:
        if what == 0:
            ctx.emit(Note("no event"))
        elif what == 1:
            ctx.emit(Rolled(1, Note("")), to=self.join)
        else:
            ctx.emit(Event())
"""
ALICE, BOB = Principal("alice", "acme"), Principal("bob", "acme")


def test_an_event_is_what_it_was_when_it_was_emitted(stage: Callable[..., Any]) -> None:
    made = stage(SOURCE)
    (emitted,) = made.run("roll", face=4).emitted
    assert (emitted.name, json.loads(emitted.body)) == ("Rolled", {"face": 4, "note": {"text": "one"}})
    assert emitted.admits is None
    assert len(made.run("roll", face=4, how="counted").emitted) == 1, "also when something was written"


@pytest.mark.parametrize(("how", "code"), [("refused", Code.REFUSED), ("bug", Code.FAILED)])
def test_a_command_that_is_rolled_back_has_emitted_nothing(stage: Callable[..., Any], how: str, code: Code) -> None:
    made = stage(SOURCE)
    outcome = made.run("roll", face=4, how=how)
    assert (outcome.code, outcome.emitted) == (code, None)
    assert METER.emitted == []
    assert made.run("join").emitted is None, "nor does the next command emit it"


def test_whom_an_event_is_for_is_asked_of_the_state_when_it_is_delivered(stage: Callable[..., Any]) -> None:
    made = stage(SOURCE)
    (low,) = made.run("roll", face=2, how="high").emitted
    (high,) = made.run("roll", face=5, how="high").emitted
    (any_face,) = made.run("roll", face=2, how="members").emitted
    asked = [one.admits for one in (low, high, any_face)]
    assert [admits(ALICE) for admits in asked] == [False, False, False]
    made.run("join", sender="alice")
    assert [admits(ALICE) for admits in asked] == [False, True, True]
    assert [admits(BOB) for admits in asked] == [False, False, False]


def test_a_policy_that_fails_is_a_no(stage: Callable[..., Any]) -> None:
    (emitted,) = stage(SOURCE).run("roll", face=2, how="failing").emitted
    assert emitted.admits(ALICE) is False


@pytest.mark.parametrize(
    ("count", "text"), [(EVENTS_MAX + 1, ""), (2, "x" * (EVENTS_BYTES_MAX // 2)), (1, "x" * EVENTS_BYTES_MAX)]
)
def test_too_many_or_too_large_events_are_a_budget_refusal(stage: Callable[..., Any], count: int, text: str) -> None:
    made = stage(SOURCE)
    before = made.instance.dump()
    outcome = made.run("many", count=count, text=text)
    assert (outcome.code, json.loads(outcome.answer), outcome.emitted) == (Code.BUDGET, {"limit": "events"}, None)
    assert made.instance.dump() == before
    assert len(made.run("many", count=EVENTS_MAX, text="").emitted) == EVENTS_MAX


def test_a_handler_that_swallows_the_bound_is_rolled_back_all_the_same(stage: Callable[..., Any]) -> None:
    outcome = stage(SOURCE).run("swallow")
    assert (outcome.code, json.loads(outcome.answer)) == (Code.BUDGET, {"limit": "events"})


@pytest.mark.parametrize("what", [0, 1, 2])
def test_what_is_no_event_and_what_is_no_policy_is_a_bug_of_the_handler(stage: Callable[..., Any], what: int) -> None:
    outcome = stage(SOURCE).run("wrong", what=what)
    assert (outcome.code, outcome.emitted) == (Code.FAILED, None)
    assert "TypeError" in outcome.error


def test_events_are_no_part_of_state_or_chain(stage: Callable[..., Any]) -> None:
    made = stage(SOURCE)
    before = made.instance.dump()
    outcome = made.run("roll", face=4)
    assert (outcome.writes, outcome.changes, made.instance.dump()) == (b"", None, before)


def test_the_schema_tells_the_events_with_their_fields(stage: Callable[..., Any]) -> None:
    schema = stage(SOURCE).program.schema()
    assert list(schema["events"]) == ["Rolled"]
    name = schema["events"]["Rolled"]["$ref"].rpartition("/")[2]
    assert set(schema["$defs"][name]["properties"]) == {"face", "note"}


def test_an_event_that_hides_something_of_itself_is_refused_at_deployment() -> None:
    """Everybody who is told of an event is told all of it; a field that says otherwise would be a promise that is not kept."""
    hiding = SOURCE.replace("    face: int\n", "    face: int\n    seed: int = field.private(0)\n", 1)
    with pytest.raises(InvalidBundle, match=r"event: Rolled hides something of itself"):
        BundleLoader().load(bundle.from_source(hiding).encode())
