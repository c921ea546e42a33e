"""Answering reads, listings and new watches from applied state.

A linearizable read waits until this leader has confirmed, after the read arrived, that it still leads, and until
everything that was committed by then is applied (Raft paper section 8, thesis 6.4). All reads that wait at a time share
one confirmation. With leases on, most need none: nobody else can lead yet (thesis 6.4.1).
"""

from __future__ import annotations

import base64
from collections.abc import Callable

import msgspec

from cluster.documents.runtime import HTTP_CHANNEL
from cluster.empty import NO_ENTRIES, NO_ITEMS
from cluster.errors import (
    ClusterError,
    DocumentDeleted,
    InvalidRequest,
    NotLeader,
    PermissionDenied,
    PositionRewound,
    StorageDamaged,
    StorageError,
    Unavailable,
    UnknownDocument,
)
from cluster.ids import Position, Principal, check_key
from cluster.session.failures import failure_of
from cluster.session.operations import Consistency, Kind, Operation, Reply
from cluster.shard.cache import DocumentCache
from cluster.shard.connections import Connections
from cluster.shard.document import LiveDocument, decode_record
from cluster.shard.feed import Feed
from cluster.shard.read_failures import Told, nobody_told
from cluster.shard.turn import StreamKey, Turn
from cluster.storage.records import RecordStore

LIST_PAGE_MAX = 1000
LIST_ROWS_MAX = 4096
"""Records looked at for one page: behind many deleted documents a page is short and the next one goes on."""
READS_WAITING_MAX = 65_536

UNREADABLE = Unavailable("this replica can not read its state and leaves it to another", retry_after_ms=100)
"""What a client is told where rot is found: the disk of one replica is not its business."""

Waiting = tuple[StreamKey, Operation]


def compared() -> Unavailable:
    """What a client is told of a document whose replicas were found to differ, until it is decided who is right."""
    return Unavailable("the document is being compared with its other replicas", retry_after_ms=20)


class Reader:
    """Runs reads of one shard. It answers; when they may be answered is the replica's business."""

    __slots__ = (
        "_cache",
        "_feed",
        "_records",
        "_told",
        "connections",
        "damaged",
        "missing",
    )

    def __init__(self, cache: DocumentCache, records: RecordStore, feed: Feed, told: Told = nobody_told) -> None:
        self._told = told
        self._cache = cache
        self._records = records
        self._feed = feed
        self.missing: list[tuple[StreamKey, Operation, Reply]] = NO_ITEMS
        """Who came to a document that never existed, with what to answer if it is not made; the intake takes them."""
        self.damaged = ""
        """What could not be read; the replica looks at it after every batch of reads."""
        self.connections: Connections | None = None
        """Of documents that are told of them; None while there is nothing to tell."""

    def run(self, stream: StreamKey, operation: Operation, turn: Turn, now_ms: float) -> None:
        """Answer one READ, LIST or WATCH from the applied state."""
        try:
            if operation.kind == Kind.LIST:
                reply = self._list(operation)
            elif operation.kind == Kind.WATCH:
                opened = self._watch(stream, operation, turn, now_ms)
                if opened is None:
                    return
                reply = opened
            elif operation.kind == Kind.PRESENT:
                self._feed.present(stream, operation.credit, operation.payload)
                reply = Reply(operation.id)
            elif operation.kind == Kind.ARGUMENTS:
                self._feed.arguments(stream, operation.credit, operation.payload, operation.sequence, turn)
                reply = Reply(operation.id)
            else:
                reply = self._read(operation, now_ms)
        except StorageDamaged as error:
            self.damaged = error.message
            reply = Reply(operation.id, 0, 0, b"", failure_of(UNREADABLE))
        except StorageError:
            raise  # the engine failed: the node ends, and whoever asked is answered elsewhere
        except ClusterError as error:
            reply = Reply(operation.id, 0, 0, b"", failure_of(error))
            if type(error) is UnknownDocument and operation.consistency == Consistency.LINEARIZABLE:
                self.missing = [*self.missing, (stream, operation, reply)]
                return
        turn.reply(stream, reply)

    def _living(self, operation: Operation, now_ms: float) -> LiveDocument:
        if self._cache.held and (operation.space, operation.key) in self._cache.held:
            raise compared()
        live = self._cache.find(operation.space, operation.key)
        if operation.kind == Kind.READ and operation.consistency == Consistency.AT_LEAST:
            wanted = Position(operation.epoch, operation.index)
            here = live.position if live is not None else Position(0, 0)
            if wanted > here:  # a replica that is behind knows neither what exists nor which epoch it is
                raise Unavailable(f"the document is at {here} here, not yet at {wanted}", retry_after_ms=20)
            if 0 < wanted.epoch < here.epoch:
                raise PositionRewound(f"the document is at {here}", current=here)
        if live is None:
            raise UnknownDocument(f"{operation.space}/{operation.key} was never created")
        live.touched_ms = now_ms
        if live.instance is None:
            if live.epoch:
                raise DocumentDeleted(f"{live.id} was deleted")
            raise UnknownDocument(f"{live.id} was never created")
        self._cache.read(live)
        return live

    def _read(self, operation: Operation, now_ms: float) -> Reply:
        live = self._living(operation, now_ms)
        assert live.instance is not None
        who = Principal.parse(operation.principal)
        if not live.instance.admits(who):
            self._told(live, who)
            raise PermissionDenied("the document's gate says no")
        instance = live.instance
        try:
            if operation.channel == HTTP_CHANNEL:
                shown = instance.respond(who, operation.payload)
            elif operation.channel:
                shown = instance.blob(who, operation.channel, instance.arguments(operation.payload))
            else:
                shown = instance.view(who, instance.arguments(operation.payload))
        finally:
            self._told(live, who)
        return Reply(operation.id, live.epoch, live.index, shown)

    def _watch(self, stream: StreamKey, operation: Operation, turn: Turn, now_ms: float) -> Reply | None:
        """None for one that waits until its document was told of it."""
        live = self._living(operation, now_ms)
        seen = (operation.epoch, operation.index) if operation.index >= 0 else None
        who = Principal.parse(operation.principal)
        given = (operation.payload, operation.sequence, operation.channel.encode())
        doorkeeper = self.telling() if live.instance is not None and live.instance.told_of_connections else None
        try:
            if doorkeeper is not None:
                self._feed.admit(live, who, seen, operation.payload)
                if not doorkeeper.lets_in(live, stream, operation, who):
                    return None
            self._feed.open(live, stream, operation.id, who, seen, operation.credit, turn, *given)
        except ClusterError:
            if doorkeeper is not None:
                doorkeeper.not_opened(live, stream, operation.id, who)
            raise
        if doorkeeper is not None:
            doorkeeper.opened(live, stream, operation.id, who)
        return Reply(operation.id, live.epoch, live.index)

    def telling(self) -> Connections:
        """The connections of the shard, which this replica leads."""
        if self.connections is None:
            self.connections = Connections(self._cache, self._feed)
        return self.connections

    def _list(self, operation: Operation) -> Reply:
        """A page of this shard's living documents by key prefix, in key order."""
        limit = operation.credit or 100
        if not 1 <= limit <= LIST_PAGE_MAX:
            raise InvalidRequest(f"a page has 1 to {LIST_PAGE_MAX} documents, not {limit}")
        try:
            after = base64.b64decode(operation.payload, altchars=b"-_", validate=True).decode() if operation.payload else ""
        except ValueError as error:
            raise InvalidRequest("the page token is not one of ours") from error
        if operation.channel:
            check_key(operation.channel)
        documents: list[dict[str, str | int]] = []
        more = ""
        looked_at = 0
        while len(documents) < limit:
            if looked_at >= LIST_ROWS_MAX:
                more = base64.urlsafe_b64encode(after.encode()).decode()
                break
            pairs = self._rows(operation.space, operation.channel, after, limit + 1)
            looked_at += len(pairs)
            for key, body in pairs:
                after = key
                live = self._cache.peek(operation.space, key)
                stands = live if live is not None else decode_record(body)
                if stands.alive:
                    documents.append({"key": key, "epoch": stands.epoch, "index": stands.index})
                    if len(documents) == limit:
                        more = base64.urlsafe_b64encode(key.encode()).decode()
                        break
            if len(pairs) <= limit:
                break
        return Reply(operation.id, 0, 0, msgspec.json.encode({"documents": documents, "next_page_token": more}))

    def _rows(self, space: str, prefix: str, after: str, count: int) -> list[tuple[str, bytes]]:
        """The next records in key order. What this very turn created is among them, without a body: it is in memory, and its
        record is not visible before the turn's write.
        """
        rows = list(self._records.scan(self._cache.generation, space, prefix, after, count))
        if self._cache.fresh:
            stored = {key for key, _ in rows}
            names = [key for within, key in self._cache.fresh if within == space and key.startswith(prefix)]
            rows = sorted(rows + [(key, b"") for key in names if key > after and key not in stored])[:count]
        return rows


_FOLLOWING = frozenset((Kind.WATCH, Kind.ARGUMENTS))
"""What opens or changes a watch: it waits in the order of arrival, and can not be taken back."""


class WaitingReads:
    """Reads that wait for confirmation of leadership, in batches. `context` numbers are never reused by a replica.

    A lease confirms in advance: its batches are kept apart, for their answers may have to be thrown away. A watch can not be
    taken back once it is open, so it always waits for a round.
    """

    __slots__ = (
        "_arrived",
        "_asked",
        "_confirmed",
        "_context",
        "_count",
        "_leased",
    )

    def __init__(self) -> None:
        self._arrived: list[Waiting] = NO_ITEMS
        self._asked: dict[int, list[Waiting]] = NO_ENTRIES
        self._confirmed: list[tuple[int, list[Waiting]]] = NO_ITEMS
        self._leased: list[tuple[int, list[Waiting]]] = NO_ITEMS
        self._context = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def asked(self) -> bool:
        """Whether a confirmation is under way."""
        return bool(self._asked)

    @property
    def arrived(self) -> bool:
        """Whether there are reads that leadership was not confirmed for, nor is being."""
        return bool(self._arrived)

    @property
    def unasked(self) -> bool:
        """Whether a confirmation should begin: reads wait and none is under way."""
        return bool(self._arrived) and not self._asked

    def add(self, stream: StreamKey, operation: Operation) -> bool:
        """Let a read wait; False when the bound is reached."""
        if self._count >= READS_WAITING_MAX:
            return False
        self._count += 1
        if not self._arrived:
            self._arrived = []
        self._arrived.append((stream, operation))
        return True

    def begin(self, *, by_lease: bool = False) -> int | None:
        """A context for everything that arrived and was not asked for yet, or only for what a lease may answer; None when there
        is nothing.
        """
        if not self._arrived:
            return None
        if by_lease:
            batch = [read for read in self._arrived if read[1].kind not in _FOLLOWING]
            self._arrived = [read for read in self._arrived if read[1].kind in _FOLLOWING]
        else:
            batch, self._arrived = self._arrived, NO_ITEMS
        if not batch:
            return None
        self._context += 1
        if not self._asked:
            self._asked = {}
        self._asked[self._context] = batch
        return self._context

    def confirm(self, context: int, index: int, *, by_lease: bool = False) -> None:
        """Leadership was confirmed for the batch: answer it once `index` is applied. Raft may confirm one whose readers were
        refused meanwhile because this replica became unwell.
        """
        batch = self._asked.pop(context, None)
        if batch is None:
            return
        if by_lease:
            self._leased = [*self._leased, (index, batch)]
        else:
            self._confirmed = [*self._confirmed, (index, batch)]

    def answerable(self, applied: int) -> bool:
        """Whether `ready` would return anything."""
        if not (self._confirmed or self._leased):
            return False
        return any(index <= applied for index, _ in (*self._confirmed, *self._leased))

    def ready(self, applied: int) -> list[Waiting]:
        """The reads that can be answered at `applied`, removed from here."""
        if not self._confirmed:
            return []
        ready, self._confirmed = _split(self._confirmed, applied)
        self._count -= len(ready)
        return ready

    def ready_by_lease(self, applied: int) -> list[Waiting]:
        """The same for those whose answers hold only as long as the lease does; `ask_again` or let them go."""
        if not self._leased:
            return []
        ready, self._leased = _split(self._leased, applied)
        self._count -= len(ready)
        return ready

    def ask_again(self, reads: list[Waiting]) -> None:
        """The lease had ended when the answers were computed: a round must confirm."""
        self._arrived = reads + self._arrived
        self._count += len(reads)

    def refuse(self, context: int) -> list[Waiting]:
        """The batch can not be confirmed; returns it, removed from here."""
        reads = self._asked.pop(context, [])
        self._count -= len(reads)
        return reads

    def refuse_all(self) -> list[Waiting]:
        """Leadership ended, or this replica is unwell: everything, removed from here."""
        reads = [read for batch in self._asked.values() for read in batch] + self._arrived
        reads += [read for _, batch in self._confirmed + self._leased for read in batch]
        self._asked = NO_ENTRIES
        self._arrived = self._confirmed = self._leased = NO_ITEMS
        self._count = 0
        return reads

    def cancel_streams(self, ended: Callable[[StreamKey], bool]) -> None:
        """Streams ended: their watches that are not open yet would be left without anybody to end them. Not answered."""
        if not self._count:
            return
        for batch in (self._arrived, *self._asked.values(), *[reads for _, reads in self._confirmed]):
            left = [read for read in batch if read[1].kind != Kind.WATCH or not ended(read[0])]
            self._count -= len(batch) - len(left)
            if len(left) < len(batch):
                batch[:] = left

    def cancel(self, stream: StreamKey, watch: int) -> None:
        """A watch ended before it was opened: opening it later would leave a viewer that nobody ends. Not answered."""
        if not self._count:
            return
        for batch in (self._arrived, *self._asked.values(), *[reads for _, reads in self._confirmed]):
            for at, (asker, operation) in enumerate(batch):
                if operation.kind == Kind.WATCH and operation.id == watch and asker == stream:
                    del batch[at]
                    self._count -= 1
                    return


def _split(confirmed: list[tuple[int, list[Waiting]]], applied: int) -> tuple[list[Waiting], list[tuple[int, list[Waiting]]]]:
    """What can be answered at `applied`, and what not yet."""
    ready = [read for index, reads in confirmed if index <= applied for read in reads]
    return ready, [(index, reads) for index, reads in confirmed if index > applied]


def refuse(reads: list[Waiting], leader: str, turn: Turn) -> None:
    """Tell those who asked that this replica does not lead."""
    for stream, operation in reads:
        turn.reply(stream, Reply(operation.id, 0, 0, b"", failure_of(NotLeader("this replica does not lead", leader=leader))))


def refuse_with(asked: list[tuple[StreamKey, list[Operation]]], error: ClusterError, turn: Turn) -> None:
    """Answer all of these with `error`."""
    failure = failure_of(error)
    for stream, operations in asked:
        for operation in operations:
            turn.reply(stream, Reply(operation.id, 0, 0, b"", failure))
