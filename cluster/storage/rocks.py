"""The durable engine: one RocksDB per node, a column family per Family, one write-ahead log for all of them.

`write` appends to the write-ahead log without waiting for the disk; `sync` is one fdatasync of it, which lets go of the
interpreter lock, so it may run in another thread. A stalled RocksDB refuses writes (Overloaded) instead of blocking.

Invariant: after a failed sync, or any other error that leaves what is durable in doubt, every later call raises that error.
What RocksDB reports as text is turned into typed errors in one place, `_typed`.

The directory holds RocksDB's files, FORMAT (a copy of the layout's version, written last at creation), OWNER (locked while a
process uses the directory) and SYNCED (the number of a change that is durable: a write-ahead log that was cut off cleanly below
it looks like a torn end otherwise). Nothing in a directory that is in use, too new or damaged is touched.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rocksdict import (
    AccessType,
    BlockBasedOptions,
    Cache,
    ColumnFamily,
    DBCompressionType,
    DBRecoveryMode,
    Options,
    Rdict,
    RdictIter,
    ReadOptions,
    WriteBatch,
    WriteOptions,
)

from cluster.errors import ClusterError, DirectoryInUse, Overloaded, StorageDamaged, StorageError, StorageFull, SyncFailed
from cluster.storage.engine import Batch, Family
from cluster.storage.format import FORMAT_VERSION, check_version, ensure_format
from cluster.storage.wal import verify_logs

MIB = 1024 * 1024
STALL_RETRY_AFTER_MS = 50
SPACE_CHECK_INTERVAL_S = 1.0
SPACE_CHECK_BYTES = 8 * MIB
"""Free space is looked up when this much was written since, or this long ago, whichever comes first."""
FORMAT_FILE = "FORMAT"
OWNER_FILE = "OWNER"
SYNCED_FILE = "SYNCED"


@dataclass(slots=True, frozen=True)
class RocksSettings:
    """What an operator may set; the rest is chosen here for a small machine.

    free_bytes_min: below this much free space on the disk writes are refused with StorageFull. Reads go on.
    block_cache_bytes: memory for blocks of all families. memtable_bytes: memory for what is not yet in table files.
    wal_bytes_max: size of the write-ahead logs at which the oldest memtable is flushed; bounds the time to open.
    """

    free_bytes_min: int = 256 * MIB
    block_cache_bytes: int = 64 * MIB
    memtable_bytes: int = 96 * MIB
    wal_bytes_max: int = 128 * MIB


class RocksEngine:
    """Engine (cluster/storage/engine.py) over RocksDB. Made by `open`."""

    __slots__ = (
        "_bytes_since_check",
        "_checked_at",
        "_clock",
        "_database",
        "_failure",
        "_families",
        "_free_bytes",
        "_full",
        "_handles",
        "_overflow",
        "_owner",
        "_path",
        "_settings",
        "_synced",
        "_write_options",
    )

    def __init__(
        self,
        path: Path,
        settings: RocksSettings,
        owner: int,
        free_bytes: Callable[[], int],
        clock: Callable[[], float],
    ) -> None:
        """Internal: use `open`."""
        self._path = path
        self._settings = settings
        self._owner = owner
        self._free_bytes = free_bytes
        self._clock = clock
        self._failure: StorageError | None = None
        self._overflow: StorageFull | None = None
        self._full = False
        self._bytes_since_check = 0
        self._checked_at = float("-inf")
        self._synced = -1
        try:
            self._database = Rdict(str(path), _database_options(settings), _family_options(settings), AccessType.read_write())
        except Exception as error:
            raise _typed(error, f"open {path}") from error
        _check_synced(path, self._database)
        self._synced = os.open(path / SYNCED_FILE, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._families: dict[Family, Rdict] = {f: self._database.get_column_family(f.value) for f in Family}
        self._handles: dict[Family, ColumnFamily] = {f: self._database.get_column_family_handle(f.value) for f in Family}
        self._write_options = WriteOptions()
        self._write_options.no_slowdown = True

    @classmethod
    def open(
        cls,
        path: Path,
        settings: RocksSettings | None = None,
        *,
        free_bytes: Callable[[], int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> RocksEngine:
        """Open a directory, or create it when it does not exist or is empty.

        free_bytes, clock: where free space and seconds come from; the disk and the monotonic clock unless told.
        Raises DirectoryInUse, FormatTooNew, StorageDamaged (also when a database that was here is gone) or StorageError; in
        each case the content is left as it was found.
        """
        path.mkdir(parents=True, exist_ok=True)
        owner = _lock(path)
        try:
            marked = _check_marker(path)
            verify_logs(path)
            engine = cls(path, settings or RocksSettings(), owner, free_bytes or (lambda: _free_bytes(path)), clock)
        except BaseException:
            os.close(owner)
            raise
        try:
            ensure_format(engine)
            if not marked:
                _write_marker(path)
        except BaseException:
            engine.close()
            raise
        return engine

    def get(self, family: Family, key: bytes) -> bytes | None:
        """See Engine.get. Raises StorageDamaged when the block that holds the key is corrupt."""
        if self._failure is not None:
            raise self._failure
        try:
            value: bytes | None = self._families[family].get(key)
        except Exception as error:
            raise _typed(error, f"read {family.value}") from error
        return value

    def scan(
        self, family: Family, start: bytes, end: bytes, *, limit: int | None = None, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """See Engine.scan. The pairs are those of the moment of the call. Raises StorageDamaged at a corrupt block."""
        if self._failure is not None:
            raise self._failure
        assert limit is None or limit >= 0
        if start >= end or limit == 0:
            return iter(())
        options = ReadOptions()
        options.set_iterate_lower_bound(start)
        options.set_iterate_upper_bound(end)
        cursor = self._families[family].iter(options)
        return _pairs(cursor, start, end, limit, reverse)

    def write(self, batch: Batch) -> None:
        """See Engine.write. When the disk itself was full (ENOSPC), StorageFull stays until the directory is opened again, and
        whether the batch is there then is unknown."""
        if self._failure is not None:
            raise self._failure
        if self._overflow is not None:
            raise self._overflow
        self._check_space(batch.bytes)
        handles = self._handles
        changes = WriteBatch(raw_mode=True)
        put = changes.put
        for family, key, value, end in batch.operations:
            if value is not None:
                put(key, value, handles[family])
            elif end is None:
                changes.delete(key, handles[family])
            elif key < end:
                changes.delete_range(key, end, handles[family])
        try:
            self._database.write(changes, self._write_options)
        except Exception as error:
            refusal = _typed(error, "write")
            # RocksDB takes no more writes after one that failed halfway. What was read stays true when the disk is full.
            if isinstance(refusal, StorageFull):
                self._overflow = refusal
            elif isinstance(refusal, StorageError):
                self._failure = refusal
            raise refusal from error

    def sync(self) -> None:
        """See Engine.sync. May run in a thread of its own while the owner's thread writes and reads."""
        if self._failure is not None:
            raise self._failure
        change = self._database.latest_sequence_number()
        try:
            self._database.flush_wal(True)
        except Exception as error:
            self._failure = SyncFailed(f"sync of {self._path} failed: {error}")
            raise self._failure from error
        # Not durable itself, and it need not be: an older number only notices less.
        os.pwrite(self._synced, b"%020d\n" % change, 0)

    def flush(self, families: Iterable[Family] = tuple(Family)) -> None:
        """Move what was written to these families into table files, so that the next open has less to recover. Blocks."""
        if self._failure is not None:
            raise self._failure
        try:
            for family in families:
                self._families[family].flush(True)
        except Exception as error:
            raise _typed(error, "flush") from error

    def close(self) -> None:
        """Release the directory. A second call does nothing."""
        if self._owner < 0:
            return
        if self._failure is None:
            self._failure = StorageError("the engine is closed")
        try:
            self._handles.clear()
            for family in self._families.values():
                family.close()
            self._families.clear()
            self._database.close()
        except Exception as error:
            raise _typed(error, "close") from error
        finally:
            os.close(self._synced)
            os.close(self._owner)
            self._owner = -1

    def _check_space(self, batch_bytes: int) -> None:
        self._bytes_since_check += batch_bytes
        now = self._clock()
        if self._bytes_since_check >= SPACE_CHECK_BYTES or now - self._checked_at >= SPACE_CHECK_INTERVAL_S:
            self._full = self._free_bytes() < self._settings.free_bytes_min
            self._bytes_since_check, self._checked_at = 0, now
        if self._full:
            raise StorageFull(
                f"less than {self._settings.free_bytes_min} bytes are free at {self._path}: free space to write again"
            )


def _pairs(cursor: RdictIter, start: bytes, end: bytes, limit: int | None, reverse: bool) -> Iterator[tuple[bytes, bytes]]:
    # A cursor that meets a corrupt block just ends: only its status tells that from the end of the range.
    if reverse:
        cursor.seek_to_last()
        step = cursor.prev
    else:
        cursor.seek(start)
        step = cursor.next
    valid, key, value = cursor.valid, cursor.key, cursor.value
    left = -1 if limit is None else limit
    while left != 0 and valid():
        at = key()
        if at < start:  # seek_to_last may land below the lower bound when the range is empty
            break
        yield at, value()
        step()
        left -= 1
    if left != 0:
        try:
            cursor.status()
        except Exception as error:
            raise _typed(error, "scan") from error


def _typed(error: Exception, doing: str) -> ClusterError:
    """RocksDB's text as one of our errors."""
    text = str(error)
    if text.startswith("Result incomplete") or "Write stall" in text:
        return Overloaded("the storage engine stalls", retry_after_ms=STALL_RETRY_AFTER_MS)
    if "No space left" in text:
        return StorageFull(f"{doing}: {text}")
    if "LOCK: " in text:
        return DirectoryInUse(f"{doing}: another process uses the directory ({text})")
    if "Corruption" in text or "No such file" in text:
        return StorageDamaged(f"{doing}: {text}", engine="rocksdb")
    return StorageError(f"{doing}: {text}")


def _lock(path: Path) -> int:
    owner = os.open(path / OWNER_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(owner)
        raise DirectoryInUse(f"another process uses {path}", path=str(path)) from error
    return owner


def _check_marker(path: Path) -> bool:
    """Whether the directory was created completely. Raises FormatTooNew or StorageDamaged before RocksDB sees it."""
    marker, current = path / FORMAT_FILE, path / "CURRENT"
    if not marker.exists():
        if not current.exists() and any(path.glob("*.sst")):
            raise StorageDamaged(f"{path} holds table files, but neither {FORMAT_FILE} nor CURRENT", path=str(path))
        return False
    text = marker.read_text("ascii", errors="replace").strip()
    if not text.isdecimal():
        raise StorageDamaged(f"{marker} does not hold a format version", path=str(marker))
    check_version(int(text))
    if not current.exists():
        raise StorageDamaged(f"{path} was in use before, but its database is gone", path=str(path))
    if not any(path.glob("*.log")):
        # RocksDB keeps one from creation on, and would open without it as if nothing had been written since the last flush.
        raise StorageDamaged(f"the write-ahead log of {path} is gone", path=str(path))
    return True


def _check_synced(path: Path, database: Rdict) -> None:
    """Raise StorageDamaged, the database closed, when changes are gone that were durable."""
    try:
        noted = int((path / SYNCED_FILE).read_text("ascii", errors="replace"))
    except (FileNotFoundError, ValueError):
        return
    last = database.latest_sequence_number()
    if last < noted:
        database.close()
        raise StorageDamaged(
            f"the newest change in {path} is {last}, but {noted} was durable: the end of the write-ahead log is gone",
            path=str(path),
        )


def _write_marker(path: Path) -> None:
    draft = path / (FORMAT_FILE + ".draft")
    with draft.open("w") as file:
        file.write(f"{FORMAT_VERSION}\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path / FORMAT_FILE)
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _free_bytes(path: Path) -> int:
    stat = os.statvfs(path)
    return stat.f_bavail * stat.f_frsize


def _database_options(settings: RocksSettings) -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    # The default (point in time) opens silently after losing everything behind a damaged record.
    options.set_wal_recovery_mode(DBRecoveryMode.tolerate_corrupted_tail_records())
    options.set_max_background_jobs(2)
    options.set_db_write_buffer_size(settings.memtable_bytes)
    options.set_max_total_wal_size(settings.wal_bytes_max)
    # Table files are written out as they grow, so that one big writeback does not delay the log's fdatasync.
    options.set_bytes_per_sync(MIB)
    options.set_avoid_unnecessary_blocking_io(True)
    options.set_skip_stats_update_on_db_open(True)
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    options.set_keep_log_file_num(4)
    options.set_max_log_file_size(4 * MIB)
    return options


def _family_options(settings: RocksSettings) -> dict[str, Options]:
    cache = Cache(settings.block_cache_bytes)
    none, lz4, zstd = DBCompressionType.none(), DBCompressionType.lz4(), DBCompressionType.zstd()
    # Log entries live briefly and are read back rarely: most are deleted before they reach a table file.
    return {
        Family.META.value: _options(cache, 4 * MIB, none, none, bloom=True),
        Family.LOG.value: _options(cache, 32 * MIB, none, none, bloom=False),
        Family.RECORDS.value: _options(cache, 16 * MIB, lz4, zstd, bloom=True),
        Family.HISTORY.value: _options(cache, 16 * MIB, lz4, zstd, bloom=False),
        Family.BUNDLES.value: _options(cache, 4 * MIB, zstd, zstd, bloom=False),
        Family.WAITS.value: _options(cache, 4 * MIB, lz4, lz4, bloom=False),
    }


def _options(cache: Cache, buffer_bytes: int, upper: DBCompressionType, bottom: DBCompressionType, *, bloom: bool) -> Options:
    blocks = BlockBasedOptions()
    blocks.set_block_cache(cache)
    blocks.set_block_size(16 * 1024)
    blocks.set_cache_index_and_filter_blocks(True)
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(True)
    blocks.set_format_version(5)
    if bloom:
        blocks.set_bloom_filter(10, False)
    options = Options(raw_mode=True)
    options.set_block_based_table_factory(blocks)
    options.set_write_buffer_size(buffer_bytes)
    options.set_max_write_buffer_number(3)
    options.set_target_file_size_base(buffer_bytes)
    options.set_max_bytes_for_level_base(4 * buffer_bytes)
    options.set_level_compaction_dynamic_level_bytes(True)
    options.set_compression_type(upper)
    options.set_bottommost_compression_type(bottom)
    return options
