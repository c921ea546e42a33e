"""How commands speak: tables and sentences for people, one JSON value for programs, errors that say what to do next.

Exit codes, the same for every command:

    0    done, or the answer is yes
    1    the answer is no: a check failed, a cluster is not healthy
    2    the command line, a file or the configuration is wrong
    3    no node could be reached
    4    the cluster refused; nothing changed
    5    the outcome is not known: look before repeating
    6    a node can not go on: somebody must look at it
    130  interrupted

With --json stdout holds exactly one JSON value (watching commands: one for each line), errors too: {"error": {...}}.
An expected error never shows a traceback.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from enum import IntEnum
from typing import Annotated, Any, Final, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from cluster.cli.local import NoCluster, ProcessStuck
from cluster.errors import (
    Applied,
    ClusterError,
    ConfigurationInvalid,
    InvalidBundle,
    OperatorError,
    OutcomeUnknown,
    Unavailable,
)

out: Final = Console(highlight=False)
err: Final = Console(stderr=True, highlight=False)

P = ParamSpec("P")
R = TypeVar("R")


class Exit(IntEnum):
    """Exit codes; see the module."""

    DONE = 0
    NO = 1
    USAGE = 2
    UNREACHABLE = 3
    REFUSED = 4
    UNKNOWN = 5
    OPERATOR = 6
    INTERRUPTED = 130


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON value with stable keys instead of text.")]


class CommandFailed(Exception):
    """An expected failure: what happened, what state it left, what to do next."""

    def __init__(
        self, what: str, *, state: str = "", next_step: str = "", code: Exit = Exit.NO, reason: str = "FAILED"
    ) -> None:
        super().__init__(what)
        self.what = what
        self.state = state
        self.next_step = next_step
        self.code = code
        self.reason = reason
        self.details: dict[str, str] = {}


class Unreachable(CommandFailed):
    """No node answered."""

    def __init__(self, what: str, next_step: str) -> None:
        super().__init__(what, state="nothing changed", next_step=next_step, code=Exit.UNREACHABLE, reason=Unavailable.reason)


_STATES: Final = {
    Applied.NO: "nothing changed",
    Applied.YES: "state was changed",
    Applied.UNKNOWN: "it may or may not have been applied",
}
_NEXT_STEPS: Final = {
    "UNKNOWN_SPACE": "deploy it: moot space deploy NAME FILE; deployed ones: moot space list",
    "UNKNOWN_SHARD": "moot shards list shows what there is",
    "UNKNOWN_NODE": "moot nodes shows what there is",
    "INVALID_MOVE": "moot shards list shows who holds what, moot shards show SHARD what is under way",
    "NODE_DOWN": "moot status; if it only looks so from there, --force begins nevertheless",
    "UNKNOWN_DOCUMENT": "create it: moot doc create SPACE/KEY",
    "UNKNOWN_BLOB": "moot doc read SPACE/KEY shows the hashes of the blobs that you may see",
    "UNKNOWN_ROUTE": "moot space schema NAME lists the paths",
    "UNKNOWN_CHANNEL": "moot space show NAME lists the channels",
    "INVALID_PAYLOAD": "moot space show NAME lists the parameters of each channel",
    "DOCUMENT_EXISTS": "read it: moot doc read SPACE/KEY",
    "DOCUMENT_DELETED": "moot doc create SPACE/KEY makes a new one in a later epoch",
    "DOCUMENT_FROZEN": "reads go on; moot shards list --halted or moot doc divergences says why",
    "INVALID_PATCH": "moot doc show SPACE/KEY shows the whole state, --dry-run what the patch would change",
    "POSITION_MOVED": "look what happened since: moot doc log SPACE/KEY",
    "HANDLER_FAILED": "moot space errors SPACE shows the traceback under this error id",
    "PERMISSION_DENIED": "act as somebody else: --as agent@authority",
    "UNAUTHENTICATED": "say who you are: --as agent@authority, from this machine",
    "HISTORY_TRIMMED": "start later, or ask another node with --address",
    "INVALID_NAME": "",
    "STORAGE_FULL": "make room on that node's disk; what was refused may then be sent again",
    "OUTCOME_UNKNOWN": "read before you repeat it",
    "DIRECTORY_IN_USE": "another process runs on this directory: stop it first",
    "WRONG_CLUSTER": "give the node an empty data_dir, or the one that belongs to this cluster",
    "IDENTITY_FENCED": "start it under a new name, with --join; take the old one away: moot node decommission",
    "NODE_REMOVED": "empty its data_dir and start it under a new name, with --join",
    "CLOCK_SKEWED": "set the clock (NTP) and start it again",
    "RELEASE_MISMATCH": "start a release that is nearer to that of the cluster: moot nodes shows it",
    "LOG_LOST": "its shard's leader replaces that replica; moot shards list --halted shows how far that is",
    "STORAGE_DAMAGED": "keep the directory for repair; the other nodes have everything that was acknowledged",
    "FORMAT_TOO_NEW": "start the release that wrote the directory, or a newer one",
}


def failure_of(error: ClusterError) -> CommandFailed:
    """How an error of the cluster is told."""
    code = Exit.REFUSED
    if isinstance(error, ConfigurationInvalid | NoCluster):
        code = Exit.USAGE
    elif isinstance(error, Unavailable) and error.applied is Applied.NO:
        code = Exit.UNREACHABLE
    elif isinstance(error, OutcomeUnknown) or error.applied is Applied.UNKNOWN:
        code = Exit.UNKNOWN
    elif isinstance(error, OperatorError | ProcessStuck):
        code = Exit.OPERATOR
    what = error.message
    if isinstance(error, InvalidBundle):
        what = f"the code can not be deployed:\n{error.message}"
    next_step = _NEXT_STEPS.get(error.reason, "")
    if not next_step and error.retryable:
        next_step = "send the same again" + (f" after {error.retry_after_ms} ms" if error.retry_after_ms else "")
    if isinstance(error, NoCluster):
        next_step = "start one: moot up; or name the folder: --data DIR"
    failed = CommandFailed(what, state=_STATES[error.applied], next_step=next_step, code=code, reason=error.reason)
    failed.details = {**error.details, "retryable": "true" if error.retryable else "false", "applied": error.applied.value}
    return failed


def report(failed: CommandFailed, as_json: bool) -> None:
    """Say it: on stderr for people, on stdout for programs."""
    if as_json:
        print_json(
            {
                "error": {
                    "reason": failed.reason,
                    "message": failed.what,
                    "state": failed.state,
                    "next": failed.next_step,
                    "exit_code": int(failed.code),
                    "details": failed.details,
                }
            }
        )
        return
    err.print("[bold red]error[/]", end=" ")
    err.print(failed.what, markup=False, soft_wrap=True)
    error_id = failed.details.get("error_id")
    facts = [("reason", failed.reason), ("error id", error_id), ("state", failed.state), ("next", failed.next_step)]
    for name, text in facts:
        if text and text != "FAILED":
            err.print(f"  [dim]{name:<8}[/]", end=" ")
            err.print(text, markup=False, soft_wrap=True)


def command(function: Callable[P, R]) -> Callable[P, None]:
    """A command of the command line: expected errors are told and become exit codes; a returned Exit is the exit code."""

    @functools.wraps(function)
    def run(*arguments: P.args, **options: P.kwargs) -> None:
        as_json = bool(options.get("as_json", False))
        code: object = None
        try:
            code = function(*arguments, **options)
        except CommandFailed as failed:
            report(failed, as_json)
            code = failed.code
        except ClusterError as error:
            told = failure_of(error)
            report(told, as_json)
            code = told.code
        except KeyboardInterrupt:
            code = Exit.INTERRUPTED
        except BrokenPipeError:
            # whoever read our output has seen enough; the interpreter would complain once more when it flushes stdout.
            sys.stderr.close()
            code = Exit.DONE
        if isinstance(code, Exit) and code is not Exit.DONE:
            raise typer.Exit(int(code))

    return run


def print_json(value: object) -> None:
    """One JSON value on one or more lines of stdout; compact when it is not read by a person."""
    indent = 2 if sys.stdout.isatty() else None
    typer.echo(json.dumps(value, indent=indent, ensure_ascii=False))


def print_line(value: object) -> None:
    """One JSON value on one line, at once."""
    typer.echo(json.dumps(value, ensure_ascii=False))
    sys.stdout.flush()


def say(text: str, style: str = "") -> None:
    """One line of text with markup, never broken by us."""
    out.print(text, style=style, soft_wrap=True)


def table(*columns: str, title: str = "") -> Table:
    """An unframed table; columns whose name begins with `>` are aligned to the right."""
    made = Table(box=None, title=title or None, title_justify="left", title_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        made.add_column(column.removeprefix(">"), justify="right" if column.startswith(">") else "left", header_style="dim")
    return made


def add_row(made: Table, *cells: Any) -> None:
    """A row of plain cells: text that looks like markup is shown as it is."""
    made.add_row(*[cell if hasattr(cell, "__rich_console__") else _plain(cell) for cell in cells])


def _plain(cell: object) -> Any:
    from rich.text import Text

    return Text("" if cell is None else str(cell))


def styled(text: str, style: str) -> Any:
    """A cell with a style."""
    from rich.text import Text

    return Text(text, style=style)


_STATE_STYLES: Final = {
    "alive": "green",
    "running": "green",
    "healthy": "green",
    "ok": "green",
    "suspect": "yellow",
    "paused": "yellow",
    "starting": "yellow",
    "draining": "yellow",
    "decommissioning": "yellow",
    "dead": "red",
    "stopped": "red",
}


def state(text: str) -> Any:
    """A cell with a word that says how something is."""
    return styled(text, _STATE_STYLES.get(text, ""))


def duration(milliseconds: float) -> str:
    """A length of time for people."""
    seconds = milliseconds / 1000
    if seconds < 1:
        return f"{milliseconds:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
