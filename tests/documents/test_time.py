"""Alarms and asks of one document: what is armed, when it fires, and what is left of it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from cluster import Maybe
from cluster.documents import armed, bundle
from cluster.documents.armed import waits_of
from cluster.documents.loader import BundleLoader
from cluster.documents.runtime import ALARM_CHANNEL, ANSWER_CHANNEL, Code, Invocation, Outcome, Settings
from cluster.errors import AskClosed, InvalidBundle, InvalidPayload, NotArmed
from cluster.ids import DocumentId, Principal
from tests.documents.conftest import Stage

NOW = 1_700_000_000_000
TIME = Principal("system:time", "moot")
BOB = Principal("bob", "acme")

SOURCE = '''
from datetime import UTC, datetime, timedelta
from cluster import Command, Document, Maybe, Principal, Record, Refused, anyone, field, on

class Bid(Record):
    who: Principal
    cents: int

class Unfit(Refused):
    """Not taken."""

class Stage(Document):
    gate = anyone
    seen: list[str] = field.public()

    @on.message
    def go(self, ctx: Command, do: str, n: int = 0) -> str:
        if do == "after":
            return ctx.after(timedelta(milliseconds=n), self.ring, n)
        if do == "named":
            return ctx.after(timedelta(milliseconds=n), self.ring, n, "named", id="x")
        if do == "past":
            return ctx.at(ctx.now - timedelta(days=n), self.ring, n)
        if do == "microseconds":
            return ctx.after(timedelta(microseconds=n), self.ring, n)
        if do == "every":
            return ctx.every(timedelta(seconds=1), self.ring, n, id="e")
        if do == "undone":
            ctx.after(timedelta(milliseconds=n), self.ring, n)
            ctx.cancel("x")
            ctx.ask(Principal("bob", "acme"), 1, self.told, timedelta(days=1))
            raise Unfit()
        if do == "cancel":
            return str(ctx.cancel("x"))
        if do == "cancel all":
            return str(ctx.cancel(self.ring))
        if do == "cancel asks":
            return str(ctx.cancel(self.told))
        if do == "ask":
            return ctx.ask(Principal("bob", "acme"), Bid(ctx.sender, n), self.told, timedelta(seconds=n))
        if do == "many":
            for number in range(n):
                ctx.after(timedelta(days=1), self.ring, number)
        if do == "many asks":
            for number in range(n):
                ctx.ask(Principal("bob", "acme"), number, self.told, timedelta(days=1))
        return ""

    @on.message
    def wrong(self, ctx: Command, what: str) -> None:
        if what == "not an alarm":
            ctx.after(timedelta(), self.go, "after")
        if what == "no method":
            ctx.after(timedelta(), lambda ctx: None)
        if what == "argument":
            ctx.after(timedelta(), self.ring, "three")
        if what == "missing":
            ctx.after(timedelta(), self.ring)
        if what == "too many":
            ctx.after(timedelta(), self.ring, 1, "a", "b")
        if what == "naive":
            ctx.at(datetime(2030, 1, 1), self.ring, 1)
        if what == "too fast":
            ctx.every(timedelta(milliseconds=99), self.ring, 1)
        if what == "made id":
            ctx.after(timedelta(), self.ring, 1, id="#1.1")
        if what == "long id":
            ctx.after(timedelta(), self.ring, 1, id="x" * 129)
        if what == "not an answer":
            ctx.ask(Principal("bob", "acme"), 1, self.ring, timedelta(days=1))
        if what == "no time":
            ctx.ask(Principal("bob", "acme"), 1, self.told, timedelta())
        if what == "untyped":
            ctx.ask(Principal("bob", "acme"), [1], self.told, timedelta(days=1))

    @on.alarm
    def ring(self, ctx: Command, n: int, word: str = "default") -> None:
        self.seen.append(f"{n} {word} {ctx.cause} {ctx.sender}")
        if n == 13:
            raise ValueError("unlucky")
        if n == 14:
            ctx.cancel(ctx.cause)

    @on.answer
    def told(self, ctx: Command, value: Maybe[Bid]) -> str:
        match value:
            case Maybe(Bid(who, cents)):
                if cents < 0:
                    raise Unfit()
                if cents == 13:
                    raise ValueError("unlucky")
                self.seen.append(f"{who} {cents} {ctx.cause}")
            case Maybe(None):
                self.seen.append(f"nothing {ctx.cause}")
        return self.seen[-1]
'''

Staged = Callable[..., Stage]


@pytest.fixture
def clock(stage: Staged) -> Stage:
    made: Stage = stage(SOURCE)
    return made


def fire(stage: Stage, channel: str, payload: object, now_ms: int, sender: Principal = TIME) -> Outcome:
    """What a shard does at apply."""
    encoded = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    stage.instance.expect(channel, encoded, sender, now_ms)
    stage.index += 1
    seed = stage.index.to_bytes(32, "little")
    return stage.instance.fire(Invocation(channel, encoded, sender, now_ms, seed, stage.index))


def ring(stage: Stage, now_ms: int) -> list[Outcome]:
    """Everything that is due, in order."""
    return [fire(stage, due.channel, due.payload, now_ms) for due in stage.instance.due(now_ms, 100)]


def reloaded(stage: Stage) -> None:
    stage.instance = stage.program.load(DocumentId("stage", "one"), stage.instance.dump())


@pytest.mark.parametrize("reload", [False, True])
def test_alarms_fire_by_time_and_those_of_one_time_in_the_order_of_arming(clock: Stage, reload: bool) -> None:
    for n in (30, 10, 20):
        clock.answer("go", do="after", n=n)
    clock.answer("go", do="named", n=20)
    clock.answer("go", do="past", n=7)
    if reload:
        reloaded(clock)
    assert clock.instance.due_ms == NOW - 7 * 86_400_000
    assert ring(clock, NOW + 9)[0].code is Code.OK
    assert clock.instance.due_ms == NOW + 10
    assert ring(clock, NOW + 9) == []
    ring(clock, NOW + 30)
    assert [line.rpartition(" ")[0] for line in clock.view()["seen"]] == [
        "7 default #6.1",
        "10 default #3.1",
        "20 default #4.1",
        "20 named x",
        "30 default #2.1",
    ]
    assert clock.instance.due_ms is None
    assert waits_of(clock.instance.dump()) == armed.NO_WAITS


def test_what_fires_is_sent_by_time_itself(clock: Stage) -> None:
    clock.answer("go", do="named", n=1)
    ring(clock, NOW + 1)
    assert clock.view()["seen"] == ["1 named x system:time@moot"]


def test_an_alarm_is_never_early(clock: Stage) -> None:
    clock.answer("go", do="microseconds", n=1)
    assert clock.instance.due_ms == NOW + 1


def test_arming_an_id_again_replaces_it_and_a_firing_made_for_it_before_does_nothing(clock: Stage) -> None:
    clock.answer("go", do="named", n=10)
    made_before = clock.instance.due(NOW + 10, 1)[0]
    clock.answer("go", do="named", n=50)
    assert clock.instance.due(NOW + 49, 9) == []
    with pytest.raises(NotArmed):
        fire(clock, made_before.channel, made_before.payload, NOW + 10)
    assert len(ring(clock, NOW + 50)) == 1
    with pytest.raises(NotArmed):
        fire(clock, made_before.channel, made_before.payload, NOW + 60)
    assert len(clock.view()["seen"]) == 1


def test_cancelling_names_an_id_or_a_handler_and_says_how_many(clock: Stage) -> None:
    clock.answer("go", do="named", n=10)
    assert [clock.answer("go", do="cancel"), clock.answer("go", do="cancel")] == ["1", "0"]
    for n in range(3):
        clock.answer("go", do="after", n=n)
    clock.answer("go", do="ask", n=5)
    assert clock.answer("go", do="cancel all") == "3"
    assert clock.answer("go", do="cancel asks") == "1"
    assert clock.instance.due_ms is None


def test_what_a_refused_command_armed_or_cancelled_is_undone(clock: Stage) -> None:
    clock.answer("go", do="named", n=10)
    before = clock.instance.dump()
    assert clock.run("go", do="undone", n=1).code is Code.REFUSED
    assert (clock.instance.dump(), clock.instance.due_ms) == (before, NOW + 10)
    assert clock.instance.asked == ()
    assert len(ring(clock, NOW + 100)) == 1


def test_a_firing_that_fails_is_consumed_and_everything_else_of_it_undone(clock: Stage) -> None:
    clock.answer("go", do="after", n=13)
    outcome = ring(clock, NOW + 13)[0]
    assert (outcome.code, "unlucky" in outcome.error) == (Code.FAILED, True)
    assert outcome.writes != b""
    assert (clock.instance.due_ms, clock.view()["seen"]) == (None, [])


def test_a_repeating_alarm_goes_on_after_a_failure_and_ends_when_it_cancels_itself(clock: Stage) -> None:
    clock.answer("go", do="every", n=13)
    for beat in range(1, 4):
        (outcome,) = ring(clock, NOW + 1000 * beat)
        assert outcome.code is Code.FAILED
    clock.answer("go", do="every", n=14)
    (outcome,) = ring(clock, NOW + 1000)
    assert (outcome.code, clock.instance.due_ms) == (Code.OK, None)


def test_a_beat_that_was_missed_is_not_made_up_for(clock: Stage) -> None:
    clock.answer("go", do="every", n=100)
    assert len(ring(clock, NOW + 3500)) == 1
    assert clock.instance.due_ms == NOW + 4000
    assert ring(clock, NOW + 3999) == []
    assert len(ring(clock, NOW + 4000)) == 1
    assert clock.instance.due_ms == NOW + 5000


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("not an alarm", "an @on.alarm handler of this document is needed"),
        ("no method", "an @on.alarm handler of this document is needed"),
        ("argument", "expected int, got str"),
        ("missing", "ring needs 'n'"),
        ("too many", "ring takes 2 arguments, 3 were given"),
        ("naive", "a moment needs a time zone"),
        ("too fast", "at most every 100 ms"),
        ("made id", "does not begin with '#'"),
        ("long id", "has 1 to 128 bytes"),
        ("not an answer", "an @on.answer handler of this document is needed"),
        ("no time", "longer than no time"),
        ("untyped", "can not be stored"),
    ],
)
def test_what_can_not_be_armed_is_a_bug_that_says_why(clock: Stage, what: str, said: str) -> None:
    outcome = clock.run("wrong", what=what)
    assert outcome.code is Code.FAILED
    assert said in outcome.error


@pytest.mark.parametrize(("do", "limit"), [("many", "alarms"), ("many asks", "asks")])
def test_too_many_exhaust_a_named_budget(stage: Staged, do: str, limit: str) -> None:
    made = stage(SOURCE, Settings(alarms_max=10, asks_max=10))
    assert made.run("go", do=do, n=10).code is Code.OK
    outcome = made.run("go", do=do, n=1)
    assert (outcome.code, json.loads(outcome.answer)) == (Code.BUDGET, {"limit": limit})


def test_an_ask_says_whom_and_what_and_the_first_answer_closes_it(clock: Stage) -> None:
    ask = clock.answer("go", do="ask", n=5)
    assert clock.instance.asked == ("bob@acme",)
    assert clock.instance.open_asks(Principal("carol", "acme")) == []
    (shown,) = clock.instance.open_asks(BOB)
    assert (shown.id, shown.handler, json.loads(shown.request), shown.due_ms) == (
        ask,
        "told",
        {"who": "alice@acme", "cents": 5},
        NOW + 5000,
    )
    waits = waits_of(clock.instance.dump())
    assert (waits.due_ms, waits.asked, waits.handlers) == (NOW + 5000, ("bob@acme",), frozenset({"told"}))
    given = {"ask": ask, "value": {"who": "bob@acme", "cents": 7}}
    with pytest.raises(AskClosed):
        fire(clock, ANSWER_CHANNEL, given, NOW, Principal("carol", "acme"))
    with pytest.raises(InvalidPayload):
        fire(clock, ANSWER_CHANNEL, {"ask": ask, "value": {"who": "bob@acme"}}, NOW, BOB)
    with pytest.raises(NotArmed):
        fire(clock, ANSWER_CHANNEL, {"ask": ask}, NOW + 4999)
    outcome = fire(clock, ANSWER_CHANNEL, given, NOW, BOB)
    assert (outcome.code, json.loads(outcome.answer)) == (Code.OK, f"bob@acme 7 {ask}")
    with pytest.raises(AskClosed):
        fire(clock, ANSWER_CHANNEL, given, NOW, BOB)
    assert not clock.instance.asked
    assert waits_of(clock.instance.dump()) == armed.NO_WAITS


def test_an_answer_that_the_handler_refuses_leaves_the_ask_open_and_one_that_breaks_it_does_not(clock: Stage) -> None:
    ask = clock.answer("go", do="ask", n=5)
    before = clock.instance.dump()
    refused = fire(clock, ANSWER_CHANNEL, {"ask": ask, "value": {"who": "bob@acme", "cents": -1}}, NOW, BOB)
    assert (refused.code, clock.instance.dump()) == (Code.REFUSED, before)
    failed = fire(clock, ANSWER_CHANNEL, {"ask": ask, "value": {"who": "bob@acme", "cents": 13}}, NOW, BOB)
    assert (failed.code, clock.instance.asked, clock.view()["seen"]) == (Code.FAILED, (), [])


def test_time_that_is_up_is_an_empty_maybe(clock: Stage) -> None:
    ask = clock.answer("go", do="ask", n=5)
    (outcome,) = ring(clock, NOW + 5000)
    assert json.loads(outcome.answer) == f"nothing {ask}"
    with pytest.raises(AskClosed):
        fire(clock, ANSWER_CHANNEL, {"ask": ask, "value": {"who": "bob@acme", "cents": 7}}, NOW + 5000, BOB)


def test_viewers_never_see_what_is_armed(clock: Stage) -> None:
    who = Principal("alice", "acme")
    outcome = clock.run("go", do="named", n=5)
    assert b"-alarms" in outcome.writes
    assert clock.instance.patch_since([outcome.changes], who) == b"[]"
    assert list(clock.view()) == ["seen"]
    assert "-alarms" not in json.dumps(clock.program.schema())


def test_a_stale_entry_of_the_heap_counts_for_nothing_and_they_do_not_pile_up(clock: Stage) -> None:
    for n in range(1, 500):
        clock.answer("go", do="named", n=n)
    held = clock.instance._armed
    assert held is not None
    assert len(held._heap) < 100
    assert clock.instance.due_ms == NOW + 499


def test_a_document_without_such_handlers_stores_nothing_for_them(stage: Staged) -> None:
    plain = stage("from cluster import Document, anyone\nclass Stage(Document):\n    gate = anyone\n")
    assert plain.instance.dump() == b"\x80"
    with pytest.raises(NotArmed):
        plain.instance.expect(ALARM_CHANNEL, b'{"alarm":"x"}', TIME, NOW)


@pytest.mark.parametrize("state", [b"", b"-alarms", b"\x81\xa7-alarms\x01", b"\x93\xa6-asks\x01\x02"])
def test_what_is_no_dump_waits_for_nothing(state: bytes) -> None:
    assert waits_of(state) == armed.NO_WAITS


@pytest.mark.parametrize(
    "handler",
    [
        "def told(self, ctx: Command) -> None: ...",
        "def told(self, ctx: Command, value: str) -> None: ...",
        "def told(self, ctx: Command, value: Maybe[object]) -> None: ...",
        "def told(self, ctx: Command, value: Maybe[str], more: int) -> None: ...",
    ],
)
def test_an_answer_handler_of_another_shape_is_refused_when_deployed(handler: str) -> None:
    top = "from cluster import Command, Document, Maybe, anyone, on\nclass A(Document):\n    gate = anyone\n"
    source = f"{top}    @on.answer\n    {handler}\n"
    with pytest.raises(InvalidBundle):
        BundleLoader().load(bundle.from_source(source).encode())


def test_nobody_can_send_to_an_alarm_or_an_answer_handler(clock: Stage) -> None:
    for name in ("ring", "told"):
        with pytest.raises(Exception, match="has no channel"):
            clock.run(name)


def test_maybe_tells_nothing_from_a_none_that_came() -> None:
    nothing, none, three = Maybe[int](), Maybe[int](None, True), Maybe(3, True)
    assert [nothing.get(5), none.get(5), three.get(5)] == [5, None, 3]
    assert nothing != none
    assert three == Maybe(3, True)
    with pytest.raises(AttributeError):
        three.value = 4  # type: ignore[misc]
