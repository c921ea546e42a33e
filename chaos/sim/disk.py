"""The disk of a simulated node: a memory engine whose losses, rot and refusals are asked for.

Durability is modelled as the engine promises it: what was written is visible, what was synced survives, and a crash keeps a
prefix of the rest. RocksDB gives that: all families share one write-ahead log whose records have checksums, so a torn record
ends the reading of it. Where a record survives without the ones before it, the engine takes it for damage and does not open
(`cluster.storage.wal`), which is `tear`.
Every write of Raft's log and vote is shown to an observer, and `durable` says what would survive under a key, so that
checkers can hold every message against what is really on the disk.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from cluster.errors import StorageError
from cluster.storage.engine import Batch, Family
from cluster.storage.memory import MemoryEngine

WriteSeen = Callable[["Disk", Batch], None]


class Disk(MemoryEngine):
    """One node's disk.

    seen: called with each batch before it is written. rotten: keys whose values were spoilt and what stood there. torn: why it
    does not open, empty while it does.
    """

    __slots__ = ("_reads_fail", "rotten", "seen", "torn")

    def __init__(self, seen: WriteSeen) -> None:
        super().__init__()
        self.seen = seen
        self.rotten: dict[tuple[Family, bytes], bytes] = {}
        self.torn = ""
        self._reads_fail: frozenset[Family] = frozenset()

    @property
    def unsynced(self) -> int:
        """Batches that a crash may lose."""
        return len(self._undo)

    def get(self, family: Family, key: bytes) -> bytes | None:
        self._read(family)
        return super().get(family, key)

    def scan(
        self, family: Family, start: bytes, end: bytes, *, limit: int | None = None, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        self._read(family)
        return super().scan(family, start, end, limit=limit, reverse=reverse)

    def write(self, batch: Batch) -> None:
        self._check()
        if self._refusal is None:
            self.seen(self, batch)
        super().write(batch)

    def peek(self, family: Family, key: bytes) -> bytes | None:
        """What is visible under a key, whatever faults are on and whether or not the disk is in use."""
        return self._tables[family].values.get(key)

    def keys(self, family: Family) -> list[bytes]:
        """All keys of a family, in order."""
        return self._tables[family].keys

    def durable(self, family: Family, key: bytes) -> bytes | None:
        """What a restart after a power failure would find under a key at worst."""
        for undo in self._undo:
            for undone_family, undone_key, before in undo:
                if undone_key == key and undone_family is family:
                    return before
        return self._tables[family].values.get(key)

    # -- faults ------------------------------------------------------------------------------------------------------

    def fail_reads(self, families: frozenset[Family]) -> None:
        """From now on reads of these families end with an input/output error, and no others do."""
        self._reads_fail = families

    def flip_bit(self, family: Family, place: random.Random) -> bytes | None:
        """Rot one bit of one value of a family; returns its key, or None when the family is empty."""
        keys = self._tables[family].keys
        if not keys:
            return None
        key = keys[place.randrange(len(keys))]
        value = bytearray(self._tables[family].values[key])
        if not value:
            return None
        self.rotten.setdefault((family, key), bytes(value))
        value[place.randrange(len(value))] ^= 1 << place.randrange(8)
        self.corrupt(family, key, bytes(value))
        return key

    def misdirect(self, family: Family, place: random.Random) -> bytes | None:
        """Let a value of a family be found under a key that is not its own; returns that key, None where there are not two."""
        keys = self._tables[family].keys
        if len(keys) < 2:
            return None
        key, other = (keys[number] for number in place.sample(range(len(keys)), 2))
        value, belongs = self._tables[family].values[other], self._tables[family].values[key]
        if value == belongs:
            return None
        self.rotten.setdefault((family, key), belongs)
        self.corrupt(family, key, value)
        return key

    def tear(self) -> None:
        """The power fails here, and what is unsynced survives out of its order."""
        if self.unsynced > 1:
            self.torn = "the write-ahead log is damaged before its end (asked for by the simulation)"

    def after_crash(self, keep: int) -> Disk:
        """The disk that a restart finds: what was synced and the first `keep` unsynced batches."""
        found = Disk(self.seen)
        survivor = self.crash(keep)
        found._tables = survivor._tables
        found.rotten, found.torn = self.rotten, self.torn
        return found

    def after_exit(self) -> Disk:
        """The disk that a restart finds when only the process died: the kernel kept everything that was written."""
        return self.after_crash(len(self._undo))

    def _read(self, family: Family) -> None:
        if family in self._reads_fail:
            raise StorageError("input/output error (asked for by the simulation)")
