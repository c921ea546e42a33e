"""What groups cost that nobody uses: CPU and memory of real nodes that hold thousands of them and do nothing.

A cluster with few groups is measured first and is the baseline of the other: what a process weighs by itself, and what its
heartbeats and gossip cost, is in both.

cpu_percent            user and system time of each node over the window, in percent of one core
cpu_percent_baseline   the same with few groups
bytes_per_group        growth of resident memory against the baseline, for each further replica that the node holds
start_s                from starting the processes until all gateways answer
leaders_s              from starting the processes until every node knows a leader of every group
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from chaos.bench.send import Say
from chaos.live.processes import LiveCluster, NotReached
from cluster.cli.local_commands import example, exited
from cluster.cli.output import CommandFailed
from cluster.cli.reach import ask_one
from cluster.errors import ClusterError

FEW: Final = 3
"""Groups of the baseline."""
SPACE: Final = "counter"
LEADERS_TIMEOUT_S: Final = 600.0
QUIET_TIMEOUT_S: Final = 120.0
QUIET_CPU_PERCENT: Final = 5.0
"""Below this in every node, for QUIET_WINDOWS windows in a row, elections and their aftermath are over."""
QUIET_WINDOWS: Final = 3
QUIET_WINDOW_S: Final = 1.0
POLL_S: Final = 0.5
STATUS_TIMEOUT_S: Final = 30.0


@dataclass(slots=True)
class Usage:
    """One cluster at rest. rss_bytes, cpu_percent, groups: by node; groups counts what the node holds a replica of."""

    start_s: float
    leaders_s: float
    quiet_s: float
    rss_bytes: dict[str, int]
    cpu_percent: dict[str, float]
    groups: dict[str, int]
    first_use_ms: list[float]


async def bench_idle(
    folder: Path, say: Say, *, groups: int = 10_000, nodes: int = 3, seconds: float = 30.0, wakes: int = 5
) -> dict[str, Any]:
    """Run below an empty folder.

    groups: shards of documents; the system shard comes on top. seconds: length of each window. wakes: groups, chosen at random,
    that are used once each afterwards.
    Raises NotReached when groups stay without a leader, CommandFailed when a node exits.
    """
    say(f"{nodes} nodes with {min(FEW, groups)} groups: the baseline")
    few = await _measured(folder / "few", say, groups=min(FEW, groups), nodes=nodes, seconds=seconds, wakes=0)
    say(f"{nodes} nodes with {groups} groups")
    many = await _measured(folder / "many", say, groups=groups, nodes=nodes, seconds=seconds, wakes=wakes)
    more = {name: many.groups[name] - few.groups[name] for name in many.groups}
    return {
        "groups": groups,
        "nodes": nodes,
        "seconds": seconds,
        "cpu_percent": many.cpu_percent,
        "cpu_percent_max": max(many.cpu_percent.values()),
        "cpu_percent_baseline": few.cpu_percent,
        "bytes_per_group": {
            name: round((many.rss_bytes[name] - few.rss_bytes[name]) / more[name]) if more[name] else 0 for name in more
        },
        "rss_bytes": many.rss_bytes,
        "rss_bytes_baseline": few.rss_bytes,
        "replicas": many.groups,
        "start_s": round(many.start_s, 2),
        "leaders_s": round(many.leaders_s, 2),
        "quiet_s": round(many.quiet_s, 2),
        "first_use_ms": [round(each, 2) for each in many.first_use_ms],
    }


async def _measured(folder: Path, say: Say, *, groups: int, nodes: int, seconds: float, wakes: int) -> Usage:
    live = LiveCluster(folder, nodes, shards=groups)
    try:
        began = time.monotonic()
        live.start_all()
        await _poll(live, "every gateway answers", lambda: _answering(live), LEADERS_TIMEOUT_S, say)
        start_s = time.monotonic() - began
        await _poll(live, "every group has a leader", lambda: _leaderless(live), LEADERS_TIMEOUT_S, say)
        leaders_s = time.monotonic() - began
        await _quiet(live, say)
        quiet_s = time.monotonic() - began
        held = await _held(live)
        say(f"measuring for {seconds:g} s")
        cpu = await _cpu_percent(live, seconds)
        rss = {node.node_id: _process(live, node.node_id).memory_info().rss for node in live.nodes}
        first_use_ms = await _first_uses(live, wakes) if wakes else []
        return Usage(start_s, leaders_s, quiet_s, rss, cpu, held, first_use_ms)
    finally:
        live.local.kill_all()


async def _poll(live: LiveCluster, what: str, missing: Callable[[], Awaitable[str]], timeout_s: float, say: Say) -> None:
    """Ask until nothing is missing; every change of what is missing is progress to be told."""
    deadline, told = time.monotonic() + timeout_s, ""
    while True:
        trouble = await missing()
        if not trouble:
            say(f"{what}")
            return
        if dead := exited(live.local):
            raise CommandFailed(dead)
        if time.monotonic() >= deadline:
            raise NotReached(f"{what}: not within {timeout_s:.0f} s: {trouble}; {live.last_words()}")
        if trouble != told:
            say(f"  {trouble}")
            told = trouble
        await asyncio.sleep(POLL_S)


async def _answering(live: LiveCluster) -> str:
    silent = []
    for node in live.nodes:
        try:
            await ask_one(node.address, "GetStatus", timeout_s=STATUS_TIMEOUT_S)
        except ClusterError:
            silent.append(node.node_id)
    return f"{', '.join(silent)} not yet" if silent else ""


async def _leaderless(live: LiveCluster) -> str:
    missing = []
    for node in live.nodes:
        try:
            status = await ask_one(node.address, "GetStatus", timeout_s=STATUS_TIMEOUT_S)
        except ClusterError as error:
            missing.append(f"{node.node_id} does not answer ({error.message})")
            continue
        if status.shards_leaderless:
            missing.append(
                f"{node.node_id} knows {status.shards_total - len(status.shards_leaderless)} of {status.shards_total}"
            )
    return "; ".join(missing)


async def _held(live: LiveCluster) -> dict[str, int]:
    rows = await ask_one(live.addresses[0], "ListNodes", timeout_s=STATUS_TIMEOUT_S)
    return {row.node_id: row.replicas for row in rows.nodes}


async def _quiet(live: LiveCluster, say: Say) -> None:
    """Until no node does anything but beat. A machine that is busy otherwise makes no node busy: their own CPU time counts."""
    deadline, calm = time.monotonic() + QUIET_TIMEOUT_S, 0
    while calm < QUIET_WINDOWS:
        used = await _cpu_percent(live, QUIET_WINDOW_S)
        calm = calm + 1 if max(used.values()) < QUIET_CPU_PERCENT else 0
        if time.monotonic() >= deadline:
            raise NotReached(f"nodes that do nothing but beat: not within {QUIET_TIMEOUT_S:.0f} s: {used} % of a core")
        if not calm:
            say("  " + ", ".join(f"{name} uses {percent:.1f} %" for name, percent in used.items()))


async def _cpu_percent(live: LiveCluster, seconds: float) -> dict[str, float]:
    """User and system time of each node over a window, in percent of one core."""
    processes = {node.node_id: _process(live, node.node_id) for node in live.nodes}
    began = {name: (time.monotonic(), _cpu_s(process)) for name, process in processes.items()}
    await asyncio.sleep(seconds)
    return {
        name: round(100 * (_cpu_s(process) - began[name][1]) / (time.monotonic() - began[name][0]), 2)
        for name, process in processes.items()
    }


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _process(live: LiveCluster, name: str) -> psutil.Process:
    process = live.local.process(live.local.find(name))
    if process is None:
        raise CommandFailed(exited(live.local) or f"{name} does not run")
    return process


async def _first_uses(live: LiveCluster, count: int) -> list[float]:
    """Create one document in each of `count` groups at random, one after the other: how long the first operation takes."""
    await live.deploy(SPACE, example(SPACE))
    taken_ms, source = [], random.Random()
    async with live.client() as client:
        for _ in range(count):
            began = time.monotonic()
            await client.create(SPACE, f"key-{source.getrandbits(62)}")
            taken_ms.append((time.monotonic() - began) * 1000)
    return taken_ms
