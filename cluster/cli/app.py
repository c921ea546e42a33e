"""The command `moot`: one file of this package for each topic, put together here.

    output.py             what people and programs see, and every exit code
    reach.py              which cluster, and how to talk to it
    local.py              clusters of real processes on this machine; local_commands.py starts and hurts them
    status.py space.py    the topics, with node.py and configuration.py; deploying.py brings code, schema.py describes it
    shards.py moves.py    Raft groups: who leads and holds them, and moving that; leader.py finds who must be asked
    doc.py history.py     documents, and what made them; past.py shows what they were;
                          repairing.py changes them by hand
    demo.py bench.py      the main job end to end, what it costs, and chaos.py, how it is hurt

Nothing here is imported by other parts of the package.
"""

from __future__ import annotations

import signal
from typing import Annotated

import typer

import cluster
from cluster.cli import (
    bench,
    chaos,
    configuration,
    demo,
    deploying,
    dev,
    divergences,
    doc,
    history,
    local_commands,
    moves,
    new,
    node,
    past,
    repairing,
    schema,
    shards,
    space,
    status,
)
from cluster.cli.output import out

EPILOG = (
    "Exit codes: 0 done or yes; 1 the answer is no; 2 wrong command line, file or configuration; 3 no node answers; "
    "4 refused, nothing changed; 5 outcome unknown; 6 a node can not go on; 130 interrupted. Every command takes --json."
)

app = typer.Typer(
    name="moot",
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


demo.register(app)
new.register(app)
dev.register(app)
local_commands.register(app)
status.register(app)
moves.register(shards.app)
shards.register(app)
deploying.register(space.app)
schema.register(space.app)
app.add_typer(space.app, name="space", rich_help_panel="Documents")
history.register(doc.app)
past.register(doc.app)
repairing.register(doc.app)
divergences.register(doc.app)
app.add_typer(doc.app, name="doc", rich_help_panel="Documents")
app.add_typer(node.app, name="node", rich_help_panel="Operating")
app.add_typer(configuration.app, name="config", rich_help_panel="Operating")
app.add_typer(bench.app, name="bench", rich_help_panel="Operating")
app.add_typer(chaos.app, name="chaos", rich_help_panel="Operating")


def main() -> None:
    """Entry point of the installed command. SIGTERM ends a command like Ctrl-C does, so that what it started is stopped."""
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    app()


if __name__ == "__main__":
    main()
