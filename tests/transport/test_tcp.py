"""The TCP peer transport between real sockets, as the node sees it."""

from __future__ import annotations

import asyncio
import random
import select
import sys
from asyncio.subprocess import PIPE
from collections.abc import Iterable

import pytest

from cluster.errors import TooLarge
from cluster.ids import NodeId
from cluster.pump.lanes import Lane
from cluster.transport.peer import FRAME_BYTES_MAX, LaneBounds, Refusal
from cluster.transport.peer_wire import HEADER, Hello, Refused, encode_opening, frame_header
from cluster.transport.reconnect import RETRY_FIRST_MS, RETRY_MAX_MS, STABLE_AFTER_MS, Reconnect
from tests.transport.recorder import CLUSTER, HOST, Peer, eventually, free_port, join, more_than


def hello_bytes(
    target: str, *, node: str = "n9", generation: int = 1, dial: int = 1, cluster: str = CLUSTER, lane: int = 1
) -> bytes:
    return encode_opening(Hello(1, 1, cluster, node, target, generation, lane, dial))


async def raw(peer: Peer, chunks: Iterable[bytes]) -> bytes:
    """Write chunks as a stranger would and return everything that comes back until the peer closes."""
    reader, writer = await asyncio.open_connection(HOST, peer.port)
    for chunk in chunks:
        writer.write(chunk)
        await writer.drain()
    async with asyncio.timeout(5):
        try:
            answer = await reader.read()
        except ConnectionResetError:
            answer = b""
    writer.close()
    return answer


async def test_frames_arrive_in_order_per_lane_and_once() -> None:
    async with Peer("n1") as n1, Peer("n2") as n2:
        await join(n1, n2)
        sent: dict[Lane, list[bytes]] = {lane: [] for lane in Lane}
        source = random.Random(7)
        for number in range(3000):
            lane = source.choice(list(Lane))
            frame = number.to_bytes(4, "big") * source.randrange(1, 300)
            assert n1.transport.send(n2.name, lane, frame)
            sent[lane].append(frame)
        await n2.events.until(lambda: len(n2.events.frames) == 3000)
        assert {lane: n2.events.payloads(lane) for lane in Lane} == sent
        assert {node for node, _, _ in n2.events.frames} == {n1.name}


async def test_the_largest_frame_passes_and_a_larger_one_is_refused_to_its_sender() -> None:
    async with Peer("n1") as n1, Peer("n2") as n2:
        await join(n1, n2)
        largest = random.Random(1).randbytes(1024) * (FRAME_BYTES_MAX // 1024)
        assert n1.transport.send(n2.name, Lane.BULK, largest)
        with pytest.raises(TooLarge):
            n1.transport.send(n2.name, Lane.BULK, largest + b"x")
        with pytest.raises(TooLarge):
            n1.transport.send(n2.name, Lane.BULK, b"")
        await n2.events.until(lambda: bool(n2.events.frames), 20)
        assert n2.events.payloads(Lane.BULK) == [largest]
        assert n1.events.disconnected == []


async def test_send_to_an_unknown_or_unconnected_peer_is_refused_and_counted() -> None:
    async with Peer("n1") as n1:
        n1.transport.connect(NodeId("n2"), HOST, free_port())
        assert not n1.transport.send(NodeId("n2"), Lane.RAFT, b"x")
        assert not n1.transport.send(NodeId("n3"), Lane.RAFT, b"x")
        assert n1.transport.counters.dropped_not_connected == 2


async def test_a_full_lane_refuses_while_the_other_lanes_go_on() -> None:
    async with Peer("n1", bounds=LaneBounds(bulk_bytes_max=100_000)) as n1, Peer("n2") as n2:
        await join(n1, n2)
        frame = bytes(30_000)
        accepted = [n1.transport.send(n2.name, Lane.BULK, frame) for _ in range(10)]
        assert accepted == [True] * 3 + [False] * 7
        assert n1.transport.counters.dropped_over_bound == 7
        assert n1.transport.queued_bytes(n2.name, Lane.BULK) <= 100_000
        assert n1.transport.send(n2.name, Lane.LIVENESS, b"beat")
        await n2.events.until(lambda: len(n2.events.frames) == 4)
        assert n1.transport.send(n2.name, Lane.BULK, frame)


async def test_a_peer_that_does_not_read_fills_its_lane_and_no_more() -> None:
    """The bound covers what waits in the event loop's buffers too, over any number of turns."""
    hello = encode_opening(Hello(1, 1, CLUSTER, "n2", "n1", 1, 0, 1))
    done, ended = asyncio.Event(), []

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(hello)
        await done.wait()
        writer.transport.abort()
        ended.append(writer)

    server = await asyncio.start_server(deaf, HOST, 0, limit=1)
    async with Peer("n1", bounds=LaneBounds(raft_bytes_max=2_000_000)) as n1:
        n1.transport.connect(NodeId("n2"), HOST, server.sockets[0].getsockname()[1])
        await n1.events.until(lambda: bool(n1.events.connected))
        frame = bytes(100_000)
        for _ in range(1000):
            if not n1.transport.send(NodeId("n2"), Lane.RAFT, frame):
                break
            await asyncio.sleep(0)
        assert n1.transport.counters.dropped_over_bound == 1
        assert 1_900_000 <= n1.transport.queued_bytes(NodeId("n2"), Lane.RAFT) <= 2_000_000
        assert n1.transport.send(NodeId("n2"), Lane.LIVENESS, b"the other lanes are free")
    done.set()
    server.close()
    await eventually(lambda: len(ended) == len(Lane))


async def test_a_flush_sends_at_once_although_the_loop_is_blocked_afterwards() -> None:
    """Frames leave before a local fsync that blocks the loop, not after it."""
    async with Peer("n1") as n1, Peer("n2") as n2:
        await join(n1, n2)
        inbound = n2.transport._inbound._speaking[(n1.name, Lane.RAFT)]
        assert inbound._transport is not None
        socket_of_n2 = inbound._transport.get_extra_info("socket")
        frame = bytes(3000)
        n1.transport.send(n2.name, Lane.RAFT, frame)
        n1.transport.flush()
        readable, _, _ = select.select([socket_of_n2.fileno()], [], [], 2)  # blocks the loop
        assert readable
        await n2.events.until(lambda: n2.events.payloads(Lane.RAFT) == [frame])


async def test_an_empty_lane_takes_a_frame_larger_than_its_bound() -> None:
    async with Peer("n1", bounds=LaneBounds(raft_bytes_max=1000)) as n1, Peer("n2") as n2:
        await join(n1, n2)
        assert n1.transport.send(n2.name, Lane.RAFT, bytes(5000))
        assert not n1.transport.send(n2.name, Lane.RAFT, b"x")
        await n2.events.until(lambda: len(n2.events.frames) == 1)


async def test_a_lost_peer_is_reported_lost_then_refused_and_found_again_after_its_restart() -> None:
    async with Peer("n1") as n1:
        async with Peer("n2") as n2:
            await join(n1, n2)
            port = n2.port
        await n1.events.until(lambda: (n2.name, True) in n1.events.disconnected)
        assert n1.events.disconnected == [(n2.name, False), (n2.name, True)]
        async with Peer("n2", boot_generation=2, port=port) as again:
            await n1.events.until(lambda: len(n1.events.connected) == 2)
            assert n1.transport.send(again.name, Lane.RAFT, b"hello again")
            await again.events.until(lambda: again.events.payloads(Lane.RAFT) == [b"hello again"])
            assert n1.events.order == ["connected n2 1", "lost n2", "refused n2", "connected n2 2"]


async def test_refusal_is_evidence_within_a_few_retries_of_the_loss() -> None:
    """Fast failover: connection reset and reconnect refused ends a voter's belief in its leader."""
    async with Peer("n1") as n1:
        async with Peer("n2") as n2:
            await join(n1, n2)
        lost_at = asyncio.get_running_loop().time()
        await n1.events.until(lambda: (n2.name, True) in n1.events.disconnected)
        assert asyncio.get_running_loop().time() - lost_at < 0.3


async def test_a_killed_process_is_refused_evidence_at_once() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.transport.benchmark", "tcp-echo", stdin=PIPE, stdout=PIPE
    )
    assert process.stdout is not None
    try:
        async with Peer("ask", cluster_id="b") as n1:
            n1.transport.connect(NodeId("echo"), HOST, int(await process.stdout.readline()))
            await n1.events.until(lambda: bool(n1.events.connected))
            process.kill()
            killed_at = asyncio.get_running_loop().time()
            await n1.events.until(lambda: (NodeId("echo"), True) in n1.events.disconnected)
            assert asyncio.get_running_loop().time() - killed_at < 0.3
            assert n1.events.order == ["connected echo 1", "lost echo", "refused echo"]
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_refusal_is_reported_once_for_a_peer_that_was_never_there() -> None:
    async with Peer("n1") as n1:
        n1.transport.connect(NodeId("n2"), HOST, free_port())
        await n1.events.until(lambda: bool(n1.events.disconnected))
        await asyncio.sleep(4 * RETRY_FIRST_MS / 1000)
        assert n1.events.order == ["refused n2"]


async def test_a_closed_listener_is_no_evidence_while_other_lanes_live() -> None:
    async with Peer("n1") as n1, Peer("n2") as n2:
        await join(n1, n2)
        assert n2.transport._server is not None
        n2.transport._server.close()
        outbound = n1.transport._links[n2.name].lanes[Lane.BULK].connection
        assert outbound is not None
        outbound.abort()
        await asyncio.sleep(4 * RETRY_FIRST_MS / 1000)
        assert n1.events.order == ["connected n2 1", "lost n2"]
        assert n1.transport.send(n2.name, Lane.LIVENESS, b"still heard")
        await n2.events.until(lambda: n2.events.payloads(Lane.LIVENESS) == [b"still heard"])


async def test_a_peer_that_dials_in_ends_our_wait_for_it() -> None:
    async with Peer("n1") as n1:
        port = free_port()
        n1.transport.connect(NodeId("n2"), HOST, port)
        await asyncio.sleep(0.9)  # the waits have grown to several hundred milliseconds
        async with Peer("n2", port=port) as n2:
            n2.connect(n1)
            await n2.events.until(lambda: bool(n2.events.connected))
            await n1.events.until(lambda: bool(n1.events.connected), 0.25)


async def test_a_newer_process_of_a_peer_ends_connections_to_the_former_one() -> None:
    """Trap 4 of membership: the same name at another address while the old one still looks alive."""
    async with Peer("n1") as n1, Peer("n2") as old:
        await join(n1, old)
        async with Peer("n2", boot_generation=2) as new:
            new.connect(n1)
            await n1.events.until(lambda: bool(n1.events.disconnected))
            n1.connect(new)
            await n1.events.until(lambda: (new.name, 2) in n1.events.connected)
            assert n1.transport.send(new.name, Lane.RAFT, b"for the new one")
            await new.events.until(lambda: bool(new.events.frames))
            assert old.events.frames == []
            assert n1.transport.counters.refusals.get(Refusal.STALE_GENERATION, 0) >= 1


async def test_a_frame_cut_into_single_bytes_is_delivered_whole() -> None:
    async with Peer("n1") as n1:
        reader, writer = await asyncio.open_connection(HOST, n1.port)
        frame = b"one frame in many pieces"
        for byte in hello_bytes("n1"):
            writer.write(bytes([byte]))
            await writer.drain()
        await reader.readexactly(HEADER.size)
        for byte in frame_header(frame) + frame:
            writer.write(bytes([byte]))
            await writer.drain()
        await n1.events.until(lambda: bool(n1.events.frames))
        assert n1.events.frames == [(NodeId("n9"), Lane.RAFT, frame)]
        writer.close()


async def test_a_frame_whose_rest_never_came_is_not_delivered() -> None:
    async with Peer("n1") as n1:
        reader, writer = await asyncio.open_connection(HOST, n1.port)
        writer.write(hello_bytes("n1"))
        await reader.readexactly(HEADER.size)
        writer.write(frame_header(b"whole") + b"whole" + frame_header(b"broken off") + b"broken")
        await n1.events.until(lambda: bool(n1.events.frames))
        writer.close()
        assert await reader.read() != b""
        assert n1.events.payloads(Lane.RAFT) == [b"whole"]


@pytest.mark.parametrize(
    ("written", "refusal"),
    [
        (b"GET / HTTP/1.1\r\nHost: somebody\r\n\r\n", Refusal.FRAME_TOO_LARGE),
        (bytes(100), Refusal.MALFORMED),
        (frame_header(b"not a hello") + b"not a hello", Refusal.MALFORMED),
        (HEADER.pack(5, 1) + b"wrong", Refusal.CHECKSUM_MISMATCH),
        (hello_bytes("n1", cluster="cluster-two"), Refusal.WRONG_CLUSTER),
        (hello_bytes("n7"), Refusal.WRONG_NODE),
        (encode_opening(Hello(7, 9, CLUSTER, "n9", "n1", 1, 1, 1)), Refusal.VERSION_MISMATCH),
        (hello_bytes("n1") + HEADER.pack(FRAME_BYTES_MAX + 1, 0), Refusal.FRAME_TOO_LARGE),
        (hello_bytes("n1") + frame_header(b"early") + b"early", Refusal.MALFORMED),
    ],
)
async def test_what_does_not_belong_is_closed_with_a_reason_and_harms_nobody(
    written: bytes, refusal: Refusal, caplog: pytest.LogCaptureFixture
) -> None:
    async with Peer("n1") as n1, Peer("n2") as n2:
        await join(n1, n2)
        with caplog.at_level("WARNING", logger="cluster.transport"):
            await raw(n1, [written])
        assert n1.transport.counters.refusals == {refusal: 1}
        assert refusal.value in caplog.text
        assert n2.transport.send(n1.name, Lane.RAFT, b"unharmed")
        await n1.events.until(lambda: n1.events.payloads(Lane.RAFT) == [b"unharmed"])


async def test_a_corrupt_frame_after_the_handshake_ends_only_its_connection() -> None:
    async with Peer("n1") as n1:
        reader, writer = await asyncio.open_connection(HOST, n1.port)
        writer.write(hello_bytes("n1"))
        await reader.readexactly(HEADER.size)
        writer.write(frame_header(b"good") + b"good" + frame_header(b"bad") + b"bax" + frame_header(b"late") + b"late")
        await reader.read()
        writer.close()
        assert n1.events.payloads(Lane.RAFT) == [b"good"]
        assert n1.transport.counters.refusals == {Refusal.CHECKSUM_MISMATCH: 1}


async def test_an_oversize_frame_after_the_handshake_ends_its_connection_before_it_is_read() -> None:
    async with Peer("n1") as n1:
        reader, writer = await asyncio.open_connection(HOST, n1.port)
        writer.write(hello_bytes("n1"))
        await reader.readexactly(HEADER.size)
        writer.write(HEADER.pack(FRAME_BYTES_MAX + 1, 0))
        async with asyncio.timeout(5):
            await reader.read()
        writer.close()
        assert n1.transport.counters.refusals == {Refusal.FRAME_TOO_LARGE: 1}


@pytest.mark.parametrize(
    ("answer", "refusal"),
    [
        (hello_bytes("n1", node="n3"), Refusal.WRONG_NODE),
        (hello_bytes("n1", node="n2", cluster="cluster-two"), Refusal.WRONG_CLUSTER),
        (encode_opening(Refused("wrong_node")), Refusal.WRONG_NODE),
        (encode_opening(Refused("a reason of a later version")), Refusal.MALFORMED),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", Refusal.FRAME_TOO_LARGE),
    ],
)
async def test_whoever_answers_a_dial_without_being_the_peer_is_not_connected(answer: bytes, refusal: Refusal) -> None:
    async def impostor(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await reader.read()
        writer.transport.abort()

    server = await asyncio.start_server(impostor, HOST, 0)
    async with Peer("n1") as n1:
        n1.transport.connect(NodeId("n2"), HOST, server.sockets[0].getsockname()[1])
        await eventually(lambda: n1.transport.counters.refusals.get(refusal, 0) >= len(Lane))
        assert n1.events.order == []
    server.close()


async def test_a_newer_process_silences_the_former_one_on_every_lane() -> None:
    async with Peer("n1") as n1:
        former_reader, former = await asyncio.open_connection(HOST, n1.port)
        former.write(hello_bytes("n1", generation=1, lane=Lane.BULK))
        await former_reader.readexactly(HEADER.size)
        reader, writer = await asyncio.open_connection(HOST, n1.port)
        writer.write(hello_bytes("n1", generation=2, lane=Lane.RAFT))
        await reader.readexactly(HEADER.size)
        former.write(frame_header(b"of the former") + b"of the former")
        writer.write(frame_header(b"of the newer") + b"of the newer")
        await n1.events.until(lambda: bool(n1.events.frames))
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(former_reader.readexactly(1000), 5)
        assert [frame for _, _, frame in n1.events.frames] == [b"of the newer"]
        former.close()
        writer.close()


async def test_a_node_of_another_cluster_is_refused_on_both_sides_and_keeps_running() -> None:
    async with Peer("n1") as n1, Peer("n2", cluster_id="cluster-two") as n2:
        n1.connect(n2)
        await eventually(lambda: Refusal.WRONG_CLUSTER in n1.transport.counters.refusals)
        assert n2.transport.counters.refusals[Refusal.WRONG_CLUSTER] >= 1
        assert n1.events.order == []
        assert not n1.transport.send(n2.name, Lane.RAFT, b"x")


async def test_an_older_dial_can_not_take_a_lane_back() -> None:
    """Order across reconnects: a connection that was abandoned but arrives late must not be heard after its successor."""
    async with Peer("n1") as n1:
        reader, writer = await asyncio.open_connection(HOST, n1.port)
        writer.write(hello_bytes("n1", dial=5))
        await reader.readexactly(HEADER.size)
        await raw(n1, [hello_bytes("n1", dial=4)])
        assert n1.transport.counters.refusals == {Refusal.SUPERSEDED: 1}
        writer.write(frame_header(b"of dial 5") + b"of dial 5")
        await n1.events.until(lambda: n1.events.payloads(Lane.RAFT) == [b"of dial 5"])
        writer.close()


async def test_a_later_dial_silences_the_earlier_connection() -> None:
    async with Peer("n1") as n1:
        reader, writer = await asyncio.open_connection(HOST, n1.port)
        writer.write(hello_bytes("n1", dial=5))
        await reader.readexactly(HEADER.size)
        later_reader, later = await asyncio.open_connection(HOST, n1.port)
        later.write(hello_bytes("n1", dial=6))
        await later_reader.readexactly(HEADER.size)
        writer.write(frame_header(b"stale") + b"stale")
        later.write(frame_header(b"current") + b"current")
        await n1.events.until(lambda: bool(n1.events.frames))
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1000), 5)
        assert n1.events.payloads(Lane.RAFT) == [b"current"]
        writer.close()
        later.close()


async def test_no_frame_is_delivered_twice_or_out_of_order_across_broken_connections() -> None:
    async with Peer("n1") as n1, Peer("n2") as n2:
        await join(n1, n2)
        number = 0
        for _ in range(5):
            connected_before = len(n1.events.connected)
            for _ in range(200):
                number += n1.transport.send(n2.name, Lane.RAFT, number.to_bytes(4, "big") * 50)
            await asyncio.sleep(0)
            outbound = n1.transport._links[n2.name].lanes[Lane.RAFT].connection
            assert outbound is not None
            outbound.abort()
            await n1.events.until(more_than(connected_before, n1.events.connected))
        assert n1.transport.send(n2.name, Lane.RAFT, b"last")
        await n2.events.until(lambda: n2.events.payloads(Lane.RAFT)[-1:] == [b"last"])
        received = [int.from_bytes(frame[:4], "big") for frame in n2.events.payloads(Lane.RAFT)[:-1]]
        assert received == sorted(set(received))


async def test_a_node_may_send_and_stop_from_inside_on_frame() -> None:
    async with Peer("n1") as n1, Peer("n2") as n2:
        await join(n1, n2)

        def answer(node: NodeId, lane: Lane, frame: bytes) -> None:
            n2.transport.send(node, lane, b"answer to " + frame)

        n2.events.react = answer
        n1.transport.send(n2.name, Lane.RAFT, b"question")
        await n1.events.until(lambda: n1.events.payloads(Lane.RAFT) == [b"answer to question"])


async def test_nothing_is_reported_after_stop() -> None:
    async with Peer("n1") as n1, Peer("n2") as n2:
        await join(n1, n2)
        await n1.transport.stop()
        order, frames = list(n1.events.order), len(n1.events.frames)
        n2.transport.send(n1.name, Lane.RAFT, b"too late")
        await n2.events.until(lambda: bool(n2.events.disconnected))
        assert (n1.events.order, len(n1.events.frames)) == (order, frames)


async def test_disconnect_closes_the_lanes_and_stops_dialling() -> None:
    async with Peer("n1") as n1, Peer("n2") as n2:
        await join(n1, n2)
        n1.transport.disconnect(n2.name)
        assert not n1.transport.send(n2.name, Lane.RAFT, b"x")
        await asyncio.sleep(3 * RETRY_FIRST_MS / 1000)
        assert n1.events.order == ["connected n2 1"]
        assert not n2.transport._inbound.speaking()


def test_retries_start_at_50_ms_and_grow_with_jitter_to_one_second() -> None:
    reconnect = Reconnect(random.Random(3))
    waits = [reconnect.after_failure() for _ in range(200)]
    assert waits[0] == RETRY_FIRST_MS
    assert all(later <= RETRY_MAX_MS for later in waits)
    assert min(waits[8:]) >= RETRY_MAX_MS * 0.6
    assert len(set(waits[8:])) > 50
    assert reconnect.after_loss(lived_ms=STABLE_AFTER_MS - 1) > RETRY_FIRST_MS
    assert reconnect.after_loss(lived_ms=STABLE_AFTER_MS) == 0
    assert reconnect.after_failure() == RETRY_FIRST_MS
