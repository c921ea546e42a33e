"""A handler that reads what it should not, in simulated clusters: the run finds it, and ends with equal replicas."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chaos.sim.faults import Divergence, LeaderCrash
from chaos.sim.report import failure_lines
from chaos.sim.run import Outcome, run
from chaos.sim.scenario import draw
from cluster.ids import NodeId


def planted(seed: int, victim: str, *more: LeaderCrash, everywhere: bool = False, thaws: bool = False) -> Outcome:
    """One node sees something else for two seconds, or all of them do, in a cluster of this seed's limits."""
    fault = Divergence(500.0, 2_500.0, NodeId(victim), everywhere)
    return run(replace(draw(seed), faults=(fault, *more), thaws=thaws))


@pytest.mark.parametrize(("seed", "victim"), [(1, "n1"), (2, "n2"), (3, "n3"), (4, "n1"), (5, "n2")])
def test_a_document_that_diverges_on_one_node_is_found_and_healed(seed: int, victim: str) -> None:
    outcome = planted(seed, victim)
    assert not outcome.failed, "\n".join(failure_lines(outcome))
    assert outcome.marks["divergences_found"] >= 3, "every node knows the report"
    assert "divergences_undecided" not in outcome.marks


def test_a_document_that_diverges_is_healed_although_leaders_die() -> None:
    for seed in range(6, 9):
        outcome = planted(
            seed, "n2", LeaderCrash(1_500.0, 2_000.0, 1, "applied", 0.0), LeaderCrash(2_200.0, 2_600.0, 1, "sent", 1.0)
        )
        assert not outcome.failed, "\n".join(failure_lines(outcome))


@pytest.mark.parametrize("seed", [1, 3])
def test_a_document_that_nobody_can_decide_about_goes_on_when_an_operator_has(seed: int) -> None:
    """As long as handlers are told lies it freezes again in its new epoch, and is thawed again."""
    outcome = planted(seed, "n1", LeaderCrash(1_700.0, 2_100.0, 1, "applied", 0.0), everywhere=True, thaws=True)
    assert not outcome.failed, "\n".join(failure_lines(outcome))
    assert outcome.marks["divergences_undecided"] >= 1
    assert outcome.marks["thaws"] >= 1


def test_without_an_operator_it_stays_frozen() -> None:
    outcome = planted(1, "n1", everywhere=True)
    assert not outcome.failed, "\n".join(failure_lines(outcome))
    assert outcome.marks["divergences_undecided"] >= 1
    assert not outcome.marks.get("thaws")
