"""Runs the demo: one document, one writer, one watcher, three nodes, two killed leaders, then everything killed at once.

The writer sends every transaction of the recording as one message over one session, in order and several hundred in flight. The
watcher stays connected from the start and applies patches only. Whoever shows the run implements `Spectator`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from chaos.demo.audit import Audit, audit
from chaos.demo.recording import Patch, Recording
from chaos.demo.schedule import Kill, schedule
from chaos.live.processes import LiveCluster
from cluster.cli.local_commands import example
from cluster.client import Client, PendingAnswer
from cluster.config import SHARDS_DEFAULT
from cluster.session.client_events import Settings

SPACE: Final = "text"
KEY: Final = "demo"
IN_FLIGHT_MAX: Final = 512
IN_FLIGHT_MIN: Final = 16
IN_FLIGHT_SHARE: Final = 10
"""At most a tenth of the recording is in flight, so that a third of it lasts longer than one round trip."""
WATCHER_TIMEOUT_S: Final = 60.0
GAP_WINDOW_S: Final = 15.0
"""How long after a kill a pause still counts as its consequence."""
PATIENT: Final = Settings(operation_timeout_ms=120_000)


class Spectator(Protocol):
    """Is told how the demo goes."""

    def phase(self, text: str) -> None:
        """What happens now."""
        ...

    def acknowledged(self, count: int) -> None:
        """So many messages are acknowledged."""
        ...

    def killed(self, node: str, message: int) -> None:
        """This leader is dead, after so many messages."""
        ...

    def repaired(self, node: str, unavailable_ms: float) -> None:
        """Writing went on after so long."""
        ...


@dataclass(slots=True)
class Victim:
    """A kill that happened. at_s: on the clock of the acknowledgements."""

    node_id: str
    message: int
    at_s: float
    unavailable_ms: float = 0.0


@dataclass(slots=True)
class Result:
    """Everything that the demo found; see `to_dict` for the keys of --json."""

    recording: str
    seed: int
    messages: int
    nodes: int
    victims: list[Victim] = field(default_factory=list)
    seconds: float = 0.0
    held_s: float = 0.0
    watcher_matches: bool = False
    watcher_resets: int = 0
    watcher_steps: int = 0
    acks_in_order: bool = True
    before_restart: Audit = field(default_factory=Audit)
    after_restart: Audit = field(default_factory=Audit)
    restart_s: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether everything held."""
        watched = self.watcher_matches and not self.watcher_resets
        return self.before_restart.passed and self.after_restart.passed and watched and self.acks_in_order

    def to_dict(self) -> dict[str, Any]:
        """Stable keys, for programs."""
        found = self.before_restart
        return {
            "passed": self.passed,
            "recording": self.recording,
            "seed": self.seed,
            "nodes": self.nodes,
            "messages": self.messages,
            "kills": len(self.victims),
            "lost": found.lost,
            "duplicated": found.duplicated,
            "in_order": found.in_order and self.acks_in_order,
            "text_matches": found.text_matches,
            "watcher_matches": self.watcher_matches,
            "watcher_resets": self.watcher_resets,
            "watcher_steps": self.watcher_steps,
            "hashes_equal": found.hashes_equal,
            "unavailable_ms": [round(victim.unavailable_ms, 1) for victim in self.victims],
            "killed": [{"node_id": victim.node_id, "message": victim.message} for victim in self.victims],
            "seconds": round(self.seconds, 3),
            "held_s": round(self.held_s, 3),
            "messages_per_s": round(self.messages / max(1e-9, self.seconds - self.held_s)),
            "trouble": found.trouble,
            "after_restart": {
                **self.after_restart.to_dict(),
                "killed_at_once": self.nodes,
                "seconds": round(self.restart_s, 3),
            },
        }


def payload_of(patches: list[Patch]) -> bytes:
    """One transaction as the parameters of `edit`."""
    edits = [{"at": at, "delete": deleted, "insert": inserted} for at, deleted, inserted in patches]
    return json.dumps({"patches": edits}, ensure_ascii=False, separators=(",", ":")).encode()


async def run_demo(
    recording: Recording,
    folder: Path,
    spectator: Spectator,
    *,
    nodes: int = 3,
    seed: int = 0,
    shards: int = SHARDS_DEFAULT,
) -> Result:
    """Run it below an empty folder. Raises NotReached when the cluster does not recover, ClusterError for a client."""
    spectator.phase(f"starting {nodes} nodes")
    result = Result(recording.name, seed, len(recording.transactions), nodes)
    payloads = [payload_of(patches) for patches in recording.transactions]
    async with LiveCluster(folder, nodes, shards=shards) as live:
        await live.deploy(SPACE, example(SPACE))
        kills = schedule(len(payloads), seed) if nodes >= 3 else []
        async with live.client(principal="author@demo", settings=PATIENT) as client:
            await client.create(SPACE, KEY, json.dumps({"content": recording.start}).encode())
            await _write(live, client, payloads, kills, recording.end, result, spectator)
        spectator.phase("reading from every node")
        result.before_restart = await audit(live, SPACE, KEY, recording.end, payloads)
        spectator.phase(f"killing all {nodes} nodes at once")
        await live.kill_all()
        began = time.monotonic()
        live.start_all()
        await live.healthy()
        result.restart_s = time.monotonic() - began
        spectator.phase("reading from every node again")
        result.after_restart = await audit(live, SPACE, KEY, recording.end, payloads)
    return result


async def _write(
    live: LiveCluster,
    client: Client,
    payloads: list[bytes],
    kills: list[Kill],
    end: str,
    result: Result,
    spectator: Spectator,
) -> None:
    """Send everything, with a watcher beside and a killer behind."""
    watching = asyncio.Event()
    watcher = asyncio.ensure_future(_watch(live, 1 + len(payloads), watching, end, result))
    try:
        await asyncio.wait_for(watching.wait(), WATCHER_TIMEOUT_S)
        writer = _Writer(client, payloads, spectator)
        spectator.phase(f"{len(payloads)} messages, {writer.in_flight_max} in flight")
        killer = asyncio.ensure_future(_kill(live, kills, writer, result, spectator))
        try:
            await writer.run(kills)
            await killer
        finally:
            killer.cancel()
        result.seconds = writer.acks[-1][0] - writer.began_s
        result.held_s = writer.held_s
        result.acks_in_order = writer.in_order
        spectator.phase("waiting for the watcher")
        await asyncio.wait_for(watcher, WATCHER_TIMEOUT_S)
    except TimeoutError:
        # what the watcher has seen by now is in the result, and does not match: that is the finding.
        pass
    finally:
        watcher.cancel()


class _Writer:
    """Sends the messages in order, pipelined, and notes when acknowledgements came: (time, how many by then)."""

    def __init__(self, client: Client, payloads: list[bytes], spectator: Spectator) -> None:
        self._client = client
        self._payloads = payloads
        self._spectator = spectator
        self._moved = asyncio.Event()
        self._released = asyncio.Event()
        self._killed = asyncio.Event()
        self.in_flight_max = max(IN_FLIGHT_MIN, min(IN_FLIGHT_MAX, len(payloads) // IN_FLIGHT_SHARE))
        self.acks: list[tuple[float, int]] = []
        self.acknowledged = 0
        self.began_s = 0.0
        self.held_s = 0.0
        self.in_order = True

    def release(self) -> None:
        """The victim is back: sending may go on."""
        self._released.set()

    def killed(self) -> None:
        """The leader is dead: sending may go on into that."""
        self._killed.set()

    async def reached(self, message: int) -> None:
        """Until so many messages are acknowledged."""
        while self.acknowledged < message:
            self._moved.clear()
            await self._moved.wait()

    async def run(self, kills: list[Kill]) -> None:
        """Send everything and take every answer. Raises ClusterError for a message that could not be sent."""
        pending: deque[PendingAnswer] = deque()
        holds, deaths = [kill.hold_at for kill in kills[1:]], [kill.before for kill in kills]
        self.began_s = time.monotonic()
        sent, total = 0, len(self._payloads)
        while sent < total or pending:
            if holds and sent == holds[0] and not pending:
                await self._hold()
                holds.pop(0)
            if deaths and sent == deaths[0] and (not pending or self._killed.is_set()):
                await self._killed.wait()
                self._killed.clear()
                deaths.pop(0)
            limit = min([total, *holds[:1], *deaths[:1]])
            while sent < limit and len(pending) < self.in_flight_max:
                pending.append(self._client.send_nowait(SPACE, KEY, "edit", self._payloads[sent]))
                sent += 1
            if not pending:
                continue
            await self._take(pending.popleft())
            while pending and pending[0].done():
                await self._take(pending.popleft())
            self.acks.append((time.monotonic(), self.acknowledged))
            self._moved.set()
            self._spectator.acknowledged(self.acknowledged)

    async def _take(self, answer: PendingAnswer) -> None:
        position = (await answer).position
        self.acknowledged += 1
        # the creation is index 1, so the n-th message has index n + 1: anything else was lost, doubled or reordered.
        self.in_order = self.in_order and position.index == self.acknowledged + 1

    async def _hold(self) -> None:
        began = time.monotonic()
        await self._released.wait()
        self._released.clear()
        self.held_s += time.monotonic() - began

    def longest_gap_ms(self, from_s: float) -> float:
        """The longest time without an acknowledgement around a moment: pairs that end after it and begin soon after it."""
        times = [at for at, _ in self.acks]
        gaps = [
            after - before for before, after in itertools.pairwise(times) if after > from_s and before < from_s + GAP_WINDOW_S
        ]
        return 1000 * max(gaps, default=0.0)


async def _kill(live: LiveCluster, kills: list[Kill], writer: _Writer, result: Result, spectator: Spectator) -> None:
    for number, kill in enumerate(kills):
        leader = await live.leader_of(SPACE, KEY)
        await writer.reached(kill.message)
        await asyncio.sleep(kill.delay_ms / 1000)
        at_s = time.monotonic()
        await live.kill(leader)
        victim = Victim(leader.node_id, writer.acknowledged, at_s)
        result.victims.append(victim)
        writer.killed()
        spectator.killed(leader.node_id, victim.message)
        await asyncio.sleep(kill.down_ms / 1000)
        live.local.start(leader)
        await live.healthy()
        # the next hold, or the end, bounds what is this victim's: measured now, before sending goes on.
        if number + 1 < len(kills):
            await writer.reached(kills[number + 1].hold_at)
        else:
            await writer.reached(result.messages)
        victim.unavailable_ms = writer.longest_gap_ms(at_s)
        spectator.repaired(leader.node_id, victim.unavailable_ms)
        writer.release()


async def _watch(live: LiveCluster, index: int, watching: asyncio.Event, end: str, result: Result) -> None:
    """Follow the document up to an index, through another gateway than the writer prefers."""
    async with live.client(*reversed(live.nodes), principal="reader@demo", settings=PATIENT) as client:
        first = True
        async with client.watch(SPACE, KEY) as watch:
            async for change in watch:
                result.watcher_steps += 1
                if change.reset and not first:
                    result.watcher_resets += 1
                first = False
                watching.set()
                if change.position.index >= index:
                    result.watcher_matches = change.view["body"] == end
                    return
