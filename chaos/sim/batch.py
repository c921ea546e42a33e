"""Many seeds over several processes, and what they add up to."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice

from chaos.sim.run import Outcome, run
from chaos.sim.scenario import draw

CHUNK = 4
"""Seeds that a process is given at a time."""
FAILURES_MAX = 20
"""After so many failing seeds a sweep stops: they will be one bug or two."""


@dataclass(slots=True)
class Totals:
    """What a sweep adds up to. seeds_with: in how many seeds each mark was met."""

    seeds: int = 0
    events: int = 0
    simulated_ms: float = 0.0
    heal_ms_max: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    marks: Counter[str] = field(default_factory=Counter)
    seeds_with: Counter[str] = field(default_factory=Counter)
    failures: list[Outcome] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        self.seeds += 1
        self.events += outcome.events
        self.simulated_ms += outcome.simulated_ms
        self.heal_ms_max = max(self.heal_ms_max, outcome.heal_ms)
        self.faults.update(outcome.faults)
        self.marks.update(outcome.marks)
        self.seeds_with.update(outcome.marks.keys())
        if outcome.failed:
            self.failures.append(outcome)


def replay_command(seed: int) -> str:
    """What runs a seed again, on the same commit, the same way."""
    return f"moot chaos sim --seed {seed}"


def run_seeds(seeds: list[int]) -> list[Outcome]:
    """Run each seed, here."""
    return [run(draw(seed)) for seed in seeds]


def sweep(seeds: Iterable[int], jobs: int, on_outcome: Callable[[Outcome], None] | None = None) -> Totals:
    """Run seeds until they are through or FAILURES_MAX have failed. on_outcome: called after each."""
    totals = Totals()
    for outcome in _outcomes(iter(seeds), jobs):
        totals.add(outcome)
        if on_outcome is not None:
            on_outcome(outcome)
        if len(totals.failures) >= FAILURES_MAX:
            break
    totals.failures.sort(key=lambda outcome: outcome.events)
    return totals


def _outcomes(seeds: Iterator[int], jobs: int) -> Iterator[Outcome]:
    if jobs <= 1:
        for seed in seeds:
            yield run(draw(seed))
        return
    # Fresh interpreters: a forked one would inherit the threads of whoever shows the progress.
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting: set[Future[list[Outcome]]] = set()
        try:
            while True:
                while len(waiting) < 2 * jobs and (chunk := list(islice(seeds, CHUNK))):
                    waiting.add(pool.submit(run_seeds, chunk))
                if not waiting:
                    return
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    yield from future.result()
        finally:
            for future in waiting:
                future.cancel()
