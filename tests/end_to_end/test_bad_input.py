"""Bad input over gRPC, from outside to the disks of real nodes: a typed error that says applied=no, and nothing changed."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from grpc import StatusCode

from chaos.live.processes import WITHIN_S, LiveCluster
from cluster.v1 import documents_pb2 as wire
from tests.end_to_end.wire_calls import Conversation, Refusal, call, send, session_identity

KEY = "victim"
DEEP = b'{"value":' + b"[" * 5000 + b"]" * 5000 + b"}"
HUGE = b'{"value":"' + b"v" * (1 << 20) + b'"}'
BEYOND_THE_FRAME = b'{"value":"' + b"v" * (5 << 20) + b'"}'

BAD_MESSAGES: dict[str, tuple[wire.SendRequest, StatusCode, str]] = {
    "unknown space": (send("nowhere", KEY, "put"), StatusCode.NOT_FOUND, "UNKNOWN_SPACE"),
    "unknown document": (send("counter", "nobody", "add"), StatusCode.NOT_FOUND, "UNKNOWN_DOCUMENT"),
    "unknown channel": (send("counter", KEY, "explode"), StatusCode.NOT_FOUND, "UNKNOWN_CHANNEL"),
    "construct as a channel": (send("counter", KEY, ""), StatusCode.INVALID_ARGUMENT, "INVALID_NAME"),
    "delete as a channel": (send("counter", KEY, "-delete"), StatusCode.INVALID_ARGUMENT, "INVALID_NAME"),
    "wrong type": (send("counter", KEY, "put", b'{"value":7}'), StatusCode.INVALID_ARGUMENT, "INVALID_PAYLOAD"),
    "missing parameter": (send("counter", KEY, "put"), StatusCode.INVALID_ARGUMENT, "INVALID_PAYLOAD"),
    "unknown parameter": (send("counter", KEY, "add", b'{"more":1}'), StatusCode.INVALID_ARGUMENT, "INVALID_PAYLOAD"),
    "not an object": (send("counter", KEY, "add", b"[1]"), StatusCode.INVALID_ARGUMENT, "INVALID_PAYLOAD"),
    "not JSON": (send("counter", KEY, "add", b"\xff\xfe"), StatusCode.INVALID_ARGUMENT, "INVALID_PAYLOAD"),
    "NaN": (send("counter", KEY, "add", b'{"amount":NaN}'), StatusCode.INVALID_ARGUMENT, "INVALID_PAYLOAD"),
    "infinity": (send("counter", KEY, "add", b'{"amount":1e999}'), StatusCode.INVALID_ARGUMENT, "INVALID_PAYLOAD"),
    "too large an integer": (
        send("counter", KEY, "add", b'{"amount":9007199254740993}'), StatusCode.INVALID_ARGUMENT, "INVALID_PAYLOAD",
    ),
    "duplicate keys": (
        send("counter", KEY, "add", b'{"amount":1,"amount":2}'), StatusCode.INVALID_ARGUMENT, "INVALID_PAYLOAD",
    ),
    "lone surrogate": (
        send("counter", KEY, "put", b'{"value":"\\ud800"}'), StatusCode.INVALID_ARGUMENT, "INVALID_PAYLOAD",
    ),
    "deep nesting": (send("counter", KEY, "put", DEEP), StatusCode.INVALID_ARGUMENT, "TOO_LARGE"),
    "oversize payload": (send("counter", KEY, "put", HUGE), StatusCode.INVALID_ARGUMENT, "TOO_LARGE"),
    "control character in the key": (send("counter", "a\x00b", "add"), StatusCode.INVALID_ARGUMENT, "INVALID_NAME"),
    "control character in the space": (send("coun\nter", KEY, "add"), StatusCode.INVALID_ARGUMENT, "INVALID_NAME"),
    "control character in the channel": (send("counter", KEY, "ad\x1bd"), StatusCode.INVALID_ARGUMENT, "INVALID_NAME"),
    "empty key": (send("counter", "", "add"), StatusCode.INVALID_ARGUMENT, "INVALID_NAME"),
    "overlong key": (send("counter", "k" * 600, "add"), StatusCode.INVALID_ARGUMENT, "INVALID_NAME"),
    "overlong idempotency key": (
        send("counter", KEY, "add", idempotency_key=b"k" * 65), StatusCode.INVALID_ARGUMENT, "TOO_LARGE",
    ),
    "the cluster's own document": (
        send("system", "cluster", "isolate", b'{"shard":1,"index":1,"offset":0,"reason":"mischief"}'),
        StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED",
    ),
}  # fmt: skip


@pytest.fixture(name="victim")
def existing_document(live: LiveCluster) -> str:
    """A counter that exists and that bad messages are aimed at."""

    async def create() -> None:
        answer = await call(live.addresses[0], "Create", wire.CreateRequest(document=wire.Document(space="counter", key=KEY)))
        assert not isinstance(answer, Refusal) or answer.reason == "DOCUMENT_EXISTS"

    asyncio.run(create())
    return KEY


async def position_and_chain(live: LiveCluster) -> tuple[int, bytes]:
    leader = await live.leader_of("counter", KEY)
    answer = await live.inspect(leader, "counter", KEY)
    return answer.position.index, answer.chain


@pytest.mark.parametrize("what", BAD_MESSAGES)
async def test_bad_message_is_refused_with_its_reason_and_changes_nothing(live: LiveCluster, victim: str, what: str) -> None:
    request, code, reason = BAD_MESSAGES[what]
    before = await position_and_chain(live)
    answers = [await call(node.address, "Send", request) for node in live.nodes]
    for answer in answers:
        assert isinstance(answer, Refusal), f"{what} was accepted"
        assert (answer.code, answer.reason, answer.applied) == (code, reason, "no")
    assert await position_and_chain(live) == before


@pytest.mark.parametrize("method", ["Create", "Send", "Read", "Delete", "List"])
async def test_bytes_that_are_no_message_are_refused_as_such(live: LiveCluster, victim: str, method: str) -> None:
    before = await position_and_chain(live)
    answer = await call(live.addresses[1], method, b"\xff\xff\xff garbage \x00")
    assert isinstance(answer, Refusal)
    assert (answer.code, answer.reason, answer.applied) == (StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "no")
    assert await position_and_chain(live) == before


async def test_frame_beyond_the_bound_is_refused_before_it_is_read(live: LiveCluster, victim: str) -> None:
    before = await position_and_chain(live)
    answer = await call(live.addresses[0], "Send", send("counter", KEY, "put", BEYOND_THE_FRAME))
    assert isinstance(answer, Refusal)
    assert answer.code is StatusCode.RESOURCE_EXHAUSTED
    assert await position_and_chain(live) == before


@pytest.mark.parametrize(
    "metadata",
    [(), (("moot-principal", "nobody"),), (("moot-principal", "operator@moot"),), (("moot-principal", "a@b"),) * 2],
    ids=["none", "no authority", "the cluster itself", "two at once"],
)
async def test_caller_without_an_acceptable_principal_is_not_heard(
    live: LiveCluster, victim: str, metadata: tuple[tuple[str, str], ...]
) -> None:
    answer = await call(live.addresses[0], "Send", send("counter", KEY, "add"), metadata)
    assert isinstance(answer, Refusal)
    assert (answer.code, answer.reason, answer.applied) == (StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED", "no")


async def test_deletion_that_the_document_does_not_provide_for_is_denied_and_changes_no_node(live: LiveCluster) -> None:
    key = f"undeletable-{session_identity().hex()}"
    document = wire.Document(space="counter", key=key)
    assert not isinstance(await call(live.addresses[2], "Create", wire.CreateRequest(document=document)), Refusal)
    answer = await call(live.addresses[2], "Delete", wire.DeleteRequest(document=document))
    assert isinstance(answer, Refusal)
    assert (answer.code, answer.reason, answer.applied) == (StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED", "no")
    assert not isinstance(await call(live.addresses[2], "Send", send("counter", key, "add")), Refusal)
    assert [live.local.state(node) for node in live.nodes] == ["running"] * 3


async def test_gap_in_a_session_is_refused_and_says_where_to_resend_from(live: LiveCluster) -> None:
    key = f"gap-{session_identity().hex()}"
    await call(live.addresses[0], "Create", wire.CreateRequest(document=wire.Document(space="counter", key=key)))
    async with Conversation(live.addresses[0], session_identity()) as conversation:
        first = await conversation.put(key, 1, "one")
        assert not first.HasField("error")
        gap = await conversation.put(key, 3, "three")
        assert (gap.error.reason, gap.error.applied) == ("SEQUENCE_GAP", wire.APPLIED_NO)
        assert gap.error.details["expected"] == "2"
        second = await conversation.put(key, 2, "two")
        assert (second.position.epoch, second.position.index) == (first.position.epoch, first.position.index + 1)


async def test_repeated_sequence_gets_its_first_answer_and_another_payload_under_it_is_refused(live: LiveCluster) -> None:
    key = f"repeat-{session_identity().hex()}"
    await call(live.addresses[0], "Create", wire.CreateRequest(document=wire.Document(space="counter", key=key)))
    session = session_identity()
    async with Conversation(live.addresses[0], session) as conversation:
        first = await conversation.put(key, 1, "one")
    async with Conversation(live.addresses[1], session) as conversation:
        again = await conversation.put(key, 1, "one")
        assert (again.position, again.payload) == (first.position, first.payload)
        other = await conversation.put(key, 1, "another")
        assert (other.error.reason, other.error.applied) == ("KEY_REUSED", wire.APPLIED_NO)


async def test_garbage_frame_ends_its_session_and_nobody_elses(live: LiveCluster) -> None:
    key = f"frame-{session_identity().hex()}"
    await call(live.addresses[0], "Create", wire.CreateRequest(document=wire.Document(space="counter", key=key)))
    async with (
        Conversation(live.addresses[0], session_identity()) as bad,
        Conversation(live.addresses[0], session_identity()) as good,
    ):
        ended = await bad.garbage(b"\xff\xff\xff\xff not a frame")
        assert (ended.code, ended.reason, ended.applied) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "no")
        assert not (await good.put(key, 1, "still here")).HasField("error")


async def test_nodes_are_up_and_equal_after_all_of_it(live: LiveCluster, victim: str) -> None:
    assert [live.local.state(node) for node in live.nodes] == ["running"] * 3
    answer = await call(live.addresses[0], "Send", send("counter", KEY, "add"))
    assert not isinstance(answer, Refusal)
    index = wire.SendResponse.FromString(answer).position.index
    inspected = await live.converged("counter", KEY, index)
    assert len({each.record_hash for each in inspected.values()}) == 1


async def test_bytes_that_are_not_http_do_not_hurt_the_gateway(live: LiveCluster, victim: str) -> None:
    reader, writer = await asyncio.open_connection(*_host_port(live.addresses[0]))
    writer.write(b"GET / HTTP/1.0\r\n\r\n" + bytes(range(256)) * 64)
    await writer.drain()
    await asyncio.wait_for(_until_closed(reader), WITHIN_S)
    writer.close()
    assert not isinstance(await call(live.addresses[0], "Send", send("counter", KEY, "add")), Refusal)


async def _until_closed(reader: asyncio.StreamReader) -> None:
    try:
        while await reader.read(4096):
            pass
    except ConnectionError:
        return


def _host_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)
