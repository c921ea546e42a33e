"""Events on their way to viewers: bounded, asked once for each principal, and of no instance but the present one."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.documents.runtime import Emission, Invocation, Outcome
from cluster.ids import Principal
from cluster.session.operations import EMITTED_OVERHEAD_BYTES, Delta
from cluster.shard.passing import PASSING_BYTES_MAX, PASSING_MAX, note
from cluster.shard.turn import Turn
from tests.pump.tally import TallyInstance
from tests.shard.parts import STREAM, Parts

ALICE, BOB = Principal("alice", "acme"), Principal("bob", "acme")


def emitting(monkeypatch: pytest.MonkeyPatch, *emitted: Emission) -> Parts:
    """A document whose every message emits these."""
    parts = Parts()
    parts.apply(parts.create("a"))
    run = TallyInstance.run

    def and_emit(self: TallyInstance, invocation: Invocation) -> Outcome:
        outcome = run(self, invocation)
        outcome.emitted = list(emitted)
        return outcome

    monkeypatch.setattr(TallyInstance, "run", and_emit)
    return parts


def watch(parts: Parts, number: int, who: Principal = ALICE, credit: int = 1 << 20, seen: tuple[int, int] | None = None) -> Any:
    turn = Turn()
    parts.feed.open(parts.live("a"), STREAM, number, who, seen, credit, turn)
    return turn.deltas.get(STREAM, [])


def test_a_delta_carries_what_was_emitted_on_its_way_and_is_charged_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = emitting(monkeypatch, Emission("Rolled", b'{"face":4}', None))
    watch(parts, 1)
    parts.apply(parts.add("a", 5), parts.add("a", 6))
    (delta,) = parts.deltas
    assert [(one.name, one.payload, one.epoch, one.index) for one in delta.emitted or ()] == [
        ("Rolled", b'{"face":4}', 1, 2),
        ("Rolled", b'{"face":4}', 1, 3),
    ]
    bare = Delta(1, 1, 1, 1, 3, body=delta.body)
    assert delta.credit_bytes == bare.credit_bytes + 2 * (len("Rolled") + len(b'{"face":4}') + EMITTED_OVERHEAD_BYTES)


def test_who_has_no_credit_misses_what_passes_and_gets_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = emitting(monkeypatch, Emission("Rolled", b"{}", None))
    watch(parts, 1, credit=1)
    parts.apply(parts.add("a", 5))
    assert parts.deltas == []
    turn = Turn()
    parts.feed.grant(STREAM, 1, 1_000, turn)
    (delta,) = turn.deltas[STREAM]
    assert (delta.index, delta.emitted) == (2, None)


def test_whom_it_is_for_is_asked_once_for_each_principal(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Principal] = []

    def admits(who: Principal) -> bool:
        asked.append(who)
        return who == ALICE

    parts = emitting(monkeypatch, Emission("Rolled", b"{}", admits))
    for number, who in enumerate([ALICE, ALICE, BOB, BOB]):
        watch(parts, number, who)
    parts.apply(parts.add("a", 5))
    assert {delta.watch: bool(delta.emitted) for delta in parts.deltas} == {0: True, 1: True, 2: False, 3: False}
    assert asked == [ALICE, BOB]


def test_who_opens_or_resumes_a_watch_is_not_told_what_was_before(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = emitting(monkeypatch, Emission("Rolled", b"{}", None))
    parts.apply(parts.add("a", 5))
    for number, seen in enumerate([None, (1, 1)]):
        (delta,) = watch(parts, number, seen=seen)
        assert (delta.index, delta.emitted) == (2, None)


def test_a_document_that_nobody_watches_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = emitting(monkeypatch, Emission("Rolled", b"{}", None))
    parts.apply(parts.add("a", 5))
    assert parts.live("a").passing is None
    watch(parts, 1)
    parts.apply(parts.add("a", 5))
    assert parts.live("a").passing is None


def test_what_passes_is_bounded_in_number_and_bytes() -> None:
    parts = Parts()
    parts.apply(parts.create("a"))
    live = parts.live("a")
    assert live.instance is not None
    for body, kept in ((b"{}", PASSING_MAX), (b"x" * 1000, PASSING_BYTES_MAX // 1000)):
        live.passing = None
        for _ in range(2 * PASSING_MAX):
            note(live, [Emission("Rolled", body, None)])
        assert live.passing is not None
        assert len(live.passing.after(0, 0, ALICE, live.instance) or ()) == kept


def test_what_an_instance_emitted_that_is_gone_reaches_nobody() -> None:
    """Its policies would be asked about the state of a document that has other code, or is another one."""
    parts = Parts()
    parts.apply(parts.create("a"), parts.create("b"))
    live, other = parts.live("a"), parts.live("b")
    assert live.instance is not None
    assert other.instance is not None
    note(live, [Emission("Rolled", b"{}", None)])
    assert live.passing is not None
    assert live.passing.after(0, 0, ALICE, other.instance) is None
