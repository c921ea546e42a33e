"""The client's half of watches, step by step: resuming, gaps, resets, credit."""

from __future__ import annotations

import pytest

from cluster.session.client_events import (
    Changed,
    Consumed,
    Disconnected,
    Effects,
    Ended,
    Received,
    Unwatched,
    Watched,
)
from cluster.session.operations import DELTA_OVERHEAD_BYTES, Delta, Failure, Kind, Operation, Reply
from tests.session.client_bench import Bench, sent


def delta(operation: Operation, base: int, index: int, body: bytes = b"[]", epoch: int = 1) -> Delta:
    return Delta(operation.id, epoch, base, epoch, index, False, body)


def view(operation: Operation, index: int, body: bytes = b"{}", epoch: int = 1) -> Delta:
    return Delta(operation.id, 0, 0, epoch, index, True, body)


def shown(effects: Effects) -> list[int]:
    return [happened.delta.index for happened in effects.happened if isinstance(happened, Changed)]


def watching(bench: Bench) -> Operation:
    """A watch at its first view, at position 1.5."""
    bench.connect()
    (operation,) = sent(bench.step(Watched(1, "text", "a")))
    assert (operation.kind, operation.index, operation.credit) == (Kind.WATCH, -1, 1000)
    assert shown(bench.step(Received([view(operation, 5)]))) == [5]
    return operation


def test_a_watch_resumes_after_its_position_with_the_credit_that_is_left() -> None:
    bench = Bench()
    operation = watching(bench)
    bench.step(Received([delta(operation, 5, 6, b"x" * 68)]))
    bench.step(Disconnected())
    (again,) = bench.connect()
    assert (again.kind, again.epoch, again.index) == (Kind.WATCH, 1, 6)
    assert again.credit == 1000 - (2 + DELTA_OVERHEAD_BYTES) - (68 + DELTA_OVERHEAD_BYTES)


def test_deltas_of_a_stream_that_is_gone_are_not_shown() -> None:
    bench = Bench()
    operation = watching(bench)
    bench.step(Disconnected())
    bench.connect()
    assert shown(bench.step(Received([delta(operation, 5, 6)]))) == []


def test_a_gap_is_answered_by_starting_again_with_a_whole_view() -> None:
    bench = Bench()
    operation = watching(bench)
    effects = bench.step(Received([delta(operation, 6, 7)]))
    assert shown(effects) == []
    assert [(each.kind, each.id) for each in sent(effects)] == [(Kind.UNWATCH, operation.id)]
    (again,) = sent(bench.after(10))
    assert (again.kind, again.index) == (Kind.WATCH, -1)


def test_positions_shown_never_go_back() -> None:
    """Invariant 3: positions only rise, per session, across nodes. A lagging replica's view is not shown."""
    bench = Bench()
    operation = watching(bench)
    assert shown(bench.step(Received([delta(operation, 4, 5), delta(operation, 5, 6)]))) == [6]
    effects = bench.step(Received([view(operation, 3)]))
    assert shown(effects) == []
    (again,) = sent(bench.after(10))
    assert (again.kind, again.index) == (Kind.WATCH, 6)


def test_a_whole_view_that_was_asked_for_anew_is_not_shown_if_it_is_older_either() -> None:
    """The leader cut the history, the client starts over, and a replica that lags answers: the viewer was further already."""
    bench = Bench()
    operation = watching(bench)
    trimmed = Delta(operation.id, 0, 0, 0, 0, failure=Failure("HISTORY_TRIMMED", "", False, "no"))
    bench.step(Received([view(operation, 2, epoch=2), trimmed]))
    (again,) = sent(bench.after(10))
    assert (again.kind, again.index) == (Kind.WATCH, -1)
    assert shown(bench.step(Received([view(again, 9, epoch=1)]))) == []
    (once_more,) = sent(bench.after(50))
    assert shown(bench.step(Received([view(once_more, 2, epoch=2)]))) == [2]


def test_a_later_epoch_replaces_what_was_seen() -> None:
    bench = Bench()
    operation = watching(bench)
    assert shown(bench.step(Received([view(operation, 1, epoch=2), delta(operation, 1, 2, epoch=2)]))) == [1, 2]


def test_credit_is_given_back_by_halves_as_the_application_consumes() -> None:
    bench = Bench()
    operation = watching(bench)
    bench.step(Received([delta(operation, 5, 6, b"x" * 568)]))
    assert bench.step(Consumed(1, 34)).frames == []
    (frame,) = bench.step(Consumed(1, 600)).frames
    assert frame.grants == [(operation.id, 634)]


def test_credit_is_never_given_for_what_was_not_sent() -> None:
    bench = Bench()
    watching(bench)
    assert bench.step(Consumed(1, 10**9)).frames == []


@pytest.mark.parametrize(("reason", "index"), [("UNAVAILABLE", 5), ("POSITION_REWOUND", -1), ("HISTORY_TRIMMED", -1)])
def test_a_watch_that_ends_for_a_reason_that_passes_is_asked_for_again(reason: str, index: int) -> None:
    bench = Bench()
    operation = watching(bench)
    failure = Failure(reason, "", reason == "UNAVAILABLE", "no")
    effects = bench.step(Received([Delta(operation.id, 0, 0, 0, 0, failure=failure)]))
    assert effects.happened == []
    (again,) = sent(bench.after(10))
    assert (again.kind, again.index) == (Kind.WATCH, index)


@pytest.mark.parametrize("in_reply", [True, False])
def test_a_watch_that_is_refused_ends(in_reply: bool) -> None:
    bench = Bench()
    operation = watching(bench)
    failure = Failure("PERMISSION_DENIED", "", False, "no")
    event = Reply(operation.id, failure=failure) if in_reply else Delta(operation.id, 0, 0, 0, 0, failure=failure)
    assert bench.step(Received([event])).happened == [Ended(1, failure)]
    bench.step(Disconnected())
    assert bench.connect() == []


def test_a_watch_that_is_not_wanted_any_more_is_ended_and_shows_nothing() -> None:
    bench = Bench()
    operation = watching(bench)
    effects = bench.step(Unwatched(1))
    assert [(each.kind, each.id) for each in sent(effects)] == [(Kind.UNWATCH, operation.id)]
    assert shown(bench.step(Received([delta(operation, 5, 6), Reply(operation.id)]))) == []
