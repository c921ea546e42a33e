"""Repairs and forks while nodes die, disks fail and networks split: each takes effect once, in order, on every replica."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chaos.sim.run import run
from chaos.sim.scenario import draw


@pytest.mark.parametrize("seed", [3, 11, 17, 29, 42])
def test_what_an_operator_changes_takes_effect_once_and_in_order(seed: int) -> None:
    outcome = run(replace(draw(seed), by_hand=True))
    assert not outcome.violation, (outcome.checker, outcome.violation)
    assert (outcome.marks["repairs"], outcome.marks["forks"]) == (6, 1)


def test_some_seeds_draw_it() -> None:
    drawn = sum(draw(seed).by_hand for seed in range(200))
    assert 200 * 0.05 < drawn < 200 * 0.25
