"""`moot chaos gossip`: gossip alone, under virtual time, in clusters that no machine holds."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cluster.cli.output import AsJson, CommandFailed, Exit, add_row, command, out, print_json, say, styled, table

_ROWS = (
    ("join", "join_s_max", "s"),
    ("death known, median", "detection_p50_s", "s"),
    ("death known, p99", "detection_p99_s", "s"),
    ("death known, worst", "detection_max_s", "s"),
    ("from the first to the last who knows", "agreement_s_max", "s"),
    ("false deaths", "false_deaths", ""),
    ("after a partition everybody sees everybody", "heal_s_max", "s"),
    ("sent in calm, by each node", "calm_bytes_mean", "B/s"),
    ("sent in the busiest second by the busiest node", "peak_bytes", "B/s"),
    ("suspicions", "suspicions", ""),
    ("until refuted, mean", "refute_ms_mean", "ms"),
    ("a step, median", "step_us_p50", "us"),
    ("a step, p99", "step_us_p99", "us"),
)
_CROWD_ROWS = (
    ("join", "join_s", "s"),
    ("ten deaths known, median", "detection_p50_s", "s"),
    ("ten deaths known, all", "detection_s", "s"),
    ("false deaths", "false_deaths", ""),
    ("sent in calm", "calm_bytes", "B/s"),
    ("state for each member", "bytes_per_member", "B"),
    ("a step, median", "step_us_p50", "us"),
    ("a step, p99", "step_us_p99", "us"),
    ("a step, p99, while ten die", "crash_step_us_p99", "us"),
)
_TARGETS = {
    "detection_p99_s": ("detection", "detection_p99_s"),
    "agreement_s_max": ("agreement", "agreement_s"),
    "false_deaths": ("false_deaths", "false_deaths"),
    "calm_bytes_mean": ("calm_bytes", "calm_bytes"),
    "peak_bytes": ("peak_bytes", "peak_bytes"),
}


def register(app: typer.Typer) -> None:
    """Add the command of this module to `moot chaos`."""
    app.command("gossip")(gossip)


@command
def gossip(
    nodes: Annotated[int, typer.Option("--nodes", help="Nodes, each a real core.", min=2, max=1000)] = 3,
    seconds: Annotated[float, typer.Option("--seconds", help="Virtual: of the calm and the faults together.", min=1)] = 60.0,
    loss: Annotated[float, typer.Option("--loss", help="Share of datagrams that are lost.", min=0, max=0.9)] = 0.0,
    duplication: Annotated[float, typer.Option("--duplication", help="Share that comes twice.", min=0, max=0.9)] = 0.0,
    reordering: Annotated[float, typer.Option("--reordering", help="Share that is up to 100 ms late.", min=0, max=0.9)] = 0.0,
    skew: Annotated[float, typer.Option("--skew", help="How fast or slow clocks run, as a share.", min=0, max=0.2)] = 0.0,
    zones: Annotated[int, typer.Option("--zones", help="Zones that the nodes are in.", min=1, max=100)] = 1,
    join: Annotated[bool, typer.Option("--join", help="Begin with strangers that know three seeds.")] = False,
    modelled: Annotated[
        int, typer.Option("--modelled", help="Instead: one real core among so many peers that only answer.", min=0, max=16_000)
    ] = 0,
    seed: Annotated[int, typer.Option("--seed", help="The first seed.", min=0)] = 1,
    seeds: Annotated[int, typer.Option("--seeds", help="How many runs.", min=1)] = 1,
    as_json: AsJson = False,
) -> Exit:
    """Simulate gossip alone: when is a death known, who is called dead falsely, what does it cost. Virtual time, real cores.

    Each run: calm; then one node stands still for two seconds while one node can not send to another; then one node in a
    hundred crashes, all at once; then, up to 128 nodes, halves are cut off from each other for a minute. What must hold:
    everybody finds out about the dead, nobody who lives is declared dead before the halves are cut off, and afterwards
    everybody sees everybody.

    The same seed is the same run. 100 nodes take about ten seconds, 1,000 a minute or two.

    Exit codes: 0 every target was met. 1 one was not.

    Example: moot chaos gossip --nodes 100 --loss 0.1 --seconds 20
    """
    if modelled:
        from chaos.gossip.crowd import among

        found = among(modelled, seconds=seconds, loss=loss, seed=seed)
        if as_json:
            print_json(found)
        else:
            _show(found, _CROWD_ROWS)
        return Exit.DONE if found["detection_s"] is not None and not found["false_deaths"] else Exit.NO
    if join and nodes > 500:
        raise CommandFailed("--join takes at most 500 nodes", next_step="leave --join out", code=Exit.USAGE, reason="USAGE")
    from chaos.gossip.run import Plan, simulate

    plan = Plan(nodes, seconds, loss, duplication, reordering, skew, zones, join, seed)
    found = simulate(plan, seeds)
    if as_json:
        print_json(found)
    else:
        _show(found, _ROWS)
        for failed in found["seeds_failed"]:
            say(f"[red]seed {failed} broke a promise:[/] the same command with --seed {failed} --seeds 1 replays it")
    return Exit.DONE if all(found["met"].values()) else Exit.NO


def _show(found: dict[str, Any], rows: tuple[tuple[str, str, str], ...]) -> None:
    shown = table("", ">", "", ">target")
    for what, key, unit in rows:
        value = found[key]
        if value is None:
            continue
        met, target = _TARGETS.get(key, ("", ""))
        met_by = found.get("met", {}).get(met)
        style = "" if met_by is None else "green" if met_by else "red"
        wanted = f"{found['targets'][target]:g}" if target and "targets" in found else ""
        add_row(shown, what, styled(f"{value:,}", style), unit, wanted)
    out.print(shown)
