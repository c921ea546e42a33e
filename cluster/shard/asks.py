"""Open asks and who works on them: what a shard's leader hands out to the principals that its documents ask.

A worker leases asks: nobody else is given them until the lease ends by time, or the worker hands it back or is gone. Leases are
known to the leader alone, so after it has changed an ask may be handed out again: a worker is given each at least once. An
answer is a command like any other and needs no lease; the first one that is applied concludes the ask.

What is open is in the documents. For each principal that somebody works for, the leader keeps a bounded list of documents
to look at: those that changed since, and, read a part at a time, those that the index on disk names (`RecordStore.asking`).

Invariant: while somebody waits for work, every open ask of that principal is leased, or its document is in the list, or lies
behind the list's cursor in the index.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field

import msgspec
from msgspec import Raw, Struct

from cluster.documents.runtime import OpenAsk
from cluster.empty import NO_ENTRIES, NO_ITEMS
from cluster.errors import CodeMissing, InvalidRequest, Overloaded, StorageDamaged
from cluster.ids import Principal
from cluster.session.failures import failure_of
from cluster.session.operations import Failure, Operation, Reply
from cluster.shard.cache import DocumentCache
from cluster.shard.document import LiveDocument
from cluster.shard.turn import StreamKey, Turn

TAKEN_MAX = 1_000
"""Asks that one operation may take."""

TAKEN_BYTES_MAX = 1024 * 1024
"""Bytes of requests in one answer; one larger request still travels alone."""

LEASE_MS_MIN, LEASE_MS_MAX = 1_000, 3_600_000

QUEUES_MAX = 1_024
"""Principals that somebody works for; beyond it the one that nobody has asked for longest is forgotten, and looked up again."""

LISTED_MAX = 4_096
"""Documents listed for one principal; beyond it the index is read again."""

WAITING_MAX = 1_024
"""Workers that wait for one principal; the one that has waited longest is told to ask again."""

LEASES_MAX = 65_536
"""Leases that are remembered. Beyond it those that ended are forgotten, and with them how often an ask was handed out; if all
are running, nothing more is handed out.
"""

READ_KEYS = 64
"""Documents read from the index at a time."""

Name = tuple[str, str]
"""(space, key) of a document, or (space, principal) of a queue."""


class WorkOrder(Struct, forbid_unknown_fields=True):
    """The payload of a WORK operation.

    take: how many asks at most; 0 takes none. wait: with 0, answer when there is one to take. lease_ms: how long what is taken
        is the worker's.
    release: (key, ask id) of what is handed back, answered or not.
    """

    take: int = 0
    wait: bool = False
    lease_ms: int = LEASE_MS_MIN
    release: list[tuple[str, str]] = []


class Work(Struct):
    """One ask that was handed out. attempt: how often this leader has handed it out, from 1."""

    key: str
    ask: str
    handler: str
    request: Raw
    due_ms: int
    attempt: int


class WorkHandedOut(Struct):
    """The payload of the answer: `more` says whether there may be further asks."""

    work: list[Work] = []
    more: bool = False


@dataclass(slots=True)
class _Lease:
    """stream: who has it; None when it has ended. until_ms: by the shard's time."""

    principal: str
    stream: StreamKey | None
    until_ms: float
    attempt: int


@dataclass(slots=True)
class _Queue:
    """What is known of one principal in one space.

    listed: keys of documents to look at, in order. waiting: who waits, with the operation that will be answered. cursor: the
    index on disk is read up to this key; None when it is read to its end.
    """

    listed: dict[str, None] = field(default_factory=dict)
    waiting: dict[StreamKey, int] = field(default_factory=dict)
    cursor: str | None = ""


_decode = msgspec.json.Decoder(WorkOrder).decode
_encode = msgspec.json.Encoder().encode


class Asks:
    """The asks of one shard's leader, for as long as it leads."""

    __slots__ = ("_cache", "_earliest_ms", "_known", "_leases", "_queues", "_unknown", "_waiting", "damaged")

    def __init__(self, cache: DocumentCache) -> None:
        self._cache = cache
        self._queues: OrderedDict[Name, _Queue] = OrderedDict()
        self._leases: dict[Name, dict[str, _Lease]] = NO_ENTRIES
        """By document and ask, also those that ended, for the count of attempts, until the ask is concluded."""
        self._known = 0
        """How many leases there are."""
        self._earliest_ms = math.inf
        """No lease ends before."""
        self._waiting = 0
        self._unknown: list[tuple[Name, str]] = NO_ITEMS
        """Documents, and who is asked, that could not be looked at because their code is missing here."""
        self.damaged = ""

    # -- what workers want -------------------------------------------------------------------------------------------

    def run(self, stream: StreamKey, operation: Operation, now_ms: float, turn: Turn) -> None:
        """Answer a WORK operation, now or when there is something. now_ms: the shard's time."""
        try:
            order = _decode(operation.payload)
            if not 0 <= order.take <= TAKEN_MAX or not LEASE_MS_MIN <= order.lease_ms <= LEASE_MS_MAX:
                raise InvalidRequest(f"a worker takes at most {TAKEN_MAX} asks, for {LEASE_MS_MIN} to {LEASE_MS_MAX} ms")
        except msgspec.DecodeError as error:
            turn.reply(stream, Reply(operation.id, failure=failure_of(InvalidRequest(f"that orders no work: {error}"))))
            return
        except InvalidRequest as error:
            turn.reply(stream, Reply(operation.id, failure=failure_of(error)))
            return
        for key, ask in order.release:
            self._release((operation.space, key), ask, operation.principal, now_ms)
        name = (operation.space, operation.principal)
        queue = self._queue(name)
        if self._unknown:
            self._look_again()
        if order.take and self._full(order.take, now_ms):
            refusal = Overloaded("too many asks are being worked on", retry_after_ms=1000, bound="leases_max")
            turn.reply(stream, Reply(operation.id, failure=failure_of(refusal)))
        elif order.take:
            work, more = self._hand_out(name, queue, stream, order, now_ms)
            turn.reply(stream, Reply(operation.id, payload=_encode(WorkHandedOut(work, more))))
        elif not order.wait:
            turn.reply(stream, Reply(operation.id, payload=_encode(WorkHandedOut())))
        elif self._available(name, queue, now_ms):
            turn.reply(stream, Reply(operation.id, payload=_encode(WorkHandedOut(more=True))))
        else:
            self._wait(queue, stream, operation.id, turn)
        if order.release:
            self._tell(turn, now_ms)

    def _wait(self, queue: _Queue, stream: StreamKey, operation: int, turn: Turn) -> None:
        """A stream waits once: what it asked before was given up by its gateway."""
        self._waiting += stream not in queue.waiting
        queue.waiting.pop(stream, None)
        queue.waiting[stream] = operation
        if len(queue.waiting) > WAITING_MAX:
            earliest = next(iter(queue.waiting))
            turn.reply(earliest, Reply(queue.waiting.pop(earliest), payload=_encode(WorkHandedOut())))
            self._waiting -= 1

    def _queue(self, name: Name) -> _Queue:
        queue = self._queues.get(name)
        if queue is None:
            queue = self._queues[name] = _Queue()
            for live in self._cache.unsaved.values():  # what is not written yet; the rest is on disk
                if live.id.space == name[0] and name[1] in live.waiting[1]:
                    queue.listed[live.id.key] = None
            if len(self._queues) > QUEUES_MAX:
                _, forgotten = self._queues.popitem(last=False)
                self._waiting -= len(forgotten.waiting)  # their gateways ask again
        self._queues.move_to_end(name)
        return queue

    # -- handing out -------------------------------------------------------------------------------------------------

    def _hand_out(
        self, name: Name, queue: _Queue, stream: StreamKey, order: WorkOrder, now_ms: float
    ) -> tuple[list[Work], bool]:
        """Up to `take` asks under lease, and whether there may be more."""
        found: list[Work] = []
        size = 0
        while len(found) < order.take and size < TAKEN_BYTES_MAX:
            key = self._next(name, queue)
            if key is None:
                break
            document = (name[0], key)
            for ask in self._free(document, name[1], now_ms):
                if len(found) >= order.take or (found and size + len(ask.request) > TAKEN_BYTES_MAX):
                    queue.listed[key] = None  # the rest of it is for the next
                    return found, True
                lease = self._lease(document, ask.id, name[1])
                lease.stream, lease.until_ms = stream, now_ms + order.lease_ms
                self._earliest_ms = min(self._earliest_ms, lease.until_ms)
                lease.attempt += 1
                size += len(ask.request)
                found.append(Work(key, ask.id, ask.handler, Raw(ask.request), ask.due_ms, lease.attempt))
        return found, bool(queue.listed) or queue.cursor is not None

    def _available(self, name: Name, queue: _Queue, now_ms: float) -> bool:
        """Whether something could be handed out; documents without anything are no longer listed then."""
        while (key := self._next(name, queue)) is not None:
            if self._free((name[0], key), name[1], now_ms):
                queue.listed[key] = None
                return True
        return False

    def _look_again(self) -> None:
        """Documents whose code was missing are listed again, for whoever asks next."""
        unknown, self._unknown = self._unknown, NO_ITEMS
        for document, principal in unknown:
            queue = self._queues.get((document[0], principal))
            if queue is not None:
                self._list(queue, document[1])

    def _next(self, name: Name, queue: _Queue) -> str | None:
        """The next document to look at, listed no more; None when there is none."""
        while not queue.listed and queue.cursor is not None:
            try:
                keys = self._cache.asking(*name, queue.cursor, READ_KEYS)
            except StorageDamaged as error:
                self.damaged = error.message
                return None
            queue.cursor = keys[-1] if len(keys) == READ_KEYS else None
            queue.listed.update(dict.fromkeys(keys))
        if not queue.listed:
            return None
        key = next(iter(queue.listed))
        del queue.listed[key]
        return key

    def _free(self, document: Name, principal: str, now_ms: float) -> list[OpenAsk]:
        """The open asks of one document that nobody has."""
        try:
            live = self._cache.find(*document)
        except CodeMissing:
            self._unknown = [*self._unknown, (document, principal)]
            return []
        except StorageDamaged as error:
            self.damaged = error.message
            return []
        if live is None or live.instance is None or live.frozen:
            return []
        leases = self._leases.get(document, NO_ENTRIES)
        asks = live.instance.open_asks(Principal.parse(principal))
        return [ask for ask in asks if (held := leases.get(ask.id)) is None or held.until_ms <= now_ms]

    def _lease(self, document: Name, ask: str, principal: str) -> _Lease:
        if not self._leases:
            self._leases = {}
        leases = self._leases.setdefault(document, {})
        lease = leases.get(ask)
        if lease is None:
            lease = leases[ask] = _Lease(principal, None, 0.0, 0)
            self._known += 1
        return lease

    def _full(self, take: int, now_ms: float) -> bool:
        """Whether so many more leases find no place, also when those that ended are forgotten."""
        if self._known + take > LEASES_MAX:
            self._forget_ended(now_ms)
        return self._known + take > LEASES_MAX

    def _forget_ended(self, now_ms: float) -> None:
        """Keep the leases that run; what the others were for is listed, as when time ends them."""
        for document, leases in self._leases.items():
            for lease in leases.values():
                if lease.stream is not None and lease.until_ms <= now_ms:
                    self._end(document, lease)
        kept = {
            document: {ask: lease for ask, lease in leases.items() if lease.until_ms > now_ms}
            for document, leases in self._leases.items()
        }
        self._leases = {document: leases for document, leases in kept.items() if leases}
        self._known = sum(map(len, self._leases.values()))

    # -- what happens to them ----------------------------------------------------------------------------------------

    def changed(self, live: LiveDocument, turn: Turn, now_ms: float) -> None:
        """Commands changed this document: what was concluded is nobody's any more, and what is new may be waited for."""
        name = (live.id.space, live.id.key)
        asked = live.waiting[1]
        if self._leases and (leases := self._leases.get(name)) is not None:
            open_ids: set[str] = set()
            if live.instance is not None:
                open_ids = {ask.id for who in asked for ask in live.instance.open_asks(Principal.parse(who))}
            for ask in [ask for ask in leases if ask not in open_ids]:
                del leases[ask]
                self._known -= 1
            if not leases:
                del self._leases[name]
        told = False
        for principal in asked:
            queue = self._queues.get((name[0], principal))
            if queue is not None:
                self._list(queue, name[1])
                told = told or bool(queue.waiting)
        if told:
            self._tell(turn, now_ms)

    def _list(self, queue: _Queue, key: str) -> None:
        if len(queue.listed) >= LISTED_MAX:
            queue.cursor = ""
        else:
            queue.listed[key] = None

    def _release(self, document: Name, ask: str, principal: str, now_ms: float) -> None:
        """A worker wants it no more."""
        lease = self._leases.get(document, NO_ENTRIES).get(ask)
        if lease is not None and lease.principal == principal and lease.until_ms > now_ms:
            self._end(document, lease)

    def _end(self, document: Name, lease: _Lease) -> None:
        lease.stream, lease.until_ms = None, 0.0
        queue = self._queues.get((document[0], lease.principal))
        if queue is not None:
            self._list(queue, document[1])

    @property
    def due_ms(self) -> float:
        """When the next lease ends that somebody may wait for, by the shard's time, or earlier."""
        return self._earliest_ms if self._waiting else math.inf

    def tick(self, now_ms: float, turn: Turn) -> None:
        """Leases whose time is up end."""
        self._earliest_ms = math.inf
        for document, leases in self._leases.items():
            for lease in leases.values():
                if lease.stream is not None and lease.until_ms <= now_ms:
                    self._end(document, lease)
                elif lease.stream is not None:
                    self._earliest_ms = min(self._earliest_ms, lease.until_ms)
        self._tell(turn, now_ms)

    def _tell(self, turn: Turn, now_ms: float) -> None:
        """Tell everybody who waits for something that there is: some of them may be gone, and nobody would hear of it."""
        for name, queue in self._queues.items():
            if queue.waiting and self._available(name, queue, now_ms):
                for stream, operation in queue.waiting.items():
                    turn.reply(stream, Reply(operation, payload=_encode(WorkHandedOut(more=True))))
                self._waiting -= len(queue.waiting)
                queue.waiting = {}

    def end(self, failure: Failure, turn: Turn) -> None:
        """Leadership ended: who waits asks the next leader."""
        for queue in self._queues.values():
            for stream, operation in queue.waiting.items():
                turn.reply(stream, Reply(operation, failure=failure))
