"""Which faults a seed draws: a maker for each kind, most of them used by a third of all seeds."""

from __future__ import annotations

import enum
import random
from collections.abc import Callable
from dataclasses import replace

from chaos.sim import faults
from chaos.sim.faults import CRASH_POINTS, SAFETY_MS, Fault, Link
from chaos.sim.randomness import Streams
from cluster.ids import NodeId
from cluster.storage.engine import Family

Maker = Callable[[random.Random, list[NodeId], int], list[Fault]]


def _span(source: random.Random, shortest: float, longest: float) -> tuple[float, float]:
    start = source.uniform(100, SAFETY_MS * 0.9)
    return round(start), round(min(SAFETY_MS, start + source.uniform(shortest, longest)))


def _some_links(source: random.Random, names: list[NodeId]) -> tuple[Link, ...]:
    """One of the ways in which networks part: one node from all, halves, one pair, one direction, at random."""
    pairs = [(one, other) for one in names for other in names if one != other]
    shape = source.randrange(5)
    if shape == 0:
        alone = source.choice(names)
        return tuple(pair for pair in pairs if alone in pair)
    if shape == 1:
        part = set(source.sample(names, len(names) // 2))
        return tuple((one, other) for one, other in pairs if (one in part) != (other in part))
    if shape == 2:
        one, other = source.sample(names, 2)
        return ((one, other), (other, one))
    if shape == 3:
        alone, inward = source.choice(names), source.random() < 0.5
        return tuple((one, other) for one, other in pairs if (other if inward else one) == alone)
    return tuple(pair for pair in pairs if source.random() < 0.4)


def _links_or_all(source: random.Random, names: list[NodeId]) -> tuple[Link, ...]:
    if source.random() < 0.7:
        return _some_links(source, names)
    return tuple((one, other) for one in names for other in names if one != other)


def _crashes(source: random.Random, names: list[NodeId], _: int) -> list[Fault]:
    found: list[Fault] = []
    for _crash in range(source.randint(1, 5)):
        keep = source.choice((1.0, 0.0, source.random()))
        start, end = _span(source, 50, 1_500)
        host_down = source.random() < 0.3
        passes = source.choice((0, 0, 1, 3, 10))
        found.append(faults.Crash(start, end, source.choice(names), source.choice(CRASH_POINTS), keep, host_down, passes))
    return found


def _leader_crashes(source: random.Random, names: list[NodeId], _: int) -> list[Fault]:
    return [
        faults.LeaderCrash(
            *_span(source, 20, 800),
            source.randint(0, 1),
            source.choice(CRASH_POINTS),
            source.choice((1.0, 0.0)),
            source.choice((0, 0, 1, 3, 10)),
        )
        for _crash in range(source.randint(1, 4))
    ]


def _leader_cuts(source: random.Random, names: list[NodeId], _: int) -> list[Fault]:
    return [
        faults.LeaderCut(*_span(source, 150, 1_200), 1, source.choice((1.0, 1.0, 0.3)), source.choice((0.0, 0.0, 300.0)))
        for _cut in range(source.randint(1, 5))
    ]


def _rival_cuts(source: random.Random, names: list[NodeId], *, steady: bool) -> list[Fault]:
    """Long enough for another leader. The old one is still there: with a clock so slow that it does not know how late it is,
    or, where clocks go as they should, heard by one voter; and voters restart and may forget what they promised.
    """
    found: list[Fault] = []
    for start in (300.0, 1_500.0, 2_700.0):
        end, lag_ms = round(start + source.uniform(900, 1_150)), source.choice((0.0, 300.0))
        found.append(faults.LeaderCut(start, end, 1, 1.0 if steady else 0.2, lag_ms, steady and source.random() < 0.7))
        if steady and source.random() < 0.5:
            down = round(start + source.uniform(20, 300))
            found.append(faults.Crash(down, down + 30, source.choice(names), "anywhere", 1.0, False))
    return found


TORN = 0.4
"""Share of the documents that diverge of which no majority can say what they are."""
LEASE_TRIALS_MS = (300.0, 1_500.0, 2_700.0)
"""When leases are put to the test in seeds that are about them."""


def _lease_trials(source: random.Random) -> list[Fault]:
    """Another leader, as early as promises allow, while the old one is there and has heard nothing of it: its host refuses
    connections; it loses one voter after the other, and the last of them restarts; it is deaf after it called a successor;
    it stands still with the time in its hands; or it is told late of everything.
    """
    found: list[Fault] = []
    for start in LEASE_TRIALS_MS:
        at_ms, end = round(start + source.uniform(1, 40)), round(start + source.uniform(900, 1_150))
        trial = source.choice(("refused", "forsaken", "deaf", "stopped", "late"))
        if trial == "refused":
            found.append(faults.LeaderCut(at_ms, end, 1, 1.0, refused=True))
        elif trial == "forsaken":
            last_ms = source.uniform(350, 800)
            found.append(faults.LeaderCut(at_ms, end, 1, 1.0, partly=True, last_ms=last_ms))
        elif trial == "deaf":
            found.append(faults.LeaderCut(at_ms, end, 1, 1.0, way="inward"))
        elif trial == "stopped":
            found.append(faults.LeaderPause(at_ms, end - 200, 1))
            found.append(faults.LeaderCut(at_ms, end, 1, 1.0))
        else:
            found.append(faults.LeaderSlow(start - 200, end, 1, source.choice((70.0, 100.0, 150.0))))
            partly = source.random() < 0.5
            found.append(faults.LeaderCut(at_ms, end, 1, 1.0, partly=partly, way="both" if partly else "outward"))
    return found


def _storm(source: random.Random, names: list[NodeId]) -> list[Fault]:
    """One leader after another is cut off, and what each was told long ago still arrives."""
    links = tuple((one, other) for one in names for other in names if one != other)
    found: list[Fault] = [faults.Unruly(100.0, SAFETY_MS, links, 0.02, 0.3, 0.3, source.choice((300.0, 900.0)), False)]
    start = 150.0
    while start < SAFETY_MS * 0.85:
        end = round(start + source.uniform(250, 700))
        found.append(faults.LeaderCut(round(start), end, 1, 1.0, source.choice((0.0, 0.0, 200.0))))
        start = end + source.uniform(50, 400)
    return found


def _power_losses(source: random.Random, names: list[NodeId], _: int) -> list[Fault]:
    return [faults.PowerLoss(*_span(source, 50, 400), source.choice((0.0, source.random())))]


def _pauses(source: random.Random, names: list[NodeId], _: int) -> list[Fault]:
    return [faults.Pause(*_span(source, 20, 1_500), source.choice(names)) for _pause in range(source.randint(1, 3))]


def _partitions(source: random.Random, names: list[NodeId], _: int) -> list[Fault]:
    return [
        faults.Partition(*_span(source, 50, 2_000), _some_links(source, names), source.choice((50.0, 500.0, 5_000.0)))
        for _partition in range(source.randint(1, 3))
    ]


def _flapping(source: random.Random, names: list[NodeId], _: int) -> list[Fault]:
    return [faults.Flapping(*_span(source, 300, 2_000), _some_links(source, names), source.uniform(20, 400))]


def _slow_links(source: random.Random, names: list[NodeId], _: int) -> list[Fault]:
    return [
        faults.Slow(*_span(source, 200, 3_000), _links_or_all(source, names), source.choice((5.0, 50.0, 400.0)))
        for _slow in range(source.randint(1, 2))
    ]


def _congested(source: random.Random, names: list[NodeId], _: int) -> list[Fault]:
    return [faults.Congested(*_span(source, 5, 600), _some_links(source, names)) for _full in range(source.randint(1, 3))]


def _unruly(source: random.Random, names: list[NodeId], _: int) -> list[Fault]:
    loss, duplicates, reordering = [source.choice((0.0, 0.05, 0.3)) for _rate in range(3)]
    late_ms, breaks = source.choice((100.0, 1_000.0)), source.random() < 0.5
    return [
        faults.Unruly(*_span(source, 200, 2_500), _some_links(source, names), loss, duplicates, reordering, late_ms, breaks)
    ]


def _breaks(source: random.Random, names: list[NodeId], _: int) -> list[Fault]:
    found: list[Fault] = []
    for _break in range(source.randint(1, 6)):
        start, _end = _span(source, 0, 1)
        found.append(faults.Break(start, start, _some_links(source, names)))
    return found


def _client_breaks(source: random.Random, names: list[NodeId], clients: int) -> list[Fault]:
    found: list[Fault] = []
    for _break in range(source.randint(1, 6)):
        start, _end = _span(source, 0, 1)
        found.append(faults.ClientBreak(start, start, source.randrange(clients)))
    return found


def _slow_syncs(source: random.Random, names: list[NodeId], _: int) -> list[Fault]:
    return [
        faults.SlowSync(*_span(source, 100, 2_000), source.choice(names), source.choice((2.0, 20.0, 150.0, 1_200.0)))
        for _slow in range(source.randint(1, 3))
    ]


def _sync_failures(source: random.Random, names: list[NodeId], _: int) -> list[Fault]:
    return [faults.SyncFails(*_span(source, 100, 1_000), source.choice(names))]


def _read_failures(source: random.Random, names: list[NodeId], _: int) -> list[Fault]:
    family = source.choice((None, Family.LOG, Family.RECORDS, Family.META))
    return [faults.ReadsFail(*_span(source, 100, 1_000), source.choice(names), family)]


def _write_failures(source: random.Random, names: list[NodeId], _: int) -> list[Fault]:
    return [faults.WritesFail(*_span(source, 100, 1_000), source.choice(names))]


def _full_disks(source: random.Random, names: list[NodeId], _: int) -> list[Fault]:
    return [faults.DiskFull(*_span(source, 100, 1_000), source.choice(names))]


def _disk_stalls(source: random.Random, names: list[NodeId], _: int) -> list[Fault]:
    return [faults.DiskStalls(*_span(source, 10, 800), source.choice(names)) for _stall in range(source.randint(1, 3))]


def _high_water(source: random.Random, names: list[NodeId], _: int) -> list[Fault]:
    return [faults.HighWater(*_span(source, 100, 1_000), source.choice(names))]


def _rot(source: random.Random, names: list[NodeId], _: int) -> list[Fault]:
    victim = source.choice(names)
    found: list[Fault] = []
    for _flip in range(source.randint(1, 6)):
        start, _end = _span(source, 0, 1)
        family = source.choice((Family.RECORDS, Family.RECORDS, Family.RECORDS, Family.LOG, Family.META))
        found.append(faults.BitFlip(start, start, victim, family))
    restart, up = _span(source, 50, 300)
    found.append(faults.Crash(restart, up, victim, "anywhere", 1.0, False))
    return found


def _misdirected(source: random.Random, names: list[NodeId], _: int) -> list[Fault]:
    victim = source.choice(names)
    found: list[Fault] = []
    for _write in range(source.randint(1, 3)):
        start, _end = _span(source, 0, 1)
        found.append(faults.Misdirected(start, start, victim, source.choice((Family.RECORDS, Family.RECORDS, Family.LOG))))
    restart, up = _span(source, 50, 300)
    found.append(faults.Crash(restart, up, victim, "anywhere", 1.0, False))
    return found


def _torn(source: random.Random, names: list[NodeId], _: int) -> list[Fault]:
    return [faults.TornCrash(*_span(source, 50, 500), source.choice(names))]


def _client_restarts(source: random.Random, names: list[NodeId], clients: int) -> list[Fault]:
    found: list[Fault] = []
    for _restart in range(source.randint(1, 3)):
        start, _end = _span(source, 0, 1)
        found.append(faults.ClientRestart(start, start, source.randrange(clients)))
    return found


def _clock_slews(source: random.Random, names: list[NodeId], _: int) -> list[Fault]:
    return [
        faults.ClockSlew(*_span(source, 100, 2_000), source.choice(names), source.choice((0.2, 0.8, 1.5, 5.0)))
        for _slew in range(source.randint(1, 2))
    ]


def _wipes(source: random.Random, names: list[NodeId], _: int) -> list[Fault]:
    """Sometimes in the night in which all of them restart, so that nobody's memory helps."""
    start, end = _span(source, 20, 600)
    found: list[Fault] = [faults.Wipe(start, end, source.choice(names))]
    if source.random() < 0.5:
        found.append(faults.PowerLoss(round(start + source.uniform(1, 20)), end, 0.0))
    return found


def _clock_jumps(source: random.Random, names: list[NodeId], _: int) -> list[Fault]:
    found: list[Fault] = []
    for _jump in range(source.randint(1, 4)):
        start, _end = _span(source, 0, 1)
        found.append(faults.ClockJump(start, start, source.choice(names), source.choice((-60_000.0, -500.0, 700.0, 60_000.0))))
    return found


def _divergences(source: random.Random, names: list[NodeId], _: int) -> list[Fault]:
    victim = source.choice(names)
    found = [faults.Divergence(*_span(source, 200, 2_000), victim) for _document in range(source.randint(1, 2))]
    return [replace(fault, everywhere=source.random() < TORN) for fault in found]


_MAKERS: dict[str, Maker] = {
    "crash": _crashes,
    "leader_crash": _leader_crashes,
    "leader_cut": _leader_cuts,
    "power_loss": _power_losses,
    "pause": _pauses,
    "partition": _partitions,
    "flapping": _flapping,
    "slow": _slow_links,
    "congested": _congested,
    "unruly": _unruly,
    "break": _breaks,
    "client_break": _client_breaks,
    "slow_sync": _slow_syncs,
    "sync_fails": _sync_failures,
    "reads_fail": _read_failures,
    "disk_full": _full_disks,
    "disk_stalls": _disk_stalls,
    "high_water": _high_water,
    "bit_flip": _rot,
    "wipe": _wipes,
    "clock_jump": _clock_jumps,
    "writes_fail": _write_failures,
    "misdirected": _misdirected,
    "torn_crash": _torn,
    "client_restart": _client_restarts,
    "clock_slew": _clock_slews,
    "divergence": _divergences,
}
_LIKELIHOOD = {"crash": 0.6, "sync_fails": 0.15, "reads_fail": 0.15, "writes_fail": 0.15, "disk_full": 0.15, "high_water": 0.15,
               "bit_flip": 0.15, "misdirected": 0.1, "torn_crash": 0.1, "wipe": 0.1, "power_loss": 0.25, "clock_slew": 0.2,
               "client_restart": 0.2, "divergence": 0.2}  # fmt: skip
_COSTLY = faults.Wipe | faults.BitFlip | faults.Misdirected | faults.TornCrash | faults.Divergence
"""Takes from a node what it had synced, or takes the node, or its word about a document."""


class Theme(enum.Enum):
    """What a seed is about. MIXED: everything. RIVALS: old leaders beside new ones. STORMS: leadership changes all the time,
    while messages of long ago still arrive. LEASES: what a promise to wait for a leader must outlast."""

    MIXED = "mixed"
    RIVALS = "rivals"
    STORMS = "storms"
    LEASES = "leases"


def draw_faults(streams: Streams, names: list[NodeId], clients: int, theme: Theme, *, steady: bool) -> tuple[Fault, ...]:
    """All faults of a seed, in the order in which they begin. One node at most loses what it had synced.

    steady: no clock goes at another rate than its own, for leases build on that.
    """
    found: list[Fault] = []
    for kind, maker in _MAKERS.items():
        stream = streams.named(f"faults/{kind}")
        likelihood = _LIKELIHOOD.get(kind, 0.35)
        if theme is not Theme.MIXED:
            likelihood = 0.0 if kind in ("leader_cut", "unruly") else likelihood / 4
        if stream.random() < likelihood:
            found.extend(maker(stream, names, clients))
    if theme is Theme.RIVALS:
        found.extend(_rival_cuts(streams.named("faults/rivals"), names, steady=steady))
    elif theme is Theme.STORMS:
        found.extend(_storm(streams.named("faults/storms"), names))
    elif theme is Theme.LEASES:
        found.extend(_lease_trials(streams.named("faults/leases")))
    if steady:
        found = [replace(fault, rate=1.0) if isinstance(fault, faults.LeaderCut) else fault for fault in found]
        found = [fault for fault in found if not isinstance(fault, faults.ClockSlew)]
    victims = sorted((fault for fault in found if isinstance(fault, _COSTLY)), key=lambda fault: fault.start_ms)
    spared = {id(fault) for fault in victims if fault.node != victims[0].node}
    return tuple(sorted((fault for fault in found if id(fault) not in spared), key=lambda fault: fault.start_ms))
