"""A client's conversation with the cluster over one bidirectional stream: the fast way in.

A frame is decoded once, its operations become one submit to the backend; everything that was delivered since the last write
leaves in one frame. There is no coroutine, task or future per operation: a stream costs one reader and one writer.

Invariants
- What a stream can make the gateway hold is bounded: open operations (a slot is free again when the reply has been handed to
  the transport, not before), watches and their credit, and bytes waiting. With many bytes waiting the stream is not read; with
  too many, or with one write stuck for too long, it ends with a typed error.
- Events leave in the order in which the backend delivered them; a refusal made here may overtake them, its operation never
  reached the backend.

Not here: retries and sequence numbers (the client's), judging them (the document's session table).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from grpc import aio

from cluster.errors import ClusterError, InvalidRequest, Overloaded, TooLarge
from cluster.gateway.backend import Backend, Stream
from cluster.gateway.codec import (
    EVENT_OVERHEAD_BYTES,
    arguments_operation,
    encode_event,
    present_operation,
    session_operation,
    unwatch_operation,
    watch_operation,
)
from cluster.gateway.identity import scoped_session
from cluster.gateway.limits import CLIENT_NAME_BYTES_MAX, NUMBER_MAX, Limits
from cluster.session.failures import failure_of
from cluster.session.identity import check_identity
from cluster.session.operations import Delta, Operation, Reply
from cluster.v1 import documents_pb2 as wire

logger = logging.getLogger(__name__)

Context = aio.ServicerContext[wire.SessionRequest, wire.SessionResponse]

Clock = Callable[[], int]
"""Unix milliseconds."""

OVERLOADED_RETRY_MS: Final = 50
GOAWAY_RETRY_MS: Final = 0


class _Watch:
    """What the gateway knows of a watch: where it points, and how many bytes may still come before a grant."""

    __slots__ = ("credit", "ending", "key", "space")

    def __init__(self, space: str, key: str, credit: int) -> None:
        self.space = space
        self.key = key
        self.credit = credit
        self.ending = False


class Session:
    """One stream. `run` is its whole life; it returns when the client is done and raises ClusterError when we are."""

    def __init__(self, backend: Backend, limits: Limits, principal: str, context: Context, clock_ms: Clock) -> None:
        self._backend = backend
        self._limits = limits
        self._principal = principal
        self._context = context
        self._clock_ms = clock_ms
        self._identity = b""
        self._stream: Stream | None = None
        self._open: set[int] = set()
        self._watches: dict[int, _Watch] = {}
        self._outgoing: list[Reply | Delta] = []
        self._outgoing_bytes = 0
        self._arrived = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._reading_done = False
        self._leaving = ""

    async def run(self) -> None:
        """Serve the stream until the client is done. Raises ClusterError to end it with that error's status."""
        first = await self._handshake()
        await self._context.write(self._opened())
        self._stream = self._backend.open(self._deliver)
        tasks = [asyncio.ensure_future(self._read(first)), asyncio.ensure_future(self._write())]
        try:
            await asyncio.wait([*tasks, self._ended], return_when=asyncio.FIRST_COMPLETED)
            if not self._ended.done() and tasks[0].done() and tasks[0].exception() is None:
                # the client has said all it will say: what it still waits for is written, then the stream ends.
                await asyncio.wait([tasks[1], self._ended], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._stream.close()
            for task in tasks:
                task.cancel()
            self._outgoing = []
        for future in (self._ended, *tasks):
            if future.done() and not future.cancelled() and (error := future.exception()) is not None:
                raise error

    def leave(self, reason: str) -> None:
        """Tell the client to go on at another gateway and end the stream when that is written."""
        self._leaving = self._leaving or reason
        self._arrived.set()

    async def _handshake(self) -> wire.SessionRequest:
        try:
            async with asyncio.timeout(self._limits.open_timeout_ms / 1000):
                first = await self._context.read()
        except TimeoutError:
            raise InvalidRequest("the session was not opened in time") from None
        if not isinstance(first, wire.SessionRequest) or not first.HasField("open"):
            raise InvalidRequest("the first frame of a session must carry `open`")
        self._enter(first.open)
        return first

    def _opened(self) -> wire.SessionResponse:
        limits = self._limits
        opened = wire.Opened(
            frame_bytes_max=limits.frame_bytes_max,
            operations_max=limits.operations_max,
            open_operations_max=limits.open_operations_max,
            watches_max=limits.watches_max,
            payload_bytes_max=limits.payload_bytes_max,
            time_ms=self._clock_ms(),
        )
        return wire.SessionResponse(opened=opened)

    # incoming

    async def _read(self, first: wire.SessionRequest) -> None:
        frame: object = first
        while isinstance(frame, wire.SessionRequest):
            if not self._drained.is_set():
                await self._drained.wait()
            if frame is not first and frame.HasField("open"):
                self._enter(frame.open)
            self._take(frame)
            frame = await self._context.read()
        if isinstance(frame, ClusterError):
            raise frame
        self._reading_done = True
        self._arrived.set()

    def _enter(self, request: wire.Open) -> None:
        check_identity("the session", request.session, self._clock_ms())
        if len(request.client_name.encode()) > CLIENT_NAME_BYTES_MAX:
            raise TooLarge(f"a client name has at most {CLIENT_NAME_BYTES_MAX} bytes", limit="client_name_bytes_max")
        self._identity = scoped_session(self._principal, request.session)

    def _take(self, frame: wire.SessionRequest) -> None:
        """Submit the operations of one frame, in their order; refuse the bad ones. Raises InvalidRequest to end the stream."""
        operations = frame.operations
        if len(operations) > self._limits.operations_max:
            error = TooLarge(
                f"a frame carries at most {self._limits.operations_max} operations, this one has {len(operations)}",
                limit="operations_max",
            )
            for operation in operations:
                self._refuse(operation.id, error)
            return
        principal = self._principal
        identity = self._identity
        open_operations = self._open
        open_max = self._limits.open_operations_max
        payload_max = self._limits.payload_bytes_max
        submitted: list[Operation] = []
        for operation in operations:
            kind = operation.WhichOneof("request")
            identifier = operation.id
            if kind == "grant":
                self._grant(identifier, operation.grant.credit_bytes)
                continue
            if kind == "unwatch":
                self._unwatch(identifier, submitted)
                continue
            if identifier in open_operations or identifier in self._watches:
                # a refusal under this id would pass for the reply of the other operation: the stream can not go on.
                raise InvalidRequest(f"operation id {identifier} is in use")
            try:
                if kind is None:
                    raise InvalidRequest("the operation says nothing of what is wanted")
                if not 0 < identifier <= NUMBER_MAX:
                    raise InvalidRequest(f"operation id {identifier} is 0 or too large")
                if len(open_operations) >= open_max:
                    raise Overloaded(
                        f"{open_max} operations of this session wait for their reply",
                        retry_after_ms=OVERLOADED_RETRY_MS,
                        limit="open_operations_max",
                    )
                if kind == "watch":
                    submitted.append(self._watch(operation))
                elif kind == "arguments":
                    submitted.append(self._arguments(operation))
                elif kind == "present":
                    watching = self._watching(operation.present.watch)
                    submitted.append(present_operation(operation, watching.space, watching.key, principal))
                else:
                    submitted.append(session_operation(operation, kind, principal, identity, payload_max))
                open_operations.add(identifier)
            except ClusterError as error:
                self._refuse(identifier, error)
        if submitted:
            assert self._stream is not None
            self._stream.submit(submitted)

    def _watch(self, request: wire.Operation) -> Operation:
        if len(self._watches) >= self._limits.watches_max:
            raise Overloaded(
                f"a session has at most {self._limits.watches_max} watches",
                retry_after_ms=OVERLOADED_RETRY_MS,
                limit="watches_max",
            )
        watch = request.watch
        resume = watch.resume_after if watch.HasField("resume_after") else None
        given = (watch.arguments, watch.arguments_version, watch.presence)
        operation = watch_operation(request.document, resume, watch.credit_bytes, self._principal, self._limits, *given)
        operation.id = request.id
        self._watches[request.id] = _Watch(operation.space, operation.key, operation.credit)
        return operation

    def _arguments(self, request: wire.Operation) -> Operation:
        watch = self._watching(request.arguments.watch)
        return arguments_operation(request, watch.space, watch.key, self._principal)

    def _watching(self, identifier: int) -> _Watch:
        watch = self._watches.get(identifier)
        if watch is None or watch.ending:
            raise InvalidRequest(f"no watch with id {identifier} is open")
        return watch

    def _unwatch(self, identifier: int, submitted: list[Operation]) -> None:
        watch = self._watches.get(identifier)
        if watch is None and identifier not in self._open:
            self._deliver([Reply(identifier)])  # it ended by itself while this was on its way
            return
        if watch is None or watch.ending:
            raise InvalidRequest(f"no watch with id {identifier} is open")
        watch.ending = True
        self._open.add(identifier)
        submitted.append(unwatch_operation(identifier, watch.space, watch.key, self._principal))

    def _grant(self, identifier: int, credit_bytes: int) -> None:
        watch = self._watches.get(identifier)
        if watch is None or watch.ending:
            return  # it ended while the grant was on its way
        credit = min(credit_bytes, self._limits.watch_credit_bytes_max - watch.credit)
        if credit > 0:
            watch.credit += credit
            assert self._stream is not None
            self._stream.grant(identifier, credit)

    def _refuse(self, identifier: int, error: ClusterError) -> None:
        self._deliver([Reply(identifier, failure=failure_of(error))])

    # outgoing

    def _deliver(self, batch: list[Reply | Delta]) -> None:
        """Called by the backend with everything of one turn; never blocks."""
        size = EVENT_OVERHEAD_BYTES * len(batch)
        for event in batch:
            size += len(event.payload) if isinstance(event, Reply) else event.credit_bytes
        self._outgoing += batch
        self._outgoing_bytes += size
        self._arrived.set()
        if self._outgoing_bytes > self._limits.outgoing_bytes_pause:
            self._drained.clear()
            if self._outgoing_bytes > self._limits.outgoing_bytes_max:
                self._end(
                    Overloaded(
                        f"more than {self._limits.outgoing_bytes_max} bytes wait for this slow reader",
                        retry_after_ms=OVERLOADED_RETRY_MS,
                        limit="outgoing_bytes_max",
                    )
                )

    def _end(self, error: ClusterError) -> None:
        if not self._ended.done():
            self._ended.set_exception(error)
        self._outgoing = []

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        timeout = self._limits.write_timeout_ms / 1000
        while not self._finished():
            await self._arrived.wait()
            self._arrived.clear()
            batch, self._outgoing = self._outgoing, []
            start = 0
            while start < len(batch):
                frame = wire.SessionResponse()
                start, size = self._pack(frame, batch, start)
                alarm = loop.call_later(timeout, self._write_timed_out)
                await self._context.write(frame)
                alarm.cancel()
                self._outgoing_bytes -= size
            if self._leaving and not self._outgoing:
                farewell = wire.SessionResponse()
                farewell.goaway.reason = self._leaving
                farewell.goaway.retry_after_ms = GOAWAY_RETRY_MS
                await self._context.write(farewell)
                return
            if self._outgoing_bytes <= self._limits.outgoing_bytes_pause:
                self._drained.set()

    def _finished(self) -> bool:
        return self._reading_done and not self._open and not self._watches and not self._outgoing

    def _write_timed_out(self) -> None:
        self._end(Overloaded("the client does not read", retry_after_ms=OVERLOADED_RETRY_MS, limit="write_timeout_ms"))

    def _pack(self, frame: wire.SessionResponse, batch: list[Reply | Delta], start: int) -> tuple[int, int]:
        """Fill a frame from `start` on. Returns where the next frame starts and the accounted bytes of this one."""
        size_max = self._limits.response_frame_bytes
        open_operations = self._open
        watches = self._watches
        size = 0
        at = start
        for at in range(start, len(batch)):
            event = batch[at]
            if isinstance(event, Reply):
                event_size = len(event.payload) + EVENT_OVERHEAD_BYTES
                if size and size + event_size > size_max:
                    return at, size
                open_operations.discard(event.id)
                if watches and (watch := watches.get(event.id)) is not None and (watch.ending or event.failure is not None):
                    del watches[event.id]
            else:
                event_size = event.credit_bytes + EVENT_OVERHEAD_BYTES
                if size and size + event_size > size_max:
                    return at, size
                if (watch := watches.get(event.watch)) is not None:
                    watch.credit -= event.credit_bytes
                    if event.failure is not None:
                        del watches[event.watch]
            size += event_size
            encode_event(frame, event)
        return at + 1, size
