"""The command `moot`: one file of this package for each topic, put together here.

    output.py             what people and programs see, and every exit code
    reach.py              which cluster, and how to talk to it
    local.py              clusters of real processes on this machine; local_commands.py starts and hurts them
    status.py space.py    the topics, with node.py and configuration.py; deploying.py brings code, schema.py describes it
    shards.py moves.py    Raft groups: who leads and holds them, and moving that; leader.py finds who must be asked
    doc.py history.py     documents, and what made them; past.py shows what they were;
                          repairing.py changes them by hand, forking.py takes them elsewhere
    demo.py bench.py      the main job end to end, what it costs, and chaos.py, how it is hurt
    lazy.py               groups whose modules are imported when one of their commands is named

Nothing here is imported by other parts of the package.
"""

from __future__ import annotations

import signal
from typing import Annotated, Final

import typer

import cluster
from cluster.cli.lazy import lazily
from cluster.cli.output import out

EPILOG = (
    "Exit codes: 0 done or yes; 1 the answer is no; 2 wrong command line, file or configuration; 3 no node answers; "
    "4 refused, nothing changed; 5 outcome unknown; 6 a node can not go on; 130 interrupted. Every command takes --json."
)

COMMANDS: Final = {
    "demo": "demo",
    "new": "new",
    "dev": "dev",
    "up": "local_commands",
    "down": "local_commands",
    "kill": "local_commands",
    "pause": "local_commands",
    "restart": "local_commands",
    "status": "status",
    "nodes": "status",
    "where": "status",
    "shards": "shards",
    "space": "space",
    "doc": "doc",
    "node": "node",
    "config": "configuration",
    "bench": "bench",
    "chaos": "chaos",
}
"""Which module of this package has a command, in the order of the help."""

app = typer.Typer(
    name="moot",
    cls=lazily(COMMANDS),
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        out.print(f"moot {cluster.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Moot keeps documents alive: deterministic state machines, replicated, pushed to their viewers.

    Start here: moot demo. Then: moot up, and in another terminal moot status, moot doc create text/notes, moot kill 1.
    """


def main() -> None:
    """Entry point of the installed command. SIGTERM ends a command like Ctrl-C does, so that what it started is stopped."""
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    app()


if __name__ == "__main__":
    main()
