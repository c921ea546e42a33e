"""The dialling end of TCP connections: keep a connection per lane to each peer, and report what that teaches about it."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from typing import cast

from cluster.ids import NodeId
from cluster.pump.lanes import Lane
from cluster.transport.peer import Refusal
from cluster.transport.peer_wire import (
    HELLO_BYTES_MAX,
    FrameDecoder,
    Hello,
    Refused,
    decode_opening,
    encode_opening,
    frame_header,
)
from cluster.transport.reconnect import RETRY_FIRST_MS, Reconnect
from cluster.transport.tcp_local import HANDSHAKE_TIMEOUT_MS, LocalEnd, tune

_log = logging.getLogger(__name__)


class Link:
    """The lanes towards one peer, and what has been reported about it.

    Invariant: reports alternate: connected, then at most one `disconnected` of each kind, then connected again.
    """

    __slots__ = ("_connected", "_reported_refused", "host", "lanes", "local", "node", "port")

    def __init__(self, local: LocalEnd, node: NodeId, host: str, port: int) -> None:
        self.local = local
        self.node = node
        self.host = host
        self.port = port
        self._connected = False
        self._reported_refused = False
        self.lanes = tuple(LaneDialer(self, lane) for lane in Lane)

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
        self.local.events.on_connected(self.node, cast(int, generations.pop()))

    def lane_down(self) -> None:
        if self._connected:
            self._connected = False
            if self.local.running:
                self.local.events.on_disconnected(self.node, False)

    def refused(self) -> None:
        if self._reported_refused or not self.local.running or any(lane.connection for lane in self.lanes):
            return
        self._reported_refused = True
        self.local.events.on_disconnected(self.node, True)


class LaneDialer:
    """Keeps one lane's connection alive: dial, wait for its end, wait a little, dial again."""

    __slots__ = ("_reconnect", "_task", "_wake", "connection", "lane", "link")

    def __init__(self, link: Link, lane: Lane) -> None:
        self.link = link
        self.lane = lane
        self.connection: Outbound | None = None
        """Set exactly while the handshake is done and the connection lives."""
        self._reconnect = Reconnect(link.local.source)
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

    async def _dial(self) -> Outbound | None:
        """One attempt, bounded in time. None on any failure, which has then been logged or reported."""
        link = self.link
        host, port = link.host, link.port
        outbound: Outbound | None = None
        established = False
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT_MS / 1000):
                outbound = await self._open(host, port)
                established = outbound is not None and await outbound.ready and (host, port) == (link.host, link.port)
        except TimeoutError:
            link.local.counters.refuse(Refusal.HANDSHAKE_TIMEOUT)
            _log.info("peer %s at %s:%d: no answer within %d ms", link.node, host, port, HANDSHAKE_TIMEOUT_MS)
        except (OSError, ValueError) as error:  # ValueError: a host that can not be a name
            _log.info("peer %s at %s:%d: %s", link.node, host, port, error)
        finally:
            if outbound is not None and not established:
                outbound.abort()
        return outbound if established else None

    async def _open(self, host: str, port: int) -> Outbound | None:
        """Connect to the first of the name's addresses that answers; None, reported, if all refused."""
        loop = asyncio.get_running_loop()
        addresses = await _addresses(host, port)
        failure: OSError | None = None
        for address in addresses:
            try:
                _, protocol = await loop.create_connection(lambda: Outbound(self), *address)
                return protocol
            except ConnectionRefusedError:
                continue
            except OSError as error:
                failure = error
        if failure is not None:
            raise failure
        self.link.refused()
        return None


class Outbound(asyncio.Protocol):
    """The dialling end: sends frames, receives the acceptor's answer to its Hello and nothing else."""

    __slots__ = (
        "_bytes_max",
        "_counters",
        "_decoder",
        "_dialer",
        "_local",
        "_pending",
        "_pending_bytes",
        "_transport",
        "closed",
        "peer_generation",
        "ready",
    )

    def __init__(self, dialer: LaneDialer) -> None:
        local, loop = dialer.link.local, asyncio.get_running_loop()
        self._dialer = dialer
        self._local = local
        self._counters = local.counters
        self._bytes_max = local.bounds.of(dialer.lane)
        self._decoder = FrameDecoder(HELLO_BYTES_MAX)
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._transport: asyncio.Transport | None = None
        self.peer_generation = -1
        self.ready: asyncio.Future[bool] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        tune(transport.get_extra_info("socket"))
        local = self._local
        hello = local.hello_to(self._dialer.link.node, self._dialer.lane, local.next_dial())
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
        elif not isinstance(answer, Hello):
            self._fail(Refusal.MALFORMED)
        elif answer.node != link.node:
            self._fail(Refusal.WRONG_NODE)
        elif answer.cluster_id != link.local.cluster_id:
            self._fail(Refusal.WRONG_CLUSTER)
        elif link.local.knows_newer(link.node, answer.boot_generation):
            self._fail(Refusal.STALE_GENERATION)
        else:
            if link.local.learn(link.node, answer.boot_generation):
                link.drop_generations_below(answer.boot_generation)
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
        """Close, after handing over what the kernel takes at once; a peer that does not read is not waited for."""
        self.flush()
        self._end()
        if self._transport is not None:
            if self._transport.get_write_buffer_size():
                self._transport.abort()
            else:
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
            self._local.flush_soon(self)
        self._pending.append(frame_header(frame))
        self._pending.append(frame)
        self._pending_bytes += size + 8
        return True

    def queued_bytes(self) -> int:
        assert self._transport is not None, "the handshake is done"
        return self._pending_bytes + self._transport.get_write_buffer_size()

    def flush(self) -> None:
        """Hand everything accepted to the kernel, as far as it takes it, in one write."""
        pending = self._pending
        if not pending or self._transport is None:
            return
        self._counters.frames_sent += len(pending) >> 1
        self._counters.bytes_sent += self._pending_bytes
        self._transport.writelines(pending)
        self._pending = []
        self._pending_bytes = 0


async def _addresses(host: str, port: int) -> list[tuple[str, int]]:
    """What to dial, in order. A literal address costs no resolver thread. Raises OSError if the name is unknown."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys((str(address[0]), int(address[1])) for *_, address in found))
    return [(host, port)]
