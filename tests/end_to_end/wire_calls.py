"""Raw calls of the public protocol, for tests that send what no client of ours would send."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc import aio

from cluster.session.identity import RANDOM_BYTES, new_identity
from cluster.v1 import documents_pb2 as wire

PRINCIPAL = (("moot-principal", "mallory@acme"),)
TIMEOUT_S = 60


@dataclass(slots=True)
class Refusal:
    """How a call failed: the canonical code, and what its ErrorInfo says."""

    code: grpc.StatusCode
    reason: str
    applied: str
    metadata: dict[str, str] = field(default_factory=dict)


async def call(address: str, method: str, request: Any, metadata: Any = PRINCIPAL) -> bytes | Refusal:
    """A unary call of DocumentService with a message or raw bytes."""
    body = request if isinstance(request, bytes) else request.SerializeToString()
    async with aio.insecure_channel(address) as channel:
        unary: Any = channel.unary_unary(f"/cluster.v1.DocumentService/{method}", bytes, bytes)
        try:
            answer: bytes = await unary(body, metadata=metadata, timeout=TIMEOUT_S)
            return answer
        except aio.AioRpcError as error:
            return refusal_of(error)


def refusal_of(error: aio.AioRpcError) -> Refusal:
    """What a failed call says in google.rpc.ErrorInfo; reason empty when it says nothing."""
    trailers: Any = error.trailing_metadata() or ()
    for name, value in trailers:
        if name == "grpc-status-details-bin":
            status = status_pb2.Status.FromString(value)
            info = error_details_pb2.ErrorInfo()
            assert status.details[0].Unpack(info)
            assert info.domain == "moot"
            return Refusal(error.code(), info.reason, info.metadata["applied"], dict(info.metadata))
    return Refusal(error.code(), "", "")


def send(space: str, key: str, channel: str, payload: bytes = b"{}", idempotency_key: bytes = b"") -> wire.SendRequest:
    """One unary message."""
    return wire.SendRequest(
        document=wire.Document(space=space, key=key), channel=channel, payload=payload, idempotency_key=idempotency_key
    )


def session_identity() -> bytes:
    """A session of its own."""
    return new_identity(time.time_ns() // 1_000_000, os.urandom(RANDOM_BYTES))


class Conversation:
    """One session stream, frame by frame."""

    def __init__(self, address: str, session: bytes) -> None:
        self._channel = aio.insecure_channel(address)
        self._session = session
        self._call: Any = None
        self._last_id = 0

    async def __aenter__(self) -> Conversation:
        stream: Any = self._channel.stream_stream("/cluster.v1.DocumentService/Session", bytes, bytes)
        self._call = stream(metadata=PRINCIPAL, timeout=TIMEOUT_S)
        opening = wire.SessionRequest(open=wire.Open(session=self._session, client_name="test"))
        await self._call.write(opening.SerializeToString())
        first = wire.SessionResponse.FromString(await self._call.read())
        assert first.HasField("opened")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._call.cancel()
        await self._channel.close(None)

    async def put(self, key: str, sequence: int, value: str) -> wire.Reply:
        """One `put` to a counter under a sequence; its reply."""
        self._last_id += 1
        operation = wire.Operation(
            id=self._last_id,
            document=wire.Document(space="counter", key=key),
            sequence=sequence,
            send=wire.Send(channel="put", payload=b'{"value":"%s"}' % value.encode()),
        )
        await self._call.write(wire.SessionRequest(operations=[operation]).SerializeToString())
        while True:
            response = wire.SessionResponse.FromString(await self._call.read())
            for event in response.events:
                if event.HasField("reply") and event.reply.id == self._last_id:
                    return event.reply

    async def garbage(self, data: bytes) -> Refusal:
        """Send bytes that are no frame; how the stream ends."""
        await self._call.write(data)
        try:
            while isinstance(await self._call.read(), bytes):
                pass
            code = await self._call.code()
            assert code is not grpc.StatusCode.OK
            return Refusal(code, "", "")
        except aio.AioRpcError as error:
            return refusal_of(error)
