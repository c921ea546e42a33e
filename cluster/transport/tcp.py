"""Frames between nodes over plain TCP.

Each node dials its own connections, one per lane, for what it sends; what it receives comes over connections that the
others dialled (`peer_wire` says why). A peer's Hello on an inbound connection also tells that it is up, so a waiting dial
towards it starts at once, and that it was restarted, so connections to its former process are dropped at once.

Cost: one write per connection and flush, no coroutine, task or lock per frame; a task per lane exists only to dial.
Works on asyncio's own loop and on uvloop.
"""

from __future__ import annotations

import asyncio
import random

from cluster.errors import TooLarge
from cluster.ids import NodeId
from cluster.pump.lanes import Lane
from cluster.transport.peer import FRAME_BYTES_MAX, LaneBounds, PeerCounters, PeerEvents
from cluster.transport.tcp_accepting import InboundConnections, OnIntroduction
from cluster.transport.tcp_dialing import Link
from cluster.transport.tcp_local import LocalEnd


class TcpPeerTransport:
    """The `PeerTransport` of `peer` over TCP.

    cluster_id, node, boot_generation: told to every peer; a peer of another cluster is refused.
    host, port: where to listen; port 0 takes a free one, `port` then says which.
    source: randomness for the jitter of retries.
    on_introduction: answers who is no peer yet; without it they are hung up on.
    """

    def __init__(
        self,
        *,
        cluster_id: str,
        node: NodeId,
        boot_generation: int,
        host: str,
        port: int,
        events: PeerEvents,
        source: random.Random,
        bounds: LaneBounds | None = None,
        on_introduction: OnIntroduction | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self._local = LocalEnd(cluster_id, node, boot_generation, events, source, bounds or LaneBounds())
        self._inbound = InboundConnections(self._local, self._on_admitted, on_introduction)
        self._server: asyncio.Server | None = None
        self._links: dict[NodeId, Link] = {}

    @property
    def counters(self) -> PeerCounters:
        return self._local.counters

    async def start(self) -> None:
        """See `PeerTransport.start`."""
        assert self._server is None, "started twice"
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._inbound.accept, self.host, self.port, backlog=128)
        self.port = self._server.sockets[0].getsockname()[1]
        self._local.running = True
        for link in self._links.values():
            link.start()

    async def stop(self) -> None:
        """See `PeerTransport.stop`. Frames already handed to the kernel may still arrive."""
        self._local.running = False
        server, self._server = self._server, None
        if server is not None:
            server.close()
        self._inbound.abort_all()
        await asyncio.gather(*(link.stop() for link in self._links.values()))
        self._links.clear()
        if server is not None:
            await server.wait_closed()

    def connect(self, node: NodeId, host: str, port: int) -> None:
        """See `PeerTransport.connect`."""
        assert node != self._local.node, "a node does not dial itself"
        link = self._links.get(node)
        if link is not None:
            link.move(host, port)
            return
        link = self._links[node] = Link(self._local, node, host, port)
        if self._local.running:
            link.start()

    def disconnect(self, node: NodeId) -> None:
        """See `PeerTransport.disconnect`."""
        link = self._links.pop(node, None)
        if link is not None:
            link.cancel()

    def bar(self, node: NodeId) -> None:
        """See `PeerTransport.bar`."""
        self._local.barred.add(node)
        self.disconnect(node)
        self._inbound.hang_up(node)

    def send(self, node: NodeId, lane: Lane, frame: bytes) -> bool:
        """See `PeerTransport.send`."""
        size = len(frame)
        if not 1 <= size <= FRAME_BYTES_MAX:
            raise TooLarge(f"a peer frame has 1 to {FRAME_BYTES_MAX} bytes, not {size}")
        link = self._links.get(node)
        connection = link.lanes[lane].connection if link is not None else None
        if connection is None:
            self._local.counters.dropped_not_connected += 1
            return False
        return connection.send(frame, size)

    def flush(self) -> None:
        """See `PeerTransport.flush`."""
        self._local.flush()

    def queued_bytes(self, node: NodeId, lane: Lane) -> int:
        """Bytes accepted for this lane that the kernel has not taken yet; 0 when not connected."""
        link = self._links.get(node)
        connection = link.lanes[lane].connection if link is not None else None
        return connection.queued_bytes() if connection is not None else 0

    def _on_admitted(self, node: NodeId, lane: Lane, newer: bool) -> None:
        link = self._links.get(node)
        if link is None:
            return
        if newer:
            link.drop_generations_below(self._local.generations[node])
        link.lanes[lane].dial_now()
