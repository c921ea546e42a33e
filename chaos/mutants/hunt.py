"""Plants one bug after another and counts the seeds until a checker complains.

A bug counts as caught by a seed that fails with it and passes without it. A seed that fails either way says nothing about the
planted bug, but much about the product: it is told (`sick`), and the hunt goes on.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from typing import Any

from chaos.mutants import CATALOGUE
from chaos.mutants.mutant import Mutant
from chaos.sim.run import Outcome, run
from chaos.sim.scenario import draw

MUTANTS: dict[str, Mutant] = {mutant.name: mutant for mutant in CATALOGUE}
assert len(MUTANTS) == len(CATALOGUE), "every planted bug has a name of its own"
SEEDS_MAX = 300
"""A bug that so many seeds do not show counts as missed."""


@dataclass(frozen=True, slots=True)
class Caught:
    """What became of a planted bug.

    seeds: run until it was caught, or all of them. seconds: of processor time that this took, checks without the bug included.
    seed: the one that did; None when missed. checker, what: the complaint. sick: seeds that fail without the bug too.
    """

    name: str
    layer: str
    story: str
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
    began = time.process_time()
    sick: list[int] = []
    for seed in range(first, first + seeds_max):
        scenario = draw(seed)
        with mutant.planted():
            outcome = run(scenario)
        assert not _stumbled(mutant, outcome), f"{name} stumbles over its own code: {outcome.violation}"
        if not outcome.failed:
            continue
        if run(scenario).failed:
            sick.append(seed)
            continue
        verdict = (True, seed - first + 1, time.process_time() - began, seed, outcome.checker, outcome.violation)
        return Caught(name, mutant.layer, mutant.story, *verdict, tuple(sick))
    missed = (False, seeds_max, time.process_time() - began, None, "", "")
    return Caught(name, mutant.layer, mutant.story, *missed, tuple(sick))


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
