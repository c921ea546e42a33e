"""A damaged write-ahead log is never opened as a shorter one (trap 10: a bad record in the middle is not a torn tail)."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rocksdict import DBRecoveryMode, Options, Rdict

from cluster.errors import StorageDamaged
from cluster.storage.engine import Batch, Family
from cluster.storage.rocks import SYNCED_FILE, RocksEngine
from cluster.storage.wal import verify_logs, walk_log

BATCHES, ENTRIES = 30, 10
LAST = b"\xff" * 9
HEADER_BYTES = 7

# A child, because a process can not abandon an open RocksDB: it ends without closing it, as a crash would.
WRITE_TWO_LOGS_AND_DIE = """
import os, sys
from pathlib import Path
from cluster.storage.engine import Batch, Family
from cluster.storage.rocks import RocksEngine
engine = RocksEngine.open(Path(sys.argv[1]))
for number in range(100):
    batch = Batch()
    batch.put(Family.LOG, number.to_bytes(8, "big"), bytes(200))
    batch.put(Family.META, b"k", bytes(20))
    engine.write(batch)
    if number == 49:
        engine.flush([Family.META])
engine.sync()
os._exit(0)
"""

WRITE_AND_DIE = f"""
import os, random, sys
from pathlib import Path
from cluster.storage.engine import Batch, Family
from cluster.storage.rocks import RocksEngine
engine = RocksEngine.open(Path(sys.argv[1]))
source = random.Random(1)
for number in range({BATCHES}):
    batch = Batch()
    for entry in range({ENTRIES}):
        batch.put(Family.LOG, (number * {ENTRIES} + entry).to_bytes(8, "big"), source.randbytes(200))
    engine.write(batch)
    engine.sync()
os._exit(0)
"""


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory as a crash leaves it: 300 entries, synced, all of them in the write-ahead log only."""
    path = tmp_path_factory.mktemp("crashed") / "data"
    subprocess.run([sys.executable, "-c", WRITE_AND_DIE, str(path)], check=True, timeout=60)
    forget_what_was_durable(path)
    return path


def forget_what_was_durable(path: Path) -> None:
    """These tests cut off what was synced in place of what was not, so nothing may say that it was."""
    (path / SYNCED_FILE).unlink()


def the_log(path: Path) -> Path:
    return max(path.glob("*.log"), key=lambda log: log.stat().st_size)


def batch_ends(data: bytes) -> list[int]:
    """Ends of the batches that hold entries: all records but the first, which marks the format."""
    ends, position = [], 0
    while position < len(data):
        left = 32768 - position % 32768
        if left < HEADER_BYTES:
            position += left
            continue
        kind = data[position + 6]
        position += HEADER_BYTES + int.from_bytes(data[position + 4 : position + 6], "little")
        if kind in (1, 4):
            ends.append(position)
    return ends[1:]


def changed(crashed: Path, tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "data"
    if path.exists():
        shutil.rmtree(path)
    shutil.copytree(crashed, path)
    the_log(path).write_bytes(data)
    return path


def entries_found(path: Path) -> int:
    engine = RocksEngine.open(path)
    found = sum(1 for _ in engine.scan(Family.LOG, b"", LAST))
    engine.close()
    return found


def flipped(data: bytes, offset: int, bit: int) -> bytes:
    rotten = bytearray(data)
    rotten[offset] ^= 1 << bit
    return bytes(rotten)


def test_an_intact_log_opens_whole(crashed: Path, tmp_path: Path) -> None:
    assert entries_found(changed(crashed, tmp_path, the_log(crashed).read_bytes())) == BATCHES * ENTRIES


def test_a_truncated_end_loses_whole_batches_from_the_end_only(crashed: Path, tmp_path: Path) -> None:
    """Trap 10: a torn end is what a crash leaves, and was never synced."""
    data = the_log(crashed).read_bytes()
    for cut in (1, 5, 50, 2000, 2500, len(data) // 2):
        found = entries_found(changed(crashed, tmp_path, data[:-cut]))
        assert found % ENTRIES == 0
        assert found == ENTRIES * sum(end <= len(data) - cut for end in batch_ends(data))


@pytest.mark.parametrize("record", [0, 8, 28, 29])
@pytest.mark.parametrize("field", [0, 3, 4, 5, 6, 7, 30])
def test_one_flipped_bit_anywhere_in_a_record_is_damage(crashed: Path, tmp_path: Path, record: int, field: int) -> None:
    """Trap 10: never a shorter log. Bits of every field of a record's header and of its payload, in the first record, the
    middle, and the last one.
    """
    data = the_log(crashed).read_bytes()
    start = [0, *batch_ends(data)][record]
    for bit in (0, 2, 6):
        with pytest.raises(StorageDamaged):
            entries_found(changed(crashed, tmp_path, flipped(data, start + field, bit)))


@pytest.mark.parametrize(("record", "field", "bit", "left"), [(0, 6, 2, 0), (28, 5, 6, 280)])
def test_rocksdb_alone_opens_a_damaged_log_as_a_shorter_one(
    crashed: Path, tmp_path: Path, record: int, field: int, bit: int, left: int
) -> None:
    """Why cluster/storage/wal.py exists: one flipped bit in a header, no error, synced entries gone. When this test fails,
    RocksDB tells by itself, and the walk over its logs can go."""
    data = the_log(crashed).read_bytes()
    start = [0, *batch_ends(data)][record]
    path = changed(crashed, tmp_path, flipped(data, start + field, bit))
    options = {family.value: Options(raw_mode=True) for family in Family}
    database_options = Options(raw_mode=True)
    database_options.set_wal_recovery_mode(DBRecoveryMode.tolerate_corrupted_tail_records())
    database = Rdict(str(path), database_options, options)
    found = database.get_column_family(Family.LOG.value)
    assert sum(1 for _ in found.keys()) == left  # noqa: SIM118
    found.close()
    database.close()


def test_random_flips_are_damage_or_lose_nothing(crashed: Path, tmp_path: Path) -> None:
    data, source = the_log(crashed).read_bytes(), random.Random(7)
    told = 0
    for _ in range(40):
        path = changed(crashed, tmp_path, flipped(data, source.randrange(len(data)), source.randrange(8)))
        try:
            assert entries_found(path) == BATCHES * ENTRIES
        except StorageDamaged:
            told += 1
    assert told > 30


def test_a_zeroed_block_in_the_middle_is_damage(crashed: Path, tmp_path: Path) -> None:
    data = bytearray(the_log(crashed).read_bytes())
    data[8192:12288] = bytes(4096)
    with pytest.raises(StorageDamaged):
        entries_found(changed(crashed, tmp_path, bytes(data)))


def test_a_vanished_log_is_damage(crashed: Path, tmp_path: Path) -> None:
    path = changed(crashed, tmp_path, the_log(crashed).read_bytes())
    for log in path.glob("*.log"):
        log.unlink()
    with pytest.raises(StorageDamaged):
        entries_found(path)


def test_refusing_a_damaged_log_leaves_it_as_it_was(crashed: Path, tmp_path: Path) -> None:
    path = changed(crashed, tmp_path, flipped(the_log(crashed).read_bytes(), 6, 2))
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    with pytest.raises(StorageDamaged):
        RocksEngine.open(path)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before


def test_records_that_span_blocks_are_followed(tmp_path: Path) -> None:
    engine = RocksEngine.open(tmp_path)
    for size in (10, 40_000, 100_000, 32_000, 1):
        batch = Batch()
        batch.put(Family.RECORDS, b"%d" % size, bytes(size))
        engine.write(batch)
    assert walk_log(the_log(tmp_path).read_bytes()).broken is None
    verify_logs(tmp_path)
    engine.close()


@pytest.fixture(scope="module")
def crashed_with_two_logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 entries in an older log that is still needed, 50 in a newer one."""
    path = tmp_path_factory.mktemp("crashed") / "data"
    subprocess.run([sys.executable, "-c", WRITE_TWO_LOGS_AND_DIE, str(path)], check=True, timeout=60)
    forget_what_was_durable(path)
    assert sum(log.stat().st_size > 0 for log in path.glob("*.log")) == 2
    return path


@pytest.mark.parametrize(("cut_older", "cut_newer", "found"), [(0, 0, 100), (0, 10, 99), (0, 20_000, 50)])
def test_the_newest_log_may_be_torn(
    crashed_with_two_logs: Path, tmp_path: Path, cut_older: int, cut_newer: int, found: int
) -> None:
    path = tmp_path / "data"
    shutil.copytree(crashed_with_two_logs, path)
    for log, cut in zip(sorted(path.glob("*.log")), (cut_older, cut_newer), strict=True):
        log.write_bytes(log.read_bytes()[: max(0, log.stat().st_size - cut)])
    assert entries_found(path) == found


def test_a_torn_older_log_under_a_newer_one_is_a_hole_and_not_an_end(crashed_with_two_logs: Path, tmp_path: Path) -> None:
    """What survives a crash is a prefix: changes behind a lost one must not come back without it."""
    path = tmp_path / "data"
    shutil.copytree(crashed_with_two_logs, path)
    older = min(path.glob("*.log"))
    older.write_bytes(older.read_bytes()[:-10])
    with pytest.raises(StorageDamaged):
        RocksEngine.open(path)


def test_a_torn_log_that_a_later_process_went_on_from_is_no_damage(crashed_with_two_logs: Path, tmp_path: Path) -> None:
    """RocksDB deletes a recovered log some time later; a crash in between leaves it beside its successor."""
    path = tmp_path / "data"
    shutil.copytree(crashed_with_two_logs, path)
    newest = max(path.glob("*.log"))
    torn = newest.read_bytes()[:-10]
    newest.write_bytes(torn)
    engine = RocksEngine.open(path)
    batch = Batch()
    batch.put(Family.LOG, b"after", b"")
    engine.write(batch)
    engine.sync()
    successor = max(path.glob("*.log"))
    assert successor > newest
    beside = tmp_path / "beside"
    beside.mkdir()
    (beside / newest.name).write_bytes(torn)
    (beside / successor.name).write_bytes(successor.read_bytes())
    assert walk_log((beside / successor.name).read_bytes()).first_sequence is not None
    verify_logs(beside)
    engine.close()
