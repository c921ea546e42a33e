"""Prints what the durable engine costs: `python -m tests.storage.benchmark [directory]`. A few seconds; not a test.

Figures are medians, because a shared disk's syncs vary by a factor of ten; the slowest twentieth is printed beside them.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rocksdict import WriteBatch, WriteOptions

from cluster.ids import DocumentId, LogIndex, ReplicaId, ShardId, Term
from cluster.raft.effects import Persist
from cluster.raft.messages import Configuration, HardState, Run, SnapshotMeta
from cluster.storage.engine import Batch, Engine, Family
from cluster.storage.history import HistoryStore
from cluster.storage.log import ShardLog
from cluster.storage.memory import MemoryEngine
from cluster.storage.records import RecordStore
from cluster.storage.rocks import RocksEngine

ENTRY_BYTES = 200


def timed_us(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return (time.perf_counter() - started) * 1e6


def appended(log: ShardLog, count: int) -> Persist:
    first = LogIndex(log.last_index + 1)
    hard_state = HardState(Term(1), ReplicaId(1)) if log.hard_state.term < 1 else None
    return Persist(Term(1), first, hard_state, runs=[Run(first, Term(1), [b"x" * ENTRY_BYTES] * count)])


def group_commit(engine: Engine) -> None:
    """persist + write + sync of one batch, as a pump turn does it."""
    print(f"group commit, entries of {ENTRY_BYTES} B: median us (95th percentile)")
    for count in (1, 16, 128):
        log, batch = ShardLog.open(engine, ShardId(count)), Batch()
        parts: tuple[list[float], list[float], list[float]] = ([], [], [])
        for _ in range(300):
            batch.clear()
            change = appended(log, count)
            parts[0].append(timed_us(partial(log.persist, batch, change)))
            parts[1].append(timed_us(partial(engine.write, batch)))
            parts[2].append(timed_us(engine.sync))
        persist, write, sync = (statistics.median(part) for part in parts)
        slow = statistics.quantiles(parts[2], n=20)[-1]
        rate = count / (persist + write + sync) * 1e6
        print(
            f"  {count:4} entries: persist {persist:6.1f} ({persist / count:.2f} an entry), write {write:6.1f}"
            f" ({write / count:.2f} an entry), sync {sync:6.0f} ({slow:.0f}): {rate:,.0f} entries/s"
        )


def interpreter_lock(engine: RocksEngine) -> None:
    """During how many of 20 commits another thread gets to run. The switch interval is far longer than a commit, so that it
    runs only when the commit itself lets go of the interpreter lock."""
    spins, stop = 0, False

    def spin() -> None:
        nonlocal spins
        while not stop:
            spins += 1

    def ran_during(act: Callable[[], None]) -> int:
        commits = 0
        for _ in range(20):
            before = spins
            act()
            commits += spins > before
        return commits

    batch = Batch()
    batch.put(Family.LOG, b"k" * 12, b"x" * ENTRY_BYTES)
    synced = WriteOptions()
    synced.sync = True

    def write_synced() -> None:
        changes = WriteBatch(raw_mode=True)
        changes.put(b"k" * 12, b"x" * ENTRY_BYTES, engine._handles[Family.LOG])
        engine._database.write(changes, synced)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.2)
    thread = threading.Thread(target=spin)
    thread.start()
    engine.write(batch)
    apart, together = ran_during(engine.sync), ran_during(write_synced)
    stop = True
    thread.join()
    sys.setswitchinterval(interval)
    print(f"another thread ran during flush_wal(True) {apart} times of 20, during write(sync=True) {together} times of 20")


def logs(engine: RocksEngine) -> None:
    for name, other in (("memory", MemoryEngine()), ("rocks", engine)):
        log, batch, costs = ShardLog.open(other, ShardId(900)), Batch(), []
        for _ in range(200):
            batch.clear()
            change = appended(log, 100)
            costs.append(timed_us(partial(log.persist, batch, change)))
            other.write(batch)
        print(f"persist of 100 entries, {name}: {statistics.median(costs) / 100:.2f} us an entry")
    log, batch = ShardLog.open(engine, ShardId(901)), Batch()
    for _ in range(100):
        batch.clear()
        log.persist(batch, appended(log, 1000))
        engine.write(batch)
    print(f"log of 100,000 entries: open {timed_us(lambda: ShardLog.open(engine, ShardId(901))):,.0f} us,", end=" ")
    print(f"verify {timed_us(log.verify) / 1000:,.0f} ms,", end=" ")
    print(f"runs of 1 MiB {timed_us(lambda: log.runs(LogIndex(50_000), log.last_index, 1 << 20)):,.0f} us,", end=" ")
    batch.clear()
    meta = SnapshotMeta(LogIndex(99_000), Term(1), Configuration((ReplicaId(1),)))
    log.persist(batch, Persist(Term(1), 1, snapshot=meta))
    print(f"compact 99,000 (one delete_range) {timed_us(lambda: engine.write(batch)):,.0f} us,", end=" ")
    print(f"open again {timed_us(lambda: ShardLog.open(engine, ShardId(901))):,.0f} us")
    empty = timed_us(lambda: [ShardLog.open(engine, ShardId(10_000 + shard)) for shard in range(1000)]) / 1000
    print(f"open of an empty log: {empty:.1f} us")


def stores(engine: RocksEngine) -> None:
    records, history = RecordStore(engine, ShardId(1)), HistoryStore(engine, ShardId(1))
    batch, documents = Batch(), [DocumentId("chat", f"document-{number}") for number in range(1000)]

    def put_all(body: bytes) -> None:
        for document in documents:
            records.put(batch, 0, document, body)

    def append_all() -> None:
        for index in range(1, 1001):
            history.append(batch, documents[0], 1, index, 1, b"h" * 200)

    for size in (200, 10_000):
        batch.clear()
        put = timed_us(partial(put_all, b"r" * size)) / 1000
        write = timed_us(lambda: engine.write(batch)) / 1000
        get = timed_us(lambda: [records.get(0, document) for document in documents]) / 1000
        print(f"record of {size:,} B: put {put:.1f} us, write {write:.1f} us, get {get:.1f} us")
    batch.clear()
    append = timed_us(append_all) / 1000
    engine.write(batch)
    read = timed_us(lambda: list(history.read(documents[0], 1, 1, 1000))) / 1000
    print(f"history value of 200 B: append {append:.1f} us, read {read:.1f} us")


def main() -> None:
    root = Path(tempfile.mkdtemp(prefix="storage-benchmark-", dir=sys.argv[1] if len(sys.argv) > 1 else None))
    try:
        engine = RocksEngine.open(root / "data")
        group_commit(engine)
        interpreter_lock(engine)
        logs(engine)
        stores(engine)
        size = sum(log.stat().st_size for log in (root / "data").glob("*.log"))
        shutil.copytree(root / "data", root / "crashed")
        engine.close()
        opened = timed_us(lambda: RocksEngine.open(root / "crashed").close()) / 1000
        print(f"open after a crash with {size / 1e6:.0f} MB of write-ahead log: {opened:.0f} ms")
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
