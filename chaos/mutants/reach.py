"""Which seeds a planted bug can show in.

A bug in leases shows in no seed that has none, and so on. Its hunt passes over the others in the stream of ordinary seeds: it
looks at what a scenario has, never at whether the bug is found in it. Invariant: a seed that is passed over can not reach the
planted code, or hardly ever so that it matters; where that is not plain, a bug names nothing and meets all seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from chaos.sim import faults
from chaos.sim.ailments import Ailment
from chaos.sim.faults import Fault
from chaos.sim.scenario import Scenario, deafens
from cluster.storage.engine import Family


@dataclass(frozen=True, slots=True)
class Reach:
    """name: what the seeds of a hunt have, as the published table says it."""

    name: str
    reaches: Callable[[Scenario], bool]


def _faulty(name: str, *kinds: type[Fault]) -> Reach:
    return Reach(name, lambda scenario: any(isinstance(fault, kinds) for fault in scenario.faults))


def _leased(name: str, fits: Callable[[Fault], bool]) -> Reach:
    return Reach(f"leases, {name}", lambda scenario: scenario.limits.lease_reads and any(map(fits, scenario.faults)))


def _rots(scenario: Scenario, *families: Family) -> bool:
    spoilt = (fault.family for fault in scenario.faults if isinstance(fault, faults.BitFlip | faults.Misdirected))
    return any(family in families for family in spoilt)


def _torn(fault: Fault) -> bool:
    return isinstance(fault, faults.Divergence) and fault.everywhere


ALL = Reach("", lambda scenario: True)
LEASES_AND_DEAF_LEADERS = _leased("deaf leaders", deafens)
LEASES_AND_PAUSES = _leased("paused leaders", lambda fault: isinstance(fault, faults.LeaderPause))
LEASES_AND_DELAYS = _leased("slow leaders", lambda fault: isinstance(fault, faults.LeaderSlow))
HANDOVERS = Reach("handovers", lambda scenario: any(errand.handover for errand in scenario.errands))
MOVES = Reach("moves", lambda scenario: any(not errand.handover for errand in scenario.errands))
PLACED = Reach("placement", lambda scenario: scenario.placed is not None)
CLOCKS = Reach("alarms", lambda scenario: any(work.space == "clock" for work in scenario.work))
LOBBIES = Reach("lobbies", lambda scenario: any(work.space == "lobby" for work in scenario.work))
NOTES = Reach("cursors", lambda scenario: any(work.space == "notes" for work in scenario.work))
UPGRADES = Reach("new code", lambda scenario: bool(scenario.upgrades_ms))
BY_HAND = Reach("work by hand", lambda scenario: scenario.by_hand)
THAWS = Reach("thaws", lambda scenario: scenario.thaws and any(map(_torn, scenario.faults)))
ILL_LEADERS = Reach("ill leaders", lambda scenario: scenario.limits.ailment is not None)
HUNG_LEADERS = Reach("hung leaders", lambda scenario: scenario.limits.ailment is Ailment.HUNG)
ROTTEN_RECORDS = Reach("rotten records", lambda scenario: _rots(scenario, Family.RECORDS))
ROTTEN_LOGS = Reach("rotten logs", lambda scenario: _rots(scenario, Family.LOG))
FAILED_READS = _faulty("failed reads", faults.ReadsFail)
WIPES = _faulty("wiped nodes", faults.Wipe)
