"""Plants one bug after another and counts the seeds until a checker complains.

A bug counts as caught by a seed that fails with it and passes without it. A seed that fails either way says nothing about the
planted bug, but much about the product: it is told (`sick`), and the hunt goes on.

Seeds are taken from the stream in order. Those that a bug can not show in (`reach`) are passed over and not counted.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

from chaos.mutants import CATALOGUE
from chaos.mutants.mutant import Mutant
from chaos.sim.run import Outcome, run
from chaos.sim.scenario import Scenario, draw

MUTANTS: dict[str, Mutant] = {mutant.name: mutant for mutant in CATALOGUE}
assert len(MUTANTS) == len(CATALOGUE), "every planted bug has a name of its own"
SEEDS_MAX = 300
"""A bug that so many seeds do not show counts as missed."""
LOOKED_AT_MAX = 100
"""Seeds looked at for each that is to be run: of what a bug needs there must be some in one of so many."""
REMEMBERED = 4096
"""Seeds whose verdict without any bug a process keeps: most bugs are found by one of the first few."""


@dataclass(frozen=True, slots=True)
class Caught:
    """What became of a planted bug.

    seeds: run until it was caught, or all of them. reach: what they have, empty for all seeds. seconds: of processor time that
    this took, checks without the bug included. seed: the one that did; None when missed. checker, what: the complaint.
    sick: seeds that fail without the bug too.
    """

    name: str
    layer: str
    story: str
    reach: str
    caught: bool
    seeds: int
    seconds: float
    seed: int | None
    checker: str
    what: str
    sick: tuple[int, ...] = ()

    def row(self) -> dict[str, Any]:
        """One value with stable keys."""
        return {**asdict(self), "seconds": round(self.seconds, 2)}


def hunt(name: str, first: int = 1, seeds_max: int = SEEDS_MAX) -> Caught:
    """Run seeds with one bug planted until one fails that passes without it."""
    mutant = MUTANTS[name]
    named = (name, mutant.layer, mutant.story, mutant.reach.name)
    began = time.process_time()
    sick: list[int] = []
    seeds = 0
    for scenario in islice(_reaching(mutant, first, seeds_max), seeds_max):
        seeds += 1
        with mutant.planted():
            outcome = run(scenario)
        assert not _stumbled(mutant, outcome), f"{name} stumbles over its own code: {outcome.violation}"
        if not outcome.failed:
            continue
        seed = scenario.seed
        if fails_by_itself(seed):
            sick.append(seed)
            continue
        taken_s = time.process_time() - began
        return Caught(*named, True, seeds, taken_s, seed, outcome.checker, outcome.violation, tuple(sick))
    return Caught(*named, False, seeds, time.process_time() - began, None, "", "", tuple(sick))


def _reaching(mutant: Mutant, first: int, seeds_max: int) -> Iterator[Scenario]:
    """The seeds from `first` on that the bug can show in."""
    return filter(mutant.reach.reaches, map(draw, range(first, first + LOOKED_AT_MAX * seeds_max)))


@lru_cache(REMEMBERED)
def fails_by_itself(seed: int) -> bool:
    """Whether a seed fails although no bug is planted."""
    return run(draw(seed)).failed


def _stumbled(mutant: Mutant, outcome: Outcome) -> bool:
    """Whether the planting code itself raised: that would catch anything."""
    return outcome.checker == "exceptions" and mutant.plant.__code__.co_filename in outcome.violation


def hunt_all(names: list[str], jobs: int, first: int, seeds_max: int, on_end: Callable[[Caught], None]) -> list[Caught]:
    """Hunt each of `names`; on_end is told each result at once, the list is in the order of the names."""
    found: dict[str, Caught] = {}
    for result in _hunts(names, jobs, first, seeds_max):
        found[result.name] = result
        on_end(result)
    return [found[name] for name in names]


def _hunts(names: list[str], jobs: int, first: int, seeds_max: int) -> Iterator[Caught]:
    if jobs <= 1:
        for name in names:
            yield hunt(name, first, seeds_max)
        return
    # Fresh interpreters: a forked one would inherit the threads of whoever shows the progress.
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting: set[Future[Caught]] = {pool.submit(hunt, name, first, seeds_max) for name in names}
        try:
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        finally:
            for future in waiting:
                future.cancel()
