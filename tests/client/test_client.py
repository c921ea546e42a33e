"""The Python client against real gateways: documents as objects, errors as classes, one stream for everything."""

from __future__ import annotations

import asyncio
import time

import pytest

from cluster.client import Consistency, Refusal, Settings, connect
from cluster.errors import (
    Applied,
    ConfigurationInvalid,
    DocumentExists,
    HandlerFailed,
    HandlerRefused,
    InvalidName,
    OutcomeUnknown,
    Overloaded,
    TooLarge,
    Unauthenticated,
    Unavailable,
    UnknownDocument,
    UnknownSpace,
)
from cluster.ids import Position
from cluster.session.operations import Failure, Kind
from cluster.v1 import admin_pb2
from tests.client.cluster_of_gateways import Relay, gateways

ALICE = "alice@acme"
PATIENT = Settings(backoff_min_ms=1, backoff_max_ms=20)


async def test_a_document_lives_its_life() -> None:
    async with gateways() as cluster, connect(cluster.addresses[0], principal=ALICE) as client:
        created = await client.create("text", "a", {"title": "x"})
        assert (created.position, created.value) == (Position(1, 1), {"title": "x"})
        sent = await client.send("text", "a", "echo", {"n": 1})
        assert (sent.position, sent.value, sent.payload) == (Position(1, 2), {"n": 1}, b'{"n":1}')
        read = await client.read("text", "a")
        assert (read.position, read.value) == (Position(1, 2), {"count": 1, "last": {"n": 1}})
        assert await client.delete("text", "a") == Position(1, 3)
        with pytest.raises(UnknownDocument):
            await client.read("text", "a")
        assert (await client.create("text", "a")).position.epoch == 2


async def test_a_handle_repeats_no_address() -> None:
    async with gateways() as cluster, connect(cluster.addresses[0], principal=ALICE) as client:
        document = client.document("text", "a")
        await document.create()
        assert await document.send_nowait("echo", b"5")
        assert (await document.send("echo", {"n": 2})).position.index == 3
        assert (await document.read(consistency=Consistency.ANY)).value["count"] == 2
        assert str(document.id) == "text/a"
        await document.delete()


async def test_operations_of_one_turn_leave_in_one_frame() -> None:
    """Performance rule: frames carry batches, because a stream message costs a hundred times an operation."""
    async with gateways() as cluster, connect(cluster.addresses[0], principal=ALICE) as client:
        await client.create("text", "a")
        cluster.backend.batches.clear()
        pending = [client.send_nowait("text", "a", "echo", b"%d" % number) for number in range(100)]
        answers = [await each for each in pending]
        assert list(cluster.backend.batches) == [100]
        assert [answer.position.index for answer in answers] == list(range(2, 102))


async def test_many_documents_share_one_stream() -> None:
    async with gateways() as cluster, connect(cluster.addresses[0], principal=ALICE) as client:
        await asyncio.gather(*(client.create("text", f"k{number}") for number in range(50)))
        assert list(cluster.backend.batches) == [50]
        listed = [key async for key, _ in client.list("text", page_size=7)]
        assert listed == sorted(f"k{number}" for number in range(50))
        assert [key async for key, _ in client.list("text", "k1")] == ["k1", *(f"k1{number}" for number in range(10))]


async def test_a_declared_refusal_carries_its_name_and_arguments() -> None:
    async with gateways() as cluster, connect(cluster.addresses[0], principal=ALICE) as client:
        await client.create("text", "a")
        with pytest.raises(HandlerRefused) as raised:
            await client.send("text", "a", "refuse", {"limit": 3})
        refusal = raised.value
        assert isinstance(refusal, Refusal)
        assert (refusal.name, refusal.arguments, refusal.message) == ("Closed", [{"limit": 3}], "Too late.")
        assert refusal.applied is Applied.NO
        with pytest.raises(HandlerFailed) as failed:
            await client.send("text", "a", "fail")
        assert failed.value.details == {"error_id": "e1"}


class Closed(Exception):
    """An author's refusal, as the application imports it."""


async def test_a_refusal_is_raised_as_its_authors_class_where_that_is_known() -> None:
    async with gateways() as cluster, connect(cluster.addresses[0], principal=ALICE, refusals=[Closed]) as client:
        await client.create("text", "a")
        with pytest.raises(Closed) as raised:
            await client.send_nowait("text", "a", "refuse", {"limit": 3})
        assert raised.value.args == ({"limit": 3},)
        assert isinstance(raised.value.__cause__, Refusal)


async def test_closing_the_client_leaves_nobody_waiting() -> None:
    async with gateways() as cluster:
        async with connect(cluster.addresses[0], principal=ALICE) as client:
            cluster.backend.mute = True
            pending = client.send_nowait("text", "a", "echo")
            await asyncio.sleep(0)
        with pytest.raises(OutcomeUnknown):
            await pending


async def test_refusals_are_raised_as_the_clusters_own_classes() -> None:
    async with gateways() as cluster, connect(cluster.addresses[0], principal=ALICE) as client:
        with pytest.raises(UnknownDocument):
            await client.send("text", "a", "echo")
        await client.create("text", "a")
        with pytest.raises(DocumentExists):
            await client.create("text", "a")
        with pytest.raises(TooLarge):
            await client.send("text", "a", "echo", b"x" * (1024 * 1024 + 1))
        for call in (
            client.send("Text", "a", "echo"),
            client.send("text", "", "echo"),
            client.send("text", "a", "no name"),
            client.read("text", "\x00"),
        ):
            with pytest.raises(InvalidName):
                await call
        assert (await client.send("text", "a", "echo")).position.index == 2


async def test_writes_behind_a_refused_one_run_in_their_order() -> None:
    """A refusal before the log uses up no sequence, so the numbers of everything pipelined behind it are wrong by one."""
    async with gateways() as cluster, connect(cluster.addresses[0], principal=ALICE, settings=PATIENT) as client:
        await client.create("text", "a")
        pending = [
            client.send_nowait("text", "a", "no_such_channel" if number % 5 == 2 else "echo", b"%d" % number)
            for number in range(20)
        ]
        results = await asyncio.gather(*pending, return_exceptions=True)
        good = [number for number in range(20) if number % 5 != 2]
        assert [results[number].position.index for number in good] == list(range(2, 18))  # type: ignore[union-attr]
        assert cluster.backend.documents["text", "a"].last == b"19"
        assert all(getattr(results[number], "reason", "") == "UNKNOWN_CHANNEL" for number in range(2, 20, 5))


@pytest.mark.parametrize(
    "failure",
    [
        Failure("UNAVAILABLE", "no leader", True, "no"),
        Failure("NOT_LEADER", "elsewhere", True, "no", 1, {"leader": "n2"}),
        Failure("UNAVAILABLE", "lost on the way", True, "unknown"),
        Failure("OUTCOME_UNKNOWN", "lost sight", False, "unknown"),
        Failure("OVERLOADED", "full", True, "no", 5),
    ],
    ids=lambda failure: f"{failure.reason}-{failure.applied}",
)
async def test_a_failure_that_passes_is_not_seen_and_keeps_the_order(failure: Failure) -> None:
    async with gateways() as cluster, connect(cluster.addresses[0], principal=ALICE, settings=PATIENT) as client:
        await client.create("text", "a")
        cluster.backend.failures.extend([None, failure, None, failure])
        pending = [client.send_nowait("text", "a", "echo", b"%d" % number) for number in range(10)]
        answers = [await each for each in pending]
        assert [answer.payload for answer in answers] == [b"%d" % number for number in range(10)]
        assert [answer.position.index for answer in answers] == list(range(2, 12))


async def test_a_read_of_a_session_carries_the_last_position_it_has_seen() -> None:
    async with gateways() as cluster, connect(cluster.addresses[0], principal=ALICE) as client:
        await client.create("text", "a")
        await client.send("text", "a", "echo")
        seen = cluster.backend.seen
        seen.clear()
        await client.read("text", "a", consistency=Consistency.ANY)
        await client.read("text", "a", consistency=Consistency.AT_LEAST, at_least=Position(1, 2))
    assert [(each.kind, each.consistency, each.epoch, each.index) for each in seen] == [
        (Kind.READ, Consistency.AT_LEAST, 1, 2),
        (Kind.READ, Consistency.AT_LEAST, 1, 2),
    ]


async def test_an_operation_without_an_answer_says_what_may_have_happened() -> None:
    settings = Settings(operation_timeout_ms=150, reply_timeout_ms=10_000)
    async with gateways() as cluster, connect(cluster.addresses[0], principal=ALICE, settings=settings) as client:
        cluster.backend.mute = True
        with pytest.raises(OutcomeUnknown) as raised:
            await client.send("text", "a", "echo")
        assert raised.value.applied is Applied.UNKNOWN
        with pytest.raises(Unavailable):
            await client.read("text", "a")


async def test_operations_beyond_the_queue_bound_are_refused() -> None:
    settings = Settings(queued_max=10)
    async with gateways() as cluster, connect(cluster.addresses[0], principal=ALICE, settings=settings) as client:
        cluster.backend.mute = True
        pending = [client.send_nowait("text", "a", "echo") for _ in range(11)]
        with pytest.raises(Overloaded):
            await pending[10]


async def test_giving_up_the_wait_gives_up_nothing_else() -> None:
    async with gateways() as cluster, connect(cluster.addresses[0], principal=ALICE) as client:
        await client.create("text", "a")
        pending = client.send_nowait("text", "a", "echo", b"7")
        waiting = asyncio.ensure_future(asyncio.wait_for(pending, 30))
        await asyncio.sleep(0)
        waiting.cancel()
        assert (await pending).payload == b"7"


async def test_admin_calls_answer_with_their_messages() -> None:
    async with gateways() as cluster, connect(cluster.addresses[0], principal=ALICE) as client:
        cluster.backend.admin_answers["GetSpace"] = {"space": {"name": "text", "version": 2}}
        response = await client.admin("GetSpace", space="text")
        assert isinstance(response, admin_pb2.GetSpaceResponse)
        assert response.space.version == 2
        cluster.backend.admin_answers["GetSpace"] = UnknownSpace("no such space")
        with pytest.raises(UnknownSpace, match="no such space"):
            await client.admin("GetSpace", space="text")


async def test_a_principal_that_is_none_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(InvalidName):
        connect("127.0.0.1:1", principal="alice")
    with pytest.raises(ConfigurationInvalid):
        connect(principal=ALICE)


async def test_a_principal_that_the_gateway_does_not_take_is_unauthenticated() -> None:
    async with gateways() as cluster:
        with pytest.raises(Unauthenticated):
            async with connect(cluster.addresses[0], principal="document:chat/lobby@moot"):
                pass


async def test_addresses_where_nobody_answers_are_unavailable_in_time() -> None:
    began = time.monotonic()
    with pytest.raises(Unavailable):
        async with connect("127.0.0.1:1", "127.0.0.1:2", principal=ALICE, open_timeout_ms=300):
            pass
    assert time.monotonic() - began < 5


async def test_an_address_that_accepts_and_says_nothing_is_passed_over() -> None:
    async with gateways() as cluster, Relay(cluster.addresses[0]) as relay:
        relay.silent = True
        # one attempt has as long as all: the silent address uses up its own time, then the next one is asked.
        with pytest.raises(Unavailable):
            async with connect(relay.address, principal=ALICE, open_timeout_ms=200):
                pass
        assert relay.connections >= 1


async def test_a_clock_that_is_ahead_is_corrected_for() -> None:
    """A session from the future would make documents refuse everybody else's; the gateway says by how much it is ahead."""
    hour_ms = 3_600_000

    def now_ms() -> int:
        return time.time_ns() // 1_000_000

    async with gateways() as cluster:
        async with connect(cluster.addresses[0], principal=ALICE, clock_ms=lambda: now_ms() + hour_ms) as client:
            await client.create("text", "a")
        (session,) = (session for session in cluster.backend.documents["text", "a"].sessions if session)
        made_ms = int.from_bytes(session[:6], "big")
        assert abs(made_ms - now_ms()) < 60_000
