"""The client when gateways die, networks break and streams end: nothing lost, nothing twice, nothing out of order."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cluster.client import Client, Settings, Watch, connect
from cluster.errors import DocumentDeleted, UnknownDocument
from cluster.ids import Position
from cluster.session.operations import Delta, Failure
from tests.client.cluster_of_gateways import Gateways, Relay, gateways
from tests.gateway.echo_backend import EchoStream
from tests.gateway.serving import eventually

ALICE = "alice@acme"
PATIENT = Settings(backoff_min_ms=1, backoff_max_ms=20, reply_timeout_ms=300)


async def read_until(watch: Watch, index: int) -> list[Any]:
    """The steps of a watch up to a position, each checked to continue the one before."""
    steps: list[Any] = []
    async with asyncio.timeout(10):
        async for change in watch:
            if steps:
                assert change.position > steps[-1].position
            steps.append(change)
            if change.position.index >= index:
                return steps
    raise AssertionError("the watch ended early")


async def test_writes_go_on_at_another_gateway_when_one_stops() -> None:
    async with gateways(3) as cluster, connect(*cluster.addresses, principal=ALICE, settings=PATIENT) as client:
        await client.create("text", "a")
        pending = []
        for number in range(300):
            pending.append(client.send_nowait("text", "a", "echo", b"%d" % number))
            if number in (100, 200):
                await eventually(lambda: client.address != "")
                await cluster.stop(cluster.addresses.index(client.address))
            if number % 10 == 0:
                await asyncio.sleep(0)
        answers = [await each for each in pending]
        assert [answer.payload for answer in answers] == [b"%d" % number for number in range(300)]
        assert [answer.position.index for answer in answers] == list(range(2, 302))
        assert cluster.backend.documents["text", "a"].count == 300


async def test_a_gateway_that_is_leaving_is_left_at_once() -> None:
    async with gateways(2) as cluster, connect(*cluster.addresses, principal=ALICE, settings=PATIENT) as client:
        await client.create("text", "a")
        first = client.address
        stopping = asyncio.ensure_future(cluster.stop(cluster.addresses.index(first), grace_ms=5000))
        await eventually(lambda: client.address not in ("", first))
        assert (await client.send("text", "a", "echo")).position.index == 2
        await stopping


async def test_connections_that_break_again_and_again_lose_and_repeat_nothing() -> None:
    """testing.md 31, 32: retries of clients apply twice unless the server knows the operation again."""
    async with gateways() as cluster, Relay(cluster.addresses[0]) as relay:
        async with connect(relay.address, principal=ALICE, settings=PATIENT) as client:
            await client.create("text", "a")
            pending = []
            for round_ in range(12):
                pending += [client.send_nowait("text", "a", "echo", b"%d" % (round_ * 50 + n)) for n in range(50)]
                await asyncio.sleep(0.002 * (round_ % 3))
                relay.cut()
            answers = [await each for each in pending]
        assert [answer.position.index for answer in answers] == list(range(2, 602))
        assert cluster.backend.documents["text", "a"].count == 600
        assert relay.connections > 1


async def test_answers_that_were_lost_are_asked_for_again() -> None:
    async with gateways() as cluster, Relay(cluster.addresses[0]) as relay:
        async with connect(relay.address, principal=ALICE, settings=PATIENT) as client:
            await client.create("text", "a")
            cluster.backend.lose_replies = 5
            pending = [client.send_nowait("text", "a", "echo", b"%d" % number) for number in range(5)]
            await eventually(lambda: cluster.backend.documents["text", "a"].count == 5)
            relay.cut()
            answers = [await each for each in pending]
        assert [answer.position.index for answer in answers] == [2, 3, 4, 5, 6]
        assert cluster.backend.documents["text", "a"].count == 5


async def test_a_gateway_that_owes_a_reply_for_too_long_is_given_up() -> None:
    """A connection that lives and says nothing: only a clock can tell."""
    async with (
        gateways() as cluster,
        Relay(cluster.addresses[0]) as relay,
        connect(relay.address, principal=ALICE, settings=PATIENT) as client,
    ):
        await client.create("text", "a")
        relay.silent = True
        pending = client.send_nowait("text", "a", "echo", b"1")
        await eventually(lambda: client.address == "")
        relay.silent = False
        relay.cut()
        assert (await asyncio.wait_for(pending, 10)).position.index == 2


async def test_a_watch_starts_with_the_view_and_keeps_it_current() -> None:
    async with gateways() as cluster, connect(cluster.addresses[0], principal=ALICE) as client:
        document = client.document("text", "a")
        await document.create()
        async with document.watch() as watch:
            first = await anext(watch)
            assert first.reset
            assert (first.position, first.view) == (Position(1, 1), {"count": 0, "last": None})
            await document.send("echo", {"n": 1})
            second = await anext(watch)
            assert not second.reset
            assert [step["path"] for step in second.patch or ()] == ["/count", "/last"]
            assert second.view == watch.view == {"count": 1, "last": {"n": 1}}
            assert first.view == {"count": 0, "last": None}, "a view that was given out is never changed"
        await eventually(lambda: not cluster.backend.documents["text", "a"].watchers)


async def test_the_delta_of_a_write_is_there_when_its_answer_is() -> None:
    async with gateways() as cluster, connect(cluster.addresses[0], principal=ALICE) as client:
        await client.create("text", "a")
        async with client.watch("text", "a") as watch:
            await anext(watch)
            answer = await client.send("text", "a", "echo", b"7")
            with pytest.raises(StopIteration) as step:
                watch.__anext__().send(None)  # returns at once, or it would wait
            assert step.value.value.position == answer.position


async def test_watches_resume_where_they_were_when_the_stream_breaks() -> None:
    async with (
        gateways() as cluster,
        Relay(cluster.addresses[0]) as relay,
        connect(cluster.addresses[0], principal=ALICE) as writer,
        connect(relay.address, principal=ALICE, settings=PATIENT) as viewer,
    ):
        await writer.create("text", "a")
        async with viewer.watch("text", "a") as watch:
            await anext(watch)
            for number in range(40):
                await writer.send("text", "a", "echo", b"%d" % number)
                if number % 10 == 5:
                    relay.cut()
            steps = await read_until(watch, 41)
            assert not any(step.reset for step in steps), "what is retained is resumed, not sent again as a whole"
            assert steps[-1].view == {"count": 40, "last": 39}


async def test_a_watch_whose_changes_are_no_longer_retained_starts_again_with_the_view() -> None:
    async with (
        gateways() as cluster,
        Relay(cluster.addresses[0]) as relay,
        connect(cluster.addresses[0], principal=ALICE) as writer,
        connect(relay.address, principal=ALICE, settings=PATIENT) as viewer,
    ):
        await writer.create("text", "a")
        async with viewer.watch("text", "a") as watch:
            await anext(watch)
            relay.silent = True
            relay.cut()
            for number in range(200):
                await writer.send("text", "a", "echo", b"%d" % number)
            relay.silent = False
            relay.cut()
            steps = await read_until(watch, 201)
            assert [step.reset for step in steps] == [True]
            assert watch.view == {"count": 200, "last": 199}


async def test_an_application_that_does_not_read_gets_fewer_and_larger_steps() -> None:
    settings = Settings(watch_credit_bytes=4096)
    async with gateways() as cluster, connect(cluster.addresses[0], principal=ALICE, settings=settings) as client:
        await client.create("text", "a")
        async with client.watch("text", "a") as watch:
            for _ in range(500):
                client.send_nowait("text", "a", "echo", b"1")
            last = await client.send("text", "a", "echo", b"2")
            steps = await read_until(watch, last.position.index)
            assert len(steps) < 200
            assert watch.view == {"count": 501, "last": 2}


async def test_a_watch_of_nothing_raises_what_the_cluster_says() -> None:
    async with gateways() as cluster, connect(cluster.addresses[0], principal=ALICE) as client:
        with pytest.raises(UnknownDocument):
            await anext(client.watch("text", "a"))


async def test_a_watch_that_is_closed_ends_its_iteration() -> None:
    async with gateways() as cluster, connect(cluster.addresses[0], principal=ALICE) as client:
        await client.create("text", "a")
        watch = client.watch("text", "a")
        await anext(watch)
        waiting = asyncio.ensure_future(anext(watch, None))
        await asyncio.sleep(0)
        watch.close()
        assert await waiting is None


async def watched(cluster: Gateways, client: Client) -> tuple[Watch, EchoStream, int]:
    """A watch at its first view, with the backend's stream and id of it."""
    await client.create("text", "a")
    watch = client.watch("text", "a")
    await anext(watch)
    ((stream, identifier),) = cluster.backend.documents["text", "a"].watchers
    return watch, stream, identifier


async def test_a_delta_that_does_not_follow_the_last_one_makes_the_watch_start_again() -> None:
    """A gap is never patched over: the view would differ from the document's for ever."""
    async with gateways() as cluster, connect(cluster.addresses[0], principal=ALICE, settings=PATIENT) as client:
        watch, stream, identifier = await watched(cluster, client)
        stream.put(Delta(identifier, 1, 7, 1, 8, False, b'[{"op":"replace","path":"/count","value":99}]'))
        change = await asyncio.wait_for(anext(watch), 10)
        assert change.reset
        assert change.view == {"count": 0, "last": None}


async def test_a_delta_that_was_seen_before_is_not_shown_again() -> None:
    async with gateways() as cluster, connect(cluster.addresses[0], principal=ALICE, settings=PATIENT) as client:
        watch, stream, identifier = await watched(cluster, client)
        await client.send("text", "a", "echo", b"1")
        assert (await anext(watch)).view["count"] == 1
        stream.put(Delta(identifier, 1, 1, 1, 2, False, b'[{"op":"replace","path":"/count","value":99}]'))
        await client.send("text", "a", "echo", b"2")
        assert (await anext(watch)).view == {"count": 2, "last": 2}


@pytest.mark.parametrize("reason", ["NOT_LEADER", "POSITION_REWOUND", "HISTORY_TRIMMED"])
async def test_a_watch_that_the_server_ends_for_now_goes_on_by_itself(reason: str) -> None:
    async with gateways() as cluster, connect(cluster.addresses[0], principal=ALICE, settings=PATIENT) as client:
        watch, stream, identifier = await watched(cluster, client)
        stream.put(Delta(identifier, 0, 0, 0, 0, failure=Failure(reason, "", reason == "NOT_LEADER", "no")))
        await client.send("text", "a", "echo", b"1")
        steps = await read_until(watch, 2)
        assert steps[-1].view == {"count": 1, "last": 1}


async def test_a_watch_that_the_server_ends_for_good_raises_why() -> None:
    async with gateways() as cluster, connect(cluster.addresses[0], principal=ALICE) as client:
        watch, stream, identifier = await watched(cluster, client)
        stream.put(Delta(identifier, 0, 0, 0, 0, failure=Failure("DOCUMENT_DELETED", "gone", False, "no")))
        with pytest.raises(DocumentDeleted, match="gone"):
            await asyncio.wait_for(anext(watch), 10)
