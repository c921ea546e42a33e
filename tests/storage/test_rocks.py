"""What only a real disk can do to an engine: fill up, stall, fail to sync, rot, and be left behind by a killed process."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.errors import Overloaded, StorageDamaged, StorageError, StorageFull
from cluster.ids import DocumentId, LogIndex, ReplicaId, ShardId, Term
from cluster.raft.effects import Persist
from cluster.raft.messages import HardState, Run
from cluster.storage.bundles import BundleStore, bundle_hash
from cluster.storage.engine import Batch, Engine, Family
from cluster.storage.history import HistoryStore
from cluster.storage.log import ShardLog
from cluster.storage.records import RecordStore
from cluster.storage.rocks import SPACE_CHECK_BYTES, SPACE_CHECK_INTERVAL_S, RocksEngine, RocksSettings

LAST = b"\xff" * 16
SHARD = ShardId(5)
LOBBY = DocumentId("chat", "lobby")
CODE = b"class Chat: ..." * 40


def put(engine: RocksEngine, key: bytes, value: bytes = b"v") -> None:
    batch = Batch()
    batch.put(Family.RECORDS, key, value)
    engine.write(batch)


class TestHighWaterMark:
    """Free space and time come from the test; the engine and its files are real."""

    free = 0
    now_s = 0.0
    lookups = 0

    def engine(self, path: Path) -> RocksEngine:
        def free_bytes() -> int:
            self.lookups += 1
            return self.free

        self.free = 1000
        return RocksEngine.open(path, RocksSettings(free_bytes_min=500), free_bytes=free_bytes, clock=lambda: self.now_s)

    def test_writes_are_refused_below_it_without_effect_and_reads_go_on(self, tmp_path: Path) -> None:
        engine = self.engine(tmp_path)
        put(engine, b"a")
        self.free, self.now_s = 499, self.now_s + SPACE_CHECK_INTERVAL_S
        with pytest.raises(StorageFull):
            put(engine, b"b")
        assert [key for key, _ in engine.scan(Family.RECORDS, b"", LAST)] == [b"a"]
        engine.sync()
        self.free, self.now_s = 500, self.now_s + SPACE_CHECK_INTERVAL_S
        put(engine, b"b")
        assert engine.get(Family.RECORDS, b"b") == b"v"
        engine.close()

    def test_free_space_is_looked_up_once_an_interval_or_after_many_bytes(self, tmp_path: Path) -> None:
        engine = self.engine(tmp_path)
        before = self.lookups
        for number in range(50):
            put(engine, b"%d" % number)
        assert self.lookups == before
        self.free = 0
        with pytest.raises(StorageFull):
            put(engine, b"big", bytes(SPACE_CHECK_BYTES))
        assert self.lookups == before + 1
        engine.close()


# Stands before the C library in a child process: while a file named by SWITCH exists, syncs fail with EIO ("sync") or
# appends to the write-ahead log with ENOSPC ("space").
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static int asked(const char *fault) {
    char path[4096];
    snprintf(path, sizeof path, "%s.%s", getenv("SWITCH"), fault);
    return access(path, F_OK) == 0;
}
static int is_log(int descriptor) {
    char link[64], name[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t size = readlink(link, name, sizeof name - 1);
    if (size < 4) return 0;
    name[size] = 0;
    return strcmp(name + size - 4, ".log") == 0;
}
int fdatasync(int descriptor) {
    if (asked("sync")) { errno = EIO; return -1; }
    return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(descriptor);
}
int fsync(int descriptor) {
    if (asked("sync")) { errno = EIO; return -1; }
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(descriptor);
}
ssize_t write(int descriptor, const void *bytes, size_t size) {
    if (asked("space") && is_log(descriptor)) { errno = ENOSPC; return -1; }
    return ((ssize_t (*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write"))(descriptor, bytes, size);
}
ssize_t pwrite64(int descriptor, const void *bytes, size_t size, off64_t at) {
    if (asked("space") && is_log(descriptor)) { errno = ENOSPC; return -1; }
    return ((ssize_t (*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64"))(descriptor, bytes, size, at);
}
"""

PRELUDE = """
import os, sys
from pathlib import Path
from cluster.storage.engine import Batch, Family
from cluster.storage.rocks import RocksEngine
path, switch = Path(sys.argv[1]), sys.argv[2]
engine = RocksEngine.open(path)
def put(key):
    batch = Batch()
    batch.put(Family.RECORDS, key, b"v")
    engine.write(batch)
def told(use):
    try:
        use()
    except Exception as error:
        return type(error).__name__
    return "nothing"
put(b"a")
engine.sync()
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs a C compiler and Linux to stand between RocksDB and the disk")
    source = tmp_path_factory.mktemp("shim") / "shim.c"
    source.write_text(SHIM)
    library = source.with_suffix(".so")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True, timeout=60)
    return library


def run_with_faults(shim: Path, tmp_path: Path, script: str) -> list[str]:
    switch = tmp_path / "switch"
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + script, str(tmp_path / "data"), str(switch)],
        env={**os.environ, "LD_PRELOAD": str(shim), "SWITCH": str(switch)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.split()


def test_a_failed_sync_is_final_even_when_the_disk_recovers(shim: Path, tmp_path: Path) -> None:
    """Trap 9: after EIO the kernel marks the pages clean and the next fsync succeeds, so it must not be asked again."""
    said = run_with_faults(
        shim,
        tmp_path,
        """
put(b"b")
Path(switch + ".sync").touch()
print(told(engine.sync))
Path(switch + ".sync").unlink()
print(told(engine.sync), told(lambda: put(b"c")), told(lambda: engine.get(Family.RECORDS, b"a")))
sys.stdout.flush()
os._exit(0)
""",
    )
    assert said == ["SyncFailed"] * 4
    engine = RocksEngine.open(tmp_path / "data")
    assert engine.get(Family.RECORDS, b"a") == b"v"
    assert engine.get(Family.RECORDS, b"c") is None
    engine.close()


def test_a_stalled_engine_refuses_as_overloaded_without_effect_and_recovers(tmp_path: Path) -> None:
    """Writes come faster than memory is flushed. Without no_slowdown RocksDB would hold the writer and the interpreter lock."""
    engine = RocksEngine.open(tmp_path)
    engine._families[Family.RECORDS].set_options({"write_buffer_size": "65536", "max_write_buffer_number": "1"})
    accepted = 0

    def put_without_end() -> None:
        nonlocal accepted
        for accepted in range(50_000):
            put(engine, accepted.to_bytes(4, "big"), bytes(1000))

    with pytest.raises(Overloaded) as told:
        put_without_end()
    assert told.value.retry_after_ms > 0
    assert sum(1 for _ in engine.scan(Family.RECORDS, b"", LAST)) == accepted
    engine._families[Family.RECORDS].set_options({"write_buffer_size": "16777216", "max_write_buffer_number": "3"})
    engine.flush([Family.RECORDS])
    put(engine, b"again")
    assert engine.get(Family.RECORDS, b"again") == b"v"
    engine.close()


def test_a_disk_that_is_really_full_refuses_writes_for_good_and_reads_go_on(shim: Path, tmp_path: Path) -> None:
    said = run_with_faults(
        shim,
        tmp_path,
        """
Path(switch + ".space").touch()
print(told(lambda: put(b"b")))
Path(switch + ".space").unlink()
print(told(lambda: put(b"c")), engine.get(Family.RECORDS, b"a").decode(), engine.get(Family.RECORDS, b"b"))
sys.stdout.flush()
os._exit(0)
""",
    )
    assert said == ["StorageFull", "StorageFull", "v", "None"]
    engine = RocksEngine.open(tmp_path / "data")
    assert engine.get(Family.RECORDS, b"a") == b"v"
    assert engine.get(Family.RECORDS, b"c") is None
    engine.close()


WRITE_UNTIL_KILLED = """
import sys
from pathlib import Path
from cluster.ids import LogIndex, ReplicaId, ShardId, Term
from cluster.raft.effects import Persist
from cluster.raft.messages import HardState, Run
from cluster.storage.engine import Batch
from cluster.storage.log import ShardLog
from cluster.storage.rocks import RocksEngine
engine = RocksEngine.open(Path(sys.argv[1]))
logs = [ShardLog.open(engine, ShardId(shard)) for shard in range(3)]
batch = Batch()
while True:
    batch.clear()
    for log in logs:
        first = log.last_index + 1
        term = Term(1 + first // 100)
        payloads = [b"%d" % index * 20 for index in range(first, first + 10)]
        log.persist(batch, Persist(term, first, HardState(term, ReplicaId(2)), runs=[Run(LogIndex(first), term, payloads)]))
    engine.write(batch)
    engine.sync()
    print(logs[0].last_index, flush=True)
"""


def test_everything_a_killed_writer_reported_as_synced_is_there(tmp_path: Path) -> None:
    """Trap 8: synced means on the disk, now and not some time later."""
    command = [sys.executable, "-c", WRITE_UNTIL_KILLED, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        reported = 0
        while reported < 500:
            reported = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        for line in child.stdout:
            reported = int(line) if line.endswith("\n") else reported
    engine = RocksEngine.open(tmp_path)
    last = set()
    for shard in range(3):
        log = ShardLog.open(engine, ShardId(shard))
        log.verify()
        last.add(log.last_index)
        assert log.last_index >= reported
        assert log.hard_state.vote == 2
        found = [payload for run in log.runs(LogIndex(1), log.last_index, 1 << 40) for payload in run.payloads]
        assert found == [b"%d" % index * 20 for index in range(1, log.last_index + 1)]
    assert len(last) == 1, "a batch is there whole or not at all, for all shards alike"
    engine.close()


def fill(engine: RocksEngine) -> None:
    """Something of every family, in table files."""
    batch = Batch()
    log = ShardLog.open(engine, SHARD)
    runs = [Run(LogIndex(1), Term(1), [b"payload %d" % number for number in range(3000)])]
    log.persist(batch, Persist(Term(1), 1, HardState(Term(1), ReplicaId(1)), runs=runs))
    records, history = RecordStore(engine, SHARD), HistoryStore(engine, SHARD)
    records.put_metadata(batch, b"metadata")
    for number in range(300):
        document = DocumentId("chat", f"d{number:03}")
        records.put(batch, 0, document, os.urandom(100))
        records.index(batch, 0, document, (None, (), False), (number, ("bob@acme",), False))
    for number in range(300):
        history.append(batch, LOBBY, 1, number + 1, 1, os.urandom(100))
    BundleStore(engine).put(batch, bundle_hash(CODE), CODE)
    engine.write(batch)


USES: dict[Family, Callable[[Engine], object]] = {
    Family.META: lambda engine: (ShardLog.open(engine, SHARD).hard_state, RecordStore(engine, SHARD).metadata()),
    Family.LOG: lambda engine: ShardLog.open(engine, SHARD).runs(LogIndex(1), LogIndex(3000), 1 << 40),
    Family.RECORDS: lambda engine: RecordStore(engine, SHARD).scan_all(0, None, 1 << 30),
    Family.HISTORY: lambda engine: list(HistoryStore(engine, SHARD).read(LOBBY, 1, 1, 1000)),
    Family.BUNDLES: lambda engine: BundleStore(engine).get(bundle_hash(CODE)),
    Family.WAITS: lambda engine: (
        RecordStore(engine, SHARD).due(0, b"", 1 << 40, 1000),
        RecordStore(engine, SHARD).asking(0, "chat", "bob@acme", "", 1000),
    ),
}


@pytest.mark.parametrize("family", list(Family))
def test_a_rotten_table_file_is_told_and_never_shortens_a_read(tmp_path: Path, family: Family) -> None:
    """A cursor over a corrupt block ends without an error of its own; only the cursor's status tells it from the end."""
    engine = RocksEngine.open(tmp_path)
    fill(engine)
    expected = USES[family](engine)
    others = set(tmp_path.glob("*.sst"))
    engine.flush([family])
    (table,) = set(tmp_path.glob("*.sst")) - others
    engine.close()
    good, told = table.read_bytes(), 0
    for part in range(1, 8):
        rotten = bytearray(good)
        rotten[len(good) * part // 16] ^= 0x20
        table.write_bytes(bytes(rotten))
        try:
            engine = RocksEngine.open(tmp_path)
        except StorageDamaged:
            told += 1
            continue
        try:
            # A flip in a part of the file that is not needed (statistics) may go unseen; wrong or less data may not.
            assert USES[family](engine) == expected
        except StorageDamaged:
            told += 1
        finally:
            engine.close()
    assert told >= 1


def test_a_lost_table_file_keeps_the_engine_from_opening(tmp_path: Path) -> None:
    engine = RocksEngine.open(tmp_path)
    fill(engine)
    engine.flush()
    engine.close()
    next(tmp_path.glob("*.sst")).unlink()
    with pytest.raises(StorageDamaged):
        RocksEngine.open(tmp_path)


@pytest.mark.parametrize("name", ["CURRENT", "MANIFEST"])
def test_a_damaged_catalogue_keeps_the_engine_from_opening(tmp_path: Path, name: str) -> None:
    engine = RocksEngine.open(tmp_path)
    fill(engine)
    engine.close()
    for path in tmp_path.glob(name + "*"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(bytes(data))
    with pytest.raises(StorageError):
        RocksEngine.open(tmp_path)
