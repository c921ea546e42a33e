"""The storage contract: ordered families of byte keys, atomic batches, and one explicit durability point.

`write` makes a whole batch visible or nothing. What is visible is not durable: it becomes so when a `sync` that began
after the write returns. After a crash the engine holds a prefix of the written batches that includes everything synced.
A failed sync raises SyncFailed and the engine refuses all further use: nothing may retry it.

Methods are synchronous. `sync` may run in another thread while `write`, `get` and `scan` go on in the owner's thread.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Protocol


class Family(enum.Enum):
    """Column families. The value is the on-disk name."""

    __hash__ = object.__hash__
    """Members are single; hashing their names, as enumerations do, would cost more than the look-ups that need it."""

    META = "meta"
    LOG = "log"
    RECORDS = "records"
    HISTORY = "history"
    BUNDLES = "bundles"
    WAITS = "waits"


class Batch:
    """Changes that become visible together, applied in order. Reusable after `clear`."""

    __slots__ = ("bytes", "operations")

    def __init__(self) -> None:
        self.operations: list[tuple[Family, bytes, bytes | None, bytes | None]] = []
        self.bytes = 0

    def put(self, family: Family, key: bytes, value: bytes) -> None:
        self.operations.append((family, key, value, None))
        self.bytes += len(key) + len(value)

    def delete(self, family: Family, key: bytes) -> None:
        self.operations.append((family, key, None, None))
        self.bytes += len(key)

    def delete_range(self, family: Family, start: bytes, end: bytes) -> None:
        """Delete every key with start <= key < end."""
        self.operations.append((family, start, None, end))
        self.bytes += len(start) + len(end)

    def extend(self, other: Batch) -> None:
        self.operations.extend(other.operations)
        self.bytes += other.bytes

    def clear(self) -> None:
        self.operations.clear()
        self.bytes = 0

    def __bool__(self) -> bool:
        return bool(self.operations)


class Engine(Protocol):
    """One node's durable store."""

    def get(self, family: Family, key: bytes) -> bytes | None: ...

    def scan(
        self, family: Family, start: bytes, end: bytes, *, limit: int | None = None, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Pairs with start <= key < end in key order. Sees every write that returned before the call."""
        ...

    def write(self, batch: Batch) -> None:
        """Make the batch visible atomically. Raises Overloaded (the engine stalls) or StorageFull (high-water mark of the
        disk), both without effect, or StorageError, after which the engine is unusable."""
        ...

    def sync(self) -> None:
        """Make every batch written before the call durable. Raises SyncFailed once, and for ever after."""
        ...

    def close(self) -> None: ...
