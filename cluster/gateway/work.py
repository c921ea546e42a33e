"""A worker's stream: asks that documents of a space addressed to one principal, handed out under lease.

Documents are divided into parts, and each part's leader knows its own asks. So the worker's gateway waits at every part until
there is something, and then takes from one part at a time what the worker still has room for: nothing is taken that would
have to lie about here.

Invariant: the worker never has more than `take` asks that it has not finished. When the stream ends, whatever it had is handed
back. Answers do not come this way.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

import msgspec
from grpc import aio

from cluster.errors import ClusterError, InvalidRequest, TooLarge, Unavailable
from cluster.gateway.backend import Backend, Stream
from cluster.ids import check_key, check_space
from cluster.session.operations import Delta, Kind, Operation, Reply
from cluster.v1 import documents_pb2 as wire

Context = aio.ServicerContext[wire.WorkRequest, wire.WorkResponse]

TAKE_MAX: Final = 1_000
LEASE_MS_DEFAULT: Final = 60_000
LEASE_MS_MIN, LEASE_MS_MAX = 1_000, 3_600_000
RETRY_S: Final = 0.05
"""Before a part is asked again that could not answer: it may be without a leader."""
FINISHED_MAX: Final = 10_000
"""Asks in one frame."""

Ask = tuple[str, str]
"""(document key, ask id)."""


class _Work(msgspec.Struct):
    """What a part's leader hands out: see `cluster.shard.asks`."""

    key: str
    ask: str
    handler: str
    request: msgspec.Raw
    due_ms: int
    attempt: int


class _HandedOut(msgspec.Struct):
    work: list[_Work] = []
    more: bool = False


_decode = msgspec.json.Decoder(_HandedOut).decode


class Worker:
    """One stream. `run` is its whole life; it returns when the worker is done and raises ClusterError when we are."""

    def __init__(self, backend: Backend, principal: str, context: Context) -> None:
        self._backend = backend
        self._principal = principal
        self._context = context
        self._stream: Stream | None = None
        self._space = ""
        self._take = 1
        self._lease_ms = LEASE_MS_DEFAULT
        self._held: dict[Ask, int] = {}
        """Asks that the worker has, and the parts that they are from."""
        self._released: dict[int, list[Ask]] = {}
        """What the parts have yet to be told."""
        self._next_id = 1
        self._waiting: dict[int, int] = {}
        """Operations that wait for something to do, and their parts."""
        self._available: dict[int, None] = {}
        self._taking: tuple[int, int] | None = None
        """The operation under way that takes, and its part."""
        self._outgoing: list[wire.LeasedAsk] = []
        self._arrived = asyncio.Event()
        self._done = False

    async def run(self) -> None:
        """Serve the stream until the worker leaves. Raises ClusterError to end it with that error's status."""
        first = await self._context.read()
        if isinstance(first, ClusterError):
            raise first
        if not isinstance(first, wire.WorkRequest) or not first.HasField("open"):
            raise InvalidRequest("the first frame of a worker must carry `open`")
        self._open(first.open)
        await self._context.write(wire.WorkResponse())
        self._stream = self._backend.open(self._deliver)
        tasks = [asyncio.ensure_future(self._read()), asyncio.ensure_future(self._write())]
        try:
            self._go_on()
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._done = True
            for task in tasks:
                task.cancel()
            self._hand_back()
            self._stream.close()
        for task in tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error

    def leave(self) -> None:
        """End the stream: the worker finds another gateway."""
        self._done = True
        self._arrived.set()

    def _open(self, request: wire.WorkOpen) -> None:
        check_space(request.space)
        self._space = request.space
        self._take = request.take or 1
        self._lease_ms = request.lease_ms or LEASE_MS_DEFAULT
        if self._take > TAKE_MAX:
            raise TooLarge(f"a worker takes at most {TAKE_MAX} asks", limit="take_max")
        if not LEASE_MS_MIN <= self._lease_ms <= LEASE_MS_MAX:
            raise InvalidRequest(f"a lease lasts {LEASE_MS_MIN} to {LEASE_MS_MAX} ms")

    async def _read(self) -> None:
        while True:
            frame = await self._context.read()
            if isinstance(frame, ClusterError):
                raise frame
            if not isinstance(frame, wire.WorkRequest):
                return
            if frame.HasField("open") or len(frame.finished) > FINISHED_MAX:
                raise InvalidRequest(f"a worker opens once, and finishes at most {FINISHED_MAX} asks in a frame")
            for finished in frame.finished:
                check_key(finished.document.key)
                ask = (finished.document.key, finished.ask)
                part = self._held.pop(ask, None)
                if part is not None:
                    self._released.setdefault(part, []).append(ask)
            self._go_on()

    async def _write(self) -> None:
        while not self._done:
            await self._arrived.wait()
            self._arrived.clear()
            if self._outgoing:
                asks, self._outgoing = self._outgoing, []
                await self._context.write(wire.WorkResponse(asks=asks))
        raise Unavailable("this gateway is about to stop")

    # -- the parts ---------------------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        """Tell parts what they get back, take from one that has something, and wait at all others."""
        if self._done:
            return
        room = self._take - len(self._held)
        if room > 0 and self._taking is None and self._available:
            part = next(iter(self._available))
            del self._available[part]
            self._taking = (self._order(part, take=room, lease_ms=self._lease_ms), part)
        for part in self._backend.parts:
            busy = part in self._available or (self._taking is not None and self._taking[1] == part)
            if not busy and part not in self._waiting.values():
                self._waiting[self._order(part, wait=True)] = part
        for part in list(self._released):
            self._order(part)

    def _order(self, part: int, **order: Any) -> int:
        """One WORK operation, with what is handed back."""
        released = self._released.pop(part, None)
        if released:
            order["release"] = released
        number = self._next_id
        self._next_id += 1
        payload = json.dumps(order).encode()
        assert self._stream is not None
        self._stream.submit_to(part, Operation(number, Kind.WORK.value, self._space, "", self._principal, payload=payload))
        return number

    def _deliver(self, batch: list[Reply | Delta]) -> None:
        """Called by the backend with everything of one turn; never blocks."""
        for reply in batch:
            if isinstance(reply, Reply):
                self._answered(reply)
        if not self._done:
            self._go_on()

    def _answered(self, reply: Reply) -> None:
        waited = self._waiting.pop(reply.id, None)
        taken = self._taking[1] if self._taking is not None and self._taking[0] == reply.id else None
        part = waited if waited is not None else taken
        if taken is not None:
            self._taking = None
        if part is None:
            return
        if reply.failure is not None:
            self._waiting[-part - 1] = part  # nobody asks it until the pause is over
            asyncio.get_running_loop().call_later(RETRY_S, self._ask_again, part)
            return
        handed = _decode(reply.payload)
        if handed.more:
            self._available[part] = None
        for work in handed.work:
            self._held[(work.key, work.ask)] = part
            leased = wire.LeasedAsk(
                ask=work.ask,
                request=bytes(work.request),
                handler=work.handler,
                deadline_ms=work.due_ms,
                attempt=work.attempt,
            )
            leased.document.space, leased.document.key = self._space, work.key
            self._outgoing.append(leased)
        if handed.work:
            self._arrived.set()

    def _ask_again(self, part: int) -> None:
        self._waiting.pop(-part - 1, None)
        self._go_on()

    def _hand_back(self) -> None:
        """Whatever the worker had goes to others."""
        for ask, part in self._held.items():
            self._released.setdefault(part, []).append(ask)
        for part in list(self._released):
            self._order(part)
