"""This node's end of its TCP connections: who it is, what it counts, and which process of each peer it knows."""

from __future__ import annotations

import asyncio
import itertools
import random
import socket
from dataclasses import dataclass, field
from typing import Final, Protocol

from cluster.ids import NodeId
from cluster.pump.lanes import Lane
from cluster.transport.peer import LaneBounds, PeerCounters, PeerEvents
from cluster.transport.peer_wire import PROTOCOL_VERSION_MAX, PROTOCOL_VERSION_MIN, Hello

HANDSHAKE_TIMEOUT_MS: Final = 2000
"""From dialling, or from accepting, to a complete Hello."""
PEERS_MAX: Final = 4096
"""Distinct peers whose boot generation is remembered; later strangers are refused."""
SILENCE_MS_MAX: Final = 10_000
"""Unacknowledged data for this long ends a connection (TCP_USER_TIMEOUT); a vanished host leaves no other trace."""


class Flushable(Protocol):
    """A connection with frames that were accepted and not yet written."""

    def flush(self) -> None: ...


@dataclass(slots=True)
class LocalEnd:
    """What every connection of this node shares.

    generations: the latest boot generation seen of each peer. Invariant: it only rises, so that a former process of a
    peer is neither heard nor spoken to once its successor has been seen.
    """

    cluster_id: str
    node: NodeId
    boot_generation: int
    events: PeerEvents
    source: random.Random
    bounds: LaneBounds
    counters: PeerCounters = field(default_factory=PeerCounters)
    generations: dict[NodeId, int] = field(default_factory=dict)
    running: bool = False
    barred: set[NodeId] = field(default_factory=set)
    """Removed from the cluster: nobody is heard under these names."""
    _unflushed: list[Flushable] = field(default_factory=list)
    _dials: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def flush_soon(self, connection: Flushable) -> None:
        """Have `connection` flushed when this loop turn ends, or earlier by `flush`."""
        if not self._unflushed:
            asyncio.get_running_loop().call_soon(self.flush)
        self._unflushed.append(connection)

    def flush(self) -> None:
        unflushed, self._unflushed = self._unflushed, []
        for connection in unflushed:
            connection.flush()

    def next_dial(self) -> int:
        return next(self._dials)

    def hello_to(self, target: str, lane: Lane, dial: int) -> Hello:
        return Hello(
            version_min=PROTOCOL_VERSION_MIN,
            version_max=PROTOCOL_VERSION_MAX,
            cluster_id=self.cluster_id,
            node=self.node,
            target=target,
            boot_generation=self.boot_generation,
            lane=lane,
            dial=dial,
        )

    def knows_newer(self, node: NodeId, boot_generation: int) -> bool:
        return boot_generation < self.generations.get(node, -1)

    def has_room_for(self, node: NodeId) -> bool:
        return node in self.generations or len(self.generations) < PEERS_MAX

    def learn(self, node: NodeId, boot_generation: int) -> bool:
        """Remember the process that answers for `node`; True if it is a newer one than any seen before."""
        known = self.generations.get(node, -1)
        assert boot_generation >= known, "a former process is refused before it is learned"
        self.generations[node] = boot_generation
        return boot_generation > known


def tune(sock: socket.socket) -> None:
    """No delay for small writes, and an end for connections whose other host has vanished."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    seconds = SILENCE_MS_MAX // 1000
    for option, value in (("TCP_KEEPIDLE", seconds // 2), ("TCP_KEEPINTVL", max(1, seconds // 5)), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_MS_MAX)
