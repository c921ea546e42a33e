"""The unary calls and Watch: what any gRPC client gets with nothing but the proto files."""

from __future__ import annotations

import asyncio
import random

import grpc
import pytest
from grpc import aio

from cluster.gateway import Limits
from cluster.gateway.unary import UnaryCalls
from cluster.session.operations import Failure, Kind, Operation
from cluster.v1 import documents_pb2 as wire
from tests.gateway.echo_backend import EchoBackend
from tests.gateway.serving import Caller, eventually, info_of, serving

A = wire.Document(space="text", key="a")
UNAVAILABLE = Failure("UNAVAILABLE", "no leader", True, "no")


def send(payload: bytes = b"{}", key: bytes = b"", channel: str = "echo") -> wire.SendRequest:
    return wire.SendRequest(document=A, channel=channel, payload=payload, idempotency_key=key)


async def create(caller: Caller, key: str = "a") -> wire.CreateResponse:
    request = wire.CreateRequest(document=wire.Document(space="text", key=key))
    response: wire.CreateResponse = await caller.unary("Create", request, wire.CreateResponse)
    return response


async def test_a_document_is_created_sent_to_read_listed_and_deleted() -> None:
    async with serving() as caller:
        created = await create(caller)
        assert (created.position.epoch, created.position.index) == (1, 1)
        sent = await caller.unary("Send", send(b'{"n":1}'), wire.SendResponse)
        assert (sent.position.index, sent.payload) == (2, b'{"n":1}')
        read = await caller.unary("Read", wire.ReadRequest(document=A), wire.ReadResponse)
        assert (read.position.index, read.view) == (2, b'{"count":1,"last":{"n":1}}')
        deleted = await caller.unary("Delete", wire.DeleteRequest(document=A), wire.DeleteResponse)
        assert (deleted.position.epoch, deleted.position.index) == (1, 3)
        assert (await create(caller)).position.epoch == 2


@pytest.mark.parametrize("hash", ["", "tea", "../etc/passwd", "A" * 64, "a" * 65, "é" * 64])
async def test_what_can_not_be_the_hash_of_a_blob_is_refused_at_the_gateway(hash: str) -> None:
    async with serving() as caller:
        await create(caller)
        with pytest.raises(aio.AioRpcError) as refused:
            await caller.unary("ReadBlob", wire.ReadBlobRequest(document=A, hash=hash), wire.ReadBlobResponse)
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert info_of(refused.value).reason == "INVALID_REQUEST"


async def test_a_space_is_listed_page_by_page() -> None:
    async with serving() as caller:
        for number in range(5):
            await create(caller, f"k{number}")
        await create(caller, "other")
        request = wire.ListRequest(space="text", key_prefix="k", page_size=2)
        pages = []
        while True:
            response = await caller.unary("List", request, wire.ListResponse)
            pages.append([summary.document.key for summary in response.documents])
            assert all(summary.document.space == "text" for summary in response.documents)
            assert all(summary.position.epoch == 1 for summary in response.documents)
            if not response.next_page_token:
                break
            request.page_token = response.next_page_token
    assert pages == [["k0", "k1"], ["k2", "k3"], ["k4"]]


async def test_a_repeat_under_an_idempotency_key_runs_once() -> None:
    async with serving() as caller:
        await create(caller)
        first = await caller.unary("Send", send(b"1", b"key-1"), wire.SendResponse)
        second = await caller.unary("Send", send(b"1", b"key-1"), wire.SendResponse)
        assert first == second
        assert caller.backend.documents["text", "a"].count == 1


async def test_two_sends_without_a_key_are_two_sends() -> None:
    async with serving() as caller:
        await create(caller)
        await caller.unary("Send", send(b"1"), wire.SendResponse)
        await caller.unary("Send", send(b"1"), wire.SendResponse)
        assert caller.backend.documents["text", "a"].count == 2


async def test_a_key_with_another_payload_is_refused() -> None:
    async with serving() as caller:
        await create(caller)
        await caller.unary("Send", send(b"1", b"key-1"), wire.SendResponse)
        with pytest.raises(aio.AioRpcError) as raised:
            await caller.unary("Send", send(b"2", b"key-1"), wire.SendResponse)
    assert info_of(raised.value).reason == "KEY_REUSED"
    assert info_of(raised.value).metadata["applied"] == "no"


async def test_a_failure_that_passes_is_not_seen_by_the_caller() -> None:
    async with serving() as caller:
        await create(caller)
        caller.backend.failures.extend([UNAVAILABLE, UNAVAILABLE])
        await caller.unary("Send", send(b"1"), wire.SendResponse, timeout=5)
        assert caller.backend.documents["text", "a"].count == 1


async def test_an_unknown_outcome_is_found_out_under_the_same_key() -> None:
    """testing.md 31 and 32: clients that repeat without an identity apply twice; here the gateway gives every write one."""
    async with serving() as caller:
        await create(caller)
        caller.backend.failures.append(Failure("OUTCOME_UNKNOWN", "lost sight", False, "unknown"))
        await caller.unary("Send", send(b"1"), wire.SendResponse, timeout=5)
        assert caller.backend.documents["text", "a"].count == 1


async def test_a_failure_that_stays_is_told_before_the_deadline() -> None:
    async with serving() as caller:
        await create(caller)
        caller.backend.failures.extend([UNAVAILABLE] * 1000)
        with pytest.raises(aio.AioRpcError) as raised:
            await caller.unary("Send", send(b"1"), wire.SendResponse, timeout=0.5)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert info_of(raised.value).metadata["applied"] == "no"


async def test_a_hint_to_wait_beyond_the_deadline_ends_the_call_at_once() -> None:
    async with serving() as caller:
        caller.backend.failures.append(Failure("OVERLOADED", "full", True, "no", 60_000))
        with pytest.raises(aio.AioRpcError) as raised:
            await caller.unary("Send", send(b"1"), wire.SendResponse, timeout=30)
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert info_of(raised.value).metadata["retry_after_ms"] == "60000"


@pytest.mark.parametrize(("method", "reason"), [("Send", "OUTCOME_UNKNOWN"), ("Read", "UNAVAILABLE")])
async def test_a_backend_that_never_answers_is_reported_by_what_may_have_happened(method: str, reason: str) -> None:
    request = send() if method == "Send" else wire.ReadRequest(document=A)
    async with serving(limits=Limits(unary_timeout_ms=100)) as caller:
        caller.backend.mute = True
        with pytest.raises(aio.AioRpcError) as raised:
            await caller.unary(method, request, wire.Reply)
    assert info_of(raised.value).reason == reason


@pytest.mark.parametrize("reason", ["refuse", "fail"])
async def test_an_answer_of_the_handler_is_not_retried(reason: str) -> None:
    async with serving() as caller:
        await create(caller)
        before = caller.backend.submitted
        with pytest.raises(aio.AioRpcError) as raised:
            await caller.unary("Send", send(b'{"why":1}', channel=reason), wire.SendResponse)
        assert caller.backend.submitted == before + 1
    info = info_of(raised.value)
    assert info.metadata["retryable"] == "false"
    if reason == "refuse":
        assert (info.reason, info.metadata["name"], info.metadata["arguments"]) == ("HANDLER_REFUSED", "Closed", '[{"why":1}]')
    else:
        assert (info.reason, info.metadata["error_id"]) == ("HANDLER_FAILED", "e1")


NAMES = [
    wire.Document(),
    wire.Document(space="Text", key="a"),
    wire.Document(space="text", key=""),
    wire.Document(space="text", key="a\nb"),
    wire.Document(space="text", key="k" * 513),
    wire.Document(space="t" * 64, key="a"),
]


@pytest.mark.parametrize("document", NAMES, ids=range(len(NAMES)))
async def test_bad_names_are_refused_before_the_backend_sees_them(document: wire.Document) -> None:
    async with serving() as caller:
        for method, request in [
            ("Create", wire.CreateRequest(document=document)),
            ("Send", wire.SendRequest(document=document, channel="echo")),
            ("Read", wire.ReadRequest(document=document)),
            ("Delete", wire.DeleteRequest(document=document)),
        ]:
            with pytest.raises(aio.AioRpcError) as raised:
                await caller.unary(method, request, wire.Reply)
            assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert info_of(raised.value).reason == "INVALID_NAME"
            assert info_of(raised.value).metadata["applied"] == "no"
        assert caller.backend.submitted == 0


REFUSED = [
    ("Send", wire.SendRequest(document=A, channel="not a name"), "INVALID_NAME"),
    ("Send", wire.SendRequest(document=A, channel="echo", payload=b"x" * 1001), "TOO_LARGE"),
    ("Send", wire.SendRequest(document=A, channel="echo", idempotency_key=b"x" * 65), "TOO_LARGE"),
    ("Create", wire.CreateRequest(document=A, payload=b"x" * 1001), "TOO_LARGE"),
    ("Read", wire.ReadRequest(document=A, consistency=wire.CONSISTENCY_AT_LEAST), "INVALID_REQUEST"),
    ("Read", wire.ReadRequest(document=A, consistency=17), "INVALID_REQUEST"),  # type: ignore[arg-type]
    ("Read", wire.ReadRequest(document=A, at_least=wire.Position(epoch=2**60)), "INVALID_REQUEST"),
    ("List", wire.ListRequest(space="text", page_size=1001), "TOO_LARGE"),
    ("List", wire.ListRequest(space="text", page_token="x" * 2049), "INVALID_REQUEST"),
    ("List", wire.ListRequest(space="text", key_prefix="\x00"), "INVALID_NAME"),
    ("List", wire.ListRequest(), "INVALID_NAME"),
]


@pytest.mark.parametrize(("method", "request_", "reason"), REFUSED, ids=range(len(REFUSED)))
async def test_requests_beyond_a_bound_are_refused_with_a_reason(method: str, request_: object, reason: str) -> None:
    async with serving(limits=Limits(payload_bytes_max=1000)) as caller:
        with pytest.raises(aio.AioRpcError) as raised:
            await caller.unary(method, request_, wire.Reply)
        assert caller.backend.submitted == 0
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert info_of(raised.value).reason == reason


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x05ab", b"\x0a\x04\x0a\x02\xff\xfe", b"\x0a" * 100])
@pytest.mark.parametrize("method", ["Create", "Send", "Read", "Delete", "List"])
async def test_bytes_that_are_no_message_are_an_invalid_request(method: str, data: bytes) -> None:
    """Broken tags, cut lengths, and text that is not UTF-8: gRPC itself would call them internal errors."""
    async with serving() as caller:
        with pytest.raises(aio.AioRpcError) as raised:
            await caller.unary(method, data, wire.Reply)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert info_of(raised.value).metadata["applied"] == "no"


async def test_a_message_beyond_the_frame_bound_never_reaches_a_decoder() -> None:
    async with serving(limits=Limits(payload_bytes_max=1000, frame_bytes_max=2000)) as caller:
        with pytest.raises(aio.AioRpcError) as raised:
            await caller.unary("Send", send(b"x" * 3000), wire.SendResponse)
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await create(caller)


async def test_reads_reach_the_backend_with_what_was_asked() -> None:
    async with serving() as caller:
        await create(caller)
        seen = caller.backend.seen
        seen.clear()
        position = wire.Position(epoch=1, index=1)
        for request in [
            wire.ReadRequest(document=A),
            wire.ReadRequest(document=A, consistency=wire.CONSISTENCY_ANY),
            wire.ReadRequest(document=A, consistency=wire.CONSISTENCY_AT_LEAST, at_least=position),
            wire.ReadRequest(document=A, consistency=wire.CONSISTENCY_ANY, at_least=position),
        ]:
            await caller.unary("Read", request, wire.ReadResponse)
    assert [(each.kind, each.consistency, each.epoch, each.index) for each in seen] == [
        (Kind.READ, 0, 0, -1),
        (Kind.READ, 2, 0, -1),
        (Kind.READ, 1, 1, 1),
        (Kind.READ, 1, 1, 1),
    ]
    assert {each.principal for each in seen} == {"alice@acme"}


async def test_unary_calls_of_one_moment_are_one_submit() -> None:
    backend = EchoBackend()
    calls = UnaryCalls(backend, Limits(), random.Random(1))
    reads = [Operation(0, Kind.READ.value, "text", "a", "alice@acme") for _ in range(50)]
    results = await asyncio.gather(*(calls.run(read, None) for read in reads))
    assert list(backend.batches) == [50]
    assert {failure.reason for failure in results if isinstance(failure, Failure)} == {"UNKNOWN_DOCUMENT"}


async def test_calls_under_way_are_told_that_the_gateway_stops() -> None:
    backend = EchoBackend()
    backend.mute = True
    calls = UnaryCalls(backend, Limits(), random.Random(1))
    call = asyncio.ensure_future(calls.run(Operation(0, Kind.SEND.value, "text", "a", "alice@acme", session=b"k"), 60_000))
    await eventually(lambda: backend.submitted == 1)
    calls.close()
    result = await call
    assert isinstance(result, Failure)
    assert (result.reason, result.applied) == ("OUTCOME_UNKNOWN", "unknown")


async def test_calls_beyond_their_bound_are_refused() -> None:
    backend = EchoBackend()
    backend.mute = True
    calls = UnaryCalls(backend, Limits(unary_open_max=1), random.Random(1))
    first = asyncio.ensure_future(calls.run(Operation(0, Kind.READ.value, "text", "a", "alice@acme"), 60_000))
    await eventually(lambda: backend.submitted == 1)
    result = await calls.run(Operation(0, Kind.READ.value, "text", "a", "alice@acme"), 60_000)
    assert isinstance(result, Failure)
    assert (result.reason, result.details) == ("OVERLOADED", {"limit": "unary_open_max"})
    first.cancel()


async def test_a_watch_begins_with_the_view_and_goes_on_with_patches() -> None:
    async with serving() as caller:
        await create(caller)
        call = caller.watch(wire.WatchRequest(document=A))
        first = await call.read()
        assert (first.view, first.position.index) == (b'{"count":0,"last":null}', 1)
        await caller.unary("Send", send(b"7"), wire.SendResponse)
        second = await call.read()
        assert (second.base.index, second.position.index) == (1, 2)
        assert b'"value":7' in second.patch
        call.cancel()
        await eventually(lambda: not caller.backend.documents["text", "a"].watchers)


async def test_a_watch_resumes_after_a_position() -> None:
    async with serving() as caller:
        await create(caller)
        for number in range(3):
            await caller.unary("Send", send(b"%d" % number), wire.SendResponse)
        call = caller.watch(wire.WatchRequest(document=A, resume_after=wire.Position(epoch=1, index=2)))
        steps = [await call.read(), await call.read()]
        assert [(step.base.index, step.position.index, step.WhichOneof("change")) for step in steps] == [
            (2, 3, "patch"),
            (3, 4, "patch"),
        ]


async def test_a_watch_of_nothing_fails_with_the_documents_error() -> None:
    async with serving() as caller:
        with pytest.raises(aio.AioRpcError) as raised:
            await caller.watch(wire.WatchRequest(document=A)).read()
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    assert info_of(raised.value).reason == "UNKNOWN_DOCUMENT"


async def test_a_watcher_that_does_not_read_holds_a_bounded_amount_and_catches_up() -> None:
    backend = EchoBackend()
    async with serving(backend, limits=Limits(watch_credit_bytes=100_000, watch_credit_bytes_max=100_000)) as caller:
        await create(caller)
        call = caller.watch(wire.WatchRequest(document=A))
        await call.read()
        payload = b'"' + b"x" * 200_000 + b'"'
        for _ in range(100):
            await caller.unary("Send", send(payload), wire.SendResponse)
        last = 0
        steps = 0
        while last < 101:
            last = (await asyncio.wait_for(call.read(), 10)).position.index
            steps += 1
        assert steps < 100, "a slow reader is sent fewer, larger steps"
