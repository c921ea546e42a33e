"""Clients that write without pause while something is done to the cluster, and what must be true of their writes afterwards.

Each writer appends its own numbers, in order and pipelined, to a ledger (the document of the simulator). So the ledger itself
tells what was lost, doubled or put out of order; a client that is told anything but an answer is a failure too, since every
fault here is one that the cluster survives.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import chaos.sim.ledger
from chaos.live.processes import WITHIN_S, LiveCluster, NotReached, until
from cluster.client import Client, PendingAnswer
from cluster.session.client_events import Settings

SPACE: Final = "ledger"
LEDGER: Final = Path(chaos.sim.ledger.__file__)
WRITER_STEP: Final = 1_000_000
"""Numbers of one writer to one ledger start at a multiple of this: more than any run appends."""
OPERATION_TIMEOUT_MS: Final = 60_000
PACE_S: Final = 0.004
"""Between rounds of one writer: the load is constant, it does not measure anything."""


class Load:
    """`async with Load(live, keys) as load`: the ledgers are created and the writers run. Leaving stops them.

    keys: ledgers, each written by every client. clients: sessions, each with a connection of its own that begins at another
    node. in_flight: of one client to one ledger.
    """

    def __init__(self, live: LiveCluster, keys: list[str], *, clients: int = 3, in_flight: int = 8) -> None:
        self._live = live
        self._keys = keys
        self._clients = clients
        self._in_flight = in_flight
        self._stopping = False
        self._writers: list[asyncio.Task[None]] = []
        self._viewers: list[asyncio.Task[None]] = []
        self._stack = AsyncExitStack()
        self.acknowledged: dict[tuple[int, str], int] = {}
        self._longest_ms = dict.fromkeys(keys, 0.0)
        self._answered_at = dict.fromkeys(keys, time.monotonic())
        self._views: dict[str, Any] = {}

    async def __aenter__(self) -> Load:
        nodes = self._live.nodes
        try:
            for number in range(self._clients):
                turned = nodes[number % len(nodes) :] + nodes[: number % len(nodes)]
                settings = Settings(operation_timeout_ms=OPERATION_TIMEOUT_MS)
                connecting = self._live.client(*turned, principal=f"writer-{number}@chaos", settings=settings)
                client = await self._stack.enter_async_context(connecting)
                if number == 0:
                    await asyncio.gather(*(client.create(SPACE, key) for key in self._keys))
                for key in self._keys:
                    self.acknowledged[number, key] = 0
                    self._writers.append(asyncio.create_task(self._write(client, number, key)))
                    if number == 0:
                        self._viewers.append(asyncio.create_task(self._watch(client, key)))
            await self.flows()
            self._longest_ms = dict.fromkeys(self._keys, 0.0)
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    async def _end(self) -> None:
        for task in (*self._writers, *self._viewers):
            task.cancel()
        await asyncio.gather(*self._writers, *self._viewers, return_exceptions=True)
        await self._stack.aclose()

    async def _write(self, client: Client, number: int, key: str) -> None:
        pending: deque[PendingAnswer] = deque()
        sent = 0
        while not self._stopping or pending:
            while len(pending) < self._in_flight and not self._stopping:
                sent += 1
                pending.append(client.send_nowait(SPACE, key, "append", {"number": number * WRITER_STEP + sent}))
            while pending:
                await pending.popleft()
                self.acknowledged[number, key] += 1
                self._note(key)
                if pending and not pending[0].done():
                    break
            await asyncio.sleep(PACE_S)

    async def _watch(self, client: Client, key: str) -> None:
        """One viewer of each ledger, who applies every change."""
        async with client.watch(SPACE, key) as watch:
            async for change in watch:
                self._views[key] = change.view["entries"]

    def _note(self, key: str) -> None:
        now = time.monotonic()
        self._longest_ms[key] = max(self._longest_ms[key], (now - self._answered_at[key]) * 1000)
        self._answered_at[key] = now

    @property
    def longest_pause_ms(self) -> float:
        """The longest time in which no writer of one ledger was answered."""
        return max(self._longest_ms.values())

    async def flows(self, more: int = 20, timeout_s: float = WITHIN_S) -> None:
        """Until every writer has been answered `more` times from now on. Raises NotReached, or what somebody was told."""
        before = dict(self.acknowledged)

        async def probe() -> bool:
            for task in (*self._writers, *self._viewers):
                if task.done():
                    task.result()
            return all(count >= before[writer] + more for writer, count in self.acknowledged.items())

        await until(probe, "every writer is answered", timeout_s)

    async def settle(self) -> None:
        """Stop writing; returns when everything is answered. Raises what a writer was told."""
        self._stopping = True
        await asyncio.gather(*self._writers)

    async def verify(self) -> int:
        """After `settle`: every acknowledged number stands in its ledger once, each writer's in order, and whoever watched it
        has come to the same. Returns how many. Raises NotReached.
        """
        assert self._stopping, "the writers must have stopped"
        async with self._live.client(*self._live.running()) as client:
            for key in self._keys:
                entries = (await client.read(SPACE, key)).value["entries"]
                for number in range(self._clients):
                    first = number * WRITER_STEP
                    own = [entry - first for entry in entries if first < entry < first + WRITER_STEP]
                    expected = list(range(1, self.acknowledged[number, key] + 1))
                    if own != expected:
                        raise NotReached(_difference(f"ledger {key}, writer {number}", own, expected))
                await until(lambda key=key, entries=entries: self._shows(key, entries), f"the viewer of {key}")  # type: ignore[misc]
                assert len(entries) == 1 + sum(self.acknowledged[number, key] for number in range(self._clients))
        return sum(self.acknowledged.values())

    async def _shows(self, key: str, entries: list[int]) -> bool:
        return bool(self._views.get(key) == entries)


def _difference(what: str, found: list[int], expected: list[int]) -> str:
    at = next((at for at, (one, other) in enumerate(zip(found, expected, strict=False)) if one != other), None)
    at = min(len(found), len(expected)) if at is None else at
    return f"{what}: {len(found)} entries for {len(expected)} acknowledged; from place {at}: {found[at : at + 5]}"
