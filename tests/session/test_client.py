"""The client's half of the protocol, step by step: what it sends, when, and what it makes of the answers."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.errors import InvalidRequest
from cluster.session.client import ClientSession
from cluster.session.client_events import (
    Answered,
    Changed,
    Connected,
    Consumed,
    Disconnected,
    Effects,
    Ended,
    Intent,
    Received,
    Settings,
    StreamLimits,
    Submitted,
    TimeReached,
    Unwatched,
    Watched,
)
from cluster.session.client_watch import DELTA_OVERHEAD_BYTES
from cluster.session.identity import check_identity, new_identity
from cluster.session.operations import Consistency, Delta, Failure, Kind, Operation, Reply

UNAVAILABLE = Failure("UNAVAILABLE", "", True, "no")
SETTINGS = Settings(
    window=3, operation_timeout_ms=1_000, reply_timeout_ms=400, backoff_min_ms=10, backoff_max_ms=100, watch_credit_bytes=1000
)


class Bench:
    """A client session with its time in hand."""

    def __init__(self, settings: Settings = SETTINGS, limits: StreamLimits | None = None) -> None:
        self.made = 0
        self.now_ms = 1000.0
        self.client = ClientSession(self.make_session, lambda: 0.5, settings)
        self.limits = limits or StreamLimits()
        self.tickets = 0

    def make_session(self) -> bytes:
        self.made += 1
        return new_identity(self.made, b"0123456789")

    def step(self, event: Any) -> Effects:
        return self.client.step(event, self.now_ms)

    def connect(self) -> list[Operation]:
        return sent(self.step(Connected(self.limits)))

    def after(self, ms: float) -> Effects:
        self.now_ms += ms
        return self.step(TimeReached())

    def send(self, *payloads: bytes, key: str = "a", kind: Kind = Kind.SEND) -> Effects:
        intents = []
        for payload in payloads:
            self.tickets += 1
            intents.append(Intent(self.tickets, kind.value, "text", key, "say", payload))
        return self.step(Submitted(intents))

    def read(self, key: str = "a", **options: int) -> Effects:
        self.tickets += 1
        return self.step(Submitted([Intent(self.tickets, Kind.READ.value, "text", key, **options)]))  # type: ignore[arg-type]


def sent(effects: Effects) -> list[Operation]:
    return [operation for frame in effects.frames for operation in frame.operations]


def numbers(operations: list[Operation]) -> list[tuple[int, bytes]]:
    return [(operation.sequence, operation.payload) for operation in operations]


def answers(effects: Effects) -> list[tuple[int, str]]:
    """(ticket, reason) of what was answered; the reason is empty for success."""
    return [
        (happened.ticket, happened.reply.failure.reason if happened.reply.failure else "")
        for happened in effects.happened
        if isinstance(happened, Answered)
    ]


def ok(operation: Operation, index: int | None = None) -> Reply:
    return Reply(operation.id, 1, operation.sequence if index is None else index, b"")


def gap(operation: Operation, expected: int) -> Reply:
    return Reply(operation.id, failure=Failure("SEQUENCE_GAP", "", True, "no", 0, {"expected": str(expected)}))


def test_nothing_is_sent_before_the_stream_is_open() -> None:
    bench = Bench()
    assert sent(bench.send(b"1", b"2")) == []
    assert numbers(bench.connect()) == [(1, b"1"), (2, b"2")]


def test_at_most_the_window_is_unacknowledged() -> None:
    bench = Bench()
    bench.connect()
    first = sent(bench.send(b"1", b"2", b"3", b"4", b"5"))
    assert numbers(first) == [(1, b"1"), (2, b"2"), (3, b"3")]
    effects = bench.step(Received([ok(first[0]), ok(first[1])]))
    assert answers(effects) == [(1, ""), (2, "")]
    assert numbers(sent(effects)) == [(4, b"4"), (5, b"5")]


def test_what_is_answered_is_reported_with_the_next_write() -> None:
    bench = Bench()
    bench.connect()
    first = sent(bench.send(b"1", b"2"))
    assert [operation.acked_through for operation in first] == [0, 0]
    bench.step(Received([ok(first[0]), ok(first[1])]))
    (third,) = sent(bench.send(b"3"))
    assert (third.sequence, third.acked_through) == (3, 2)


def test_documents_are_numbered_apart() -> None:
    bench = Bench()
    bench.connect()
    assert numbers(sent(bench.send(b"1", key="a"))) == [(1, b"1")]
    assert numbers(sent(bench.send(b"2", key="b"))) == [(1, b"2")]
    assert numbers(sent(bench.send(b"3", key="a"))) == [(2, b"3")]


def test_frames_keep_the_bounds_that_the_server_announced() -> None:
    bench = Bench(Settings(), StreamLimits(operations_max=10, frame_bytes_max=5000))
    bench.connect()
    effects = bench.send(*[b"x"] * 25)
    assert [len(frame.operations) for frame in effects.frames] == [10, 10, 5]
    effects = bench.send(*[b"x" * 2000] * 5)
    assert [len(frame.operations) for frame in effects.frames] == [2, 2, 1]


def test_no_more_operations_are_open_than_the_server_allows() -> None:
    bench = Bench(Settings(), StreamLimits(open_operations_max=64 + 5))
    bench.connect()
    first = sent(bench.send(*[b"x"] * 8))
    assert len(first) == 5
    assert len(sent(bench.step(Received([ok(operation) for operation in first[:2]])))) == 2


def test_a_payload_beyond_the_servers_bound_is_refused_here() -> None:
    """A frame that the server can not take would break the stream for all, again after every reconnect."""
    bench = Bench(limits=StreamLimits(payload_bytes_max=10))
    bench.connect()
    effects = bench.send(b"x" * 11, b"y")
    assert answers(effects) == [(1, "TOO_LARGE")]
    assert numbers(sent(effects)) == [(1, b"y")]


def test_the_queue_is_bounded_and_says_so() -> None:
    bench = Bench(Settings(queued_max=2))
    effects = bench.send(b"1", b"2", b"3")
    assert answers(effects) == [(3, "OVERLOADED")]
    assert bench.client.queued == 2


def test_after_a_reconnect_everything_unanswered_goes_again_in_order() -> None:
    bench = Bench()
    bench.connect()
    first = sent(bench.send(b"1", b"2", b"3", b"4"))
    bench.step(Received([ok(first[0])]))
    bench.step(Disconnected())
    again = bench.connect()
    assert numbers(again) == [(2, b"2"), (3, b"3"), (4, b"4")]
    assert {operation.id for operation in again}.isdisjoint(operation.id for operation in first)


def test_a_late_answer_to_an_earlier_attempt_is_ignored() -> None:
    bench = Bench()
    bench.connect()
    (first,) = sent(bench.send(b"1"))
    bench.step(Disconnected())
    (again,) = bench.connect()
    assert answers(bench.step(Received([ok(first)]))) == []
    assert answers(bench.step(Received([ok(again), ok(again)]))) == [(1, "")]


def test_a_failure_that_passes_holds_back_the_document_and_no_other() -> None:
    bench = Bench()
    bench.connect()
    first, second = sent(bench.send(b"1", b"2"))
    effects = bench.step(Received([Reply(first.id, failure=UNAVAILABLE)]))
    assert sent(effects) == []
    assert sent(bench.send(b"3")) == [], "a later write must not overtake"
    assert numbers(sent(bench.send(b"4", key="b"))) == [(1, b"4")]
    assert sent(bench.step(Received([gap(second, 1)]))) == []
    assert bench.client.wake_at_ms == bench.now_ms + 10
    assert numbers(sent(bench.after(10))) == [(1, b"1"), (2, b"2"), (3, b"3")]


def test_the_servers_hint_lengthens_the_pause() -> None:
    bench = Bench()
    bench.connect()
    (first,) = sent(bench.send(b"1"))
    bench.step(Received([Reply(first.id, failure=Failure("OVERLOADED", "", True, "no", 250))]))
    assert sent(bench.after(249)) == []
    assert len(sent(bench.after(1))) == 1


def test_pauses_double_up_to_their_bound() -> None:
    bench = Bench(Settings(backoff_min_ms=10, backoff_max_ms=60))
    bench.connect()
    (operation,) = sent(bench.send(b"1"))
    pauses = []
    for _ in range(6):
        bench.step(Received([Reply(operation.id, failure=UNAVAILABLE)]))
        wake_at_ms = bench.client.wake_at_ms
        assert wake_at_ms is not None
        pauses.append(wake_at_ms - bench.now_ms)
        (operation,) = sent(bench.after(pauses[-1]))
    assert pauses == [10, 20, 40, 60, 60, 60]


def test_a_refusal_that_used_up_no_number_makes_the_rest_move_up_one() -> None:
    bench = Bench()
    bench.connect()
    first, second, third = sent(bench.send(b"bad", b"2", b"3"))
    refused = Reply(first.id, failure=Failure("INVALID_PAYLOAD", "", False, "no"))
    effects = bench.step(Received([refused, gap(second, 1), gap(third, 1)]))
    assert answers(effects) == [(1, "INVALID_PAYLOAD")]
    (probe,) = sent(effects)
    assert numbers([probe]) == [(1, b"2")], "only the first goes until its number is known to be good"
    effects = bench.step(Received([ok(probe)]))
    assert answers(effects) == [(2, "")]
    assert numbers(sent(effects)) == [(2, b"3")]


def test_a_write_of_which_a_copy_may_be_on_its_way_never_gets_a_second_number_in_its_session() -> None:
    """The copy could run under the first number after the write ran under the second: twice in all."""
    bench = Bench()
    bench.connect()
    old = bench.client.session
    (bad,) = sent(bench.send(b"bad"))
    bench.step(Received([Reply(bad.id, failure=Failure("INVALID_PAYLOAD", "", False, "no"))]))
    (lost,) = sent(bench.send(b"2"))
    assert lost.sequence == 2
    bench.step(Disconnected())
    (again,) = bench.connect()
    effects = bench.step(Received([gap(again, 1)]))
    assert answers(effects) == []
    assert effects.frames[0].session not in (b"", old)
    assert numbers(sent(effects)) == [(1, b"2")]


def test_a_write_whose_gap_may_yet_be_filled_is_given_up() -> None:
    bench = Bench()
    bench.connect()
    bench.send(b"absent", b"2")
    bench.step(Disconnected())
    first, second = bench.connect()
    absent = Reply(first.id, failure=Failure("UNKNOWN_DOCUMENT", "", False, "no"))
    effects = bench.step(Received([absent, gap(second, 1)]))
    assert answers(effects) == [(1, "UNKNOWN_DOCUMENT"), (2, "OUTCOME_UNKNOWN")]
    (third,) = sent(bench.send(b"3"))
    assert third.sequence == 1


def test_a_long_run_of_refusals_is_told_without_pauses() -> None:
    """A thousand writes to a document that was deleted: each is judged by itself, none waits for a clock."""
    bench = Bench(Settings(operation_timeout_ms=10_000))
    bench.connect()
    outstanding = sent(bench.send(*[b"x"] * 200))
    told = 0
    while outstanding:
        first, *rest = outstanding
        refused = Reply(first.id, failure=Failure("DOCUMENT_DELETED", "", False, "no"))
        replies = [refused] if first.sequence == 1 else [gap(first, 1)]
        effects = bench.step(Received([*replies, *(gap(operation, 1) for operation in rest)]))
        told += len(answers(effects))
        outstanding = sent(effects)
    assert told == 200


def test_a_refusal_by_the_handler_uses_up_its_number() -> None:
    bench = Bench()
    bench.connect()
    first, second = sent(bench.send(b"1", b"2"))
    refused = Reply(first.id, 1, 1, failure=Failure("HANDLER_REFUSED", "", False, "no"))
    assert answers(bench.step(Received([refused, ok(second)]))) == [(1, "HANDLER_REFUSED"), (2, "")]
    assert numbers(sent(bench.send(b"3"))) == [(3, b"3")]


def test_a_number_that_a_late_copy_has_taken_is_not_used_again() -> None:
    bench = Bench()
    bench.connect()
    first, second = sent(bench.send(b"bad", b"2"))
    refused = Reply(first.id, failure=Failure("INVALID_PAYLOAD", "", False, "no"))
    (probe,) = sent(bench.step(Received([refused, gap(second, 1)])))
    reused = Failure("KEY_REUSED", "", False, "no", 0, {"expected": "2"})
    effects = bench.step(Received([Reply(probe.id, failure=reused)]))
    (again,) = sent(effects) or sent(bench.after(100))
    assert numbers([again]) == [(2, b"2")]


def test_a_forgotten_session_is_left_for_a_new_one_by_what_certainly_has_not_run() -> None:
    bench = Bench()
    bench.connect()
    old = bench.client.session
    (first,) = sent(bench.send(b"1"))
    bench.step(Received([ok(first)]))
    (second,) = sent(bench.send(b"2"))
    forgotten = Failure("OUTCOME_UNKNOWN", "", False, "unknown", 0, {"expected": "0"})
    effects = bench.step(Received([Reply(second.id, failure=forgotten)]))
    (frame,) = effects.frames
    assert answers(effects) == []
    assert frame.session not in (b"", old)
    assert numbers(frame.operations) == [(1, b"2")]


def test_a_write_that_may_have_run_in_a_forgotten_session_is_reported_and_not_repeated() -> None:
    bench = Bench()
    bench.connect()
    bench.send(b"1")
    bench.step(Disconnected())
    (again,) = bench.connect()
    (second,) = sent(bench.send(b"2"))
    forgotten = Failure("OUTCOME_UNKNOWN", "", False, "unknown", 0, {"expected": "0"})
    effects = bench.step(Received([Reply(again.id, failure=forgotten), Reply(second.id, failure=forgotten)]))
    assert answers(effects) == [(1, "OUTCOME_UNKNOWN")]
    assert numbers(sent(effects)) == [(1, b"2")]


def test_a_table_that_expects_what_it_has_acknowledged_is_another_table() -> None:
    """A document that was deleted and whose tombstone expired begins again at 1."""
    bench = Bench()
    bench.connect()
    (first,) = sent(bench.send(b"1"))
    bench.step(Received([ok(first)]))
    (second,) = sent(bench.send(b"2"))
    effects = bench.step(Received([gap(second, 1)]))
    assert effects.frames[0].session
    assert numbers(sent(effects)) == [(1, b"2")]


def test_a_write_that_was_never_sent_is_answered_as_unavailable_when_its_time_is_up() -> None:
    bench = Bench()
    bench.send(b"1")
    effects = bench.after(1000)
    (happened,) = effects.happened
    assert isinstance(happened, Answered)
    assert happened.reply.failure is not None
    assert (happened.reply.failure.reason, happened.reply.failure.applied) == ("UNAVAILABLE", "no")
    assert bench.connect() == []


def test_a_write_that_was_sent_is_answered_as_unknown_and_keeps_its_number() -> None:
    bench = Bench(Settings(operation_timeout_ms=1000, reply_timeout_ms=10_000))
    bench.connect()
    bench.send(b"1")
    bench.step(Disconnected())
    effects = bench.after(1000)
    assert answers(effects) == [(1, "OUTCOME_UNKNOWN")]
    bench.send(b"2")
    again = bench.connect()
    assert numbers(again) == [(1, b"1"), (2, b"2")], "a late copy of the first must find its number taken by itself"
    assert answers(bench.step(Received([ok(operation) for operation in again]))) == [(2, "")]
    assert bench.client.queued == 0


def test_writes_whose_fate_is_unknown_count_against_the_queue_until_it_is_known() -> None:
    """Otherwise a long outage would gather them without bound, each answered and each still to be sent."""
    bench = Bench(Settings(queued_max=2, operation_timeout_ms=1000, reply_timeout_ms=10_000))
    bench.connect()
    bench.send(b"1", b"2")
    bench.step(Disconnected())
    assert answers(bench.after(1000)) == [(1, "OUTCOME_UNKNOWN"), (2, "OUTCOME_UNKNOWN")]
    assert answers(bench.send(b"3")) == [(3, "OVERLOADED")]
    bench.step(Received([ok(operation) for operation in bench.connect()]))
    assert answers(bench.send(b"4")) == []


def test_an_operation_that_stays_unanswered_keeps_no_memory_of_those_after_it() -> None:
    bench = Bench(Settings())
    bench.connect()
    bench.send(b"stuck", key="stuck")
    for _ in range(40):
        bench.step(Received([ok(operation) for operation in sent(bench.send(*[b"x"] * 500))]))
    assert len(bench.client._deadlines) < 10_000


def test_a_connection_that_owes_a_reply_for_too_long_is_given_up() -> None:
    bench = Bench()
    bench.connect()
    bench.send(b"1")
    assert bench.client.wake_at_ms == bench.now_ms + 400
    assert not bench.after(399).disconnect
    assert bench.after(1).disconnect
    assert numbers(bench.connect()) == [(1, b"1")]


def test_idle_documents_are_forgotten_and_their_numbers_never_come_again() -> None:
    bench = Bench(Settings(documents_max=2))
    bench.connect()
    for key in ("a", "b"):
        (operation,) = sent(bench.send(b"1", key=key))
        bench.step(Received([ok(operation)]))
    effects = bench.send(b"1", key="c")
    assert effects.frames[0].session == bench.client.session
    effects = bench.send(b"2", key="a")
    assert numbers(sent(effects)) == [(1, b"2")]
    assert bench.made == 2


def test_documents_of_two_sessions_never_share_a_frame() -> None:
    bench = Bench(Settings(documents_max=1))
    bench.send(b"1", key="a")
    bench.send(b"2", key="b")
    effects = bench.step(Connected(bench.limits))
    assert [numbers(frame.operations) for frame in effects.frames] == [[(1, b"1")], [(1, b"2")]]
    assert len({frame.session for frame in effects.frames}) == 2


def test_reads_carry_the_last_position_seen_and_no_number() -> None:
    bench = Bench()
    bench.connect()
    (first,) = sent(bench.read())
    assert (first.sequence, first.index) == (0, -1)
    bench.step(Received([Reply(first.id, 1, 7, b"{}")]))
    (second,) = sent(bench.read(consistency=Consistency.ANY.value))
    assert (second.epoch, second.index, second.consistency) == (1, 7, Consistency.ANY)
    (third,) = sent(bench.read(epoch=2, index=1))
    assert (third.epoch, third.index) == (2, 1)


def test_reads_are_asked_again_after_a_failure_that_passes_and_after_a_reconnect() -> None:
    bench = Bench()
    bench.connect()
    (first,) = sent(bench.read())
    assert sent(bench.step(Received([Reply(first.id, failure=UNAVAILABLE)]))) == []
    (second,) = sent(bench.after(10))
    bench.step(Disconnected())
    (third,) = bench.connect()
    assert len({first.id, second.id, third.id}) == 3
    assert answers(bench.step(Received([Reply(third.id, 1, 1, b"{}")]))) == [(1, "")]


def test_a_session_is_renewed_only_before_anything_was_sent_under_it() -> None:
    bench = Bench()
    bench.send(b"1")
    old = bench.client.session
    bench.client.renew_session()
    assert bench.client.session != old
    effects = bench.step(Connected(bench.limits))
    assert effects.frames[0].session == b"", "the stream was opened under the new session"
    with pytest.raises(AssertionError):
        bench.client.renew_session()


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


@pytest.mark.parametrize("identity", [b"", bytes(15), bytes(16), new_identity(1, b"0123456789")[:-1] + b"xx"])
def test_a_session_is_a_uuid_of_version_7(identity: bytes) -> None:
    check_identity("it", new_identity(5_000, b"0123456789"), 0)
    with pytest.raises(InvalidRequest):
        check_identity("it", identity, 2**47)
    with pytest.raises(InvalidRequest):
        check_identity("it", new_identity(5_001, b"0123456789"), 0)
