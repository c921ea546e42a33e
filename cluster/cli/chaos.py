"""`moot chaos`: clusters that are hurt on purpose, in a simulation that replays."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from cluster.cli.output import AsJson, Exit, add_row, command, err, out, print_json, say, table

app = typer.Typer(no_args_is_help=True, help="Hurt simulated clusters and check that they keep their promises.")

Jobs = Annotated[int, typer.Option("--jobs", help="Processes to use.", min=1, max=256)]


@app.command()
@command
def sim(
    seeds: Annotated[int, typer.Option("--seeds", help="How many seeds.", min=1)] = 50,
    first: Annotated[int, typer.Option("--first", help="The first of them.", min=0)] = 1,
    seed: Annotated[int | None, typer.Option("--seed", help="Run this seed alone and tell all of it.", show_default=False)] = None,
    jobs: Jobs = 2,
    as_json: AsJson = False,
) -> Exit:
    """Simulate whole clusters under faults: virtual time, one seed each; network, disks, clocks and processes fail.

    Each seed draws its limits, its faults and its work, breaks things for some seconds, heals them, and demands that everything
    accepted is answered, viewers have caught up and replicas are equal. The same seed on the same commit is the same run.

    Exit codes: 0 every promise was kept. 1 a seed failed; the command that replays it is printed.

    Example: moot chaos sim --seeds 200 --jobs 2; moot chaos sim --seed 42
    """
    if seed is not None:
        return _one(seed, as_json)
    from chaos.sim.batch import sweep
    from chaos.sim.report import failure_lines, summary

    began = time.monotonic()
    with _progress("seeds", seeds, hidden=as_json) as advance:
        totals = sweep(range(first, first + seeds), jobs, lambda _: advance())
    found = summary(totals, first, time.monotonic() - began)
    if as_json:
        print_json(found)
    else:
        _show(found)
        for outcome in totals.failures[:3]:
            for line in failure_lines(outcome):
                out.print(line, markup=False, soft_wrap=True)
    return Exit.NO if totals.failures else Exit.DONE


def _one(seed: int, as_json: bool) -> Exit:
    from chaos.sim.batch import Totals
    from chaos.sim.report import lines_of, summary
    from chaos.sim.run import run
    from chaos.sim.scenario import draw

    began = time.monotonic()
    scenario = draw(seed)
    outcome = run(scenario, told=True)
    if as_json:
        totals = Totals()
        totals.add(outcome)
        print_json({**summary(totals, seed, time.monotonic() - began), "trace": outcome.trace})
    else:
        for line in lines_of(scenario, outcome):
            out.print(line, markup=False, soft_wrap=True)
    return Exit.NO if outcome.failed else Exit.DONE


def _show(found: dict[str, Any]) -> None:
    shown = table("met", ">times", ">seeds")
    for mark, counted in found["marks"].items():
        add_row(shown, mark.replace("_", " "), f"{counted['count']:,}", counted["seeds"])
    out.print(shown)
    hurt = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in found["faults"].items())
    say(f"\nfaults   {hurt}", "dim")
    rate = found["seeds"] / max(found["seconds"], 0.1)
    failed = len(found["failures"])
    style = "red" if failed else "green"
    say(
        f"[{style}]{failed} of {found['seeds']} seeds failed[/]: {found['events']:,} events, "
        f"{found['simulated_seconds']:,.0f} simulated s in {found['seconds']:.1f} s ({rate:.1f} seeds/s); "
        f"slowest healing {found['heal_seconds_max']:.1f} s"
    )


class _progress:
    """A bar on a terminal, nothing elsewhere. Gives a function that counts one more."""

    def __init__(self, what: str, total: int, *, hidden: bool) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=err, transient=True, disable=hidden or not err.is_terminal)
        self._task = self._bar.add_task(what, total=total)

    def __enter__(self) -> Any:
        self._bar.start()
        return lambda: self._bar.advance(self._task)

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
