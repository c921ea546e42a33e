"""The server's half of exactly once, against its rules and against a plain model."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from cluster.session.table import Answer, SessionTable, StoredTable, Verdict, payload_digest

WINDOW, SESSIONS = 8, 4


def session(number: int, made_ms: int = 1_000) -> bytes:
    return made_ms.to_bytes(6, "big") + number.to_bytes(10, "big")


def run(table: SessionTable, who: bytes, sequence: int, acked: int = 0, payload: bytes = b"{}") -> Verdict:
    """Judge, and record when it runs."""
    digest = payload_digest(2, "add", payload)
    verdict, _, _ = table.judge(who, sequence, digest)
    if verdict is Verdict.RUN:
        table.record(who, acked, Answer(sequence, digest, 0, b"%d" % sequence, 1, sequence), WINDOW, SESSIONS)
    return verdict


def test_sequences_run_once_and_in_order() -> None:
    table, who = SessionTable(), session(1)
    assert [run(table, who, sequence) for sequence in (1, 2, 3)] == [Verdict.RUN] * 3
    assert run(table, who, 2) is Verdict.REPEAT
    assert run(table, who, 5) is Verdict.GAP
    assert run(table, who, 4) is Verdict.RUN


def test_a_repeat_gets_its_first_answer_and_another_payload_is_refused() -> None:
    table, who = SessionTable(), session(1)
    run(table, who, 1)
    _, answer, _ = table.judge(who, 1, payload_digest(2, "add", b"{}"))
    assert answer is not None
    assert (answer.body, answer.index) == (b"1", 1)
    assert run(table, who, 1, payload=b'{"a":1}') is Verdict.REUSED


def test_a_session_starts_at_one() -> None:
    verdict, _, expected = SessionTable().judge(session(1), 3, b"")
    assert (verdict, expected) == (Verdict.GAP, 1)


def test_acknowledged_answers_are_forgotten_and_a_late_repeat_is_unknown_not_run() -> None:
    table, who = SessionTable(), session(1)
    for sequence in range(1, 6):
        run(table, who, sequence, acked=sequence - 1)
    assert run(table, who, 2) is Verdict.UNKNOWN
    assert run(table, who, 5) is Verdict.REPEAT


def test_answers_beyond_the_window_go_oldest_first() -> None:
    table, who = SessionTable(), session(1)
    for sequence in range(1, WINDOW + 3):
        run(table, who, sequence)
    assert run(table, who, 2) is Verdict.UNKNOWN
    assert run(table, who, 3) is Verdict.REPEAT


def test_an_evicted_session_is_never_executed_again() -> None:
    """Trap 54: what is older than forgotten_before and unknown may have been applied. Who goes is decided by the log alone."""
    table = SessionTable()
    for number in range(SESSIONS + 1):
        run(table, session(number, 1_000 + number), 1)
    assert table.forgotten_before_ms == 1_000
    assert run(table, session(0, 1_000), 1) is Verdict.UNKNOWN
    assert run(table, session(0, 1_000), 2) is Verdict.UNKNOWN
    assert run(table, session(99, 2_000), 1) is Verdict.RUN


def test_an_idempotency_key_runs_once_in_any_order() -> None:
    table = SessionTable()
    keys = [b"k" * 15 + bytes((number,)) for number in range(3)]
    assert [run(table, key, 0) for key in keys] == [Verdict.RUN] * 3
    assert [run(table, key, 0) for key in reversed(keys)] == [Verdict.REPEAT] * 3
    assert run(table, keys[0], 0, payload=b"[]") is Verdict.REUSED


def test_evicting_an_idempotency_key_does_not_age_out_sessions() -> None:
    table = SessionTable()
    for number in range(SESSIONS + 2):
        run(table, b"\xff" * 15 + bytes((number,)), 0)
    assert table.forgotten_before_ms == 0
    assert run(table, session(1), 1) is Verdict.RUN


def test_who_asks_for_nothing_is_not_remembered() -> None:
    table = SessionTable()
    assert run(table, b"", 0) is Verdict.RUN
    assert run(table, b"", 0) is Verdict.RUN
    assert len(table) == 0


attempts = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 12), st.integers(0, 3)), max_size=60)


@given(attempts)
def test_any_order_of_attempts_runs_each_sequence_at_most_once_and_in_order(steps: list[tuple[int, int, int]]) -> None:
    table = SessionTable()
    ran: dict[int, list[int]] = {}
    for number, sequence, behind in steps:
        done = ran.setdefault(number, [])
        acked = min(len(done), max(0, sequence - 1 - behind))
        verdict = run(table, session(number), sequence, acked)
        assert (verdict is Verdict.RUN) == (sequence == len(done) + 1)
        if verdict is Verdict.RUN:
            done.append(sequence)
    for done in ran.values():
        assert done == list(range(1, len(done) + 1))


@given(attempts)
def test_a_table_survives_its_record_byte_for_byte(steps: list[tuple[int, int, int]]) -> None:
    table = SessionTable()
    for number, sequence, acked in steps:
        run(table, session(number), sequence, min(acked, sequence - 1))
    stored = msgspec.msgpack.encode(table.stored())
    again = SessionTable(msgspec.msgpack.decode(stored, type=StoredTable))
    assert msgspec.msgpack.encode(again.stored()) == stored
    for number, sequence, _ in steps:
        digest = payload_digest(2, "add", b"{}")
        assert again.judge(session(number), sequence, digest) == table.judge(session(number), sequence, digest)


def test_a_negative_sequence_is_judged_and_never_runs() -> None:
    """Recording it would break the table's order, on every replica that applies it."""
    table, who = SessionTable(), session(1)
    assert run(table, who, -1) is Verdict.INVALID
    run(table, who, 1)
    assert run(table, who, -1) is Verdict.INVALID
    assert table.stored().sessions[0].last == 1


def test_no_sequence_follows_an_idempotency_key() -> None:
    """A gap would tell its client to resend what is refused again, for ever."""
    table, key = SessionTable(), session(1)
    run(table, key, 0)
    for sequence in (1, 2):
        assert run(table, key, sequence) is Verdict.REUSED
    assert run(table, key, 0) is Verdict.REPEAT
