"""The accepting end of TCP connections: judge the Hello, then deliver frames.

Invariant: of one peer's connections for a lane only the latest dial of its latest process delivers frames. That keeps the
order of a lane across reconnects and stops a former process from being heard.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, cast

from cluster.ids import NodeId
from cluster.pump.lanes import Lane
from cluster.transport.introduction import INTRODUCTION_TIMEOUT_MS, Introduced, encode_introduced
from cluster.transport.peer import FRAME_BYTES_MAX, Refusal
from cluster.transport.peer_wire import (
    HELLO_BYTES_MAX,
    FrameDecoder,
    Hello,
    Introduction,
    Refused,
    decode_opening,
    encode_opening,
    judge_hello,
)
from cluster.transport.tcp_local import HANDSHAKE_TIMEOUT_MS, LocalEnd, tune

INBOUND_CONNECTIONS_MAX: Final = 1024
INTRODUCTIONS_MAX: Final = 16
"""Newcomers that are being answered at one time; further ones are hung up on, and ask again."""
OnIntroduction = Callable[[Introduction], Awaitable[Introduced]]

_log = logging.getLogger(__name__)


class InboundConnections:
    """All accepted connections of this node, and which of them speaks for each (peer, lane).

    on_admitted: told (peer, lane, whether its process is a new one) after each accepted Hello. on_introduction: answers who is
        no peer yet.
    """

    def __init__(
        self, local: LocalEnd, on_admitted: Callable[[NodeId, Lane, bool], None], on_introduction: OnIntroduction | None
    ) -> None:
        self.local = local
        self._on_introduction = on_introduction
        self._introductions: set[asyncio.Task[None]] = set()
        self._on_admitted = on_admitted
        self._accepted: set[Inbound] = set()
        self._speaking: dict[tuple[NodeId, Lane], Inbound] = {}

    def accept(self) -> Inbound:
        return Inbound(self)

    def speaking(self) -> set[tuple[NodeId, Lane]]:
        """The (peer, lane) pairs that are connected to this node."""
        return set(self._speaking)

    def abort_all(self) -> None:
        for task in self._introductions:
            task.cancel()
        for inbound in list(self._accepted):
            inbound.abort()

    def hang_up(self, node: NodeId) -> None:
        """End what a peer says."""
        for lane in Lane:
            speaking = self._speaking.get((node, lane))
            if speaking is not None:
                speaking.abort()

    def introduced(self, inbound: Inbound, introduction: Introduction) -> bool:
        """Answer a newcomer in the background; False when nobody does, or too many are being answered."""
        if self._on_introduction is None or len(self._introductions) >= INTRODUCTIONS_MAX:
            return False
        task = asyncio.ensure_future(self._answer(self._on_introduction(introduction), inbound))
        self._introductions.add(task)
        task.add_done_callback(self._introductions.discard)
        return True

    async def _answer(self, answer: Awaitable[Introduced], inbound: Inbound) -> None:
        inbound.finish(encode_introduced(await answer))

    def opened(self, inbound: Inbound) -> Refusal | None:
        self._accepted.add(inbound)
        return Refusal.TOO_MANY_CONNECTIONS if len(self._accepted) > INBOUND_CONNECTIONS_MAX else None

    def admit(self, inbound: Inbound, hello: Hello) -> Refusal | None:
        """Let `inbound` speak for its (peer, lane), silencing an earlier dial; or say why not."""
        local = self.local
        refusal = judge_hello(hello, cluster_id=local.cluster_id, own_node=local.node)
        if refusal is not None:
            return refusal
        node, lane = NodeId(hello.node), Lane(hello.lane)
        if node in local.barred:
            return Refusal.REMOVED
        if local.knows_newer(node, hello.boot_generation):
            return Refusal.STALE_GENERATION
        if not local.has_room_for(node):
            return Refusal.TOO_MANY_CONNECTIONS
        older = self._speaking.get((node, lane))
        if older is not None:
            if (hello.boot_generation, hello.dial) <= older.age:
                return Refusal.SUPERSEDED
            older.abort()
        self._speaking[(node, lane)] = inbound
        newer = local.learn(node, hello.boot_generation)
        if newer:
            self._silence_former(node, hello.boot_generation)
        self._on_admitted(node, lane, newer)
        return None

    def _silence_former(self, node: NodeId, boot_generation: int) -> None:
        for lane in Lane:
            speaking = self._speaking.get((node, lane))
            if speaking is not None and 0 <= speaking.age[0] < boot_generation:
                speaking.abort()

    def closed(self, inbound: Inbound, node: NodeId | None, lane: Lane) -> None:
        self._accepted.discard(inbound)
        if node is not None and self._speaking.get((node, lane)) is inbound:
            del self._speaking[(node, lane)]


class Inbound(asyncio.Protocol):
    """The accepting end: answers a Hello, then delivers frames."""

    __slots__ = (
        "_asked",
        "_closed",
        "_decoder",
        "_deliver",
        "_lane",
        "_local",
        "_node",
        "_owner",
        "_timer",
        "_transport",
        "age",
    )

    def __init__(self, owner: InboundConnections) -> None:
        self._owner = owner
        self._local = owner.local
        self._decoder = FrameDecoder(HELLO_BYTES_MAX)
        self._deliver: Callable[[NodeId, Lane, bytes], None] = owner.local.events.on_frame
        self._node: NodeId | None = None
        self._lane = Lane.LIVENESS
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._asked = False
        self.age = (-1, -1)
        """(boot generation, dial) of the peer's end."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        tune(transport.get_extra_info("socket"))
        if not self._local.running:
            self.abort()
            return
        refusal = self._owner.opened(self)
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
            counters = self._local.counters
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
        elif isinstance(hello, Refused) or self._asked or len(frames) > 1:
            self._fail(Refusal.MALFORMED)
        elif isinstance(hello, Introduction):
            self._asked = True
            if self._timer is not None:
                self._timer.cancel()
            timeout_s = INTRODUCTION_TIMEOUT_MS / 1000
            self._timer = asyncio.get_running_loop().call_later(timeout_s, self._fail, Refusal.HANDSHAKE_TIMEOUT)
            if not self._owner.introduced(self, hello):
                self._fail(Refusal.TOO_MANY_CONNECTIONS)
        else:
            self.age = (hello.boot_generation, hello.dial)
            refusal = self._owner.admit(self, hello)
            if refusal is not None:
                self._transport.write(encode_opening(Refused(refusal.value)))
                self._fail(refusal, hello.node)
                return
            if self._timer is not None:
                self._timer.cancel()
            self._node, self._lane = NodeId(hello.node), Lane(hello.lane)
            self._decoder.frame_bytes_max = FRAME_BYTES_MAX
            self._transport.write(encode_opening(self._local.hello_to(hello.node, self._lane, hello.dial)))

    def finish(self, data: bytes) -> None:
        """Send this, and close."""
        if self._closed:
            return
        self._end()
        if self._transport is not None:
            self._transport.write(data)
            self._transport.close()

    def _fail(self, refusal: Refusal, who: str = "") -> None:
        if self._closed:
            return
        self._local.counters.refuse(refusal)
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
        self._owner.closed(self, self._node, self._lane)
