"""Sockets, clock and timer for the gossip core: datagrams over UDP; probes and comparisons that need it over TCP.

Both listen on the same port number. A stream carries one request and one answer, each length (u32, little-endian) and
packet; an answer of no bytes says that there is none.

The core does all the thinking and can not fail on what arrives; this moves bytes, within bounds, and steps it when its deadline
comes. A host name is resolved in the background: the datagrams that meet an unresolved name are dropped, as datagrams may be.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, cast

from cluster.gossip.core import Gossip
from cluster.gossip.effects import (
    Awake,
    Cut,
    Datagram,
    DataPath,
    Endpoint,
    Event,
    Leave,
    MemberChange,
    Removed,
    SetHints,
    SetLoad,
    StreamFailed,
    StreamReplied,
    StreamRequest,
    StreamRequested,
    Tick,
)
from cluster.gossip.messages import STREAM_BYTES_MAX, VERSION_MAX, VERSION_MIN, ForeignVersion, Load
from cluster.ids import NodeId

STREAM_TIMEOUT_MS: Final = 2_000
"""From connecting, or accepting, to the end of a stream."""
STREAMS_ACCEPTED_MAX: Final = 128
"""Streams of others at one time; more are closed unanswered (comparisons storm after a partition)."""
RESOLVED_MS: Final = 30_000
"""How long the address of a host name is used before it is asked for again."""
RESOLVED_MAX: Final = 4096
LITERAL_MS: Final = 1 << 62
"""Until when an address that is no name is good."""
LEAVE_MS_MAX: Final = 1_000
FOREIGN_TOLD_MAX: Final = 16
"""Ranges of foreign versions that are logged, each once."""
SPOKEN: Final = (VERSION_MIN, VERSION_MAX)

_LENGTH = struct.Struct("<I")
_log = logging.getLogger(__name__)


def clock_ms() -> int:
    """The clock of the running loop, which the core must be built with."""
    return int(asyncio.get_running_loop().time() * 1000)


@dataclass(slots=True)
class GossipCounters:
    """Totals since start. What the core refused is in `Gossip.refusals`."""

    datagrams_sent: int = 0
    bytes_sent: int = 0
    datagrams_received: int = 0
    bytes_received: int = 0
    datagrams_unsent: int = 0
    streams_failed: int = 0
    streams_refused: int = 0


class GossipTransport:
    """One gossip core on real sockets. Not thread safe.

    core: built with `clock_ms()` as its time.
    host, port: where to listen, for datagrams and streams.
    on_changes: told every change of opinion, after the step that made it. May call back into this object.
    on_superseded: told the generation of a newer process under this node's name.
    on_cut: told each change of the published view.
    data_path: the process of a node that the data path knows, and whether it reaches it now; None if it does not know.
    """

    def __init__(
        self,
        core: Gossip,
        *,
        host: str,
        port: int,
        on_changes: Callable[[list[MemberChange]], None],
        on_superseded: Callable[[int], None] = lambda generation: None,
        on_cut: Callable[[Cut], None] = lambda cut: None,
        data_path: Callable[[NodeId], tuple[int, bool] | None] = lambda node: None,
    ) -> None:
        self.core = core
        self.host = host
        self.port = port
        self.counters = GossipCounters()
        self._on_changes = on_changes
        self._on_superseded = on_superseded
        self._on_cut = on_cut
        self._data_path = data_path
        self._foreign: set[ForeignVersion] = set()
        self._udp: asyncio.DatagramTransport | None = None
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._armed_ms = -1
        self._tasks: set[asyncio.Task[None]] = set()
        self._streams: dict[int, asyncio.StreamWriter] = {}
        self._last_stream = 0
        self._resolver = _Resolver()

    async def start(self) -> None:
        """Listen and begin. Raises OSError if an address is taken; nothing is left running then."""
        assert self._server is None, "started twice"
        loop = asyncio.get_running_loop()
        family, kind, protocol, _, address = (
            await loop.getaddrinfo(self.host, self.port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE)
        )[0]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            sock.bind(address)
            self._server = await asyncio.start_server(self._serve, self.host, self.port, limit=STREAM_BYTES_MAX)
            self._udp, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), sock=sock)
        except OSError:
            sock.close()
            raise
        self._resolver.family = family
        self.step(Tick())

    async def stop(self) -> None:
        """Close everything, without a word to anybody. Nothing is called afterwards."""
        server, self._server = self._server, None
        if self._timer is not None:
            self._timer.cancel()
        if self._udp is not None:
            self._udp.close()
            self._udp = None
        if server is not None:
            server.close()
        tasks = [*self._tasks, *self._resolver.tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in self._streams.values():
            writer.transport.abort()
        self._streams.clear()
        if server is not None:
            await server.wait_closed()

    async def leave(self) -> None:
        """Say good-bye and stay until it was passed on, LEAVE_MS_MAX at most; no longer than anybody is there, for all may be
        leaving together. `stop` comes next.
        """
        self.step(Leave())
        until_ms = clock_ms() + LEAVE_MS_MAX
        core = self.core
        while core.news_waiting and not core.alone and clock_ms() < until_ms:  # noqa: ASYNC110 - the core's own timer drains it
            await asyncio.sleep(0.02)

    def awake(self) -> None:
        """This process is awake anyway: see `Awake`."""
        if self._server is not None and self.core.early_ms <= clock_ms():
            self.step(Awake())

    def set_hints(self, hints: bytes) -> None:
        """Tell everybody. Raises TooLarge; nothing was changed."""
        self.step(SetHints(hints))

    def set_load(self, load: Load) -> None:
        """Tell everybody."""
        self.step(SetLoad(load))

    def remove(self, nodes: Iterable[NodeId], members_epoch: int) -> None:
        """The authoritative member list, as of this epoch, no longer has these ids."""
        self.step(Removed(tuple(nodes), members_epoch))

    def step(self, event: Event) -> None:
        """Give the core an event and do what it wants done. Ignored once stopped."""
        if self._server is None:
            return
        effects = self.core.step(event, clock_ms())
        for target, data in effects.datagrams:
            self._send(target, data)
        for request in effects.requests:
            task = asyncio.create_task(self._request(request))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        for reply in effects.replies:
            writer = self._streams.get(reply.stream)
            if writer is not None:
                writer.write(_LENGTH.pack(len(reply.data)) + reply.data)
        self._arm()
        if effects.changes:
            self._on_changes(effects.changes)
        if effects.cut is not None:
            self._on_cut(effects.cut)
        if effects.superseded_by:
            self._on_superseded(effects.superseded_by)
        if effects.foreign is not None and effects.foreign not in self._foreign and len(self._foreign) < FOREIGN_TOLD_MAX:
            self._foreign.add(effects.foreign)
            low, high = effects.foreign.version_min, effects.foreign.version_max
            _log.warning("gossip: somebody speaks versions %d to %d, this release reads %d to %d", low, high, *SPOKEN)
        for node in effects.data_paths:
            known = self._data_path(node)
            if known is not None:
                self.step(DataPath(node, *known))

    def _arm(self) -> None:
        if self.core.deadline_ms == self._armed_ms:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._armed_ms = self.core.deadline_ms
        self._timer = asyncio.get_running_loop().call_at(self._armed_ms / 1000, self._on_deadline)

    def _on_deadline(self) -> None:
        self._armed_ms = -1
        self.step(Tick())

    # Datagrams.

    def _send(self, target: Endpoint, data: bytes) -> None:
        address = self._resolver.address(target[0])
        if self._udp is None or self._udp.is_closing() or address is None:
            self.counters.datagrams_unsent += 1
            return
        self._udp.sendto(data, (address, target[1]))
        self.counters.datagrams_sent += 1
        self.counters.bytes_sent += len(data)

    def on_datagram(self, source: Endpoint, data: bytes) -> None:
        self.counters.datagrams_received += 1
        self.counters.bytes_received += len(data)
        self.step(Datagram(source, data))

    # Streams.

    async def _request(self, request: StreamRequest) -> None:
        data = b""
        try:
            async with asyncio.timeout(STREAM_TIMEOUT_MS / 1000):
                reader, writer = await asyncio.open_connection(*request.target, limit=STREAM_BYTES_MAX)
                try:
                    writer.write(_LENGTH.pack(len(request.data)) + request.data)
                    data = await _read_frame(reader)
                finally:
                    writer.transport.abort()
        except (OSError, ValueError, TimeoutError, asyncio.IncompleteReadError) as error:
            _log.debug("gossip stream to %s:%d: %r", *request.target, error)
        if data:
            self.step(StreamReplied(request.request, data))
        else:
            self.counters.streams_failed += 1
            self.step(StreamFailed(request.request))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None or len(self._streams) >= STREAMS_ACCEPTED_MAX:
            self.counters.streams_refused += 1
            writer.transport.abort()
            return
        self._last_stream += 1
        stream = self._last_stream
        self._streams[stream] = writer
        try:
            async with asyncio.timeout(STREAM_TIMEOUT_MS / 1000):
                data = await _read_frame(reader)
                self.step(StreamRequested(stream, data))
                await writer.drain()
                await reader.read(1)  # until the asker hangs up
        except (OSError, ValueError, TimeoutError, asyncio.IncompleteReadError) as error:
            self.counters.streams_refused += 1
            _log.debug("gossip stream from %s: %r", writer.get_extra_info("peername"), error)
        finally:
            self._streams.pop(stream, None)
            writer.transport.abort()


class _Datagrams(asyncio.DatagramProtocol):
    """Hands datagrams to the transport. ICMP errors are no news to a failure detector."""

    def __init__(self, owner: GossipTransport) -> None:
        self._owner = owner

    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:
        self._owner.on_datagram((str(addr[0]), addr[1]), data)


class _Resolver:
    """Addresses of host names, asked for in the background. Literal addresses cost nothing."""

    __slots__ = ("_known", "family", "tasks")

    def __init__(self) -> None:
        self.family: int = socket.AF_INET
        self.tasks: set[asyncio.Task[None]] = set()
        self._known: dict[str, tuple[str | None, int]] = {}
        """Host -> (address, time until which it is good). None while nothing is known."""

    def address(self, host: str) -> str | None:
        known = self._known.get(host)
        if known is not None and known[1] > clock_ms():
            return known[0]
        if len(self._known) >= RESOLVED_MAX:
            self._known.clear()
        if _is_literal(host):
            self._known[host] = (host, LITERAL_MS)
            return host
        former = known[0] if known is not None else None
        self._known[host] = (former, clock_ms() + RESOLVED_MS)
        task = asyncio.create_task(self._resolve(host, former))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return former

    async def _resolve(self, host: str, former: str | None) -> None:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, 0, family=self.family, type=socket.SOCK_DGRAM)
        except (OSError, ValueError) as error:
            _log.info("gossip host %s: %s", host, error)
            self._known[host] = (former, clock_ms() + STREAM_TIMEOUT_MS)
            return
        self._known[host] = (cast(str, found[0][4][0]), clock_ms() + RESOLVED_MS)


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def _read_frame(reader: asyncio.StreamReader) -> bytes:
    """One length-prefixed frame. Raises ValueError if it announces more than STREAM_BYTES_MAX."""
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    if length > STREAM_BYTES_MAX:
        raise ValueError(f"frame of {length} bytes")
    return await reader.readexactly(length)
