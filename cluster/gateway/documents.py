"""DocumentService: the unary calls, Watch, and the door to sessions."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc

from cluster.errors import InvalidRequest
from cluster.gateway import codec
from cluster.gateway.backend import Backend
from cluster.gateway.calls import Context, Identity, conversation_method, stream_method, unary_method
from cluster.gateway.limits import IDEMPOTENCY_KEY_BYTES_MADE, Limits
from cluster.gateway.session import Clock, Session
from cluster.gateway.status import FailedCall
from cluster.gateway.unary import UnaryCalls
from cluster.gateway.work import Worker
from cluster.session.operations import Delta, Failure, Kind, Operation, Reply
from cluster.v1 import documents_pb2 as wire

SERVICE: Final = wire.DESCRIPTOR.services_by_name["DocumentService"].full_name

_WATCH_ID: Final = 1


class DocumentService:
    """The handlers. Sessions in progress are kept so that stopping can send them elsewhere."""

    def __init__(self, backend: Backend, limits: Limits, identity: Identity, unary: UnaryCalls, clock_ms: Clock) -> None:
        self._backend = backend
        self._limits = limits
        self._identity = identity
        self._unary = unary
        self._clock_ms = clock_ms
        self._sessions: set[Session] = set()
        self._workers: set[Worker] = set()

    def handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        """What a gRPC server registers."""
        identity = self._identity
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Create": unary_method("Create", wire.CreateRequest, identity, self.create),
                "Send": unary_method("Send", wire.SendRequest, identity, self.send),
                "Read": unary_method("Read", wire.ReadRequest, identity, self.read),
                "ReadBlob": unary_method("ReadBlob", wire.ReadBlobRequest, identity, self.read_blob),
                "Delete": unary_method("Delete", wire.DeleteRequest, identity, self.delete),
                "List": unary_method("List", wire.ListRequest, identity, self.list),
                "Watch": stream_method("Watch", wire.WatchRequest, identity, self.watch),
                "Answer": unary_method("Answer", wire.AnswerRequest, identity, self.answer),
                "Work": conversation_method("Work", wire.WorkRequest, identity, self.work),
                "Session": conversation_method("Session", wire.SessionRequest, identity, self.session),
            },
        )

    def leave(self, reason: str) -> None:
        """Send the clients of all sessions elsewhere."""
        for session in self._sessions:
            session.leave(reason)
        for worker in self._workers:
            worker.leave()

    async def create(self, request: wire.CreateRequest, principal: str, remaining_ms: float | None) -> wire.CreateResponse:
        """Create a document. Raises ClusterError."""
        key = request.idempotency_key or os.urandom(IDEMPOTENCY_KEY_BYTES_MADE)
        operation = codec.write_operation(Kind.CREATE, request.document, "", request.payload, key, principal, self._limits)
        reply = await self._run(operation, remaining_ms)
        return wire.CreateResponse(position=_position(reply), payload=reply.payload)

    async def send(self, request: wire.SendRequest, principal: str, remaining_ms: float | None) -> wire.SendResponse:
        """Send a message. Raises ClusterError."""
        key = request.idempotency_key or os.urandom(IDEMPOTENCY_KEY_BYTES_MADE)
        operation = codec.write_operation(
            Kind.SEND, request.document, request.channel, request.payload, key, principal, self._limits
        )
        reply = await self._run(operation, remaining_ms)
        return wire.SendResponse(position=_position(reply), payload=reply.payload)

    async def read(self, request: wire.ReadRequest, principal: str, remaining_ms: float | None) -> wire.ReadResponse:
        """Read a view. Raises ClusterError."""
        at_least = request.at_least if request.HasField("at_least") else None
        operation = codec.read_operation(request.document, request.consistency, at_least, principal, request.arguments)
        reply = await self._run(operation, remaining_ms)
        return wire.ReadResponse(position=_position(reply), view=reply.payload)

    async def read_blob(
        self, request: wire.ReadBlobRequest, principal: str, remaining_ms: float | None
    ) -> wire.ReadBlobResponse:
        """Read a blob that a view shows. Raises ClusterError."""
        at_least = request.at_least if request.HasField("at_least") else None
        if not request.hash:
            raise InvalidRequest("the hash of a blob is needed")
        operation = codec.read_operation(
            request.document, request.consistency, at_least, principal, request.arguments, request.hash
        )
        reply = await self._run(operation, remaining_ms)
        data, media_type = codec.blob_of(reply.payload)
        return wire.ReadBlobResponse(position=_position(reply), data=data, media_type=media_type)

    async def delete(self, request: wire.DeleteRequest, principal: str, remaining_ms: float | None) -> wire.DeleteResponse:
        """Delete a document. Raises ClusterError."""
        key = request.idempotency_key or os.urandom(IDEMPOTENCY_KEY_BYTES_MADE)
        operation = codec.write_operation(Kind.DELETE, request.document, "", b"", key, principal, self._limits)
        reply = await self._run(operation, remaining_ms)
        return wire.DeleteResponse(position=_position(reply))

    async def answer(self, request: wire.AnswerRequest, principal: str, remaining_ms: float | None) -> wire.AnswerResponse:
        """Answer an ask. Raises ClusterError."""
        key = request.idempotency_key or os.urandom(IDEMPOTENCY_KEY_BYTES_MADE)
        payload = codec.answer_payload(request.ask, request.value)
        operation = codec.write_operation(Kind.ANSWER, request.document, "", payload, key, principal, self._limits)
        reply = await self._run(operation, remaining_ms)
        return wire.AnswerResponse(position=_position(reply), payload=reply.payload)

    async def work(self, principal: str, context: Context) -> None:
        """Hand out asks until the worker leaves. Raises ClusterError."""
        worker = Worker(self._backend, principal, context)
        self._workers.add(worker)
        try:
            await worker.run()
        finally:
            self._workers.discard(worker)

    async def list(self, request: wire.ListRequest, principal: str, remaining_ms: float | None) -> wire.ListResponse:
        """List a page. Raises ClusterError."""
        reply = await self._run(codec.list_operation(request, principal), remaining_ms)
        return codec.list_response(request.space, reply.payload)

    async def watch(self, request: wire.WatchRequest, principal: str) -> AsyncIterator[wire.WatchResponse]:
        """Follow one document; HTTP/2's own flow control is the credit: a delta is granted again when it was written."""
        resume = request.resume_after if request.HasField("resume_after") else None
        operation = codec.watch_operation(request.document, resume, 0, principal, self._limits, request.arguments)
        operation.id = _WATCH_ID
        arrived = asyncio.Event()
        waiting: list[Reply | Delta] = []

        def deliver(batch: list[Reply | Delta]) -> None:
            waiting.extend(batch)
            arrived.set()

        stream = self._backend.open(deliver)
        try:
            stream.submit([operation])
            while True:
                await arrived.wait()
                arrived.clear()
                batch = waiting[:]
                waiting.clear()
                written = 0
                for event in batch:
                    if event.failure is not None:
                        raise FailedCall(event.failure)
                    if isinstance(event, Delta):
                        yield codec.watch_response(event)
                        written += event.credit_bytes
                if written:
                    stream.grant(_WATCH_ID, written)
        finally:
            stream.close()

    async def session(self, principal: str, context: Context) -> None:
        """Serve a session until its end. Raises ClusterError."""
        session = Session(self._backend, self._limits, principal, context, self._clock_ms)
        self._sessions.add(session)
        try:
            await session.run()
        finally:
            self._sessions.discard(session)

    async def _run(self, operation: Operation, remaining_ms: float | None) -> Reply:
        result = await self._unary.run(operation, remaining_ms)
        if isinstance(result, Failure):
            raise FailedCall(result)
        return result


def _position(reply: Reply) -> wire.Position:
    return wire.Position(epoch=reply.epoch, index=reply.index)
