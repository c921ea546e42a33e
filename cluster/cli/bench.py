"""`moot bench`: what a local cluster achieves and costs on this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from cluster.cli.output import AsJson, CommandFailed, Exit, add_row, command, err, out, print_json, say, styled, table
from cluster.cli.reach import run
from cluster.config import SHARDS_MAX

app = typer.Typer(no_args_is_help=True, help="Measure throughput, latency, CPU and recovery of a local cluster.")


def register(root: typer.Typer) -> None:
    """Add the commands of this module."""
    root.add_typer(app, name="bench", rich_help_panel="Operating")


T = TypeVar("T")

InFolder = Annotated[
    Path | None,
    typer.Option(
        "--folder", help="Where data goes: its disk is what is measured. Default: a temporary directory.", show_default=False
    ),
]


@app.command()
@command
def send(
    nodes: Annotated[int, typer.Option("--nodes", help="Nodes of the cluster.", min=1, max=7)] = 3,
    shards: Annotated[int, typer.Option("--shards", help="Shards. etcd is one Raft group.", min=1, max=SHARDS_MAX)] = 1,
    seconds: Annotated[float, typer.Option("--seconds", help="Length of each run.", min=0.2)] = 10.0,
    levels: Annotated[str, typer.Option("--levels", help="Messages in flight, comma-separated.")] = "1,256,1000",
    repeat: Annotated[int, typer.Option("--repeat", help="Runs of each level; medians are shown.", min=1)] = 3,
    documents: Annotated[int, typer.Option("--documents", help="Documents to spread over. etcd gets one key.", min=1)] = 1,
    unary: Annotated[bool, typer.Option("--unary/--no-unary", help="Also send by one unary call for each message.")] = True,
    against: Annotated[
        str, typer.Option("--against", help="etcd: run it beside, in turn, and show the ratio.", show_default=False)
    ] = "",
    folder: InFolder = None,
    as_json: AsJson = False,
) -> Exit:
    """Measure acknowledged messages: rate, latency, CPU for each message of every process. fsync is on, messages have 100
    bytes.

    `session` is the pipelined stream, whose frames carry batches; `unary` is one call for each message. etcd is loaded
    through its own gRPC API by h2load (Debian: etcd-server, nghttp2-client).

    Exit codes: 0 measured. 1 a run failed. 2 wrong command line, or a program is missing.

    Example: moot bench send --seconds 5 --levels 1,256 --against etcd
    """
    if against not in ("", "etcd"):
        raise CommandFailed(f"--against knows etcd, not {against!r}", code=Exit.USAGE, reason="USAGE")
    wanted = tuple(int(part) for part in levels.split(",") if part.strip().isdecimal() and int(part))
    if not wanted or len(wanted) != len(levels.split(",")):
        raise CommandFailed(f"--levels {levels!r} is not a list of numbers", code=Exit.USAGE, reason="USAGE")
    from chaos.bench.send import bench_send

    with tempfile.TemporaryDirectory(prefix="moot-bench-", dir=folder) as below:
        found = _measured(
            bench_send(
                Path(below),
                _tell,
                nodes=nodes,
                shards=shards,
                seconds=seconds,
                levels=wanted,
                repeat=repeat,
                documents=documents,
                unary=unary,
                etcd=against == "etcd",
            )
        )
    if as_json:
        print_json(found)
    else:
        _show_send(found)
    return Exit.DONE


def _measured(job: Coroutine[Any, Any, T]) -> T:
    """Run a benchmark; what can go wrong is told."""
    from chaos.bench.etcd import EtcdFailed
    from chaos.bench.failover import Lost
    from chaos.bench.h2load import ToolMissing
    from chaos.bench.send import LoadFailed
    from chaos.live.processes import NotReached

    try:
        return run(job)
    except ToolMissing as error:
        raise CommandFailed(str(error), state="nothing was measured", code=Exit.USAGE, reason="PROGRAM_MISSING") from None
    except (EtcdFailed, LoadFailed, Lost, NotReached) as error:
        raise CommandFailed(str(error), state="nothing is left running", reason="RUN_FAILED") from None


def _tell(text: str) -> None:
    err.print(text, style="dim", markup=False)


def _show_send(found: dict[str, Any]) -> None:
    with_etcd = any("etcd" in level for level in found["levels"])
    columns = (">in flight", "by", ">acked/s", ">p50 ms", ">p99 ms", ">CPU us/msg", ">client", ">nodes")
    shown = table(*columns, *((">x etcd",) if with_etcd else ()))
    for level in found["levels"]:
        for name in ("session", "unary"):
            if name in level:
                values, cpu = level[name], level[name]["cpu_us_per_message"]
                nodes = " ".join(f"{value:.0f}" for node, value in cpu.items() if node != "client")
                ratio = (styled(f"{values['ratio']:.2f}", "green" if values["ratio"] >= 1 else "yellow"),) if with_etcd else ()
                add_row(
                    shown, level["in_flight"], name, f"{values['acked_per_s']:,}", f"{values['p50_ms']:.2f}",
                    f"{values['p99_ms']:.2f}", f"{values['cpu_us_per_message_all']:.0f}", f"{cpu['client']:.0f}", nodes, *ratio,
                )  # fmt: skip
        if "etcd" in level:
            values = level["etcd"]
            add_row(
                shown, level["in_flight"], "etcd", f"{values['acked_per_s']:,}", f"{values['p50_ms']:.2f}",
                f"{values['p99_ms']:.2f}", "", "", f"{values['servers_cpu_us_per_message']:.0f}", "",
            )  # fmt: skip
    out.print(shown)
    etcd = f", etcd {found['etcd_version']}" if with_etcd else ""
    say(
        f"\n{found['nodes']} nodes, fsync on, {found['payload_bytes']} B to {found['documents']} documents, medians of "
        f"{found['repeat']} x {found['seconds']:g} s, {found['cores']} cores "
        f"{found['machine']}, Python {found['python']}{etcd}",
        "dim",
    )


@app.command()
@command
def recover(
    messages: Annotated[int, typer.Option("--messages", help="Messages to replay.", min=1)] = 100_000,
    nodes: Annotated[int, typer.Option("--nodes", help="Nodes of the cluster.", min=1, max=7)] = 3,
    folder: InFolder = None,
    as_json: AsJson = False,
) -> Exit:
    """Measure recovery by replay: no checkpoints, one document, all nodes killed at once and started again.

    Exit codes: 0 measured, and everything came back. 1 it did not.

    Example: moot bench recover --messages 20000
    """
    from chaos.bench.recover import bench_recover

    with tempfile.TemporaryDirectory(prefix="moot-bench-", dir=folder) as below:
        found = _measured(bench_recover(Path(below) / "moot", _tell, messages=messages, nodes=nodes))
    if as_json:
        print_json(found)
        return Exit.DONE
    say(f"{found['messages']:,} messages to one document, sent at {found['sent_per_s']:,}/s; all {nodes} nodes killed at once")
    say(f"{found['restart_to_gateway_s']:8.2f} s from start to the first answer of a gateway")
    say(f"{found['restart_to_read_s']:8.2f} s from start to a linearizable read of the last state")
    say(f"{found['restart_to_all_replicas_s']:8.2f} s until all replicas had it")
    say(f"{found['replayed_per_s']:8,} commands replayed for each second in between")
    return Exit.DONE


@app.command()
@command
def failover(
    kills: Annotated[int, typer.Option("--kills", help="Events of each kind.", min=1)] = 20,
    kinds: Annotated[str, typer.Option("--kinds", help="What is done to the leader, comma-separated.")] = "kill,pause,transfer",
    against: Annotated[
        str, typer.Option("--against", help="etcd: do the same to it, and show the ratio.", show_default=False)
    ] = "",
    seed: Annotated[int | None, typer.Option("--seed", help="Of the moments. Default: random.", show_default=False)] = None,
    folder: InFolder = None,
    as_json: AsJson = False,
) -> Exit:
    """Measure how long no write is acknowledged when the leader is killed (kill -9), stopped, or hands over.

    Writes go at a fixed rate to the two members that do not lead, each once; nobody waits for the one before. fsync is on.
    In the end every acknowledged write must be there.

    Exit codes: 0 measured, nothing lost. 1 a run failed. 2 wrong command line, or a program is missing.

    Example: moot bench failover --kills 5 --kinds kill --against etcd
    """
    from chaos.bench.failover import KINDS, bench_failover

    wanted = tuple(kinds.split(","))
    if against not in ("", "etcd") or not set(wanted) <= set(KINDS):
        why = f"--against knows etcd, --kinds knows {', '.join(KINDS)}"
        raise CommandFailed(why, code=Exit.USAGE, reason="USAGE")
    with tempfile.TemporaryDirectory(prefix="moot-bench-", dir=folder) as below:
        job = bench_failover(Path(below), _tell, kills=kills, kinds=wanted, etcd=against == "etcd", seed=seed)
        found = _measured(job)
    if as_json:
        print_json(found)
        return Exit.DONE
    shown = table("the leader", "of", ">median ms", ">longest ms", ">shortest ms")
    for kind, measured in found["kinds"].items():
        for name in [name for name in ("moot", "etcd") if name in measured]:
            values = measured[name]
            add_row(shown, kind, name, *(f"{values[which]:,.0f}" for which in ("p50_ms", "max_ms", "min_ms")))
    out.print(shown)
    return Exit.DONE


@app.command()
@command
def gossip(
    rounds: Annotated[int, typer.Option("--rounds", help="How often a member is killed.", min=1)] = 10,
    against: Annotated[
        str, typer.Option("--against", help="serf: do the same to it, and show the ratio.", show_default=False)
    ] = "",
    seed: Annotated[int | None, typer.Option("--seed", help="Of the moments. Default: random.", show_default=False)] = None,
    folder: InFolder = None,
    as_json: AsJson = False,
) -> Exit:
    """Measure how soon a killed node (kill -9) is held dead by both of the others.

    serf is three agents with its defaults for a local network, asked as often (Debian: serf).

    Exit codes: 0 measured. 1 a run failed. 2 wrong command line, or a program is missing.

    Example: moot bench gossip --rounds 5 --against serf
    """
    from chaos.bench.gossip import bench_gossip

    if against not in ("", "serf"):
        raise CommandFailed(f"--against knows serf, not {against!r}", code=Exit.USAGE, reason="USAGE")
    with tempfile.TemporaryDirectory(prefix="moot-bench-", dir=folder) as below:
        found = _measured(bench_gossip(Path(below), _tell, rounds=rounds, serf=against == "serf", seed=seed))
    if as_json:
        print_json(found)
        return Exit.DONE
    shown = table("held dead by both others", ">median ms", ">longest ms", ">shortest ms")
    for name in [name for name in ("moot", "serf") if name in found]:
        add_row(shown, name, *(f"{found[name][which]:,.0f}" for which in ("p50_ms", "max_ms", "min_ms")))
    out.print(shown)
    return Exit.DONE


@app.command()
@command
def idle(
    groups: Annotated[int, typer.Option("--groups", help="Raft groups of documents.", min=1, max=SHARDS_MAX)] = 10_000,
    nodes: Annotated[int, typer.Option("--nodes", help="Nodes of the cluster.", min=1, max=7)] = 3,
    seconds: Annotated[float, typer.Option("--seconds", help="Length of each measurement.", min=0.2)] = 30.0,
    wakes: Annotated[int, typer.Option("--wakes", help="Sleeping groups to use once each afterwards.", min=0, max=1000)] = 5,
    folder: InFolder = None,
    as_json: AsJson = False,
) -> Exit:
    """Measure what groups cost that nobody uses: CPU of every node, and memory for each group beside a cluster with few.

    A cluster with three groups is measured first, in the same way: what a node costs by itself is in both.

    Exit codes: 0 measured. 1 groups stayed without a leader, or a node ended.

    Example: moot bench idle --groups 1000 --seconds 10
    """
    from chaos.bench.idle import bench_idle

    with tempfile.TemporaryDirectory(prefix="moot-bench-", dir=folder) as below:
        found = _measured(bench_idle(Path(below), _tell, groups=groups, nodes=nodes, seconds=seconds, wakes=wakes))
    if as_json:
        print_json(found)
        return Exit.DONE
    shown = table("node", ">replicas", ">CPU % of a core", ">with few groups", ">bytes/group", ">memory MiB")
    for name, percent in found["cpu_percent"].items():
        few, memory = found["cpu_percent_baseline"][name], found["rss_bytes"][name] / (1 << 20)
        replicas, size = f"{found['replicas'][name]:,}", f"{found['bytes_per_group'][name]:,}"
        add_row(shown, name, replicas, f"{percent:.2f}", f"{few:.2f}", size, f"{memory:.0f}")
    out.print(shown)
    say(f"{found['start_s']:8.1f} s from start until every gateway answered")
    say(f"{found['leaders_s']:8.1f} s until every node knew a leader of each of {groups:,} groups")
    if found["first_use_ms"]:
        say(f"{max(found['first_use_ms']):8.1f} ms at most for the first operation of {len(found['first_use_ms'])} of them")
    return Exit.DONE


@app.command()
@command
def views(
    commands: Annotated[int, typer.Option("--commands", help="Commands of each measurement.", min=10)] = 300,
    as_json: AsJson = False,
) -> Exit:
    """Measure what one change costs in a large document and for many viewers, beside a small one and few, in one process.

    Exit codes: 0 measured.

    Example: moot bench views --json
    """
    from chaos.bench.views import bench_views

    found = bench_views(_tell, commands=commands)
    if as_json:
        print_json(found)
        return Exit.DONE
    shown = table("case", ">size", ">viewers", ">command us", ">deltas us", ">us/viewer", ">delta bytes", ">x small")
    for case in found["cases"]:
        for which in ("small", "large"):
            values = case[which]
            ratio = f"{case['ratio']['command']:.2f}, {case['ratio']['deltas']:.2f}" if which == "large" else ""
            add_row(
                shown, case["case"], f"{values['size']:,}", f"{values['viewers']:,}", f"{values['command_us']:.1f}",
                f"{values['deltas_us']:.1f}", f"{values['us_per_viewer']:.2f}", f"{values['delta_bytes']:,}", ratio,
            )  # fmt: skip
    out.print(shown)
    return Exit.DONE
