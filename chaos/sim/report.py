"""How runs are told: the story of a failing one, and one value for programs."""

from __future__ import annotations

import platform
from dataclasses import asdict
from typing import Any

from chaos.sim.batch import Totals, replay_command
from chaos.sim.marks import MARKS
from chaos.sim.run import Outcome
from chaos.sim.scenario import Scenario

CALLS_SHOWN = 400


def lines_of(scenario: Scenario, outcome: Outcome) -> list[str]:
    """Everything about one run, in the order in which somebody would ask for it."""
    limits = ", ".join(f"{name}={value}" for name, value in asdict(scenario.limits).items())
    lines = [
        f"seed {scenario.seed}, Python {platform.python_version()}, trace {outcome.trace}",
        f"limits   {limits}",
        "",
        "faults",
    ]
    lines += [f"  {fault}" for fault in scenario.faults] or ["  none"]
    lines += ["", "errands"] + ([f"  {errand}" for errand in scenario.errands] or ["  none"])
    lines += ["", "what happened"] + [f"  {line}" for line in outcome.story]
    lines += ["", f"calls ({len(outcome.calls)})"] + [f"  {line}" for line in outcome.calls[-CALLS_SHOWN:]]
    lines += ["", f"last {len(outcome.ring)} events"] + [f"  {line}" for line in outcome.ring]
    lines += ["", verdict(outcome)]
    return lines


def failure_lines(outcome: Outcome) -> list[str]:
    """A failing seed, short: what, the last events, how to see it again."""
    lines = [verdict(outcome), "  what happened last"]
    lines += [f"    {line}" for line in outcome.story[-15:]]
    lines += [f"  last {len(outcome.ring)} events"] + [f"    {line}" for line in outcome.ring]
    return [*lines, f"  replay: {replay_command(outcome.seed)}", f"  shrink: moot chaos shrink {outcome.seed}"]


def verdict(outcome: Outcome) -> str:
    """One line."""
    amount = f"{outcome.events} events, {outcome.simulated_ms / 1000:.1f} simulated s"
    if outcome.failed:
        return f"seed {outcome.seed} FAILED ({amount}) {outcome.checker}: {outcome.violation}"
    return f"seed {outcome.seed} passed: {amount}, quiet {outcome.heal_ms / 1000:.2f} s after the last fault"


def summary(totals: Totals, first: int, seconds: float) -> dict[str, Any]:
    """A sweep as one value with stable keys."""
    return {
        "seeds": totals.seeds,
        "first": first,
        "events": totals.events,
        "simulated_seconds": round(totals.simulated_ms / 1000, 1),
        "seconds": round(seconds, 1),
        "heal_seconds_max": round(totals.heal_ms_max / 1000, 2),
        "faults": dict(sorted(totals.faults.items())),
        "marks": {
            mark: {"count": totals.marks[mark], "seeds": totals.seeds_with[mark]} for mark in sorted({*MARKS, *totals.marks})
        },
        "marks_unmet": sorted(mark for mark in MARKS if not totals.marks[mark]),
        "failures": [
            {
                "seed": outcome.seed,
                "checker": outcome.checker,
                "what": outcome.violation,
                "events": outcome.events,
                "replay": replay_command(outcome.seed),
            }
            for outcome in totals.failures
        ],
    }
