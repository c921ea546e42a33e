"""Workers' streams and answers at the gateway: what is handed out, what comes back, and what is refused."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import msgspec
import pytest
from grpc import aio

from cluster.session.operations import Kind, Operation, Reply
from cluster.v1 import documents_pb2 as wire
from tests.gateway.echo_backend import EchoBackend, EchoStream
from tests.gateway.serving import ALICE, DOCUMENTS, EOF, Caller, info_of, serving

PATIENCE_S = 5.0


class Parts(EchoBackend):
    """Two parts that have asks, and hand them out as a shard's leader does. held: who waits, by part."""

    def __init__(self) -> None:
        super().__init__()
        self.free: dict[int, list[str]] = {1: [], 2: []}
        self.given: dict[int, list[str]] = {1: [], 2: []}
        self.held: dict[int, tuple[EchoStream, int]] = {}
        self.orders: list[tuple[int, dict[str, Any]]] = []

    @property
    def parts(self) -> list[int]:
        return [1, 2]

    def order(self, stream: EchoStream, part: int, operation: Operation) -> None:
        order = msgspec.json.decode(operation.payload)
        self.orders.append((part, order))
        for key, ask in order.get("release", ()):
            if ask in self.given[part]:
                self.given[part].remove(ask)
                self.free[part].append(ask)
            assert key == "talk"
        taken = [self.free[part].pop(0) for _ in range(min(order.get("take", 0), len(self.free[part])))]
        self.given[part] += taken
        if order.get("wait") and not self.free[part]:
            self.held[part] = (stream, operation.id)
            return
        work = [{"key": "talk", "ask": ask, "handler": "told", "request": {"n": 1}, "due_ms": 5, "attempt": 2} for ask in taken]
        stream.put(Reply(operation.id, payload=msgspec.json.encode({"work": work, "more": bool(self.free[part])})))

    def add(self, part: int, *asks: str) -> None:
        self.free[part] += asks
        if part in self.held:
            stream, number = self.held.pop(part)
            stream.put(Reply(number, payload=b'{"work":[],"more":true}'))


def worker(caller: Caller) -> Any:
    return caller.channel.stream_stream(
        f"/{DOCUMENTS}/Work",
        request_serializer=lambda data: data if isinstance(data, bytes) else data.SerializeToString(),
        response_deserializer=wire.WorkResponse.FromString,
    )(None, metadata=ALICE)


async def opened(caller: Caller, take: int = 2) -> Any:
    call = worker(caller)
    await call.write(wire.WorkRequest(open=wire.WorkOpen(space="chat", take=take)))
    assert not (await call.read()).asks
    return call


async def asks(call: Any, count: int) -> list[wire.LeasedAsk]:
    found: list[wire.LeasedAsk] = []
    while len(found) < count:
        found += (await asyncio.wait_for(call.read(), PATIENCE_S)).asks
    return found


def finished(*asks: str) -> wire.WorkRequest:
    request = wire.WorkRequest()
    for ask in asks:
        reference = request.finished.add()
        reference.ask, reference.document.space, reference.document.key = ask, "chat", "talk"
    return request


async def test_a_worker_has_at_most_what_it_takes_from_whatever_part_and_gets_more_when_it_has_finished() -> None:
    backend = Parts()
    async with serving(backend) as caller:
        call = await opened(caller)
        backend.add(1, "a", "b", "c")
        first = await asks(call, 2)
        backend.add(2, "d")
        assert [(one.ask, one.document.key, one.request, one.handler, one.deadline_ms, one.attempt) for one in first] == [
            ("a", "talk", b'{"n":1}', "told", 5, 2),
            ("b", "talk", b'{"n":1}', "told", 5, 2),
        ]
        await call.write(finished("a"))
        await call.write(finished("b"))
        assert {one.ask for one in await asks(call, 2)} <= {"c", "d", "a", "b"}
        assert sum(map(len, backend.given.values())) == 2
        call.cancel()


async def test_what_a_worker_had_is_handed_back_when_its_stream_ends() -> None:
    backend = Parts()
    async with serving(backend) as caller:
        call = await opened(caller)
        backend.add(2, "a", "b")
        await asks(call, 2)
        assert backend.given[2] == ["a", "b"]
        await call.done_writing()
        assert await asyncio.wait_for(call.read(), PATIENCE_S) is EOF
        assert (backend.given[2], sorted(backend.free[2])) == ([], ["a", "b"])


async def test_a_worker_is_sent_elsewhere_when_the_gateway_stops() -> None:
    async with serving(Parts()) as caller:
        call = await opened(caller)
        stopping = asyncio.ensure_future(caller.gateway.stop(grace_ms=2_000))
        with pytest.raises(aio.AioRpcError) as failed:
            await asyncio.wait_for(call.read(), PATIENCE_S)
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        await stopping


@pytest.mark.parametrize(
    "frame",
    [
        b"\xff\xff\xff",
        wire.WorkRequest(),
        wire.WorkRequest(open=wire.WorkOpen(space="CHAT!")),
        wire.WorkRequest(open=wire.WorkOpen(space="chat", take=1_001)),
        wire.WorkRequest(open=wire.WorkOpen(space="chat", lease_ms=999)),
        wire.WorkRequest(open=wire.WorkOpen(space="chat", lease_ms=3_600_001)),
    ],
)
async def test_what_opens_no_work_is_refused(frame: wire.WorkRequest | bytes) -> None:
    async with serving(Parts()) as caller:
        call = worker(caller)
        await call.write(frame)
        with pytest.raises(aio.AioRpcError) as failed:
            await asyncio.wait_for(call.read(), PATIENCE_S)
        assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_opening_twice_ends_the_stream() -> None:
    async with serving(Parts()) as caller:
        call = await opened(caller)
        await call.write(wire.WorkRequest(open=wire.WorkOpen(space="chat")))
        with pytest.raises(aio.AioRpcError) as failed:
            await asyncio.wait_for(call.read(), PATIENCE_S)
        assert info_of(failed.value).reason == "INVALID_REQUEST"


async def test_an_answer_is_passed_on_as_one_object_and_one_without_an_ask_is_refused() -> None:
    async with serving() as caller:
        request = wire.AnswerRequest(document=wire.Document(space="text", key="a"), ask="x", value=b"[1]")
        await caller.unary("Answer", request, wire.AnswerResponse)
        seen = caller.backend.seen[-1]
        assert (seen.kind, seen.payload, seen.channel) == (Kind.ANSWER, b'{"ask":"x","value":[1]}', "")
        request.ask = ""
        with pytest.raises(aio.AioRpcError) as failed:
            await caller.unary("Answer", request, wire.AnswerResponse)
        assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
