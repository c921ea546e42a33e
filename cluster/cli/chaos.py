"""`moot chaos`: clusters that are hurt on purpose, in a simulation that replays."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli.lazy import lazily
from cluster.cli.output import AsJson, CommandFailed, Exit, add_row, command, err, out, print_json, say, styled, table

if TYPE_CHECKING:
    from chaos.mutants.hunt import Caught
    from chaos.mutants.results import Conditions, Results

app = typer.Typer(
    no_args_is_help=True,
    help="Hurt simulated clusters and check that they keep their promises.",
    cls=lazily({"gossip": "chaos_gossip"}),
)


def register(root: typer.Typer) -> None:
    """Add the commands of this module."""
    root.add_typer(app, name="chaos", rich_help_panel="Operating")


Jobs = Annotated[int, typer.Option("--jobs", help="Processes to use.", min=1, max=256)]


@app.command()
@command
def sim(
    seeds: Annotated[int, typer.Option("--seeds", help="How many seeds.", min=1)] = 50,
    first: Annotated[int, typer.Option("--first", help="The first of them.", min=0)] = 1,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Run this seed alone and tell all of it.", show_default=False)
    ] = None,
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
    if found["marks_unmet"]:
        say(f"\nnever met: {', '.join(mark.replace('_', ' ') for mark in found['marks_unmet'])}", "yellow")
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


@app.command()
@command
def shrink(
    seed: Annotated[int, typer.Argument(help="A failing seed.", min=0, show_default=False)],
    runs: Annotated[int, typer.Option("--runs", help="How many runs to spend.", min=1)] = 400,
    mutant: Annotated[str, typer.Option("--mutant", help="Plant this bug first; see moot chaos mutants.")] = "",
    as_json: AsJson = False,
) -> Exit:
    """Make a failing seed small: leave out faults and work, and shorten faults, while it fails in the same way.

    Exit codes: 0 done, the small story is printed. 2 the seed does not fail, or no such mutant.

    Example: moot chaos shrink 42
    """
    from contextlib import nullcontext

    from chaos.mutants.hunt import MUTANTS
    from chaos.sim.report import lines_of
    from chaos.sim.scenario import draw
    from chaos.sim.shrink import Shrinker

    if mutant and mutant not in MUTANTS:
        raise CommandFailed(f"there is no mutant {mutant!r}", next_step="moot chaos mutants", code=Exit.USAGE, reason="USAGE")
    scenario = draw(seed)
    with MUTANTS[mutant].planted() if mutant else nullcontext(), _progress("runs", runs, hidden=as_json) as advance:
        try:
            small = Shrinker(scenario, runs, lambda _: advance()).shrink()
        except ValueError as error:
            raise CommandFailed(
                str(error), next_step=f"moot chaos sim --seed {seed}", code=Exit.USAGE, reason="USAGE"
            ) from None
    before, after = scenario, small.scenario
    if as_json:
        print_json(
            {
                "seed": seed,
                "runs": small.runs,
                "checker": small.outcome.checker,
                "what": small.outcome.violation,
                "faults": [str(fault) for fault in after.faults],
                "work": [str(work) for work in after.work],
                "before": {"faults": len(before.faults), "work": len(before.work)},
            }
        )
        return Exit.DONE
    for line in ("work", *(f"  {work}" for work in after.work), *lines_of(after, small.outcome)):
        out.print(line, markup=False, soft_wrap=True)
    say(
        f"\n{len(before.faults)} faults and {len(before.work)} calls became {len(after.faults)} and {len(after.work)} "
        f"in {small.runs} runs"
    )
    return Exit.DONE


@app.command()
@command
def mutants(
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Plant only this one. May be repeated.", show_default=False)
    ] = None,
    seeds_max: Annotated[int, typer.Option("--seeds-max", help="Seeds after which a bug counts as missed.", min=1)] = 300,
    first: Annotated[int, typer.Option("--first", help="The first seed.", min=0)] = 1,
    jobs: Jobs = 2,
    output: Annotated[
        Path | None,
        typer.Option("--output", help="Write each result here as it comes, a JSON object a line.", show_default=False),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", help="Go on with a file of --output: hunt what it lacks.", show_default=False)
    ] = None,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print a table in Markdown.")] = False,
    as_json: AsJson = False,
) -> Exit:
    """Plant known bugs, one at a time, and count the seeds until the simulator finds each.

    A seed counts when it fails with the bug and passes without it. Seeds that a bug can not show in, as those without leases
    for a bug in leases, are passed over. Each result is told on standard error as it comes. --json prints a list: name, caught,
    seeds, seconds, and the seed and checker that caught it.

    Exit codes: 0 all were caught. 1 one was missed, or a seed fails without any bug planted. 2 no such mutant, or --resume
    names a file of other seeds.

    Example: moot chaos mutants --only replay_off_by_one; moot chaos mutants --output found.jsonl --jobs 4
    """
    from chaos.mutants.hunt import MUTANTS, hunt_all
    from chaos.mutants.results import Conditions, markdown

    names = list(dict.fromkeys(only)) if only else list(MUTANTS)
    unknown = [name for name in names if name not in MUTANTS]
    if unknown:
        raise CommandFailed(
            f"there is no mutant {unknown[0]!r}", next_step="moot chaos mutants", code=Exit.USAGE, reason="USAGE"
        )
    began = time.monotonic()
    results, known = _results(output, resume, Conditions(first, seeds_max))
    left = [name for name in names if name not in known]

    def tell(one: Caught) -> None:
        known[one.name] = one
        if results is not None:
            results.add(one)
        behind = sum(name in known for name in names)
        how = f"{one.name}: {_how_caught(one)}, {one.seconds:.0f} s, {len(names) - behind} left"
        err.print(how, markup=False, soft_wrap=True)

    hunt_all(left, jobs, first, seeds_max, tell)
    found = [known[name] for name in names]
    if as_json:
        print_json([one.row() for one in found])
    elif as_markdown:
        out.print(markdown(found), markup=False, soft_wrap=True)
    else:
        _show_mutants(found, time.monotonic() - began)
    sound = all(one.caught and not one.sick for one in found)
    return Exit.DONE if sound else Exit.NO


def _results(output: Path | None, resume: Path | None, conditions: Conditions) -> tuple[Results | None, dict[str, Caught]]:
    """Where results are to be kept, and those that there are."""
    from chaos.mutants.results import Results

    if output is not None and resume is not None:
        raise CommandFailed("--resume goes on writing its own file", next_step="leave --output away", code=Exit.USAGE)
    try:
        if resume is not None:
            results, found = Results.resume(resume, conditions)
            return results, {one.name: one for one in found}
        return (Results.begin(output, conditions) if output is not None else None), {}
    except (OSError, ValueError) as error:
        raise CommandFailed(str(error), next_step="--output FILE begins a new one", code=Exit.USAGE, reason="USAGE") from None


def _how_caught(one: Caught) -> str:
    if not one.caught:
        return f"missed by {one.seeds} seeds"
    return f"caught by {one.checker} after {one.seeds} {'seed' if one.seeds == 1 else 'seeds'}, the last {one.seed}"


def _show_mutants(found: list[Caught], seconds: float) -> None:
    shown = table("planted bug", "caught by", ">seeds", ">seconds", "story")
    for one in found:
        by = styled(one.checker, "green") if one.caught else styled("missed", "red")
        add_row(shown, one.name, by, one.seeds, f"{one.seconds:.1f}", one.story)
    out.print(shown)
    caught = [one for one in found if one.caught]
    counts = sorted(one.seeds for one in caught)
    style = "green" if len(caught) == len(found) else "red"
    say(f"\n[bold {style}]{len(caught)} of {len(found)}[/] planted bugs were caught in {seconds:.0f} s")
    if counts:
        slowest = max(caught, key=lambda one: one.seeds)
        say(f"seeds until then: median {counts[len(counts) // 2]}, at most {slowest.seeds} ({slowest.name})", "dim")
    for seed in sorted({seed for one in found for seed in one.sick}):
        say(f"[red]seed {seed} fails without any bug planted:[/] moot chaos sim --seed {seed}")
