"""How fast a local cluster acknowledges messages, what it costs, and how that compares with etcd on the same machine.

Three real nodes, fsync on, 100-byte messages to some documents, the client in a process of its own. With etcd, both clusters
are up and their runs alternate, so that what the machine does meanwhile hits both alike; the figure of a level is the median
of its runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from chaos.bench.etcd import EtcdCluster
from chaos.bench.load import KEY_PREFIX, SPACE
from chaos.live.processes import LiveCluster
from cluster.cli.local_commands import example

DOCUMENTS: Final = 1
SHARDS: Final = 1
"""The shape of the etcd load: one Raft group, one key put over and over."""
LOAD_TIMEOUT_S: Final = 180
UNARY_IN_FLIGHT_MAX: Final = 256

Say = Callable[[str], None]


class LoadFailed(Exception):
    """The load process did not end well; its own words are in the message."""


@dataclass(slots=True)
class Level:
    """All runs with so many messages in flight. Values are reports of load.py, and of etcd.py."""

    in_flight: int
    session: list[dict[str, Any]] = field(default_factory=list)
    unary: list[dict[str, Any]] = field(default_factory=list)
    etcd: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Medians by way of sending, and the ratio to etcd."""
        row: dict[str, Any] = {"in_flight": self.in_flight}
        for name, runs in (("session", self.session), ("unary", self.unary)):
            if runs:
                row[name] = _summary(runs)
        if self.etcd:
            loads = [run["load"] for run in self.etcd]
            row["etcd"] = {
                "acked_per_s": round(_median(loads, "per_s")),
                "p50_ms": round(_median(loads, "p50_ms"), 3),
                "p99_ms": round(_median(loads, "p99_ms"), 3),
                "runs_per_s": [round(load["per_s"]) for load in loads],
                "servers_cpu_us_per_message": round(
                    statistics.median(1e6 * run["server_cpu_s"] / run["verified"] for run in self.etcd), 1
                ),
            }
            for name in ("session", "unary"):
                if name in row:
                    row[name]["ratio"] = round(row[name]["acked_per_s"] / row["etcd"]["acked_per_s"], 2)
            if "session" in row:
                row["ratio"] = row["session"]["ratio"]
        return row


def _median(runs: list[dict[str, Any]], name: str) -> float:
    return statistics.median(float(run[name]) for run in runs)


def _summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    names = runs[0]["cpu_us_per_message"]
    cpu = {name: round(statistics.median(run["cpu_us_per_message"][name] for run in runs), 1) for name in names}
    return {
        "acked_per_s": round(_median(runs, "per_s")),
        "p50_ms": round(_median(runs, "p50_ms"), 3),
        "p99_ms": round(_median(runs, "p99_ms"), 3),
        "max_ms": round(max(run["max_ms"] for run in runs), 3),
        "runs_per_s": [round(run["per_s"]) for run in runs],
        "messages": sum(run["acknowledged"] for run in runs),
        "cpu_s": {name: round(sum(run["cpu_s"][name] for run in runs), 3) for name in names},
        "cpu_us_per_message": cpu,
        "cpu_us_per_message_all": round(sum(cpu.values()), 1),
    }


async def bench_send(
    folder: Path,
    say: Say,
    *,
    nodes: int = 3,
    shards: int = SHARDS,
    seconds: float = 10.0,
    levels: tuple[int, ...] = (1, 256, 1000),
    repeat: int = 3,
    documents: int = DOCUMENTS,
    unary: bool = True,
    etcd: bool = False,
) -> dict[str, Any]:
    """Run everything below an empty folder. Raises LoadFailed, EtcdFailed or ToolMissing; nothing is left running."""
    rows = [Level(in_flight) for in_flight in levels]
    (folder / "etcd").mkdir()
    version = ""
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(EtcdCluster(folder / "etcd")) if etcd else None
        version = other.version() if other is not None else ""
        async with LiveCluster(folder / "moot", nodes, shards=shards) as live:
            await live.deploy("counter", example("counter"))
            for turn in range(repeat):
                for row in rows:
                    await _one(live, row, turn, repeat, seconds, documents, unary, say)
                    if other is not None:
                        say(f"run {turn + 1}/{repeat}: etcd, {row.in_flight} in flight")
                        row.etcd.append(other.put(row.in_flight, seconds).to_dict())
    found: dict[str, Any] = {
        "nodes": nodes,
        "shards": shards,
        "fsync": True,
        "payload_bytes": 100,
        "documents": documents,
        "seconds": seconds,
        "repeat": repeat,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "levels": [row.to_dict() for row in rows],
    }
    if etcd:
        found["etcd_version"] = version
    return found


async def _one(
    live: LiveCluster, row: Level, turn: int, repeat: int, seconds: float, documents: int, unary: bool, say: Say
) -> None:
    say(f"run {turn + 1}/{repeat}: session, {row.in_flight} in flight")
    row.session.append(load(live, "session", row.in_flight, documents, seconds, await _leader_first(live)))
    if unary and row.in_flight <= UNARY_IN_FLIGHT_MAX:
        say(f"run {turn + 1}/{repeat}: unary, {row.in_flight} in flight")
        row.unary.append(load(live, "unary", row.in_flight, documents, seconds, await _leader_first(live)))


async def _leader_first(live: LiveCluster) -> list[str]:
    """Addresses with the node in front that leads the first document's shard: etcd is loaded at its leader too."""
    leader = await live.leader_of(SPACE, f"{KEY_PREFIX}0")
    return sorted(live.addresses, key=lambda address: address != leader.address)


def load(
    live: LiveCluster, mode: str, in_flight: int, documents: int, seconds: float, addresses: list[str] | None = None
) -> dict[str, Any]:
    """One run of the load process. addresses: the first is used; any node unless told. Raises LoadFailed."""
    job = {
        "addresses": addresses or live.addresses,
        "pids": {node.node_id: node.pid for node in live.nodes},
        "mode": mode,
        "in_flight": in_flight,
        "documents": documents,
        "seconds": seconds,
    }
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "chaos.bench.load"]
    done = subprocess.run(
        command, input=json.dumps(job), capture_output=True, text=True, timeout=LOAD_TIMEOUT_S, env=environment, check=False
    )
    if done.returncode != 0:
        raise LoadFailed(f"the load process exited with {done.returncode}: {done.stderr.strip()[-600:]}")
    report: dict[str, Any] = json.loads(done.stdout)
    return report
