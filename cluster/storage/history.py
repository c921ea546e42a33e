"""What every document was told: its commands, kept beside its record, per document and in order.

One value holds the commands of one document from one applied entry, encoded by the shard and opaque here.

History has no generation. A document's commands at (epoch, index) are the same on every replica (design, invariant 2), so
what is kept stays true when a snapshot replaces the records; a switch only leaves a gap between the two, which readers are
told about and which the background transfer of history fills by the same `append`.

Invariant: `read` yields consecutive commands of one epoch. A gap is told as HistoryTrimmed, never stepped over.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from cluster.errors import HistoryTrimmed, StorageDamaged
from cluster.ids import DocumentId, ShardId
from cluster.storage import keys
from cluster.storage.engine import Batch, Engine, Family
from cluster.storage.scanning import scan_bytes

_HISTORY = Family.HISTORY
_COUNT = struct.Struct(">I")
assert _COUNT.size == keys.HISTORY_COUNT_BYTES


class HistoryStore:
    """The history of one shard's documents."""

    __slots__ = ("_engine", "_shard")

    def __init__(self, engine: Engine, shard: ShardId) -> None:
        assert 0 <= shard <= keys.SHARD_MAX
        self._engine = engine
        self._shard = shard

    def append(self, batch: Batch, document: DocumentId, epoch: int, first_index: int, count: int, body: bytes) -> None:
        """Keep the commands first_index .. first_index + count - 1. Appending the same again, as replay does, is harmless."""
        assert count >= 1
        key = keys.history_entry(keys.history_document(self._shard, document), epoch, first_index)
        batch.put(_HISTORY, key, keys.seal(_HISTORY, key, _COUNT.pack(count) + body))

    def read(self, document: DocumentId, epoch: int, from_index: int, limit: int) -> Iterator[tuple[int, int, bytes]]:
        """At most `limit` values as (first_index, count, body); the first is the one that contains `from_index` (0 is the
        beginning, 1). Empty when nothing is kept from there on.

        Raises HistoryTrimmed(earliest) when older than what is kept, or where commands are missing in between, and
        StorageDamaged at a value that does not open.
        """
        prefix = keys.history_document(self._shard, document)
        expected = max(from_index, 1)
        start = keys.history_entry(prefix, epoch, expected)
        covering = self._newest(keys.history_entry(prefix, epoch, 0), keys.history_entry(prefix, epoch, expected + 1))
        if covering is not None and covering[0] + covering[1] > expected:
            expected = covering[0]
            start = keys.history_entry(prefix, epoch, expected)
        end = keys.history_entry(prefix, epoch, keys.INDEX_MAX)
        for key, value in self._engine.scan(_HISTORY, start, end, limit=limit):
            first_index, count, body = self._open(key, value)
            if first_index != expected:
                raise HistoryTrimmed(
                    f"{document} at {epoch}.{expected} is not kept here; the next that is kept is {epoch}.{first_index}",
                    earliest=first_index,
                    epoch=epoch,
                )
            yield first_index, count, body
            expected += count

    def earliest_index(self, document: DocumentId, epoch: int) -> int | None:
        """The oldest index of the epoch that is kept, None when none is. Raises nothing: only the key is read."""
        prefix = keys.history_document(self._shard, document)
        start, end = keys.history_entry(prefix, epoch, 0), keys.history_entry(prefix, epoch, keys.INDEX_MAX)
        for key, _ in self._engine.scan(_HISTORY, start, end, limit=1):
            return keys.history_position(key)[1]
        return None

    def trim(self, batch: Batch, document: DocumentId, before_index: int, epoch: int | None = None) -> None:
        """Forget commands below `before_index` of `epoch` (None: the newest kept), and older epochs whole.

        A value that also holds `before_index` or later is kept whole. Reads the store, so it sees only what was written.
        """
        prefix = keys.history_document(self._shard, document)
        if epoch is None:
            epoch = self._newest_epoch(prefix)
            if epoch is None:
                return
        end = keys.history_entry(prefix, epoch, before_index)
        covering = self._newest(keys.history_entry(prefix, epoch, 0), end)
        if covering is not None and covering[0] + covering[1] > before_index:
            end = keys.history_entry(prefix, epoch, covering[0])
        batch.delete_range(_HISTORY, prefix, end)

    def cut(self, batch: Batch, document: DocumentId, epoch: int, from_index: int) -> None:
        """Forget the values that begin at `from_index` of `epoch` or later: what they tell is replaced by what is true."""
        prefix = keys.history_document(self._shard, document)
        batch.delete_range(_HISTORY, keys.history_entry(prefix, epoch, from_index), keys.after_prefix(prefix))

    def scan_all(self, after_name: bytes | None, limit_bytes: int) -> list[tuple[bytes, bytes]]:
        """(name, body) of the whole shard's history above `after_name` (None or b"" for all), stopping after `limit_bytes` but
        never before one value; an empty list is the end. For shipping it to another node, whose `put_named` takes it.
        Raises StorageDamaged."""
        prefix = keys.history_shard(self._shard)
        start = prefix + after_name + b"\0" if after_name else prefix
        pairs = scan_bytes(self._engine, _HISTORY, start, prefix + b"\xff", limit_bytes)
        return [(key[len(prefix) :], keys.unseal(_HISTORY, key, value)) for key, value in pairs]

    def put_named(self, batch: Batch, name: bytes, body: bytes) -> None:
        """Keep what `scan_all` gave on another node. Raises InvalidName, batch untouched."""
        keys.check_history_name(name)
        key = keys.history_shard(self._shard) + name
        batch.put(_HISTORY, key, keys.seal(_HISTORY, key, body))

    def delete(self, batch: Batch, document: DocumentId) -> None:
        """Forget a document's history, all epochs."""
        prefix = keys.history_document(self._shard, document)
        batch.delete_range(_HISTORY, prefix, keys.after_prefix(prefix))

    def _newest_epoch(self, prefix: bytes) -> int | None:
        for key, _ in self._engine.scan(_HISTORY, prefix, keys.after_prefix(prefix), limit=1, reverse=True):
            return keys.history_position(key)[0]
        return None

    def _newest(self, start: bytes, end: bytes) -> tuple[int, int] | None:
        for key, value in self._engine.scan(_HISTORY, start, end, limit=1, reverse=True):
            first_index, count, _ = self._open(key, value)
            return first_index, count
        return None

    def _open(self, key: bytes, value: bytes) -> tuple[int, int, bytes]:
        body = keys.unseal(_HISTORY, key, value)
        if len(body) < _COUNT.size:
            raise StorageDamaged(f"history value at {key.hex()} has no count", family=_HISTORY.value)
        return keys.history_position(key)[1], _COUNT.unpack_from(body)[0], body[_COUNT.size :]


def erase_history(shard: ShardId, batch: Batch) -> None:
    """Forget the whole shard's history: the replica is gone from this node."""
    prefix = keys.history_shard(shard)
    batch.delete_range(_HISTORY, prefix, prefix + b"\xff")
