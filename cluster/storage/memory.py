"""An engine in memory, for simulation and tests: the same contract, with durability modelled exactly.

What is written is visible; what is synced survives `crash`. Nothing else does, except a prefix of the unsynced batches that
the caller of `crash` picks. Faults are asked for by name: `fail_syncs`, `refuse_writes`, `corrupt`.

Invariant: undoing the unsynced batches, newest first, gives exactly the durable content. It keeps no files and models no
damage by itself.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

from cluster.errors import ClusterError, StorageError, SyncFailed
from cluster.storage.engine import Batch, Family

Undo = list[tuple[Family, bytes, bytes | None]]


class _Table:
    """One family: values by key, and the keys in order."""

    __slots__ = ("keys", "values")

    def __init__(self) -> None:
        self.keys: list[bytes] = []
        self.values: dict[bytes, bytes] = {}

    def put(self, key: bytes, value: bytes) -> bytes | None:
        before = self.values.get(key)
        self.values[key] = value
        if before is None:
            keys = self.keys
            if not keys or keys[-1] < key:
                keys.append(key)
            else:
                insort(keys, key)
        return before

    def delete(self, key: bytes) -> bytes | None:
        before = self.values.pop(key, None)
        if before is not None:
            del self.keys[bisect_left(self.keys, key)]
        return before

    def delete_range(self, start: bytes, end: bytes) -> list[tuple[bytes, bytes]]:
        low, high = bisect_left(self.keys, start), bisect_left(self.keys, end)
        removed = [(key, self.values.pop(key)) for key in self.keys[low:high]]
        if removed:
            del self.keys[low:high]
        return removed


class MemoryEngine:
    """Engine (cluster/storage/engine.py) without files. Used by one thread."""

    __slots__ = ("_closed", "_refusal", "_sync_fails", "_tables", "_undo", "_undo_base")

    def __init__(self) -> None:
        self._tables = {family: _Table() for family in Family}
        self._undo: list[Undo] = []
        self._undo_base = 0
        self._closed: StorageError | None = None
        self._sync_fails = False
        self._refusal: ClusterError | None = None

    @property
    def batches_written(self) -> int:
        """How many batches were ever written: a name for the present point, for `sync_through`."""
        return self._undo_base + len(self._undo)

    def get(self, family: Family, key: bytes) -> bytes | None:
        self._check()
        return self._tables[family].values.get(key)

    def scan(
        self, family: Family, start: bytes, end: bytes, *, limit: int | None = None, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """See Engine.scan. The pairs are those of the moment of the call, whatever is written afterwards."""
        self._check()
        assert limit is None or limit >= 0
        table = self._tables[family]
        low, high = bisect_left(table.keys, start), bisect_left(table.keys, end)
        if limit is not None and high - low > limit:
            low, high = (high - limit, high) if reverse else (low, low + limit)
        keys = table.keys[low:high]
        if reverse:
            keys.reverse()
        values = table.values
        return iter([(key, values[key]) for key in keys])

    def write(self, batch: Batch) -> None:
        """See Engine.write. Raises what `refuse_writes` was given, without effect."""
        self._check()
        if self._refusal is not None:
            raise self._refusal
        undo: Undo = []
        tables = self._tables
        for family, key, value, end in batch.operations:
            table = tables[family]
            if value is not None:
                undo.append((family, key, table.put(key, value)))
            elif end is None:
                undo.append((family, key, table.delete(key)))
            else:
                undo.extend((family, removed, before) for removed, before in table.delete_range(key, end))
        self._undo.append(undo)

    def sync(self) -> None:
        """See Engine.sync."""
        self.sync_through(self.batches_written)

    def sync_through(self, batches: int) -> None:
        """Make durable the first `batches` batches ever written: what a sync that began at that point does when it returns."""
        self._check()
        assert batches <= self.batches_written
        if self._sync_fails:
            self._closed = SyncFailed("sync failed (asked for by a test)")
            raise self._closed
        if batches > self._undo_base:
            del self._undo[: batches - self._undo_base]
            self._undo_base = batches

    def close(self) -> None:
        """End the use of this engine. Unsynced batches stay: closing is not a crash."""
        if self._closed is None:
            self._closed = StorageError("the engine is closed")

    def crash(self, keep: int = 0) -> MemoryEngine:
        """The engine that a restart finds: everything synced, and the first `keep` of the unsynced batches. Ends this one."""
        assert keep >= 0
        for undo in reversed(self._undo[keep:]):
            for family, key, before in reversed(undo):
                if before is None:
                    self._tables[family].delete(key)
                else:
                    self._tables[family].put(key, before)
        found = MemoryEngine()
        found._tables, self._tables = self._tables, found._tables
        self._closed = StorageError("the engine crashed")
        return found

    def fail_syncs(self) -> None:
        """From now on a sync fails, as a broken disk's does."""
        self._sync_fails = True

    def refuse_writes(self, refusal: ClusterError | None) -> None:
        """Make writes raise `refusal` (Overloaded, StorageFull), or accept them again with None."""
        self._refusal = refusal

    def corrupt(self, family: Family, key: bytes, value: bytes) -> None:
        """Replace a stored value behind everybody's back, durably, as rot on a disk does. Requires that the key exists."""
        assert key in self._tables[family].values
        self._tables[family].values[key] = value

    def _check(self) -> None:
        if self._closed is not None:
            raise self._closed
