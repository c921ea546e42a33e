"""`moot doc show | diff | why | audit`: the past of a document, from its history alone.

Each takes a document of a running cluster, whose history is fetched, or a file of `moot doc log --export`, and then needs
no cluster. Nothing is changed by any of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.json import JSON

from cluster.cli.doc import place
from cluster.cli.history import exported_history
from cluster.cli.output import AsJson, CommandFailed, Exit, add_row, command, out, print_json, say, table
from cluster.cli.reach import DEFAULT_FOLDER, Addresses, Folder, document_of, run
from cluster.cli.space import moment
from cluster.errors import ClusterError, InvalidName
from cluster.ids import Principal
from cluster.replay.audit import BY_HAND, Audit, audit, reason_of
from cluster.replay.file import read_export
from cluster.replay.timeline import ABSENT, Cause, at, causes, difference, shown

Source = Annotated[
    str, typer.Argument(help="SPACE/KEY, or a file of `moot doc log --export`.", metavar="DOCUMENT", show_default=False)
]
Epoch = Annotated[int, typer.Option("--epoch", help="The epoch; 0 for the last.", min=0)]
Viewer = Annotated[
    str | None,
    typer.Option("--as", help="What this principal saw; without it the whole state, private fields too.", show_default=False),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `moot doc`."""
    for name, function in (("show", show), ("diff", diff), ("why", why), ("audit", audit_command)):
        app.command(name)(function)


@contextmanager
def reading() -> Iterator[None]:
    """Errors of a history that was read are errors of usage: nothing was asked of a document."""
    try:
        yield
    except ClusterError as error:
        raise CommandFailed(error.message, state="nothing was changed", code=Exit.USAGE, reason=error.reason) from None


def history_of(source: str, address: list[str] | None, folder: Path) -> dict[str, Any]:
    return file_of(source) or run(exported_history(document_of(source), address, folder.absolute()))


def file_of(source: str) -> dict[str, Any] | None:
    """The history in a file, None where the source is no file. Raises CommandFailed."""
    path = Path(source)
    if not path.is_file():
        return None
    with reading():
        return read_export(path)


def principal_named(name: str | None) -> Principal | None:
    if name is None:
        return None
    try:
        return Principal.parse(name)
    except InvalidName as error:
        raise CommandFailed(error.message, state="nothing was read", code=Exit.USAGE, reason=error.reason) from None


@command
def show(
    source: Source,
    index: Annotated[int, typer.Option("--at", help="The index; 0 for the end.", min=0)] = 0,
    viewer: Viewer = None,
    epoch: Epoch = 0,
    address: Addresses = None,
    folder: Folder = DEFAULT_FOLDER,
    as_json: AsJson = False,
) -> Exit:
    """Show a document as it was at one of its positions: to one principal, or all of it.

    Exit codes: 0. 2 no such position, or the gate said no then. 3 no node answers. 4 no such document.

    Example: moot doc show chat/lobby --at 17 --as alice@acme; moot doc show lobby.json --at 17
    """
    who = principal_named(viewer)
    exported = history_of(source, address, folder)
    with reading():
        position, instance = at(exported, index, epoch)
        value = shown(instance, who)
    if as_json:
        print_json({"document": exported["document"], "position": place(position), "as": viewer, "value": value})
        return Exit.DONE
    say(f"{exported['document']} at {position}, {f'as {viewer} saw it' if viewer else 'its whole state'}", "dim")
    out.print(JSON(json.dumps(value)))
    return Exit.DONE


@command
def diff(
    source: Source,
    first: Annotated[int, typer.Option("--from", help="The earlier index.", min=1)],
    last: Annotated[int, typer.Option("--to", help="The later index; 0 for the end.", min=0)] = 0,
    viewer: Viewer = None,
    epoch: Epoch = 0,
    address: Addresses = None,
    folder: Folder = DEFAULT_FOLDER,
    as_json: AsJson = False,
) -> Exit:
    """Show what changed between two positions of a document, as a JSON Patch.

    Exit codes: 0 (also when nothing changed). 2 no such position. 3 no node answers. 4 no such document.

    Example: moot doc diff chat/lobby --from 3 --to 9 --as alice@acme
    """
    who = principal_named(viewer)
    exported = history_of(source, address, folder)
    with reading():
        before, after, patch = difference(exported, first, last, who, epoch)
    if as_json:
        print_json({"document": exported["document"], "from": place(before), "to": place(after), "as": viewer, "patch": patch})
        return Exit.DONE
    say(f"{exported['document']} from {before} to {after}: {len(patch)} changes", "dim")
    show_patch(patch)
    return Exit.DONE


def show_patch(patch: list[dict[str, Any]]) -> None:
    """A JSON Patch as a table."""
    changes = table("what", "path", "value")
    for operation in patch:
        value = {name: each for name, each in operation.items() if name not in ("op", "path")}
        add_row(changes, operation["op"], operation["path"], _short(value.get("value", value)))
    if patch:
        out.print(changes)


@command
def why(
    source: Source,
    path: Annotated[str, typer.Argument(help="A JSON pointer into the state: /board/4", show_default=False)],
    address: Addresses = None,
    folder: Folder = DEFAULT_FOLDER,
    as_json: AsJson = False,
) -> Exit:
    """Show every command that changed a value of the state: who sent it, when, what it was before and after.

    Exit codes: 0. 2 not a path. 3 no node answers. 4 no such document.

    Example: moot doc why tictactoe/final /board/4
    """
    exported = history_of(source, address, folder)
    with reading():
        found = causes(exported, path)
    if as_json:
        print_json({"document": exported["document"], "path": path, "causes": [_cause_row(cause) for cause in found]})
        return Exit.DONE
    shown_causes = table(">position", "time (UTC)", "who", "what", "before", "after")
    for cause in found:
        row = cause.row
        what = row["kind"] if row["kind"] != "send" else f"{row['channel']} {row['payload']}"
        if row["kind"] in BY_HAND:
            what = f"{row['kind']}: {reason_of(row)}"
        cells = ("" if value is ABSENT else _short(value) for value in (cause.before, cause.after))
        add_row(shown_causes, str(cause.position), moment(row["time_ms"]), row["sender"], _cut(what), *cells)
    out.print(shown_causes) if found else say(f"nothing has set {path}", "dim")
    return Exit.DONE


def _cause_row(cause: Cause) -> dict[str, Any]:
    row = cause.row
    values = {"before": cause.before, "after": cause.after}
    return {
        "position": place(cause.position),
        "kind": row["kind"],
        "sender": row["sender"],
        "channel": row["channel"],
        "payload": _payload_of(row),
        "time_ms": row["time_ms"],
    } | {name: value for name, value in values.items() if value is not ABSENT}


def _payload_of(row: dict[str, Any]) -> Any:
    """What was sent. Of a thaw without the record: that is the whole document."""
    payload = json.loads(row["payload"] or "{}")
    return {name: each for name, each in payload.items() if name != "record"} if row["kind"] == "thaw" else payload


@command
def audit_command(
    source: Source,
    viewer: Annotated[str, typer.Option("--who", help="The principal who must not have learnt it.", show_default=False)],
    secret: Annotated[int, typer.Option("--secret", help="Index of the command that holds the secret.", min=1)],
    payload: Annotated[
        str | None,
        typer.Option("--payload", help="What it says instead, a JSON object; else its words are changed.", show_default=False),
    ] = None,
    epoch: Epoch = 0,
    address: Addresses = None,
    folder: Folder = DEFAULT_FOLDER,
    as_json: AsJson = False,
) -> Exit:
    """Show that a principal could not have learnt a secret: change it, run everything again, and compare all they were shown.

    What is the same, byte for byte, at every position can not have told the difference. Views are computed with full sight, so
    they are listed: they are what the author lets out on purpose.

    Exit codes: 0 nothing differs. 1 something does: the first difference is shown. 2 there is nothing to change.
    3 no node answers. 4 no such document.

    Example: moot doc audit cards/table --who ben@acme --secret 5
    """
    who = principal_named(viewer)
    assert who is not None
    exported = history_of(source, address, folder)
    with reading():
        found = audit(exported, who, secret, payload, epoch)
    if as_json:
        print_json(_audit_row(exported["document"], found))
        return Exit.DONE if found.hidden else Exit.NO
    say(f"command {found.changed} said {_cut(found.was)} and says {_cut(found.became)} now", "dim")
    say(f"computed with full sight: {', '.join(found.views) or 'nothing'}", "dim")
    for each in found.repairs:
        say(f"changed by hand at {each.position} by {each.sender}: {_cut(each.reason)}", "yellow")
    if found.hidden:
        say(f"[bold green]hidden[/]  {found.viewed} positions are the same for {viewer}, byte for byte")
        return Exit.DONE
    say(f"[bold red]seen[/]  {found.differing} of {found.viewed} positions differ for {viewer}, first {found.first}:")
    for operation in found.seen:
        say(f"  {operation['path']}")
    return Exit.NO


def _audit_row(document: str, found: Audit) -> dict[str, Any]:
    return {
        "document": document,
        "who": found.who,
        "changed": place(found.changed),
        "was": json.loads(found.was),
        "became": json.loads(found.became),
        "hidden": found.hidden,
        "positions": found.viewed,
        "differing": found.differing,
        "first": place(found.first) if found.first is not None else None,
        "seen": found.seen,
        "views": found.views,
        "repairs": [{"position": place(each.position), "sender": each.sender, "reason": each.reason} for each in found.repairs],
    }


def _short(value: Any) -> str:
    return _cut(json.dumps(value, ensure_ascii=False))


def _cut(text: str, length: int = 60) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
