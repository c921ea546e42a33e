"""How soon a killed member is held dead by all the others; three nodes of Moot, and three agents of serf in the same way.

serf is HashiCorp's gossip on memberlist, with its defaults for a local network (Debian: serf). Each round kills one member with
SIGKILL at a random moment, asks the other two every POLL_S what they hold, and starts the member again. What is measured is
what an operator sees: asking takes its time in both figures (an RPC to a gateway, or the `serf` command).
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import random
import socket
import statistics
import subprocess
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, Protocol

from chaos.bench.h2load import require
from chaos.live.processes import LiveCluster, until
from cluster.cli.reach import ask_one
from cluster.errors import ClusterError
from cluster.v1 import admin_pb2

POLL_S: Final = 0.03
DEAD_WITHIN_S: Final = 60.0
PHASE_S_MAX: Final = 1.0
SETTLED_S: Final = 1.0
ASK_TIMEOUT_S: Final = 5.0

Say = Callable[[str], None]


class Contender(Protocol):
    """Three members, known by number."""

    name: str

    async def kill(self, member: int) -> None: ...
    async def start(self, member: int) -> None: ...
    async def alive(self, observer: int) -> set[int]: ...
    async def dead(self, observer: int) -> set[int]: ...


async def bench_gossip(
    folder: Path, say: Say, *, rounds: int = 10, serf: bool = False, seed: int | None = None
) -> dict[str, Any]:
    """Run below an empty folder. seed: of the victims and moments. Raises NotReached or ToolMissing."""
    found: dict[str, Any] = {
        "rounds": rounds, "members": 3, "poll_ms": 1000 * POLL_S, "cores": os.cpu_count(), "machine": platform.machine(),
        "python": platform.python_version(),
    }  # fmt: skip
    async with MootMembers(folder / "moot") as moot:
        found["moot"] = await _measure(moot, say, rounds, random.Random(seed))
    if serf:
        async with SerfMembers(folder / "serf") as other:
            found["serf"] = await _measure(other, say, rounds, random.Random(seed))
            found["serf"]["version"] = other.version
        found["ratio_p50"] = round(found["moot"]["p50_ms"] / found["serf"]["p50_ms"], 3)
    return found


async def _measure(contender: Contender, say: Say, rounds: int, source: random.Random) -> dict[str, Any]:
    times_ms = []
    for number in range(1, rounds + 1):
        await until(lambda: _all_alive(contender), f"all of {contender.name} alive", DEAD_WITHIN_S)
        await asyncio.sleep(SETTLED_S + source.uniform(0, PHASE_S_MAX))
        victim = source.randrange(3)
        others = [member for member in range(3) if member != victim]
        await contender.kill(victim)
        began_s = time.monotonic()

        async def known(others: list[int] = others, victim: int = victim) -> bool:
            return all([victim in await contender.dead(observer) for observer in others])

        await until(known, f"{contender.name} holds the victim dead", DEAD_WITHIN_S)
        times_ms.append(1000 * (time.monotonic() - began_s))
        say(f"{contender.name}: {number} of {rounds}: {times_ms[-1]:.0f} ms")
        await contender.start(victim)
    return {
        "p50_ms": round(statistics.median(times_ms), 1),
        "max_ms": round(max(times_ms), 1),
        "min_ms": round(min(times_ms), 1),
        "times_ms": [round(each, 1) for each in times_ms],
    }


async def _all_alive(contender: Contender) -> bool:
    return all([await contender.alive(observer) >= {0, 1, 2} for observer in range(3)])


class MootMembers:
    """Three whole nodes."""

    name = "moot"

    def __init__(self, folder: Path) -> None:
        self._live = LiveCluster(folder, 3, shards=1)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> MootMembers:
        await self._stack.enter_async_context(self._live)
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._stack.aclose()

    async def kill(self, member: int) -> None:
        await self._live.kill(self._live.nodes[member])

    async def start(self, member: int) -> None:
        self._live.local.start(self._live.nodes[member])

    async def alive(self, observer: int) -> set[int]:
        return await self._holding(observer, admin_pb2.NODE_STATE_ALIVE)

    async def dead(self, observer: int) -> set[int]:
        return await self._holding(observer, admin_pb2.NODE_STATE_DEAD)

    async def _holding(self, observer: int, state: int) -> set[int]:
        numbers = {node.node_id: number for number, node in enumerate(self._live.nodes)}
        try:
            listed = await ask_one(self._live.nodes[observer].address, "ListNodes")
        except ClusterError:
            return set()
        return {numbers[node.node_id] for node in listed.nodes if node.state == state}


class SerfMembers:
    """Three agents with serf's defaults for a local network."""

    name = "serf"

    def __init__(self, folder: Path) -> None:
        self._program = require("serf", "serf")
        self._folder = folder
        self._bind = [_free_port() for _ in range(3)]
        self._rpc = [_free_port() for _ in range(3)]
        self._agents: list[subprocess.Popen[bytes] | None] = [None, None, None]
        self.version = ""

    async def __aenter__(self) -> SerfMembers:
        self._folder.mkdir()
        told = await asyncio.to_thread(self._run, "version")
        self.version = told.stdout.splitlines()[0] if told.stdout else "unknown"
        for member in range(3):
            await self.start(member)
        return self

    async def __aexit__(self, *error: Any) -> None:
        for member in range(3):
            await self.kill(member)

    async def kill(self, member: int) -> None:
        agent = self._agents[member]
        if agent is not None:
            agent.kill()
            await asyncio.to_thread(agent.wait)

    async def start(self, member: int) -> None:
        joins = [f"-retry-join=127.0.0.1:{port}" for number, port in enumerate(self._bind) if number != member]
        addresses = [f"-bind=127.0.0.1:{self._bind[member]}", f"-rpc-addr=127.0.0.1:{self._rpc[member]}"]
        arguments = [f"-node=s{member}", *addresses, *joins, "-retry-interval=1s"]
        self._agents[member] = await asyncio.to_thread(self._start, self._folder / f"s{member}.log", arguments)

    def _start(self, log_path: Path, arguments: list[str]) -> subprocess.Popen[bytes]:
        with log_path.open("ab") as log:
            return subprocess.Popen([self._program, "agent", *arguments], stdout=log, stderr=log)

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        asked = [self._program, *arguments]
        return subprocess.run(asked, capture_output=True, text=True, check=False, timeout=ASK_TIMEOUT_S)

    async def alive(self, observer: int) -> set[int]:
        return await asyncio.to_thread(self._holding, observer, "alive")

    async def dead(self, observer: int) -> set[int]:
        return await asyncio.to_thread(self._holding, observer, "failed")

    def _holding(self, observer: int, status: str) -> set[int]:
        told = self._run("members", f"-rpc-addr=127.0.0.1:{self._rpc[observer]}", "-format=json")
        if told.returncode:
            return set()
        return {int(each["name"][1:]) for each in json.loads(told.stdout)["members"] if each["status"] == status}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
