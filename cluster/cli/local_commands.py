"""`moot up`, `down`, `kill`, `pause`, `restart`: a cluster on this machine, kept between runs."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.live import Live

from cluster.cli.local import NODES_MAX, PORT_BASE, LocalCluster, LocalNode
from cluster.cli.output import (
    AsJson,
    CommandFailed,
    Exit,
    add_row,
    command,
    err,
    out,
    print_json,
    print_line,
    say,
    table,
)
from cluster.cli.reach import DEFAULT_FOLDER, Folder, principal_of, reached, run, wait_healthy
from cluster.cli.status import overview, overview_data
from cluster.client import Client
from cluster.config import SHARDS_DEFAULT, SHARDS_MAX
from cluster.documents.bundle import from_path

EXAMPLES: Final = ("text", "chat", "tictactoe", "counter", "cards", "poll", "auction", "assistant", "visitors")
HEALTHY_TIMEOUT_S: Final = 60.0
REFRESH_S: Final = 1.0

NodeName = Annotated[str, typer.Argument(help="Number or id of the node: 1 or n1.", metavar="NODE")]
Within = Annotated[float, typer.Option("--timeout", help="Seconds to wait until the cluster is healthy.", min=1)]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    panel = "A cluster on this machine"
    for name, function in (("up", up), ("down", down), ("kill", kill), ("pause", pause), ("restart", restart)):
        app.command(name, rich_help_panel=panel)(function)


@command
def up(
    nodes: Annotated[
        int | None,
        typer.Option("--nodes", help="Nodes of a new cluster (default 3).", min=1, max=NODES_MAX, show_default=False),
    ] = None,
    folder: Folder = DEFAULT_FOLDER,
    detach: Annotated[bool, typer.Option("--detach", help="Return when it is healthy; the nodes go on.")] = False,
    shards: Annotated[int, typer.Option("--shards", help="Shards of a new cluster.", min=1, max=SHARDS_MAX)] = SHARDS_DEFAULT,
    timeout: Within = HEALTHY_TIMEOUT_S,
    as_json: AsJson = False,
) -> Exit:
    """Start a cluster on this machine, or start again what is stopped of it, and deploy the example document types.

    In the foreground it shows the cluster live, and Ctrl-C stops all nodes. Everything is kept for the next `moot up`.

    Exit codes: 0 healthy (and, in the foreground, stopped again). 1 not healthy in time. 2 it exists with other numbers.

    Example: moot up --nodes 3 --detach && moot status
    """
    local = _made(folder, nodes, shards)
    started = [node.node_id for node in local.nodes if local.start(node)]
    for node in local.nodes:
        local.resume(node)
    if not as_json:
        err.print(f"starting {', '.join(started)} …" if started else "all nodes run already", style="dim")
    if detach:
        _tell_ready(local, started, run(_ready(local, timeout)), as_json)
        return Exit.DONE
    try:
        _tell_ready(local, started, run(_ready(local, timeout)), as_json)
        run(_show(local, quiet=as_json))
    except KeyboardInterrupt:
        pass
    finally:
        local.refresh()
        if not as_json:
            err.print("\nstopping all nodes …", style="dim")
        local.stop_all()
    return Exit.DONE


def _tell_ready(local: LocalCluster, started: list[str], deployed: list[str], as_json: bool) -> None:
    if as_json:
        print_line({**_described(local), "started": started, "deployed": deployed, "healthy": True})
    else:
        _print_places(local, deployed)


def _made(folder: Path, nodes: int | None, shards: int) -> LocalCluster:
    folder = folder.absolute()
    if not (folder / "cluster.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        return LocalCluster.create(folder, nodes or 3, shards=shards, near=PORT_BASE, http=True)
    local = LocalCluster.open(folder)
    if nodes is not None and nodes != len(local.nodes):
        raise CommandFailed(
            f"{folder} holds a cluster of {len(local.nodes)} nodes, not {nodes}",
            state="nothing was started",
            next_step="leave out --nodes, or start another cluster elsewhere with --data DIR",
            code=Exit.USAGE,
            reason="USAGE",
        )
    return local


async def _ready(local: LocalCluster, timeout_s: float) -> list[str]:
    await wait_healthy(local.addresses, timeout_s, dead=lambda: exited(local))
    async with reached(local.addresses, principal_of("")) as client:
        return await deploy_examples(client)


def exited(local: LocalCluster) -> str:
    """Which node's process ended while it should run, and its last words."""
    for node in local.nodes:
        if node.pid and local.process(node) is None:
            return f"{node.node_id} exited with {local.exit_code(node)}: {last_words(local.log_path(node))}"
    return ""


def last_words(path: Path, lines: int = 3) -> str:
    """The end of a log, in which a node says why it stopped."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return f"no log in {path}"
    return " / ".join(line.strip() for line in text.strip().splitlines()[-lines:]) + f" (log: {path})"


async def deploy_examples(client: Client, names: tuple[str, ...] = EXAMPLES) -> list[str]:
    """Deploy example document types whose space does not exist. Returns the names of those that were missing."""
    listed: Any = await client.admin("ListSpaces")
    present = {space.name for space in listed.spaces}
    missing = [name for name in names if name not in present]
    for name in missing:
        await client.admin("DeploySpace", space=name, bundle=from_path(example(name)).encode())
    return missing


def example(name: str) -> Path:
    """The file, or the package, of an example document type."""
    from cluster import examples

    (folder,) = examples.__path__
    package = Path(folder) / name
    return package if package.is_dir() else Path(folder) / f"{name}.py"


def _described(local: LocalCluster) -> dict[str, Any]:
    return {
        "folder": str(local.folder),
        "nodes": [
            {
                "node_id": node.node_id,
                "number": node.number,
                "address": node.address,
                "http": node.url,
                "state": local.state(node),
                "pid": node.pid if local.process(node) else None,
                "log": str(local.log_path(node)),
                "data": str(local.data_path(node)),
            }
            for node in local.nodes
        ],
    }


def _print_places(local: LocalCluster, deployed: list[str]) -> None:
    shown = table("node", "gateway", "http", "pid", "log")
    for node in local.nodes:
        add_row(shown, node.node_id, node.address, node.url or "off", node.pid, _short(local.log_path(node)))
    out.print(shown)
    say(f"\ndata     {_short(local.folder)}")
    if deployed:
        say(f"spaces   {', '.join(deployed)} deployed")
    say("try      moot doc create text/notes; moot doc watch text/notes; moot kill 1; moot status", "dim")
    url = next((node.url for node in local.nodes if node.url), "")
    say(f"         {url}/visitors/lobby/?as=ann@acme\n" if url else "", "dim")


def _short(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


async def _show(local: LocalCluster, *, quiet: bool) -> None:
    """The cluster as it is, until the user has seen enough."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    import signal

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if quiet:
        await stop.wait()
        return
    with Live(console=out, auto_refresh=False, transient=True) as live:
        while not stop.is_set():
            local.refresh()
            live.update(overview(await overview_data(local.addresses, local), hint="Ctrl-C stops all nodes"), refresh=True)
            await _pause(stop)


async def _pause(stop: asyncio.Event) -> None:
    try:
        await asyncio.wait_for(stop.wait(), REFRESH_S)
    except TimeoutError:
        return


@command
def down(folder: Folder = DEFAULT_FOLDER, as_json: AsJson = False) -> Exit:
    """Stop all nodes of the cluster on this machine. Everything is kept for the next `moot up`.

    Exit codes: 0 all stopped by themselves, or none ran. 1 one had to be killed (nothing is lost by that). 2 no cluster.

    Example: moot down
    """
    local = LocalCluster.open(folder.absolute())
    running = [node.node_id for node in local.nodes if local.process(node)]
    polite = local.stop_all()
    if as_json:
        print_json({"stopped": running, "killed": not polite})
    elif not running:
        say("no node was running")
    else:
        out.print(f"stopped {', '.join(running)}" + ("" if polite else "; one had to be killed, which loses nothing"))
    return Exit.DONE if polite else Exit.NO


@command
def kill(name: NodeName, folder: Folder = DEFAULT_FOLDER, as_json: AsJson = False) -> Exit:
    """End a node at once (SIGKILL), as a crash would.

    Exit codes: 0 killed. 1 it was not running. 2 no such node.

    Example: moot kill 1; moot status; moot restart 1
    """
    local = LocalCluster.open(folder.absolute())
    node = local.find(name)
    return _told(local, node, "killed", local.kill(node), f"moot restart {node.number} brings it back", as_json)


@command
def pause(name: NodeName, folder: Folder = DEFAULT_FOLDER, as_json: AsJson = False) -> Exit:
    """Make a node hang (SIGSTOP): its connections stay open and nothing answers. `moot restart` lets it go on.

    Exit codes: 0 paused. 1 it was not running. 2 no such node.

    Example: moot pause 2; moot status; moot restart 2
    """
    local = LocalCluster.open(folder.absolute())
    node = local.find(name)
    return _told(local, node, "paused", local.pause(node), f"moot restart {node.number} lets it go on", as_json)


def _told(local: LocalCluster, node: LocalNode, what: str, done: bool, hint: str, as_json: bool) -> Exit:
    if as_json:
        print_json({"node_id": node.node_id, what: done, "state": local.state(node)})
    elif done:
        say(f"{node.node_id} {what}   [dim]{hint}[/]")
    else:
        say(f"{node.node_id} was not running")
    return Exit.DONE if done else Exit.NO


@command
def restart(
    name: NodeName, folder: Folder = DEFAULT_FOLDER, timeout: Within = HEALTHY_TIMEOUT_S, as_json: AsJson = False
) -> Exit:
    """Bring a node back: start it if it is stopped, let it go on if it is paused, stop and start it if it runs.

    Returns when the node answers and takes part again.

    Exit codes: 0 it is back. 1 not in time. 2 no such node. 6 it exited again: its log says why.

    Example: moot restart 1
    """
    local = LocalCluster.open(folder.absolute())
    node = local.find(name)
    before = local.state(node)
    began = time.monotonic()
    if before == "paused":
        local.resume(node)
    else:
        local.stop(node)
        local.start(node)
    run(_back(local, node, timeout))
    took_ms = (time.monotonic() - began) * 1000
    if as_json:
        print_json({"node_id": node.node_id, "before": before, "state": local.state(node), "took_ms": round(took_ms)})
    else:
        say(f"{node.node_id} is back after {took_ms / 1000:.1f} s (it was {before})")
    return Exit.DONE


async def _back(local: LocalCluster, node: LocalNode, timeout_s: float) -> None:
    """Until the nodes that run agree that this one is alive."""
    from cluster.cli.reach import ask_one
    from cluster.errors import ClusterError

    deadline = time.monotonic() + timeout_s
    others = [each.address for each in local.nodes if local.state(each) == "running"]
    while True:
        if local.process(node) is None:
            raise CommandFailed(
                exited(local) or f"{node.node_id} exited",
                state="the other nodes go on",
                next_step=f"read {local.log_path(node)}",
                code=Exit.OPERATOR,
                reason="NODE_EXITED",
            )
        seen = 0
        for address in others:
            try:
                listed = await ask_one(address, "ListNodes")
            except ClusterError:
                break
            seen += any(each.node_id == node.node_id and each.state == 1 for each in listed.nodes)
        if seen == len(others):
            return
        if time.monotonic() >= deadline:
            raise CommandFailed(
                f"{node.node_id} does not take part after {timeout_s:.0f} s",
                state="its process runs",
                next_step=f"moot status; read {local.log_path(node)}",
                reason="NOT_HEALTHY",
            )
        await asyncio.sleep(0.1)
