"""A restart in the middle of every write: one short story, told once for each write of a node with the process dying at it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chaos.sim.faults import Crash, Fault, Pause
from chaos.sim.report import failure_lines
from chaos.sim.run import run
from chaos.sim.scenario import Scenario, draw
from cluster.ids import NodeId

VICTIM = NodeId("n1")
WRITES = 20
"""How many writes after its beginning the story is tried with, for each point and loss."""


def _story() -> Scenario:
    """No faults but one that makes a follower need a snapshot; logs are cut all the time, and records are written often."""
    scenario = draw(7)
    limits = replace(
        scenario.limits,
        nodes=3,
        shards=1,
        every_entries=4,
        kept_entries=2,
        lagging_entries=2,
        cache_bytes_max=1,
        sync_ms=0.3,
        drift=(1.0,) * 3,
        skew_ms=(0.0,) * 3,
        restarted=True,
        invariants_checked=True,
        lease_reads=False,
    )
    work = tuple(replace(work, at_ms=work.at_ms / 4) for work in scenario.work[:60])
    return replace(scenario, limits=limits, work=work, faults=(Pause(150.0, 1_200.0, NodeId("n3")),))


@pytest.mark.parametrize("keep", [1.0, 0.0])
@pytest.mark.parametrize("point", ["written", "synced", "sending"])
def test_a_node_may_die_at_any_write(point: str, keep: float) -> None:
    """Reference traps 4, 14, 24 and 25: votes, entries, records and snapshots are written in batches, and between any two of
    them the process may be gone, with or without what was not synced."""
    story = _story()
    died = 0
    for passes in range(WRITES):
        crash: Fault = Crash(40.0, 1_400.0, VICTIM, point, keep, False, passes)
        outcome = run(replace(story, faults=(crash, *story.faults)), told=True)
        assert not outcome.failed, f"write {passes}\n" + "\n".join(failure_lines(outcome))
        died += any(f"crash      {VICTIM} {point}" in line for line in outcome.story)
    assert died > WRITES / 2, "the process died where it should"
