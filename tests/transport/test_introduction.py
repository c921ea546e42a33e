"""Introductions over real sockets: a question of who is no peer yet, and everything that is none."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import pytest

from cluster.errors import Unavailable
from cluster.ids import NodeId
from cluster.pump.lanes import Lane
from cluster.transport.introduction import Introduced, introduce
from cluster.transport.peer import Refusal
from cluster.transport.peer_wire import Introduction, encode_opening
from cluster.transport.tcp import TcpPeerTransport
from cluster.transport.tcp_accepting import INTRODUCTIONS_MAX
from tests.transport.recorder import CLUSTER, HOST, Peer, Recorder, eventually, free_port, join

NEWCOMER = Introduction(1, 1, "1", "", "n9", "ab" * 16, HOST, 1, 2, 3, "", "", 5)


class Member:
    """A transport that answers. wait: until when it thinks."""

    def __init__(self) -> None:
        self.asked: list[Introduction] = []
        self.wait = asyncio.Event()
        self.wait.set()
        self.transport = TcpPeerTransport(
            cluster_id=CLUSTER, node=NodeId("n1"), boot_generation=1, host=HOST, port=0, events=Recorder(),
            source=random.Random(1), on_introduction=self.answer,
        )  # fmt: skip

    async def answer(self, introduction: Introduction) -> Introduced:
        self.asked.append(introduction)
        await self.wait.wait()
        return Introduced(CLUSTER, b"d" * 3_000_000, 7, "1")


@contextlib.asynccontextmanager
async def member() -> AsyncIterator[Member]:
    found = Member()
    await found.transport.start()
    try:
        yield found
    finally:
        await found.transport.stop()


async def test_an_introduction_is_answered_whole_and_nothing_is_said_to_peers() -> None:
    async with member() as n1:
        answer, took_ms = await introduce(HOST, n1.transport.port, NEWCOMER)
        assert n1.asked == [NEWCOMER]
        assert (answer.cluster_id, len(answer.decisions), answer.failure) == (CLUSTER, 3_000_000, None)
        assert took_ms > 0
        assert not n1.transport.counters.refusals


async def test_who_answers_nobody_hangs_up() -> None:
    async with Peer("n1") as n1:
        with pytest.raises(Unavailable, match="peer_port"):
            await introduce(HOST, n1.port, NEWCOMER)


async def test_nobody_there_is_no_answer() -> None:
    with pytest.raises(Unavailable):
        await introduce(HOST, free_port(), NEWCOMER)


async def test_what_listens_and_is_no_member_is_told_apart() -> None:
    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(other, HOST, 0)
    async with server:
        with pytest.raises(Unavailable, match="peer_port"):
            await introduce(HOST, server.sockets[0].getsockname()[1], NEWCOMER)


async def test_a_connection_introduces_itself_once() -> None:
    async with member() as n1:
        n1.wait.clear()
        _, writer = await asyncio.open_connection(HOST, n1.transport.port)
        writer.write(encode_opening(NEWCOMER))
        await eventually(lambda: len(n1.asked) == 1)
        writer.write(encode_opening(NEWCOMER))
        await eventually(lambda: Refusal.MALFORMED in n1.transport.counters.refusals)
        assert len(n1.asked) == 1
        writer.close()


async def test_more_newcomers_than_can_be_answered_are_hung_up_on_and_ask_again() -> None:
    async with member() as n1:
        n1.wait.clear()
        asking = [asyncio.ensure_future(introduce(HOST, n1.transport.port, NEWCOMER)) for _ in range(INTRODUCTIONS_MAX)]
        await eventually(lambda: len(n1.asked) == INTRODUCTIONS_MAX)
        with pytest.raises(Unavailable):
            await introduce(HOST, n1.transport.port, NEWCOMER)
        n1.wait.set()
        assert {answer.cluster_id for answer, _ in await asyncio.gather(*asking)} == {CLUSTER}
        await introduce(HOST, n1.transport.port, NEWCOMER)


async def test_who_is_barred_is_neither_dialled_nor_heard_any_more() -> None:
    """Trap 27: a removed node must not go on as if it were one."""
    async with Peer("n1") as n1, Peer("n2") as n2:
        await join(n1, n2)
        n1.transport.bar(n2.name)
        await eventually(lambda: Refusal.REMOVED in n1.transport.counters.refusals)
        assert not n1.transport.send(n2.name, Lane.RAFT, b"frame")
        heard = len(n1.events.frames)
        n2.transport.send(n1.name, Lane.RAFT, b"frame")
        await eventually(lambda: Refusal.REMOVED in n2.transport.counters.refusals)
        assert len(n1.events.frames) == heard
