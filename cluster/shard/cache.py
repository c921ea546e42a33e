"""Which documents of a shard are in memory, and when their records are written.

A record is written when a document goes idle, when the command bytes since the last one reach max(64 KiB, its size), when it is
created or deleted (so that a listing sees it), before eviction, and when it holds the log back; never on every message.
Writing policy is this node's own business: it decides when a record is stored, never what is in it.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Final

from cluster.empty import NO_ENTRIES
from cluster.errors import StorageDamaged
from cluster.ids import DocumentId, LogIndex, ReplicaId
from cluster.shard.directory import Directory
from cluster.shard.document import NOT_WAITING, LiveDocument, Waiting, decode_record, waiting_of
from cluster.storage.engine import Batch
from cluster.storage.records import RecordStore

CHECKPOINT_BYTES_MIN = 64 * 1024
TOUCHED_MAX = 4096
_NOBODY: Final[frozenset[ReplicaId]] = frozenset()
"""One object: an empty set takes 200 bytes, and a node has thousands of caches."""
IDLE_MS = 5_000.0
"""A document without a command for this long is written at the next housekeeping."""


class DocumentCache:
    """Documents of one shard in memory.

    bytes_max: what they may take together (approximately); beyond it the least recently touched are written and dropped.
    checkpoints: False switches writing by size and idleness off (a measurement of replay wants that).
    """

    __slots__ = (
        "_bytes_max",
        "_checkpoints",
        "_directory",
        "_documents",
        "_records",
        "copied_through",
        "doubt_yields",
        "doubted",
        "fresh",
        "generation",
        "held",
        "touched",
        "unsaved",
        "withheld",
    )

    def __init__(
        self, records: RecordStore, directory: Directory, generation: int, *, bytes_max: int, checkpoints: bool
    ) -> None:
        self._records = records
        self._directory = directory
        self.generation = generation
        self._bytes_max = bytes_max
        self._checkpoints = checkpoints
        self._documents: dict[tuple[str, str], LiveDocument] = NO_ENTRIES
        self.unsaved: dict[tuple[str, str], LiveDocument] = NO_ENTRIES
        self.fresh: dict[tuple[str, str], LiveDocument] = NO_ENTRIES
        """Created or deleted in this turn: their records are in its batch, where a listing does not find them yet."""
        self.held: dict[tuple[str, str], None] = NO_ENTRIES
        """Documents that are being compared with other replicas: this leader takes nothing for them meanwhile."""
        self.doubted: dict[tuple[str, str], None] = NO_ENTRIES
        """Those of them of which nobody knows yet whose state is right: it is not spread by snapshots,
        and the log is not cut, so that whoever is behind can still run the commands himself."""
        self.doubt_yields = False
        """It is spread nevertheless, for entries can not be committed without a replica that needs a snapshot."""
        self.withheld = _NOBODY
        """Who is damaged and asked for the snapshot that doubt withholds."""
        self.touched: dict[tuple[str, str], None] = NO_ENTRIES
        """Documents that were read and may not have the code that they should: their leader looks at them."""
        self.copied_through = LogIndex(0)
        """What entries up to here made of documents is copied from a leader that doubted: on that this replica has no word."""

    def __len__(self) -> int:
        return len(self._documents)

    @property
    def connection_grace_ms(self) -> int:
        """How long a connection whose watch is lost may come back: a setting of the node."""
        return self._directory.connection_grace_ms

    def get(self, space: str, key: str) -> LiveDocument:
        """The document, loaded if need be; one that never existed has epoch 0. Raises CodeMissing or StorageDamaged."""
        name = (space, key)
        live = self._documents.get(name)
        if live is None:
            live = self._load(DocumentId(space, key))
            self._keep(name, live)
        return live

    def find(self, space: str, key: str) -> LiveDocument | None:
        """Like `get`, but None, and nothing kept in memory, for a document that never had a command: whoever asks for
        random names leaves no trace. Raises CodeMissing or StorageDamaged.
        """
        live = self._documents.get((space, key))
        if live is None:
            live = self._load(DocumentId(space, key))
            if not live.applied_through:
                return None
            self._keep((space, key), live)
        return live

    def living(self) -> Iterator[LiveDocument]:
        """The living documents in memory."""
        return (live for live in self._documents.values() if live.alive)

    def stored(self, document: DocumentId) -> bytes | None:
        """A document's record as it was last written, without taking it into memory. Raises StorageDamaged."""
        return self._records.get(self.generation, document)

    def peek(self, space: str, key: str) -> LiveDocument | None:
        """The document if it is in memory."""
        return self._documents.get((space, key))

    def read(self, live: LiveDocument) -> None:
        """A document was read. Bounded: what finds no place is touched again."""
        if live.settled != self._directory.compilations.revision:
            self.touch((live.id.space, live.id.key))

    def touch(self, name: tuple[str, str]) -> None:
        """Have the leader look whether a document has the code that it should."""
        if len(self.touched) < TOUCHED_MAX:
            if not self.touched:
                self.touched = {}
            self.touched[name] = None

    def hold(self, name: tuple[str, str], *, doubted: bool) -> None:
        """A document is being compared with other replicas."""
        self.held = {**self.held, name: None}
        if doubted:
            self.doubted = {**self.doubted, name: None}

    @property
    def withholds(self) -> bool:
        """Whether doubt keeps snapshots from everybody."""
        return bool(self.doubted) and not self.doubt_yields

    def withhold(self, peer: ReplicaId) -> None:
        """Remember who is damaged: what is doubted now it will not have run itself."""
        if self.doubted:
            self.withheld |= {peer}

    def release(self, name: tuple[str, str]) -> None:
        """A document is not compared any more."""
        self.held.pop(name, None)
        self.doubted.pop(name, None)
        if not self.doubted:
            self.withheld = _NOBODY

    def release_all(self) -> None:
        """No document is compared any more: whoever leads next begins anew."""
        self.held.clear()
        self.doubted.clear()
        self.doubt_yields = False
        self.withheld = _NOBODY

    def _keep(self, name: tuple[str, str], live: LiveDocument) -> None:
        if not self._documents:
            self._documents = {}
        self._documents[name] = live

    def _load(self, document: DocumentId) -> LiveDocument:
        body = self._records.get(self.generation, document)
        if body is None:
            return LiveDocument(document)
        record = decode_record(body)
        program = self._directory.program(record.code_hash) if record.alive else None
        try:
            return LiveDocument.load(document, body, program)
        except AssertionError as error:
            raise StorageDamaged(f"the record of {document} can not be loaded: {error}") from error

    def changed(self, live: LiveDocument, index: int, command_bytes: int) -> None:
        """A command of entry `index` changed this document."""
        live.applied_through = index
        live.unsaved_bytes += command_bytes
        if not live.first_unsaved:
            live.first_unsaved = index
            if not self.unsaved:
                self.unsaved = {}
            self.unsaved[(live.id.space, live.id.key)] = live

    def save_if_due(self, live: LiveDocument, batch: Batch, *, now: bool) -> None:
        """Write the record if the policy says so, or `now` (creation, deletion)."""
        if live.first_unsaved and (
            now
            or (self._checkpoints and live.unsaved_bytes >= CHECKPOINT_BYTES_MIN and live.unsaved_bytes >= live.record_bytes())
        ):
            self.save(live, batch)
            if now:
                if not self.fresh:
                    self.fresh = {}
                self.fresh[(live.id.space, live.id.key)] = live

    def save(self, live: LiveDocument, batch: Batch) -> None:
        """Write the record into `batch`; the document is clean from here on."""
        self._records.put(batch, self.generation, live.id, live.record())
        waiting = live.waiting
        if waiting != live.stored_waiting:
            self._records.index(batch, self.generation, live.id, live.stored_waiting, waiting)
            live.stored_waiting = waiting
        live.first_unsaved = 0
        live.unsaved_bytes = 0
        self.unsaved.pop((live.id.space, live.id.key), None)

    def adopt(self, document: DocumentId, body: bytes, batch: Batch) -> LiveDocument:
        """Replace a document by a record from another replica, in memory and in `batch`. What entries up to its applied_through
        say about it is skipped. Raises CodeMissing or StorageDamaged, nothing changed.
        """
        record = decode_record(body)
        program = self._directory.program(record.code_hash) if record.alive else None
        live = LiveDocument.load(document, body, program)
        name = (document.space, document.key)
        self._records.index(batch, self.generation, document, self._stored_waiting(document), live.waiting)
        self._records.put(batch, self.generation, document, body)
        self.unsaved.pop(name, None)
        self._keep(name, live)
        self.touch(name)  # it may have other code now, and wait for other things
        return live

    def _stored_waiting(self, document: DocumentId) -> Waiting:
        """What the index on disk says of a document. Where its record is rotten that is lost, and no harm: the index only says
        whom to look at.
        """
        live = self._documents.get((document.space, document.key))
        if live is not None:
            return live.stored_waiting
        try:
            body = self.stored(document)
        except StorageDamaged:
            return NOT_WAITING
        return NOT_WAITING if body is None else waiting_of(body)

    def due(self, after: bytes, now_ms: int, limit: int) -> list[bytes]:
        """Names of documents whose stored records have something to do by `now_ms`: see RecordStore.due."""
        return self._records.due(self.generation, after, now_ms, limit)

    def asking(self, space: str, principal: str, after_key: str, limit: int) -> list[str]:
        """Keys of documents whose stored records ask a principal something: see RecordStore.asking."""
        return self._records.asking(self.generation, space, principal, after_key, limit)

    def connected(self, after: bytes, limit: int) -> list[bytes]:
        """Names of documents whose stored records have connections: see RecordStore.connected."""
        return self._records.connected(self.generation, after, limit)

    def save_all(self, batch: Batch) -> None:
        """Write every unsaved record: the stored shard then stands at the applied index."""
        for live in list(self.unsaved.values()):
            self.save(live, batch)

    def save_older_than(self, index: LogIndex, batch: Batch) -> None:
        """Write the records that would hold the log back at or below `index`."""
        if self._checkpoints:
            for live in [live for live in self.unsaved.values() if live.first_unsaved <= index]:
                self.save(live, batch)

    def oldest_unsaved(self) -> LogIndex | None:
        """The oldest entry that some record still lacks."""
        return min((LogIndex(live.first_unsaved) for live in self.unsaved.values()), default=None)

    def housekeep(self, now_ms: float, batch: Batch, pinned: Container[tuple[str, str]]) -> None:
        """Write what went idle and keep within memory. `pinned` documents (watched ones) stay."""
        if self._checkpoints:
            for live in [live for live in self.unsaved.values() if now_ms - live.touched_ms >= IDLE_MS]:
                self.save(live, batch)
        self._evict(batch, pinned)

    def _evict(self, batch: Batch, pinned: Container[tuple[str, str]]) -> None:
        total = sum(live.size_bytes() for live in self._documents.values())
        if total <= self._bytes_max:
            return
        by_age = sorted(self._documents.items(), key=lambda item: item[1].touched_ms)
        for name, live in by_age:
            if total <= self._bytes_max:
                break
            if name in pinned or (live.first_unsaved and not self._checkpoints):
                continue
            if live.first_unsaved:
                self.save(live, batch)
            total -= live.size_bytes()
            del self._documents[name]

    def switch_generation(self, generation: int) -> None:
        """A snapshot was installed: everything in memory is of the past."""
        self.generation = generation
        self._documents.clear()
        self.unsaved.clear()
        self.fresh = NO_ENTRIES
