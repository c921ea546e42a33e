"""ShardLog: what Raft asked to persist is what it reads back, and nothing else ever is."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import StorageDamaged
from cluster.ids import LogIndex, ReplicaId, ShardId, Term
from cluster.raft.effects import Persist
from cluster.raft.events import LogStorage
from cluster.raft.messages import Configuration, HardState, Run, SnapshotMeta
from cluster.storage import keys
from cluster.storage.engine import Batch, Engine, Family
from cluster.storage.log import TAIL_VERIFIED_ENTRIES, ShardLog, erase_log
from cluster.storage.memory import MemoryEngine

SHARD = ShardId(7)
VOTERS = Configuration((ReplicaId(1), ReplicaId(2), ReplicaId(3)))
EVERYTHING = 1 << 40


def run(first: int, term: int, *payloads: bytes) -> Run:
    return Run(LogIndex(first), Term(term), list(payloads))


def meta(index: int, term: int) -> SnapshotMeta:
    return SnapshotMeta(LogIndex(index), Term(term), VOTERS)


def store(
    engine: Engine,
    log: ShardLog,
    *runs: Run,
    truncate: int | None = None,
    snapshot: SnapshotMeta | None = None,
    term: int | None = None,
) -> None:
    highest = max((r.term for r in runs), default=log.hard_state.term)
    hard_state = HardState(Term(max(highest, term or 0)), ReplicaId(0)) if highest > log.hard_state.term or term else None
    batch = Batch()
    log.persist(
        batch,
        Persist(Term(1), 1, hard_state, None if truncate is None else LogIndex(truncate), list(runs), snapshot),
    )
    engine.write(batch)


def read(log: ShardLog) -> list[tuple[int, int, bytes]]:
    if log.last_index == log.snapshot.index:
        return []
    return [
        (found.first_index + offset, found.term, payload)
        for found in log.runs(log.first_index, log.last_index, EVERYTHING)
        for offset, payload in enumerate(found.payloads)
    ]


def reopened(engine: Engine, log: ShardLog) -> ShardLog:
    """The log as a restart finds it; it must agree with the one in memory."""
    again = ShardLog.open(engine, SHARD)
    assert (again.first_index, again.last_index, again.snapshot, again.hard_state) == (
        log.first_index,
        log.last_index,
        log.snapshot,
        log.hard_state,
    )
    assert read(again) == read(log)
    for index in range(again.snapshot.index, again.last_index + 1):
        assert again.term(LogIndex(index)) == log.term(LogIndex(index))
    return again


def test_a_new_log_is_empty(engine: Engine) -> None:
    log = ShardLog.open(engine, SHARD)
    stable: LogStorage = log
    assert (stable.last_index, stable.snapshot.index, log.hard_state) == (0, 0, HardState(Term(0), ReplicaId(0)))
    assert stable.term(LogIndex(0)) == 0
    with pytest.raises(KeyError):
        stable.term(LogIndex(1))
    with pytest.raises(KeyError):
        stable.runs(LogIndex(1), LogIndex(1), EVERYTHING)


def test_entries_hard_state_and_terms_survive_reopening(engine: Engine) -> None:
    log = ShardLog.open(engine, SHARD)
    store(engine, log, run(1, 1, b"", b"a"), run(3, 4, b"", b"b"))
    batch = Batch()
    log.persist(batch, Persist(Term(5), 2, HardState(Term(5), ReplicaId(2))))
    engine.write(batch)
    again = reopened(engine, log)
    assert again.runs(LogIndex(1), LogIndex(4), EVERYTHING) == [run(1, 1, b"", b"a"), run(3, 4, b"", b"b")]
    assert again.hard_state == HardState(Term(5), ReplicaId(2))
    assert [again.term(LogIndex(i)) for i in range(1, 5)] == [1, 1, 4, 4]


def test_truncation_replaces_a_conflicting_tail(engine: Engine) -> None:
    log = ShardLog.open(engine, SHARD)
    store(engine, log, run(1, 1, b"a", b"b"), run(3, 2, b"c", b"d"))
    store(engine, log, run(2, 3, b"x"), truncate=2)
    assert read(reopened(engine, log)) == [(1, 1, b"a"), (2, 3, b"x")]


def test_truncation_at_a_run_boundary_forgets_the_cut_term(engine: Engine) -> None:
    log = ShardLog.open(engine, SHARD)
    store(engine, log, run(1, 1, b"a"), run(2, 2, b"b"))
    store(engine, log, truncate=2)
    store(engine, log, run(2, 1, b"again of term 1"))
    assert read(reopened(engine, log)) == [(1, 1, b"a"), (2, 1, b"again of term 1")]


def test_compaction_keeps_the_entries_behind_the_snapshot(engine: Engine) -> None:
    log = ShardLog.open(engine, SHARD)
    store(engine, log, run(1, 1, b"a", b"b"), run(3, 2, b"c", b"d", b"e"))
    store(engine, log, snapshot=meta(4, 2))
    again = reopened(engine, log)
    assert read(again) == [(5, 2, b"e")]
    assert again.term(LogIndex(4)) == 2
    with pytest.raises(KeyError):
        again.term(LogIndex(3))


def test_compaction_of_the_whole_log_lets_it_go_on(engine: Engine) -> None:
    log = ShardLog.open(engine, SHARD)
    store(engine, log, run(1, 1, b"a", b"b"))
    store(engine, log, snapshot=meta(2, 1))
    assert reopened(engine, log).last_index == 2
    store(engine, log, run(3, 1, b"c"))
    assert read(reopened(engine, log)) == [(3, 1, b"c")]


def test_one_persist_compacts_and_appends(engine: Engine) -> None:
    log = ShardLog.open(engine, SHARD)
    store(engine, log, run(1, 1, b"a", b"b"))
    store(engine, log, run(3, 1, b"c"), snapshot=meta(1, 1))
    assert read(reopened(engine, log)) == [(2, 1, b"b"), (3, 1, b"c")]


@pytest.mark.parametrize(("index", "term"), [(9, 3), (2, 3)])
def test_a_snapshot_that_the_log_does_not_contain_replaces_it(engine: Engine, index: int, term: int) -> None:
    """Paper 7: a log without the snapshot's last entry conflicts with it and is dropped whole."""
    log = ShardLog.open(engine, SHARD)
    store(engine, log, run(1, 1, b"a", b"b", b"c"), term=5)
    store(engine, log, snapshot=meta(index, term))
    assert (log.first_index, log.last_index, read(reopened(engine, log))) == (index + 1, index, [])


def test_reset_installs_a_snapshot_and_keeps_the_hard_state(engine: Engine) -> None:
    log = ShardLog.open(engine, SHARD)
    store(engine, log, run(1, 1, b"a"), run(2, 2, b"b"), term=6)
    batch = Batch()
    log.reset(batch, meta(50, 5))
    engine.write(batch)
    again = reopened(engine, log)
    assert (again.snapshot, again.last_index, again.term(LogIndex(50)), again.hard_state.term) == (meta(50, 5), 50, 5, 6)


def test_erase_leaves_nothing_of_this_shard_and_everything_of_others(engine: Engine) -> None:
    log, other = ShardLog.open(engine, SHARD), ShardLog.open(engine, ShardId(8))
    store(engine, log, run(1, 1, b"a"))
    store(engine, other, run(1, 1, b"b"))
    batch = Batch()
    erase_log(SHARD, batch)
    engine.write(batch)
    assert reopened(engine, ShardLog(engine, SHARD)).last_index == 0
    assert read(ShardLog.open(engine, ShardId(8))) == [(1, 1, b"b")]


def test_runs_stop_after_the_byte_limit_but_never_before_one_entry(engine: Engine) -> None:
    log = ShardLog.open(engine, SHARD)
    store(engine, log, run(1, 1, b"x" * 100, b"y" * 10, b"z" * 10))
    assert log.runs(LogIndex(1), LogIndex(3), 1) == [run(1, 1, b"x" * 100)]
    assert log.runs(LogIndex(1), LogIndex(3), 110) == [run(1, 1, b"x" * 100, b"y" * 10)]
    assert log.runs(LogIndex(2), LogIndex(3), 20) == [run(2, 1, b"y" * 10, b"z" * 10)]


def test_runs_outside_of_what_is_retained_are_a_key_error(engine: Engine) -> None:
    log = ShardLog.open(engine, SHARD)
    store(engine, log, run(1, 1, b"a", b"b", b"c"))
    store(engine, log, snapshot=meta(1, 1))
    for first, last in ((1, 2), (2, 4), (3, 2)):
        with pytest.raises(KeyError):
            log.runs(LogIndex(first), LogIndex(last), EVERYTHING)


def test_long_logs_are_read_across_scan_boundaries(engine: Engine) -> None:
    log = ShardLog.open(engine, SHARD)
    payloads = [number.to_bytes(2, "big") for number in range(2000)]
    store(engine, log, run(1, 1, *payloads))
    assert log.runs(LogIndex(1), LogIndex(2000), EVERYTHING) == [run(1, 1, *payloads)]
    log.verify()


@pytest.mark.parametrize("missing", [1, 500, 1000])
def test_a_missing_entry_is_damage_and_never_a_shorter_log(engine: Engine, missing: int) -> None:
    """Trap 10: a hole in the middle is not a torn tail. The newest entry's loss alone shows as a shorter log, which the
    leader's match tells (the term start of a lost newest term is told here)."""
    log = ShardLog.open(engine, SHARD)
    store(engine, log, run(1, 1, *[b"p"] * 999), run(1000, 2, b"q"))
    batch = Batch()
    batch.delete(Family.LOG, keys.log_entry(SHARD, missing))
    engine.write(batch)
    with pytest.raises(StorageDamaged):
        ShardLog.open(engine, SHARD).verify()


@pytest.mark.parametrize("byte", [0, 4, 11, 12, 15])
@pytest.mark.parametrize("index", [3, TAIL_VERIFIED_ENTRIES + 300])
def test_one_flipped_bit_of_an_entry_is_told_before_its_payload_is_used(byte: int, index: int) -> None:
    engine = MemoryEngine()
    log = ShardLog.open(engine, SHARD)
    store(engine, log, run(1, 1, *[b"good"] * (TAIL_VERIFIED_ENTRIES + 300)))
    key = keys.log_entry(SHARD, index)
    value = bytearray(engine.get(Family.LOG, key) or b"")
    value[byte] ^= 0x10
    engine.corrupt(Family.LOG, key, bytes(value))
    with pytest.raises(StorageDamaged):
        ShardLog.open(engine, SHARD).runs(LogIndex(index), LogIndex(index), EVERYTHING)


def test_a_misdirected_read_is_told(engine: Engine) -> None:
    """A whole, well-formed value of another entry or shard does not pass: the checksum covers the key."""
    log, other = ShardLog.open(engine, SHARD), ShardLog.open(engine, ShardId(8))
    store(engine, log, run(1, 1, b"a", b"b"))
    store(engine, other, run(1, 1, b"c", b"d"))
    for source in (keys.log_entry(SHARD, 1), keys.log_entry(ShardId(8), 2)):
        value = engine.get(Family.LOG, source)
        assert value is not None
        batch = Batch()
        batch.put(Family.LOG, keys.log_entry(SHARD, 2), value)
        engine.write(batch)
        with pytest.raises(StorageDamaged):
            log.runs(LogIndex(2), LogIndex(2), EVERYTHING)


@pytest.mark.parametrize("kind", [keys.SHARD_HARD_STATE, keys.SHARD_SNAPSHOT])
def test_damaged_hard_state_or_snapshot_keeps_the_log_from_opening(kind: int) -> None:
    engine = MemoryEngine()
    log = ShardLog.open(engine, SHARD)
    store(engine, log, run(1, 1, b"a", b"b"), term=3)
    store(engine, log, snapshot=meta(1, 1))
    key = keys.shard_meta(SHARD, kind)
    value = bytearray(engine.get(Family.META, key) or b"")
    value[-1] ^= 1
    engine.corrupt(Family.META, key, bytes(value))
    with pytest.raises(StorageDamaged):
        ShardLog.open(engine, SHARD)


def test_bounds_move_before_the_batch_is_written() -> None:
    log = ShardLog.open(MemoryEngine(), SHARD)
    log.persist(Batch(), Persist(Term(1), 1, runs=[run(1, 1, b"a", b"b")]))
    assert (log.last_index, log.term(LogIndex(2))) == (2, 1)


def test_what_raft_never_asks_for_is_asserted() -> None:
    engine = MemoryEngine()
    log = ShardLog.open(engine, SHARD)
    store(engine, log, run(1, 2, b"a", b"b"))
    store(engine, log, snapshot=meta(1, 2))
    for wrong in (
        Persist(Term(2), 2, runs=[run(4, 2, b"gap")]),
        Persist(Term(2), 2, runs=[run(3, 1, b"older term")]),
        Persist(Term(2), 2, truncate_from=LogIndex(1)),
        Persist(Term(2), 2, hard_state=HardState(Term(1), ReplicaId(1))),
    ):
        with pytest.raises(AssertionError):
            log.persist(Batch(), wrong)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["append", "truncate", "compact", "install"]), st.integers(0, 9)), max_size=25))
def test_any_history_of_changes_reads_back_like_a_plain_list(changes: list[tuple[str, int]]) -> None:
    engine = MemoryEngine()
    log = ShardLog.open(engine, SHARD)
    model: list[tuple[int, int, bytes]] = []
    start, start_term, term = 0, 0, 1
    for number, (change, amount) in enumerate(changes):
        last = start + len(model)
        if change == "append":
            term += amount % 3 == 0
            payloads = [b"%d.%d" % (number, i) for i in range(amount + 1)]
            store(engine, log, run(last + 1, term, *payloads))
            model += [(last + 1 + i, term, payload) for i, payload in enumerate(payloads)]
        elif change == "truncate" and amount < len(model):
            term += 1
            store(engine, log, run(start + amount + 1, term, b"new"), truncate=start + amount + 1)
            model = [*model[:amount], (start + amount + 1, term, b"new")]
        elif change == "compact" and amount < len(model):
            start, start_term = model[amount][0], model[amount][1]
            store(engine, log, snapshot=meta(start, start_term))
            model = model[amount + 1 :]
        elif change == "install":
            start, start_term, model = last + amount + 1, term, []
            store(engine, log, snapshot=meta(start, start_term))
        assert read(reopened(engine, log)) == model
        assert log.term(LogIndex(start)) == start_term
    log.verify()
