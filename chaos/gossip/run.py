"""One simulated cluster through calm, faults, crashes and a partition, and the figures of it.

    join         everybody boots within a second, knowing three seeds (only when asked for; else everybody has met)
    calm         nothing fails but what the network loses
    faults       one node stands still for two seconds; what one node sends to another is lost
    crashes      one node in a hundred dies, at the same moment
    partition    halves can not talk until they hold each other dead, then they can again (up to PARTITION_NODES_MAX nodes)

The targets are those of the design: how soon the dead are known, nobody dead who is alive, how much it costs.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from chaos.gossip.network import Host, Network
from cluster.gossip.member import OpinionCounters
from cluster.gossip.messages import State
from cluster.ids import NodeId

PARTITION_NODES_MAX: Final = 128
FROZEN_MS: Final = 2_000
SETTLE_MS: Final = 5_000
JOIN_MS_MAX: Final = 120_000
DETECTION_MS_MAX: Final = 60_000
HEAL_MS_MAX: Final = 60_000
LOOK_EVERY_MS: Final = 100


@dataclass(frozen=True, slots=True)
class Plan:
    """What to simulate. seconds: of the calm and the faults together, virtual. loss, duplication, reordering, skew: shares."""

    nodes: int = 3
    seconds: float = 60.0
    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0
    skew: float = 0.0
    zones: int = 1
    join: bool = False
    seed: int = 1


@dataclass(slots=True)
class Figures:
    """Of one run. detections: for each crashed node the times after which others held it dead, in ms."""

    seed: int
    join_s: float | None
    calm_bytes_mean: float
    calm_bytes_max: float
    detections: list[list[int]]
    peak_bytes: int
    false_deaths: int
    heal_s: float | None
    converged: bool
    counters: list[OpinionCounters]
    step_us: list[float]
    virtual_ms: int


def targets(nodes: int) -> dict[str, float]:
    """By size: seconds until death at the 99th percentile, bytes for each node and second in calm and at peak."""
    detection = 3.0 if nodes <= 5 else 8.0 if nodes <= 100 else 15.0
    return {
        "detection_p99_s": detection,
        "agreement_s": 1.0,
        "false_deaths": 0,
        "calm_bytes": 2_000 if 3 < nodes <= 7 else 1_000,
        "peak_bytes": 10_000,
    }


class Simulation:
    """A plan being carried out."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.network = Network(
            plan.nodes,
            plan.seed,
            loss=plan.loss,
            duplication=plan.duplication,
            reordering=plan.reordering,
            skew=plan.skew,
            zones=plan.zones,
            met=not plan.join,
            boot_spread_ms=1_000 if plan.join else 0,
        )
        self.network[0].step_us = []
        self.crashed: set[NodeId] = set()
        self.crashed_ms = 0
        self.peak_bytes = 0

    def run(self) -> Figures:
        """Every phase in turn."""
        join_s = self._join() if self.plan.join else None
        calm = self._calm()
        self._faults()
        agreed = self._crash()
        step_us = list(self.network[0].step_us or ())
        self.network[0].step_us = None
        false_deaths = len(self._false_deaths())
        heal_s = self._partition() if 4 <= self.plan.nodes <= PARTITION_NODES_MAX else None
        return Figures(
            seed=self.plan.seed,
            join_s=join_s,
            calm_bytes_mean=statistics.mean(calm),
            calm_bytes_max=max(calm),
            detections=self._detections() if agreed else [],
            peak_bytes=self.peak_bytes,
            false_deaths=false_deaths,
            heal_s=heal_s,
            converged=agreed and self._agree(),
            counters=[host.core.counters for host in self.network.hosts.values()],
            step_us=step_us,
            virtual_ms=self.network.now_ms - self.network.began_ms,
        )

    # Phases.

    def _join(self) -> float | None:
        took_ms, _ = self._until(self._agree, JOIN_MS_MAX)
        return None if took_ms is None else took_ms / 1000

    def _calm(self) -> list[float]:
        """What each node sends, in bytes a second."""
        duration_ms = int(self.plan.seconds * 500)
        self.network.run(2_000)  # what booting said is over
        before = {host.name: host.bytes_sent for host in self.network.hosts.values()}
        self.network.run(duration_ms)
        return [(host.bytes_sent - before[host.name]) * 1000 / duration_ms for host in self.network.hosts.values()]

    def _faults(self) -> None:
        duration_ms = max(FROZEN_MS + 1_000, int(self.plan.seconds * 500))
        if self.plan.nodes >= 3:
            self.network.partition([1], [2], one_way=True)
        self.network.pause(0)
        self.network.run(FROZEN_MS)
        self.network.resume(0)
        self.network.run(duration_ms - FROZEN_MS)
        self.network.heal()
        self.network.run(SETTLE_MS)

    def _crash(self) -> bool:
        """One of every hundred nodes, one at least and ten at most. Returns whether all the others found out."""
        self.crashed_ms = self.network.now_ms
        count = max(1, min(10, self.plan.nodes // 100))
        for number in range(self.plan.nodes - count, self.plan.nodes):
            self.network.crash(number)
            self.crashed.add(self.network[number].name)
        took_ms, self.peak_bytes = self._until(self._agree, DETECTION_MS_MAX)
        return took_ms is not None

    def _detections(self) -> list[list[int]]:
        """For each crashed node, how long it took the others to hold it dead."""
        since_ms = self.crashed_ms
        found: dict[NodeId, list[int]] = {name: [] for name in self.crashed}
        for at_ms, _, subject in self.network.deaths():
            if subject in found and at_ms >= since_ms:
                found[subject].append(at_ms - since_ms)
        return list(found.values())

    def _partition(self) -> float | None:
        half = self.plan.nodes // 2
        self.network.partition(range(half), range(half, self.plan.nodes))
        self.network.run(DETECTION_MS_MAX)
        self.network.heal()
        took_ms, _ = self._until(self._agree, HEAL_MS_MAX)
        return None if took_ms is None else took_ms / 1000

    # Looking.

    def _until(self, holds: Callable[[], bool], within_ms: int) -> tuple[int | None, int]:
        """How long it took, looking now and then, and the bytes that the busiest node sent in its busiest second."""
        peak = 0
        began_ms = second_ms = self.network.now_ms
        before = {host.name: host.bytes_sent for host in self.network.hosts.values()}
        while self.network.now_ms - began_ms < within_ms:
            self.network.run(LOOK_EVERY_MS)
            if self.network.now_ms - second_ms >= 1_000:
                second_ms = self.network.now_ms
                for host in self.network.hosts.values():
                    peak = max(peak, host.bytes_sent - before[host.name])
                    before[host.name] = host.bytes_sent
            if holds():
                return self.network.now_ms - began_ms, peak
        return None, peak

    def _agree(self) -> bool:
        """Everybody who runs holds exactly those alive who run."""
        running = self.network.running()
        if len(running) + len(self.crashed) < self.plan.nodes:
            return False
        return all(host.core.live == len(running) - 1 and self._right(host) for host in running)

    def _right(self, host: Host) -> bool:
        return all((member := host.core.member(name)) is None or member.state >= State.DEAD for name in self.crashed)

    def _false_deaths(self) -> list[tuple[int, NodeId, NodeId]]:
        return [death for death in self.network.deaths() if death[2] not in self.crashed or death[0] < self.crashed_ms]


@contextmanager
def collector_off() -> Iterator[None]:
    """Without the cycle collector, as nodes run: it would walk a thousand cores to free nothing."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def simulate(plan: Plan, seeds: int = 1, advance: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Carry out a plan with this many seeds, from the plan's on. The result has stable keys; `met` says which targets were.

    advance: called after each seed.
    """
    began = time.process_time()
    found: list[Figures] = []
    with collector_off():
        for seed in range(plan.seed, plan.seed + seeds):
            found.append(Simulation(replace(plan, seed=seed)).run())
            gc.collect()
            advance()
    return {**asdict(plan), "seeds": seeds, **summary(plan.nodes, found), "cpu_s": round(time.process_time() - began, 1)}


def summary(nodes: int, found: list[Figures]) -> dict[str, Any]:
    """Runs of one plan together: times and steps pooled, bytes as means, and the worst of each."""
    times = sorted(each for one in found for several in one.detections for each in several)
    spreads = [max(several) - min(several) for one in found for several in one.detections if several]
    step_us = sorted(each for one in found for each in one.step_us) or [0.0]
    refuted = sum(counters.refuted for one in found for counters in one.counters)
    row: dict[str, Any] = {
        "join_s_max": _worst([one.join_s for one in found]),
        "detection_p50_s": statistics.median(times) / 1000 if times else None,
        "detection_p99_s": times[int(len(times) * 0.99)] / 1000 if times else None,
        "detection_max_s": times[-1] / 1000 if times else None,
        "agreement_s_max": max(spreads) / 1000 if spreads else None,
        "false_deaths": sum(one.false_deaths for one in found),
        "heal_s_max": _worst([one.heal_s for one in found]),
        "converged": all(one.converged for one in found),
        "calm_bytes_mean": round(statistics.mean(one.calm_bytes_mean for one in found)),
        "calm_bytes_max": round(max(one.calm_bytes_max for one in found)),
        "peak_bytes": max(one.peak_bytes for one in found),
        "suspicions": sum(counters.suspected for one in found for counters in one.counters),
        "refuted": refuted,
        "refute_ms_mean": round(sum(c.refute_ms for one in found for c in one.counters) / refuted) if refuted else None,
        "step_us_p50": round(statistics.median(step_us), 1),
        "step_us_p99": round(step_us[int(len(step_us) * 0.99)], 1),
        "virtual_s": round(sum(one.virtual_ms for one in found) / 1000, 1),
        "seeds_failed": [one.seed for one in found if one.false_deaths or not one.converged],
    }
    wanted = targets(nodes)
    row["targets"] = wanted
    row["met"] = {
        "detection": row["detection_p99_s"] is not None and row["detection_p99_s"] <= wanted["detection_p99_s"],
        "agreement": row["agreement_s_max"] is not None and row["agreement_s_max"] <= wanted["agreement_s"],
        "false_deaths": row["false_deaths"] == 0,
        "calm_bytes": row["calm_bytes_mean"] <= wanted["calm_bytes"],
        "peak_bytes": row["peak_bytes"] <= wanted["peak_bytes"],
        "converged": row["converged"],
    }
    return row


def _worst(values: list[float | None]) -> float | None:
    """None where nothing was measured; that something never happened is told by `converged`."""
    known = [value for value in values if value is not None]
    return max(known) if known else None
