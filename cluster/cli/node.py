"""`moot node`: one node in the foreground, as containers and service managers run it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import typer
import uvloop

from cluster.cli.lazy import lazily
from cluster.cli.output import CommandFailed, Exit, command
from cluster.cli.settings import with_settings
from cluster.config import NodeConfig, load
from cluster.errors import ClusterError, OperatorError, Unavailable

app = typer.Typer(
    no_args_is_help=True,
    help="Run one node, let it lead nothing, take it out of the cluster.",
    cls=lazily({"drain": "leaving", "decommission": "leaving"}),
)


def register(root: typer.Typer) -> None:
    """Add the commands of this module."""
    root.add_typer(app, name="node", rich_help_panel="Operating")


LOG_FORMAT: Final = "%(asctime)s.%(msecs)03d %(levelname)-8s %(name)s: %(message)s"
CONFIGURATION_VARIABLE: Final = "MOOT_CONFIG"

ConfigurationFile = Annotated[
    Path | None,
    typer.Option("--config", help="The node's moot.toml.", envvar=CONFIGURATION_VARIABLE, dir_okay=False, show_default=False),
]


@app.command()
@command
@with_settings
def start(
    config: ConfigurationFile = None,
    join: Annotated[
        list[str] | None,
        typer.Option(
            "--join",
            help="Join a running cluster: HOST:PEER_PORT of any of its nodes; repeat it to name several.",
            metavar="HOST:PEER_PORT",
            show_default=False,
        ),
    ] = None,
    init: Annotated[bool, typer.Option("--init", help="Begin a new cluster of this one node.")] = False,
    tied: Annotated[bool, typer.Option("--until-stdin-closes", help="Stop when stdin ends: with whoever started it.")] = False,
    *,
    flags: dict[str, Any],
) -> Exit:
    """Run one node until it is told to stop (SIGTERM, SIGINT).

    The first time, with an empty data directory, exactly one of these says which cluster the node belongs to:

    - --join: a cluster that runs. Any node of it is asked, again and again until one answers; the new node begins without
      replicas and gets them as the cluster moves them.
    - initial_nodes in moot.toml, the same list on all of them: a new cluster of these nodes.
    - --init: a new cluster of one.

    Later starts need none of them: the directory knows its cluster and its peers, and one of another cluster is refused. An
    address may change between two starts; the cluster is told. An emptied directory is a new node and needs a new name.

    A node that is told to stop first hands over what it leads, for 2 s at most. Logs go to stderr. What is configured wins in
    this order: flags, environment MOOT_*, the file.

    Exit codes: 0 it was told to stop. 2 the configuration is wrong, nothing was opened. 3 an address is taken. 6 it can not
    go on and somebody must look: a failed fsync, a damaged or lost log, a directory of another cluster, a name that another
    directory has, a node that was removed, a clock that is off; its disk is as it was found. 86, 87: ended by the test hook or
    the watchdog while a command ran.

    Example: moot node start --config n4.toml --join 10.0.0.1:7401 --join 10.0.0.2:7401
    """
    flags |= {"join": ",".join(join) if join else None, "init": "on" if init else None}
    configuration = load(config, os.environ, flags)
    logging.basicConfig(
        stream=sys.stderr, format=LOG_FORMAT, datefmt="%Y-%m-%dT%H:%M:%S", level=configuration.log_level.upper()
    )
    try:
        uvloop.run(_serve(configuration, tied))
    except (OSError, Unavailable) as error:
        raise CommandFailed(
            f"{configuration.node_id} can not start: {error}",
            state="its directory is as it was",
            next_step="free the address or configure another one",
            code=Exit.UNREACHABLE,
            reason="ADDRESS_TAKEN",
        ) from None
    except ClusterError as error:
        if isinstance(error, OperatorError):
            raise
        raise CommandFailed(
            f"{configuration.node_id} can not go on: {error.message}",
            state="everything acknowledged is on the other nodes",
            next_step="read the log above",
            code=Exit.OPERATOR,
            reason=error.reason,
        ) from None
    return Exit.DONE


async def _serve(configuration: NodeConfig, tied: bool) -> None:
    from cluster.node.node import Node

    node = Node(configuration)
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    if tied:
        loop.add_reader(sys.stdin.fileno(), _end_of_stdin, loop, told)
    started, stopped = asyncio.ensure_future(node.start()), asyncio.ensure_future(told.wait())
    await asyncio.wait((started, stopped), return_when=asyncio.FIRST_COMPLETED)
    if not started.done():  # it waits for a cluster to join
        started.cancel()
        await asyncio.wait((started,))
        if started.cancelled():
            return
    await started
    ended = asyncio.ensure_future(node.wait())
    await asyncio.wait((ended, stopped), return_when=asyncio.FIRST_COMPLETED)
    if ended.done():
        stopped.cancel()
        ended.result()
        return
    await node.stop()
    await ended


def _end_of_stdin(loop: asyncio.AbstractEventLoop, told: asyncio.Event) -> None:
    if not os.read(sys.stdin.fileno(), 4096):
        loop.remove_reader(sys.stdin.fileno())
        told.set()
