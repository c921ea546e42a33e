"""A gateway on 127.0.0.1 in front of an in-memory backend, and a caller that speaks to it with raw messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc import aio

from cluster.gateway import Gateway, Limits
from cluster.session.identity import new_identity
from cluster.v1 import documents_pb2 as wire
from tests.gateway.echo_backend import EchoBackend

EOF: Any = aio.EOF  # type: ignore[attr-defined]
ALICE = (("moot-principal", "alice@acme"),)
DOCUMENTS = "cluster.v1.DocumentService"
NOW_MS = 1_800_000_000_000
SESSION = new_identity(NOW_MS, b"0123456789")
OTHER_SESSION = new_identity(NOW_MS, b"9876543210")


class Caller:
    """Raw calls: what any gRPC client could send, garbage included."""

    def __init__(self, channel: aio.Channel, backend: EchoBackend, gateway: Gateway, port: int) -> None:
        self.channel = channel
        self.backend = backend
        self.gateway = gateway
        self.port = port

    async def unary(self, method: str, request: Any, response: Any, service: str = DOCUMENTS, **options: Any) -> Any:
        options.setdefault("metadata", ALICE)
        data = request if isinstance(request, bytes) else request.SerializeToString()
        answer = await self.channel.unary_unary(f"/{service}/{method}", None, None)(data, **options)
        return response.FromString(answer)

    def watch(self, request: wire.WatchRequest, **options: Any) -> Any:
        options.setdefault("metadata", ALICE)
        return self.channel.unary_stream(
            f"/{DOCUMENTS}/Watch",
            request_serializer=wire.WatchRequest.SerializeToString,
            response_deserializer=wire.WatchResponse.FromString,
        )(request, **options)

    def stream(self, **options: Any) -> Any:
        options.setdefault("metadata", ALICE)
        return self.channel.stream_stream(
            f"/{DOCUMENTS}/Session",
            request_serializer=lambda data: data if isinstance(data, bytes) else data.SerializeToString(),
            response_deserializer=wire.SessionResponse.FromString,
        )(None, **options)

    async def session(self, session: bytes = SESSION) -> Any:
        """An open session; the `opened` frame has been read."""
        call = self.stream()
        await call.write(wire.SessionRequest(open=wire.Open(session=session)))
        first = await call.read()
        assert first.HasField("opened")
        return call


@asynccontextmanager
async def serving(backend: EchoBackend | None = None, limits: Limits | None = None, **options: Any) -> AsyncIterator[Caller]:
    """A running gateway and a channel to it."""
    backend = backend or EchoBackend()
    gateway = Gateway(backend, limits=limits, clock_ms=lambda: NOW_MS, **options)
    port = await gateway.start()
    try:
        async with aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            yield Caller(channel, backend, gateway, port)
    finally:
        await gateway.stop(grace_ms=50)


def operation(identifier: int, key: str = "a", sequence: int = 0, space: str = "text", **request: Any) -> wire.Operation:
    """operation(1, "a", 1, send=("echo", b"{}")) and the like."""
    message = wire.Operation(id=identifier, document=wire.Document(space=space, key=key), sequence=sequence)
    if "send" in request:
        channel, payload = request.pop("send")
        request["send"] = wire.Send(channel=channel, payload=payload)
    for name, value in request.items():
        if name == "acked_through":
            message.acked_through = value
        else:
            getattr(message, name).CopyFrom(value)
            getattr(message, name).SetInParent()
    return message


async def ask(call: Any, operations: Iterable[wire.Operation]) -> dict[int, wire.Reply]:
    """Send the operations in one frame and read until each has its reply; returns them by id."""
    listed = list(operations)
    await call.write(wire.SessionRequest(operations=listed))
    replies: dict[int, wire.Reply] = {}
    while len(replies) < len({each.id for each in listed}):
        frame = await asyncio.wait_for(call.read(), 10)
        assert frame is not EOF, await call.details()
        for event in frame.events:
            if event.WhichOneof("event") == "reply":
                assert event.reply.id not in replies, "one reply per operation"
                replies[event.reply.id] = event.reply
    return replies


def info_of(error: aio.AioRpcError) -> error_details_pb2.ErrorInfo:
    """The ErrorInfo that every failed call carries."""
    trailers: Any = error.trailing_metadata()
    metadata: dict[str, bytes] = dict(trailers)
    status = status_pb2.Status.FromString(metadata["grpc-status-details-bin"])
    assert status.code == error.code().value[0]
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "moot"
    return info


async def ending_of(call: Any) -> tuple[grpc.StatusCode, error_details_pb2.ErrorInfo]:
    """Read a stream to its end, which must be an error of ours; returns status and ErrorInfo."""
    try:
        while await asyncio.wait_for(call.read(), 10) is not EOF:
            pass
    except aio.AioRpcError:
        pass
    code = await call.code()
    metadata = dict(await call.trailing_metadata() or ())
    status = status_pb2.Status.FromString(metadata["grpc-status-details-bin"])
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return code, info


async def eventually(condition: Callable[[], bool], within_ms: int = 10_000) -> None:
    """Wait for a condition that only this event loop changes."""
    deadline = asyncio.get_running_loop().time() + within_ms / 1000
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.002)
