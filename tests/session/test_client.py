"""The client's half of the protocol, step by step: what it sends, when, and what it makes of the answers."""

from __future__ import annotations

import pytest

from cluster.errors import InvalidRequest
from cluster.session.client_events import (
    Answered,
    Connected,
    Disconnected,
    Received,
    Settings,
    StreamLimits,
)
from cluster.session.identity import check_identity, new_identity
from cluster.session.operations import Consistency, Failure, Reply
from tests.session.client_bench import STORAGE_FULL, UNAVAILABLE, Bench, answers, gap, numbers, ok, sent


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


def test_a_pipeline_that_meets_a_full_disk_goes_on_in_order_when_there_is_room() -> None:
    """Told as final, it left a gap behind which writes that had certainly not run ended as OUTCOME_UNKNOWN."""
    bench = Bench(Settings(operation_timeout_ms=10_000))
    bench.connect()
    first = sent(bench.send(b"1", b"2", b"3"))
    full = [Reply(operation.id, failure=STORAGE_FULL) for operation in first[1:]]
    effects = bench.step(Received([ok(first[0]), *full]))
    assert answers(effects) == [(1, "")]
    assert sent(effects) == []
    assert sent(bench.after(999)) == [], "the server said when to come back"
    again = sent(bench.after(1))
    assert numbers(again) == [(2, b"2"), (3, b"3")]
    assert answers(bench.step(Received([ok(operation) for operation in again]))) == [(2, ""), (3, "")]


def test_a_write_that_a_full_disk_has_kept_out_to_its_end_is_told_why() -> None:
    bench = Bench()
    bench.connect()
    first, second = sent(bench.send(b"1", b"2"))
    bench.step(Received([Reply(first.id, failure=STORAGE_FULL), gap(second, 1)]))
    bench.now_ms += 999
    (answered, behind) = (happened for happened in bench.after(1).happened if isinstance(happened, Answered))
    for told in (answered, behind):
        failure = told.reply.failure
        assert failure is not None
        assert (failure.reason, failure.retryable, failure.applied) == ("STORAGE_FULL", True, "no")


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


@pytest.mark.parametrize("identity", [b"", bytes(15), bytes(16), new_identity(1, b"0123456789")[:-1] + b"xx"])
def test_a_session_is_a_uuid_of_version_7(identity: bytes) -> None:
    check_identity("it", new_identity(5_000, b"0123456789"), 0)
    with pytest.raises(InvalidRequest):
        check_identity("it", identity, 2**47)
    with pytest.raises(InvalidRequest):
        check_identity("it", new_identity(5_001, b"0123456789"), 0)
