"""The stored state of a replica as a whole: read in pieces for another replica, written in pieces into a new key
generation, and switched to in one small batch. How the pieces travel is the pump's business (`cluster.pump.transfers`).

What has arrived is noted in the batch that stores it, so a transfer can go on after any crash: `partial` says how far the next
generation is filled, `lacking` which history did not come with the records.

Invariant: at most one generation beside the live one exists, and `partial` describes it, or it is erased before it is used.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from cluster.errors import InvalidName, StorageDamaged
from cluster.ids import LogIndex, ShardId
from cluster.raft.messages import SnapshotMeta
from cluster.shard.cache import DocumentCache
from cluster.shard.commands import row_index
from cluster.shard.document import NOT_WAITING, waiting_of
from cluster.shard.turn import Turn
from cluster.storage import keys
from cluster.storage.engine import Batch
from cluster.storage.history import HistoryStore, erase_history
from cluster.storage.log import ShardLog, erase_log
from cluster.storage.records import RecordStore, erase_records

Piece = tuple[bytes, bytes]
"""(stored name, body) of a record or a history row."""


class ShardMetadata(Struct, frozen=True, array_like=True):
    """What a shard remembers beside its documents: its time, which never falls, where the log no longer tells it."""

    now_ms: int = 0


class Partial(Struct, frozen=True, array_like=True):
    """A generation that is being received.

    point: every record in it stands at this entry or later; replay begins behind it. through: none holds an entry above this
    one. after: every record up to this name is there; b"" before the first.
    """

    generation: int
    point: LogIndex
    through: LogIndex
    after: bytes


class Lacking(Struct, frozen=True, array_like=True):
    """History that is missing here: of the entries first < index <= last, behind the name `after`."""

    first: LogIndex
    last: LogIndex
    after: bytes


class StoredShard:
    """One replica's records and log on disk.

    partial: what an unfinished snapshot has brought, None when there is none. lacking: history to be asked for, None if none.
    damaged: why the live generation can not be trusted, empty while it can.
    """

    __slots__ = (
        "_cache",
        "_history",
        "_log",
        "_records",
        "damaged",
        "lacking",
        "partial",
    )

    def __init__(self, records: RecordStore, history: HistoryStore, log: ShardLog, cache: DocumentCache) -> None:
        self._records = records
        self._history = history
        self._log = log
        self._cache = cache
        self.partial = self._load_partial()
        self.lacking = self._load_lacking()
        self.damaged = self._load_damage()

    @property
    def history(self) -> HistoryStore:
        """What the shard's documents were told."""
        return self._history

    def metadata(self) -> ShardMetadata:
        body = self._records.metadata()
        return ShardMetadata() if body is None else msgspec.msgpack.decode(body, type=ShardMetadata)

    def save_metadata(self, metadata: ShardMetadata, turn: Turn) -> None:
        self._records.put_metadata(turn.batch, msgspec.msgpack.encode(metadata))

    # -- giving ------------------------------------------------------------------------------------------------------

    def read(self, generation: int, after: bytes, bytes_max: int) -> list[Piece]:
        """The next records in key order; empty at the end. Raises StorageDamaged."""
        return self._records.scan_all(generation, after, bytes_max)

    def read_history(self, lacking: Lacking, bytes_max: int) -> tuple[list[Piece], bytes, int]:
        """Rows of the range behind `lacking.after`, the last name looked at, and the bytes read. No name: nothing follows.
        Raises StorageDamaged."""
        looked_at = self._history.scan_all(lacking.after, bytes_max)
        rows = [piece for piece in looked_at if lacking.first < row_index(_row_of(piece[1])) <= lacking.last]
        read_bytes = sum(len(name) + len(body) for name, body in looked_at)
        return rows, looked_at[-1][0] if looked_at else b"", read_bytes

    # -- receiving ---------------------------------------------------------------------------------------------------

    def begin(self, point: LogIndex, turn: Turn) -> None:
        """Start a new generation at `point`, empty: what an earlier transfer left goes."""
        generation = self._cache.generation + 1
        self._records.drop_generation(turn.batch, generation)
        self._note(Partial(generation, point, point, b""), turn.batch)

    def lower(self, point: LogIndex, turn: Turn) -> None:
        """Replay will have to begin earlier: whoever sends the rest stands only at `point`."""
        assert self.partial is not None, "a generation was begun"
        if point < self.partial.point:
            self._note(msgspec.structs.replace(self.partial, point=point), turn.batch)

    def write(self, pieces: list[Piece], through: LogIndex, turn: Turn) -> None:
        """Add the next records. Raises InvalidName, nothing changed, unless all are names of documents and rise."""
        partial = self.partial
        assert partial is not None, "a generation was begun"
        assert partial.generation != self._cache.generation, "the live generation is not overwritten"
        _check_rising(partial.after, pieces)
        for name, _ in pieces:
            keys.check_record_name(name)
        for name, body in pieces:
            self._records.put_named(turn.batch, partial.generation, name, body)
            waiting = waiting_of(body)
            if waiting != NOT_WAITING:
                document = keys.document_of(name)
                self._records.index(turn.batch, partial.generation, document, NOT_WAITING, waiting)
        after = pieces[-1][0] if pieces else partial.after
        self._note(Partial(partial.generation, partial.point, max(partial.through, through), after), turn.batch)

    def note_damage(self, what: str, batch: Batch) -> None:
        """Remember through restarts that the live generation is not what it should be; empty when it is."""
        self.damaged = what
        self._records.put_transfer_note(batch, keys.SHARD_DAMAGED, what.encode() if what else None)

    def give_up(self, turn: Turn) -> None:
        """Erase what an unfinished snapshot has brought."""
        if self.partial is not None:
            self._records.drop_generation(turn.batch, self.partial.generation)
            self._note(None, turn.batch)

    def switch(self, meta: SnapshotMeta, metadata: ShardMetadata, *, applied: LogIndex, resets_log: bool, turn: Turn) -> None:
        """Make the received generation the live one, in one batch with the log's reset (when the log does not reach the
        snapshot). The history between `applied`, which this replica had, and the newest entry in a record is lacking now.
        """
        partial = self.partial
        assert partial is not None, "a generation was received"
        old = self._cache.generation
        self._records.set_generation(turn.batch, partial.generation)
        self._records.drop_generation(turn.batch, old)
        self.save_metadata(metadata, turn)
        if resets_log:
            self._log.reset(turn.batch, meta)
        self._cache.switch_generation(partial.generation)
        self._note(None, turn.batch)
        self._lack(applied, max(meta.index, partial.through), turn.batch)

    def write_history(self, pieces: list[Piece], after: bytes, turn: Turn) -> None:
        """Add history and note that everything up to the name `after` is here. Raises InvalidName, nothing changed."""
        assert self.lacking is not None, "history was asked for"
        for name, _ in pieces:
            keys.check_history_name(name)
        for name, body in pieces:
            self._history.put_named(turn.batch, name, body)
        self._note_lacking(msgspec.structs.replace(self.lacking, after=after), turn.batch)

    def history_complete(self, turn: Turn) -> None:
        """All the history that a peer has is here."""
        self._note_lacking(None, turn.batch)

    def _lack(self, first: LogIndex, last: LogIndex, batch: Batch) -> None:
        """Together with what was lacking before, from the beginning: rows that came are asked for again."""
        before = self.lacking
        if before is not None:
            first, last = min(first, before.first), max(last, before.last)
        if first < last:
            self._note_lacking(Lacking(first, last, b""), batch)

    def _note(self, partial: Partial | None, batch: Batch) -> None:
        self.partial = partial
        body = None if partial is None else msgspec.msgpack.encode(partial)
        self._records.put_transfer_note(batch, keys.SHARD_PARTIAL, body)

    def _note_lacking(self, lacking: Lacking | None, batch: Batch) -> None:
        self.lacking = lacking
        body = None if lacking is None else msgspec.msgpack.encode(lacking)
        self._records.put_transfer_note(batch, keys.SHARD_LACKING, body)

    def _load_partial(self) -> Partial | None:
        """What can not be read, or is not of the next generation, is begun anew; `begin` erases it."""
        try:
            body = self._records.transfer_note(keys.SHARD_PARTIAL)
            partial = None if body is None else msgspec.msgpack.decode(body, type=Partial)
        except (StorageDamaged, msgspec.DecodeError):
            return None
        return partial if partial is not None and partial.generation == self._cache.generation + 1 else None

    def _load_damage(self) -> str:
        try:
            body = self._records.transfer_note(keys.SHARD_DAMAGED)
        except StorageDamaged as error:
            return error.message
        return "" if body is None else body.decode(errors="replace")

    def _load_lacking(self) -> Lacking | None:
        """When the note can not be read, everything before the log is asked for."""
        try:
            body = self._records.transfer_note(keys.SHARD_LACKING)
            return None if body is None else msgspec.msgpack.decode(body, type=Lacking)
        except (StorageDamaged, msgspec.DecodeError):
            return Lacking(LogIndex(0), self._log.snapshot.index, b"")


def erase_stored(shard: ShardId, batch: Batch) -> None:
    """Remove everything that is stored of a shard, readable or not: its replica is gone from this node."""
    erase_log(shard, batch)
    erase_records(shard, batch)
    erase_history(shard, batch)


def _row_of(body: bytes) -> bytes:
    """A stored history value without its count of commands."""
    return body[keys.HISTORY_COUNT_BYTES :]


def _check_rising(after: bytes, pieces: list[Piece]) -> None:
    for name, _ in pieces:
        if name <= after:
            raise InvalidName(f"record {name!r} does not follow {after!r}")
        after = name
