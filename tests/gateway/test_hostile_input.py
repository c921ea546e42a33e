"""Bytes that nobody meant: mutated and random frames at every way in. Each gets a typed answer, and the gateway lives on."""

from __future__ import annotations

import asyncio
import logging
import random

import grpc
import pytest
from grpc import aio

from cluster.v1 import admin_pb2
from cluster.v1 import documents_pb2 as wire
from tests.gateway.serving import ALICE, EOF, SESSION, Caller, ask, ending_of, info_of, operation, serving

CASES = 300
ANSWERS = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
}

A = wire.Document(space="text", key="a")
CAPTURES = {
    "Create": wire.CreateRequest(document=A, payload=b"{}", idempotency_key=b"k"),
    "Send": wire.SendRequest(document=A, channel="echo", payload=b"{}", idempotency_key=b"k"),
    "Read": wire.ReadRequest(document=A, consistency=wire.CONSISTENCY_ANY, at_least=wire.Position(epoch=1, index=1)),
    "Delete": wire.DeleteRequest(document=A, idempotency_key=b"k"),
    "List": wire.ListRequest(space="text", key_prefix="a", page_size=5, page_token="a"),
}
FRAME = wire.SessionRequest(
    operations=[
        operation(1, "a", 1, create=wire.Create(payload=b"{}")),
        operation(2, "a", 2, send=("echo", b'{"n":1}')),
        operation(3, "a", read=wire.Read(at_least=wire.Position(epoch=1, index=1))),
        operation(4, "a", watch=wire.Watch(credit_bytes=100)),
        operation(4, grant=wire.Grant(credit_bytes=100)),
        operation(4, unwatch=wire.Unwatch()),
    ]
)


def mutated(data: bytes, randomness: random.Random) -> bytes:
    """The bytes with a few of them changed, removed, repeated or cut off."""
    changed = bytearray(data)
    for _ in range(randomness.randint(1, 4)):
        if not changed:
            break
        at = randomness.randrange(len(changed))
        match randomness.randrange(5):
            case 0:
                changed[at] ^= 1 << randomness.randrange(8)
            case 1:
                changed[at] = randomness.choice((0, 0x7F, 0x80, 0xFF))
            case 2:
                del changed[at : at + randomness.randint(1, 8)]
            case 3:
                changed[at:at] = changed[at : at + randomness.randint(1, 16)]
            case _:
                del changed[at:]
    return bytes(changed)


def no_fault_of_ours(log: pytest.LogCaptureFixture) -> None:
    assert [record.getMessage() for record in log.records if record.levelno >= logging.ERROR] == []


@pytest.mark.parametrize("method", CAPTURES)
async def test_a_mutated_call_is_answered_and_typed(method: str, caplog: pytest.LogCaptureFixture) -> None:
    randomness = random.Random(method)
    data = CAPTURES[method].SerializeToString()
    async with serving() as caller:

        async def attempt(case: bytes) -> tuple[grpc.StatusCode, str]:
            try:
                await caller.unary(method, case, getattr(wire, f"{method}Response"), timeout=20)
            except aio.AioRpcError as error:
                return error.code(), info_of(error).metadata["applied"]
            return grpc.StatusCode.OK, "no"

        results = {await attempt(mutated(data, randomness)) for _ in range(CASES)}
        assert {code for code, _ in results} <= ANSWERS
        assert {applied for _, applied in results} == {"no"}
        assert (grpc.StatusCode.INVALID_ARGUMENT, "no") in results, "the mutations were too mild to test anything"
        no_fault_of_ours(caplog)


async def one_stream(caller: Caller, case: bytes) -> str:
    """Send one frame of bytes after a proper opening; returns how it went."""
    call = await caller.session()
    try:
        await call.write(case)
        await call.done_writing()
        async with asyncio.timeout(20):
            while True:
                frame = await call.read()
                if frame is EOF:
                    return "ended"
                assert all(not event.reply.HasField("error") or event.reply.error.reason for event in frame.events)
                if any(event.WhichOneof("event") == "delta" for event in frame.events):
                    call.cancel()  # a watch stayed open: it would go on for ever
                    return "watching"
    except aio.AioRpcError:
        code, info = await ending_of(call)
        assert code is grpc.StatusCode.INVALID_ARGUMENT, case.hex()
        assert info.reason == "INVALID_REQUEST"
        return "refused"


async def test_mutated_frames_of_a_session_are_answered_and_the_next_stream_works(caplog: pytest.LogCaptureFixture) -> None:
    randomness = random.Random(7)
    data = FRAME.SerializeToString()
    async with serving() as caller:
        ends = [await one_stream(caller, mutated(data, randomness)) for _ in range(CASES)]
        assert {"ended", "refused"} <= set(ends)
        call = await caller.session()
        assert not (await ask(call, [operation(1, "fresh", 1, create=wire.Create())]))[1].HasField("error")
        no_fault_of_ours(caplog)


async def test_random_bytes_open_nothing(caplog: pytest.LogCaptureFixture) -> None:
    randomness = random.Random(11)
    async with serving() as caller:
        for _ in range(100):
            call = caller.stream()
            await call.write(randomness.randbytes(randomness.randint(0, 64)))
            code, info = await ending_of(call)
            assert code is grpc.StatusCode.INVALID_ARGUMENT
            assert info.metadata["applied"] == "no"
        assert caller.backend.submitted == 0
        no_fault_of_ours(caplog)


async def test_deep_nesting_in_unknown_fields_ends_no_gateway() -> None:
    """CVE-2025-4565: unbounded recursion of a parser. Nesting is cut off by the compiled one."""
    nested = b""
    for _ in range(5000):
        length = len(nested)
        nested = b"\x0a" + _varint(length) + nested
    async with serving() as caller:
        for service, method in (("DocumentService", "Create"), ("AdminService", "Where")):
            with pytest.raises(aio.AioRpcError) as raised:
                await caller.unary(method, nested, wire.Reply, service=f"cluster.v1.{service}")
            assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        await caller.unary("GetStatus", b"", admin_pb2.GetStatusResponse, service="cluster.v1.AdminService")


async def test_a_method_that_does_not_exist_is_unimplemented() -> None:
    async with serving() as caller:
        with pytest.raises(aio.AioRpcError) as raised:
            await caller.unary("Destroy", b"", wire.Reply)
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_metadata_beyond_its_bound_is_refused() -> None:
    async with serving() as caller:
        with pytest.raises(aio.AioRpcError) as raised:
            await caller.unary("Read", wire.ReadRequest(document=A), wire.Reply, metadata=(*ALICE, ("padding", "x" * 200_000)))
    assert raised.value.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)


async def test_streams_that_come_and_go_leave_nothing_behind() -> None:
    """Rapid reset (CVE-2023-44487): a stream that is cancelled at once must cost nothing afterwards."""
    async with serving() as caller:
        for _ in range(300):
            call = caller.stream()
            await call.write(wire.SessionRequest(open=wire.Open(session=SESSION)))
            call.cancel()
        call = await caller.session()
        await ask(call, [operation(1, "a", 1, create=wire.Create())])
        call.cancel()
        deadline = asyncio.get_running_loop().time() + 10
        while len(caller.backend.streams) > 1:  # the one of the unary calls stays
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.01)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
