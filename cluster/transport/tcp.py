"""Frames between nodes over plain TCP.

Each node dials its own connections, one per lane, for what it sends; what it receives comes over connections that the
others dialled (`peer_wire` says why). A peer's Hello on an inbound connection also tells that it is up, so a waiting dial
towards it starts at once, and that it was restarted, so connections to its former process are dropped at once.

Cost: one write per connection and loop turn, no coroutine, task or lock per frame; a task per lane exists only to dial.
Works on asyncio's own loop and on uvloop.
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import logging
import random
import socket
from collections.abc import Callable
from typing import Final, cast

from cluster.errors import TooLarge
from cluster.ids import NodeId
from cluster.transport.peer import FRAME_BYTES_MAX, Lane, LaneBounds, PeerCounters, PeerEvents, Refusal
from cluster.transport.peer_wire import (
    HELLO_BYTES_MAX,
    PROTOCOL_VERSION_MAX,
    PROTOCOL_VERSION_MIN,
    FrameDecoder,
    Hello,
    Refused,
    decode_opening,
    encode_opening,
    frame_header,
    judge_hello,
)
from cluster.transport.reconnect import RETRY_FIRST_MS, Reconnect

HANDSHAKE_TIMEOUT_MS: Final = 2000
"""From dialling, or from accepting, to a complete Hello."""
INBOUND_CONNECTIONS_MAX: Final = 1024
PEERS_MAX: Final = 4096
"""Distinct peers whose boot generation is remembered; later strangers are refused."""
SILENCE_MS_MAX: Final = 10_000
"""Unacknowledged data for this long ends a connection (TCP_USER_TIMEOUT); a vanished host leaves no other trace."""
JOIN_BYTES_MAX: Final = 64 * 1024
"""Turns with fewer bytes are joined into one buffer, which is cheaper than handing the loop many small ones."""

_log = logging.getLogger(__name__)


class TcpPeerTransport:
    """The `PeerTransport` of `peer` over TCP.

    cluster_id, node, boot_generation: told to every peer; a peer of another cluster is refused.
    host, port: where to listen; port 0 takes a free one, `port` then says which.
    source: randomness for the jitter of retries.
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
    ) -> None:
        self.cluster_id = cluster_id
        self.node = node
        self.boot_generation = boot_generation
        self.host = host
        self.port = port
        self.events = events
        self.source = source
        self.bounds = bounds or LaneBounds()
        self.counters = PeerCounters()
        self.running = False
        self._server: asyncio.Server | None = None
        self._links: dict[NodeId, _Link] = {}
        self._accepted: set[_Inbound] = set()
        self._inbound: dict[tuple[NodeId, Lane], _Inbound] = {}
        self._generations: dict[NodeId, int] = {}
        self._dials = itertools.count(1)

    async def start(self) -> None:
        """See `PeerTransport.start`."""
        assert self._server is None, "started twice"
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Inbound(self), self.host, self.port, backlog=128)
        self.port = self._server.sockets[0].getsockname()[1]
        self.running = True
        for link in self._links.values():
            link.start()

    async def stop(self) -> None:
        """See `PeerTransport.stop`. Frames already handed to the kernel may still arrive."""
        self.running = False
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for inbound in list(self._accepted):
            inbound.abort()
        await asyncio.gather(*(link.stop() for link in self._links.values()))
        self._links.clear()
        if server is not None:
            await server.wait_closed()

    def connect(self, node: NodeId, host: str, port: int) -> None:
        """See `PeerTransport.connect`."""
        assert node != self.node, "a node does not dial itself"
        link = self._links.get(node)
        if link is not None:
            link.move(host, port)
            return
        link = self._links[node] = _Link(self, node, host, port)
        if self.running:
            link.start()

    def disconnect(self, node: NodeId) -> None:
        """See `PeerTransport.disconnect`."""
        link = self._links.pop(node, None)
        if link is not None:
            link.cancel()

    def send(self, node: NodeId, lane: Lane, frame: bytes) -> bool:
        """See `PeerTransport.send`."""
        size = len(frame)
        if not 1 <= size <= FRAME_BYTES_MAX:
            raise TooLarge(f"a peer frame has 1 to {FRAME_BYTES_MAX} bytes, not {size}")
        link = self._links.get(node)
        connection = link.lanes[lane].connection if link is not None else None
        if connection is None:
            self.counters.dropped_not_connected += 1
            return False
        return connection.send(frame, size)

    def queued_bytes(self, node: NodeId, lane: Lane) -> int:
        """Bytes accepted for this lane that the kernel has not taken yet; 0 when not connected."""
        link = self._links.get(node)
        connection = link.lanes[lane].connection if link is not None else None
        return connection.queued_bytes() if connection is not None else 0

    # What follows is for the connections of this module.

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

    def next_dial(self) -> int:
        return next(self._dials)

    def count_accepted(self, inbound: _Inbound) -> Refusal | None:
        self._accepted.add(inbound)
        return Refusal.TOO_MANY_CONNECTIONS if len(self._accepted) > INBOUND_CONNECTIONS_MAX else None

    def admit(self, inbound: _Inbound, hello: Hello) -> Refusal | None:
        """Make `inbound` the one connection of its (peer, lane), or say why not.

        Invariant: of one peer's connections for a lane only the latest dial of its latest process delivers frames, which
        keeps the order of a lane across reconnects and stops a former process from being heard.
        """
        refusal = judge_hello(hello, cluster_id=self.cluster_id, own_node=self.node)
        if refusal is not None:
            return refusal
        node, lane = NodeId(hello.node), Lane(hello.lane)
        known = self._generations.get(node, -1)
        if hello.boot_generation < known:
            return Refusal.STALE_GENERATION
        if known < 0 and len(self._generations) >= PEERS_MAX:
            return Refusal.TOO_MANY_CONNECTIONS
        older = self._inbound.get((node, lane))
        if older is not None:
            if (hello.boot_generation, hello.dial) <= older.age:
                return Refusal.SUPERSEDED
            older.abort()
        self._inbound[(node, lane)] = inbound
        self.observe_generation(node, hello.boot_generation)
        link = self._links.get(node)
        if link is not None:
            link.lanes[lane].dial_now()
        return None

    def observe_generation(self, node: NodeId, boot_generation: int) -> bool:
        """Learn which process of `node` runs; False if a later one is known. A newer one ends lanes to the former."""
        known = self._generations.get(node, -1)
        if boot_generation < known:
            return False
        if boot_generation > known:
            self._generations[node] = boot_generation
            link = self._links.get(node)
            if link is not None:
                link.drop_generations_below(boot_generation)
        return True

    def forget(self, inbound: _Inbound, node: NodeId | None, lane: Lane) -> None:
        self._accepted.discard(inbound)
        if node is not None and self._inbound.get((node, lane)) is inbound:
            del self._inbound[(node, lane)]


class _Link:
    """The lanes towards one peer, and what has been reported about it.

    Invariant: reports alternate: connected, then at most one `disconnected` of each kind, then connected again.
    """

    __slots__ = ("_connected", "_reported_refused", "host", "lanes", "node", "port", "transport")

    def __init__(self, transport: TcpPeerTransport, node: NodeId, host: str, port: int) -> None:
        self.transport = transport
        self.node = node
        self.host = host
        self.port = port
        self._connected = False
        self._reported_refused = False
        self.lanes = tuple(_LaneDialer(self, lane) for lane in Lane)

    def start(self) -> None:
        for lane in self.lanes:
            lane.start()

    def cancel(self) -> None:
        self._connected = False
        for lane in self.lanes:
            lane.cancel()

    async def stop(self) -> None:
        self.cancel()
        await asyncio.gather(*(lane.ended() for lane in self.lanes))

    def move(self, host: str, port: int) -> None:
        if (host, port) == (self.host, self.port):
            return
        self.host, self.port = host, port
        self._reported_refused = False
        for lane in self.lanes:
            lane.drop()

    def drop_generations_below(self, boot_generation: int) -> None:
        for lane in self.lanes:
            if lane.connection is not None and lane.connection.peer_generation < boot_generation:
                lane.drop()

    def lane_up(self) -> None:
        generations = {lane.connection.peer_generation if lane.connection else None for lane in self.lanes}
        if self._connected or None in generations or len(generations) != 1:
            return
        self._connected = True
        self._reported_refused = False
        self.transport.events.on_connected(self.node, cast(int, generations.pop()))

    def lane_down(self) -> None:
        if self._connected:
            self._connected = False
            if self.transport.running:
                self.transport.events.on_disconnected(self.node, False)

    def refused(self) -> None:
        if self._reported_refused or not self.transport.running or any(lane.connection for lane in self.lanes):
            return
        self._reported_refused = True
        self.transport.events.on_disconnected(self.node, True)


class _LaneDialer:
    """Keeps one lane's connection alive: dial, wait for its end, wait a little, dial again."""

    __slots__ = ("_reconnect", "_task", "_wake", "connection", "lane", "link")

    def __init__(self, link: _Link, lane: Lane) -> None:
        self.link = link
        self.lane = lane
        self.connection: _Outbound | None = None
        """Set exactly while the handshake is done and the connection lives."""
        self._reconnect = Reconnect(link.transport.source)
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"dial {self.link.node} {self.lane.name.lower()}")

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
        if self.connection is not None:
            self.connection.close()

    async def ended(self) -> None:
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    def dial_now(self) -> None:
        """End a wait between dials: there is fresh evidence that the peer is up."""
        if self.connection is None:
            self._wake.set()

    def drop(self) -> None:
        """Give the connection up, if there is one, and dial afresh."""
        if self.connection is not None:
            self.connection.abort()
        self._wake.set()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            dialled_at = loop.time()
            outbound = await self._dial()
            if outbound is None:
                wait_ms = self._reconnect.after_failure()
            else:
                up_at = loop.time()
                await outbound.closed
                wait_ms = self._reconnect.after_loss(int((loop.time() - up_at) * 1000))
            if wait_ms:
                handle = loop.call_later(wait_ms / 1000, self._wake.set)
                try:
                    await self._wake.wait()
                finally:
                    handle.cancel()
            # Two nodes whose connections die young wake each other with every dial; this is what bounds their pace.
            await asyncio.sleep(max(0.0, dialled_at + RETRY_FIRST_MS / 1000 - loop.time()))

    async def _dial(self) -> _Outbound | None:
        """One attempt, bounded in time. None on any failure, which has then been logged or reported."""
        link = self.link
        host, port = link.host, link.port
        outbound: _Outbound | None = None
        established = False
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT_MS / 1000):
                outbound = await self._open(host, port)
                established = outbound is not None and await outbound.ready and (host, port) == (link.host, link.port)
        except TimeoutError:
            link.transport.counters.refuse(Refusal.HANDSHAKE_TIMEOUT)
            _log.info("peer %s at %s:%d: no answer within %d ms", link.node, host, port, HANDSHAKE_TIMEOUT_MS)
        except OSError as error:
            _log.info("peer %s at %s:%d: %s", link.node, host, port, error)
        finally:
            if outbound is not None and not established:
                outbound.abort()
        return outbound if established else None

    async def _open(self, host: str, port: int) -> _Outbound | None:
        """Connect to the first of the name's addresses that answers; None, reported, if all refused."""
        loop = asyncio.get_running_loop()
        addresses = await _addresses(host, port)
        failure: OSError | None = None
        for address in addresses:
            try:
                _, protocol = await loop.create_connection(lambda: _Outbound(self), *address)
                return protocol
            except ConnectionRefusedError:
                continue
            except OSError as error:
                failure = error
        if failure is not None:
            raise failure
        self.link.refused()
        return None


class _Outbound(asyncio.Protocol):
    """The dialling end: sends frames, receives the acceptor's answer to its Hello and nothing else."""

    __slots__ = (
        "_bytes_max",
        "_counters",
        "_decoder",
        "_dialer",
        "_loop",
        "_pending",
        "_pending_bytes",
        "_transport",
        "closed",
        "peer_generation",
        "ready",
    )

    def __init__(self, dialer: _LaneDialer) -> None:
        transport = dialer.link.transport
        self._loop = asyncio.get_running_loop()
        self._dialer = dialer
        self._counters = transport.counters
        self._bytes_max = transport.bounds.of(dialer.lane)
        self._decoder = FrameDecoder(HELLO_BYTES_MAX)
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._transport: asyncio.Transport | None = None
        self.peer_generation = -1
        self.ready: asyncio.Future[bool] = self._loop.create_future()
        self.closed: asyncio.Future[None] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        _tune(self._transport)
        peers = self._dialer.link.transport
        hello = peers.hello_to(self._dialer.link.node, self._dialer.lane, peers.next_dial())
        self._transport.write(encode_opening(hello))

    def data_received(self, data: bytes) -> None:
        if self.closed.done():
            return
        frames = self._decoder.feed(data)
        if self._decoder.failure is not None:
            self._fail(self._decoder.failure)
        elif frames:
            if self.ready.done() or len(frames) > 1:
                self._fail(Refusal.MALFORMED)
            else:
                self._on_opening(frames[0])

    def _on_opening(self, frame: bytes) -> None:
        answer = decode_opening(frame)
        link = self._dialer.link
        if isinstance(answer, Refusal):
            self._fail(answer)
        elif isinstance(answer, Refused):
            known = answer.refusal in Refusal._value2member_map_
            self._fail(Refusal(answer.refusal) if known else Refusal.MALFORMED)
        elif answer.node != link.node:
            self._fail(Refusal.WRONG_NODE)
        elif answer.cluster_id != link.transport.cluster_id:
            self._fail(Refusal.WRONG_CLUSTER)
        elif not link.transport.observe_generation(link.node, answer.boot_generation):
            self._fail(Refusal.STALE_GENERATION)
        else:
            self.peer_generation = answer.boot_generation
            self.ready.set_result(True)
            self._dialer.connection = self
            link.lane_up()

    def _fail(self, refusal: Refusal) -> None:
        link = self._dialer.link
        self._counters.refuse(refusal)
        _log.warning("peer %s at %s:%d, lane %s: %s", link.node, link.host, link.port, self._dialer.lane.name, refusal.value)
        self.abort()

    def close(self) -> None:
        """Close once what is queued is written. The lane is down when this returns."""
        self._flush()
        self._end()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once; what is queued is dropped. The lane is down when this returns."""
        self._end()
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        if self.closed.done():
            return
        self.closed.set_result(None)
        if not self.ready.done():
            self.ready.set_result(False)
        self._pending.clear()
        self._pending_bytes = 0
        if self._dialer.connection is self:
            self._dialer.connection = None
            self._dialer.link.lane_down()

    def send(self, frame: bytes, size: int) -> bool:
        assert self._transport is not None, "the handshake is done"
        waiting = self._pending_bytes + self._transport.get_write_buffer_size()
        if waiting and waiting + size > self._bytes_max:
            self._counters.dropped_over_bound += 1
            return False
        if not self._pending:
            self._loop.call_soon(self._flush)
        self._pending.append(frame_header(frame))
        self._pending.append(frame)
        self._pending_bytes += size + 8
        return True

    def queued_bytes(self) -> int:
        assert self._transport is not None, "the handshake is done"
        return self._pending_bytes + self._transport.get_write_buffer_size()

    def _flush(self) -> None:
        pending = self._pending
        if not pending or self._transport is None:
            return
        self._counters.frames_sent += len(pending) >> 1
        self._counters.bytes_sent += self._pending_bytes
        if self._pending_bytes <= JOIN_BYTES_MAX:
            self._transport.write(b"".join(pending))
        else:
            self._transport.writelines(pending)
        self._pending = []
        self._pending_bytes = 0


class _Inbound(asyncio.Protocol):
    """The accepting end: answers a Hello, then delivers frames."""

    __slots__ = ("_closed", "_decoder", "_deliver", "_lane", "_node", "_peers", "_timer", "_transport", "age")

    def __init__(self, peers: TcpPeerTransport) -> None:
        self._peers = peers
        self._decoder = FrameDecoder(HELLO_BYTES_MAX)
        self._deliver: Callable[[NodeId, Lane, bytes], None] = peers.events.on_frame
        self._node: NodeId | None = None
        self._lane = Lane.LIVENESS
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self.age = (-1, -1)
        """(boot generation, dial) of the peer's end."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        _tune(self._transport)
        if not self._peers.running:
            self.abort()
            return
        refusal = self._peers.count_accepted(self)
        if refusal is not None:
            self._fail(refusal)
            return
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(HANDSHAKE_TIMEOUT_MS / 1000, self._fail, Refusal.HANDSHAKE_TIMEOUT)

    def data_received(self, data: bytes) -> None:
        if self._closed:
            return
        frames = self._decoder.feed(data)
        node = self._node
        if node is not None:
            counters = self._peers.counters
            counters.frames_received += len(frames)
            counters.bytes_received += len(data)
            lane, deliver = self._lane, self._deliver
            for frame in frames:
                deliver(node, lane, frame)
                if self._closed:  # the node stopped the transport, or a newer connection took over, from inside on_frame
                    return
        elif frames:
            self._on_opening(frames)
        if self._decoder.failure is not None:
            self._fail(self._decoder.failure)

    def _on_opening(self, frames: list[bytes]) -> None:
        assert self._transport is not None, "data comes after connection_made"
        hello = decode_opening(frames[0])
        if isinstance(hello, Refusal):
            self._fail(hello)
        elif isinstance(hello, Refused) or len(frames) > 1:
            self._fail(Refusal.MALFORMED)
        else:
            self.age = (hello.boot_generation, hello.dial)
            refusal = self._peers.admit(self, hello)
            if refusal is not None:
                self._transport.write(encode_opening(Refused(refusal.value)))
                self._fail(refusal, hello.node)
                return
            if self._timer is not None:
                self._timer.cancel()
            self._node, self._lane = NodeId(hello.node), Lane(hello.lane)
            self._decoder.frame_bytes_max = FRAME_BYTES_MAX
            self._transport.write(encode_opening(self._peers.hello_to(hello.node, self._lane, hello.dial)))

    def _fail(self, refusal: Refusal, who: str = "") -> None:
        if self._closed:
            return
        self._peers.counters.refuse(refusal)
        address = self._transport.get_extra_info("peername") if self._transport is not None else None
        _log.warning("connection of %s from %s ended: %s", who or self._node or "unknown peer", address, refusal.value)
        self._end()
        if self._transport is not None:
            self._transport.close()  # not abort: the dialler shall read the reason

    def abort(self) -> None:
        """Close at once; no frame is delivered from here on."""
        self._end()
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._peers.forget(self, self._node, self._lane)


async def _addresses(host: str, port: int) -> list[tuple[str, int]]:
    """What to dial, in order. A literal address costs no resolver thread. Raises OSError if the name is unknown."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys((str(address[0]), int(address[1])) for *_, address in found))
    return [(host, port)]


def _tune(transport: asyncio.Transport) -> None:
    """No delay for small writes, and an end for connections whose other host has vanished."""
    sock: socket.socket = transport.get_extra_info("socket")
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    seconds = SILENCE_MS_MAX // 1000
    for option, value in (("TCP_KEEPIDLE", seconds // 2), ("TCP_KEEPINTVL", max(1, seconds // 5)), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_MS_MAX)
