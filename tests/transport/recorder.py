"""What the tests of the peer transport share: a node that writes down what it is told, and waits without polling."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable, Sized

from cluster.ids import NodeId
from cluster.pump.lanes import Lane
from cluster.transport.peer import LaneBounds
from cluster.transport.tcp import TcpPeerTransport

HOST = "127.0.0.1"
CLUSTER = "cluster-one"


class Recorder:
    """PeerEvents that keep everything; `until` returns as soon as a condition on it holds."""

    def __init__(self) -> None:
        self.frames: list[tuple[NodeId, Lane, bytes]] = []
        self.connected: list[tuple[NodeId, int]] = []
        self.disconnected: list[tuple[NodeId, bool]] = []
        self.order: list[str] = []
        self.react: Callable[[NodeId, Lane, bytes], None] | None = None
        self._changed = asyncio.Event()

    def on_frame(self, node: NodeId, lane: Lane, frame: bytes) -> None:
        self.frames.append((node, lane, frame))
        self._changed.set()
        if self.react is not None:
            self.react(node, lane, frame)

    def on_connected(self, node: NodeId, boot_generation: int) -> None:
        self.connected.append((node, boot_generation))
        self.order.append(f"connected {node} {boot_generation}")
        self._changed.set()

    def on_disconnected(self, node: NodeId, refused: bool) -> None:
        self.disconnected.append((node, refused))
        self.order.append(f"{'refused' if refused else 'lost'} {node}")
        self._changed.set()

    def payloads(self, lane: Lane) -> list[bytes]:
        return [frame for _, of, frame in self.frames if of is lane]

    async def until(self, condition: Callable[[], bool], seconds: float = 5.0) -> None:
        async with asyncio.timeout(seconds):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


class Peer:
    """A transport with its recorder."""

    def __init__(
        self,
        name: str,
        *,
        boot_generation: int = 1,
        port: int = 0,
        cluster_id: str = CLUSTER,
        bounds: LaneBounds | None = None,
    ) -> None:
        self.name = NodeId(name)
        self.events = Recorder()
        self.transport = TcpPeerTransport(
            cluster_id=cluster_id,
            node=self.name,
            boot_generation=boot_generation,
            host=HOST,
            port=port,
            events=self.events,
            source=random.Random(name),
            bounds=bounds,
        )

    @property
    def port(self) -> int:
        return self.transport.port

    def connect(self, other: Peer) -> None:
        self.transport.connect(other.name, HOST, other.port)

    async def __aenter__(self) -> Peer:
        await self.transport.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.transport.stop()


async def join(first: Peer, second: Peer) -> None:
    """Connect both ways and wait until both know."""
    seen_first, seen_second = len(first.events.connected), len(second.events.connected)
    first.connect(second)
    second.connect(first)
    await first.events.until(lambda: len(first.events.connected) > seen_first)
    await second.events.until(lambda: len(second.events.connected) > seen_second)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def more_than(count: int, of: Sized) -> Callable[[], bool]:
    return lambda: len(of) > count


async def eventually(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """For what no event announces, such as counters: look again every few milliseconds until a deadline."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.005)
