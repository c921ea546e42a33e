"""Gossip cores on real sockets of 127.0.0.1. Times are short, bounds wide; those of the protocol are tested virtually."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import time

import pytest

from cluster.errors import TooLarge
from cluster.gossip.config import GossipConfig
from cluster.gossip.core import Gossip
from cluster.gossip.effects import Cut, MemberChange
from cluster.gossip.messages import STREAM_BYTES_MAX, Address, Refusal, State, Tags
from cluster.ids import NodeId
from cluster.transport.gossip import LEAVE_MS_MAX, GossipTransport, clock_ms
from tests.transport.recorder import HOST, eventually, free_port

QUICK = GossipConfig(
    probe_interval_ms=200, probe_timeout_ms=80, gossip_interval_ms=20, sync_interval_ms=3_000, reconnect_interval_ms=400
)
SECONDS = 15.0


class Member:
    """A node of the test: its port and name stay, its process may be replaced."""

    def __init__(self, name: str, seeds: list[int], *, port: int, generation: int = 1, host: str = HOST) -> None:
        self.name = NodeId(name)
        self.port = port
        self.generation = generation
        self.changes: list[MemberChange] = []
        self.cuts: list[Cut] = []
        self.data_paths: dict[NodeId, tuple[int, bool]] = {}
        """What the owner of the data path would say of other nodes."""
        core = Gossip(
            cluster_id="real",
            node=self.name,
            boot_generation=generation,
            address=Address(host, port, peer_port=1, client_port=2),
            tags=Tags("host", "zone"),
            seeds=tuple((host, seed) for seed in seeds),
            config=QUICK,
            source=random.Random(name),
            now_ms=clock_ms(),
        )
        self.transport = GossipTransport(
            core,
            host=HOST,
            port=port,
            on_changes=self.changes.extend,
            on_cut=self.cuts.append,
            data_path=self.data_paths.get,
        )

    def holds(self, other: Member) -> State | None:
        member = self.transport.core.member(other.name)
        return member.state if member is not None and member.generation == other.generation else None

    async def __aenter__(self) -> Member:
        await self.transport.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.transport.stop()


def trio(host: str = HOST) -> tuple[Member, Member, Member]:
    ports = [free_port() for _ in range(3)]
    first, second, third = (Member(f"n{i}", ports[:1] if i else [], port=port, host=host) for i, port in enumerate(ports))
    return first, second, third


async def all_see_all(*members: Member) -> None:
    await eventually(lambda: all(a.holds(b) is State.ALIVE for a in members for b in members if a is not b), SECONDS)


async def test_a_stopped_node_is_declared_dead_and_a_restarted_one_alive_again() -> None:
    n0, n1, n2 = trio()
    async with n0, n1:
        async with n2:
            await all_see_all(n0, n1, n2)
        await eventually(lambda: n0.holds(n2) is n1.holds(n2) is State.DEAD, SECONDS)
        await eventually(lambda: any(cut.down for cut in n0.cuts), SECONDS)
        assert n0.holds(n1) is n1.holds(n0) is State.ALIVE
        async with Member("n2", [n0.port], port=n2.port, generation=2) as again:
            await all_see_all(n0, n1, again)
    assert [view.node for cut in n0.cuts for view in cut.down] == [n2.name]
    states = [change.member.state for change in n0.changes if change.member.node == n2.name]
    assert [state for state in states if state is not State.SUSPECT] == [State.ALIVE, State.DEAD, State.ALIVE]


async def test_what_a_node_says_about_itself_reaches_the_others() -> None:
    n0, n1, n2 = trio()
    async with n0, n1, n2:
        await all_see_all(n0, n1, n2)
        n2.transport.set_hints(b"leads 7")
        with pytest.raises(TooLarge):
            n2.transport.set_hints(bytes(1000))

        def heard(by: Member) -> bool:
            member = by.transport.core.member(n2.name)
            return member is not None and member.hints == b"leads 7"

        await eventually(lambda: heard(n0) and heard(n1), SECONDS)
        seen = n0.transport.core.member(n2.name)
        assert seen is not None
        assert (seen.address.peer_port, seen.address.client_port, seen.tags) == (1, 2, Tags("host", "zone"))


async def test_a_node_that_says_good_bye_has_left() -> None:
    n0, n1, n2 = trio()
    async with n0, n1:
        async with n2:
            await all_see_all(n0, n1, n2)
            await n2.transport.leave()
        await eventually(lambda: n0.holds(n2) is n1.holds(n2) is State.LEFT, SECONDS)


async def test_who_is_alone_leaves_at_once() -> None:
    n0, _, _ = trio()
    async with n0:
        began = time.monotonic()
        await n0.transport.leave()
        assert n0.transport.core.news_waiting, "nobody was told"
        assert (time.monotonic() - began) * 1000 < LEAVE_MS_MAX


async def test_removed_ids_are_forgotten_for_good() -> None:
    n0, n1, n2 = trio()
    async with n0, n1, n2:
        await all_see_all(n0, n1, n2)
        n0.transport.remove([n2.name], 1)
        await eventually(lambda: n0.transport.core.refusals[Refusal.REMOVED] > 0, SECONDS)
        assert n0.holds(n2) is None


async def test_streams_keep_a_node_alive_whose_datagrams_are_lost() -> None:
    """The fallback probe: a broken datagram path alone is no death."""
    n0, n1, n2 = trio()
    async with n0, n1, n2:
        await all_see_all(n0, n1, n2)
        assert n2.transport._udp is not None
        n2.transport._udp.close()
        received = n2.transport.counters.datagrams_received
        await asyncio.sleep(3 * (QUICK.suspicion_min_ms(3) + QUICK.probe_interval_ms) / 1000)
        assert n2.transport.counters.datagrams_received == received
        assert n2.transport.counters.datagrams_unsent > 0
        assert State.DEAD not in [change.member.state for change in n0.changes + n1.changes]


async def test_a_node_that_only_the_data_path_reaches_is_alive_and_the_broken_ways_are_told() -> None:
    """Gossip that is filtered and a data path that is not are told apart."""
    n0, n1, n2 = trio()
    async with n0, n1:
        async with n2:
            await all_see_all(n0, n1, n2)
            n0.data_paths[n2.name] = n1.data_paths[n2.name] = (1, True)
        wait_s = 2 * (QUICK.suspicion_min_ms(3) + 2 * QUICK.probe_interval_ms) / 1000
        await asyncio.sleep(wait_s)
        for observer in (n0, n1):
            assert State.DEAD not in [change.member.state for change in observer.changes]
            paths, _ = observer.transport.core.why(n2.name)  # type: ignore[misc]
            assert (paths.datagram, paths.stream, paths.data) == (False, False, True)
        n0.data_paths[n2.name] = n1.data_paths[n2.name] = (1, False)
        await eventually(lambda: n0.holds(n2) is n1.holds(n2) is State.DEAD, SECONDS)


async def test_host_names_are_resolved() -> None:
    n0, n1, n2 = trio("localhost")
    async with n0, n1, n2:
        await all_see_all(n0, n1, n2)
        await eventually(lambda: all(n.transport.counters.datagrams_received > 5 for n in (n0, n1, n2)), SECONDS)


async def test_an_unknown_host_name_costs_its_datagrams_and_nothing_else() -> None:
    n0, n1, n2 = trio()
    async with n0, n1:
        await all_see_all(n0, n1)
        before = n0.transport.counters.datagrams_unsent
        n0.transport._send(("no-such-host.invalid", 1), b"x")
        assert n0.transport.counters.datagrams_unsent == before + 1
        async with n2:
            await all_see_all(n0, n1, n2)


async def test_garbage_is_counted_and_harms_nobody() -> None:
    n0, n1, n2 = trio()
    async with n0, n1, n2:
        await all_see_all(n0, n1, n2)
        source = random.Random(5)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            for size in (0, 1, 4, 5, 100, 1400, 9000):
                stranger.sendto(source.randbytes(size), (HOST, n0.port))
        for written in (
            b"",
            b"\x01",
            struct.pack("<I", STREAM_BYTES_MAX + 1),
            struct.pack("<I", 5) + b"wrong",
            b"GET / HTTP/1.1\r\n",
        ):
            reader, writer = await asyncio.open_connection(HOST, n0.port)
            writer.write(written)
            writer.write_eof()
            async with asyncio.timeout(5):
                assert await reader.read() in (b"", bytes(4))
            writer.close()
        await eventually(lambda: n0.transport.core.refusals.total() >= 8, SECONDS)
        await eventually(lambda: n0.transport.counters.streams_refused >= 4, SECONDS)
        await all_see_all(n0, n1, n2)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["stream", "datagram"])
async def test_an_address_that_is_taken_leaves_nothing_running(kind: socket.SocketKind) -> None:
    n0, n1, _ = trio()
    other = socket.SOCK_DGRAM if kind is socket.SOCK_STREAM else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind((HOST, n1.port))
        if kind is socket.SOCK_STREAM:
            taken.listen()
        with pytest.raises(OSError, match="ddress already in use"):
            await n1.transport.start()
        with socket.socket(socket.AF_INET, other) as free:
            free.bind((HOST, n1.port))
    async with n0, n1:
        await n1.transport.stop()
        assert n0.transport.core.members() == []


async def test_nothing_is_reported_after_stop() -> None:
    n0, n1, n2 = trio()
    async with n1, n2:
        async with n0:
            await all_see_all(n0, n1, n2)
        count = len(n0.changes)
        deadline_ms = n0.transport.core.deadline_ms
        await eventually(lambda: n1.holds(n0) is n2.holds(n0) is State.DEAD, SECONDS)
        assert len(n0.changes) == count
        assert n0.transport.core.deadline_ms == deadline_ms
