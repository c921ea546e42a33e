"""Plants one bug after another and counts the seeds until a checker complains."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass

from chaos.mutants import consensus, documents, telling
from chaos.mutants.mutant import Mutant
from chaos.sim.run import run
from chaos.sim.scenario import draw

MUTANTS: dict[str, Mutant] = {mutant.name: mutant for mutant in (*consensus.MUTANTS, *documents.MUTANTS, *telling.MUTANTS)}
SEEDS_MAX = 100
"""A bug that so many seeds do not show counts as missed."""


@dataclass(frozen=True, slots=True)
class Caught:
    """What became of a planted bug. seeds: run until it was caught. seed: the one that did; None when missed."""

    name: str
    story: str
    seeds: int
    seconds: float
    seed: int | None
    checker: str
    what: str


def hunt(name: str, first: int = 1, seeds_max: int = SEEDS_MAX) -> Caught:
    """Run seeds with one bug planted until one fails that passes without it."""
    mutant = MUTANTS[name]
    began = time.monotonic()
    for seed in range(first, first + seeds_max):
        with mutant.planted():
            outcome = run(draw(seed))
        if outcome.failed and not run(draw(seed)).failed:
            seconds = time.monotonic() - began
            return Caught(name, mutant.story, seed - first + 1, seconds, seed, outcome.checker, outcome.violation)
    return Caught(name, mutant.story, seeds_max, time.monotonic() - began, None, "", "")


def hunt_all(names: list[str], jobs: int, seeds_max: int, on_caught: Callable[[Caught], None]) -> list[Caught]:
    """Hunt each of `names`; the results are in their order."""
    found: dict[str, Caught] = {}
    for caught in _hunts(names, jobs, seeds_max):
        found[caught.name] = caught
        on_caught(caught)
    return [found[name] for name in names]


def _hunts(names: list[str], jobs: int, seeds_max: int) -> Iterator[Caught]:
    if jobs <= 1:
        for name in names:
            yield hunt(name, seeds_max=seeds_max)
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        hunts = [pool.submit(hunt, name, 1, seeds_max) for name in names]
        for done in as_completed(hunts):
            yield done.result()
