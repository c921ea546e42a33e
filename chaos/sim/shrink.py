"""From a failing seed to a small story: fewer faults, less work, fewer clients, shorter faults, while the same checker
complains.

Delta debugging (Zeller and Hildebrandt, 2002) over lists of data: possible because faults and work are values and because
taking one away leaves the random numbers of all others as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from chaos.sim.run import Outcome, run
from chaos.sim.scenario import Scenario

Item = TypeVar("Item")

RUNS_MAX = 400


@dataclass(slots=True)
class Shrunk:
    """The smallest failing scenario found, what comes of it, and how many runs that took."""

    scenario: Scenario
    outcome: Outcome
    runs: int


class Shrinker:
    """Tries smaller scenarios and keeps those that still fail in the same way."""

    def __init__(self, scenario: Scenario, runs_max: int = RUNS_MAX, on_run: Callable[[Scenario], None] | None = None) -> None:
        """Raises ValueError when the scenario does not fail."""
        outcome = run(scenario)
        if not outcome.failed:
            raise ValueError(f"seed {scenario.seed} does not fail")
        self.best = Shrunk(scenario, outcome, 1)
        self._runs_max = runs_max
        self._on_run = on_run

    def shrink(self) -> Shrunk:
        """Until nothing more can be left out, or the runs are used up."""
        size = -1
        while size != (size := self._size()) and self.best.runs < self._runs_max:
            self._list(self.best.scenario.faults, lambda kept: replace(self.best.scenario, faults=tuple(kept)))
            self._list(self.best.scenario.errands, lambda kept: replace(self.best.scenario, errands=tuple(kept)))
            self._list(self.best.scenario.upgrades_ms, lambda kept: replace(self.best.scenario, upgrades_ms=tuple(kept)))
            self._list(self.best.scenario.work, lambda kept: replace(self.best.scenario, work=tuple(kept)))
            self._shorter_faults()
            self._fewer_clients()
        return self.best

    def _size(self) -> int:
        scenario = self.best.scenario
        return (len(scenario.faults) + len(scenario.errands) + len(scenario.upgrades_ms)) * 1_000 + len(scenario.work)

    def _fails(self, candidate: Scenario) -> bool:
        """Run it; keep it when the same checker complains."""
        if self.best.runs >= self._runs_max:
            return False
        self.best.runs += 1
        outcome = run(candidate)
        failed = outcome.failed and outcome.checker == self.best.outcome.checker
        if failed:
            self.best = Shrunk(candidate, outcome, self.best.runs)
        if self._on_run is not None:
            self._on_run(self.best.scenario)
        return failed

    def _list(self, items: Sequence[Item], made: Callable[[Sequence[Item]], Scenario]) -> None:
        """Leave out ever smaller parts of a list."""
        if items and self._fails(made(())):
            return
        parts = 2
        while len(items) >= 2:
            length = max(1, len(items) // parts)
            for start in range(0, len(items), length):
                kept = [*items[:start], *items[start + length :]]
                if self._fails(made(kept)):
                    items = kept
                    parts = max(parts - 1, 2)
                    break
            else:
                if length == 1:
                    return
                parts = min(len(items), parts * 2)

    def _shorter_faults(self) -> None:
        for place in range(len(self.best.scenario.faults)):
            while True:
                faults = self.best.scenario.faults
                fault = faults[place]
                length = fault.end_ms - fault.start_ms
                if length < 50.0:
                    break
                shorter = replace(fault, end_ms=round(fault.start_ms + length / 2))
                if not self._fails(replace(self.best.scenario, faults=(*faults[:place], shorter, *faults[place + 1 :]))):
                    break

    def _fewer_clients(self) -> None:
        """Those at the end who have nothing to do."""
        scenario = self.best.scenario
        named = [work.client for work in scenario.work]
        named += [fault.client for fault in scenario.faults if hasattr(fault, "client")]
        needed = max(named, default=0) + 1
        if needed < scenario.clients:
            self._fails(replace(scenario, clients=needed))
