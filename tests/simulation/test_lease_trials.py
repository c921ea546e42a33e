"""Seeds that are about leases: clocks keep what a lease builds on, and what puts leases to the test does what it says."""

from __future__ import annotations

from itertools import count, islice

from chaos.sim.faults import ClockSlew, LeaderCut, LeaderPause, LeaderSlow
from chaos.sim.run import run
from chaos.sim.scenario import Scenario, deafens, draw
from tests.simulation.fresh import first_seed

FIRST = first_seed()


def about_leases(seeds: int, first: int = FIRST) -> list[Scenario]:
    """The next seeds that put leases to the test."""
    tried = (scenario for scenario in map(draw, count(first)) if _tries(scenario))
    return list(islice(tried, seeds))


def _tries(scenario: Scenario) -> bool:
    faults = scenario.faults
    return any(isinstance(fault, LeaderPause | LeaderSlow) or deafens(fault) for fault in faults)


def test_clocks_differ_by_no_more_than_a_lease_allows_for() -> None:
    """Otherwise a stale read would be nobody's mistake (reference trap 37)."""
    for scenario in about_leases(10):
        limits = scenario.limits
        assert limits.lease_reads
        assert (max(limits.drift) - min(limits.drift)) * limits.election_timeout_ms <= limits.lease_drift_ms
        assert not any(isinstance(fault, ClockSlew) for fault in scenario.faults)
        assert all(fault.rate == 1.0 for fault in scenario.faults if isinstance(fault, LeaderCut))


def test_whoever_becomes_deaf_has_just_called_a_successor() -> None:
    """The leader's own call is the one election that no promise holds up (reference trap 38)."""
    for scenario in about_leases(10):
        handed_ms = [errand.at_ms for errand in scenario.errands if errand.handover]
        for fault in filter(deafens, scenario.faults):
            assert any(0 < fault.start_ms - at_ms <= 25 for at_ms in handed_ms)


def test_leases_pass_their_trials() -> None:
    for scenario in about_leases(3):
        outcome = run(scenario)
        assert not outcome.failed, f"seed {scenario.seed}: {outcome.violation}"


def test_a_leader_that_stood_still_is_told_of_and_goes_on() -> None:
    """Trials take place: of some seeds each kind is met."""
    met: set[str] = set()
    for scenario in about_leases(4, first=1):
        met |= {kind for kind in run(scenario).faults if kind.startswith("leader_")}
    assert {"leader_cut", "leader_pause", "leader_slow"} <= met
