"""The stored state of a replica as a whole: read in pieces for another replica, written in pieces into a new key
generation, and switched to in one small batch. How the pieces travel is the pump's business (`cluster.pump.transfers`).
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from cluster.raft.messages import SnapshotMeta
from cluster.shard.cache import DocumentCache
from cluster.shard.turn import Turn
from cluster.storage.history import HistoryStore
from cluster.storage.log import ShardLog
from cluster.storage.records import RecordStore

Piece = tuple[bytes, bytes]
"""(stored name, body) of a record or a history row."""


class ShardMetadata(Struct, frozen=True, array_like=True):
    """What a shard remembers beside its documents: its time, which never falls, where the log no longer tells it."""

    now_ms: int = 0


class StoredShard:
    """One replica's records and log on disk."""

    def __init__(self, records: RecordStore, history: HistoryStore, log: ShardLog, cache: DocumentCache) -> None:
        self._records = records
        self._history = history
        self._log = log
        self._cache = cache

    def metadata(self) -> ShardMetadata:
        body = self._records.metadata()
        return ShardMetadata() if body is None else msgspec.msgpack.decode(body, type=ShardMetadata)

    def save_metadata(self, metadata: ShardMetadata, turn: Turn) -> None:
        self._records.put_metadata(turn.batch, msgspec.msgpack.encode(metadata))

    def read(self, generation: int, after: bytes | None, bytes_max: int) -> list[Piece]:
        """The next records in key order; empty at the end. Raises StorageDamaged."""
        return self._records.scan_all(generation, after, bytes_max)

    def read_history(self, after: bytes | None, bytes_max: int) -> list[Piece]:
        """The next history rows in key order; empty at the end. Raises StorageDamaged."""
        return self._history.scan_all(after, bytes_max)

    def erase(self, turn: Turn) -> None:
        """The replica is gone from this node: so is everything that it stored."""
        self._log.erase(turn.batch)
        self._records.erase(turn.batch)
        self._history.erase(turn.batch)

    def begin(self, generation: int, turn: Turn) -> None:
        """Make room for a new generation: what an earlier, broken transfer left there goes."""
        self._records.drop_generation(turn.batch, generation)

    def write(self, generation: int, pieces: list[Piece], turn: Turn) -> None:
        """Add records to a generation that is not switched to yet. Raises InvalidName for a name that can not be one."""
        assert generation != self._cache.generation, "the live generation is not overwritten"
        for name, body in pieces:
            self._records.put_named(turn.batch, generation, name, body)

    def write_history(self, pieces: list[Piece], turn: Turn) -> None:
        """Add history rows. Raises InvalidName for a name that can not be one."""
        for name, body in pieces:
            self._history.put_named(turn.batch, name, body)

    def switch(self, generation: int, meta: SnapshotMeta, metadata: ShardMetadata, *, resets_log: bool, turn: Turn) -> None:
        """Make a generation the live one, in one batch with the log's reset (when the log does not reach the snapshot)."""
        old = self._cache.generation
        self._records.set_generation(turn.batch, generation)
        self._records.drop_generation(turn.batch, old)
        self.save_metadata(metadata, turn)
        if resets_log:
            self._log.reset(turn.batch, meta)
        self._cache.switch_generation(generation)
