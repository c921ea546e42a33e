"""`moot doc`: documents: create, send, read, watch, list, delete. What examines them is in history.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.json import JSON
from rich.text import Text

from cluster.cli.lazy import lazily
from cluster.cli.output import (
    AsJson,
    CommandFailed,
    Exit,
    add_row,
    command,
    out,
    print_json,
    print_line,
    say,
    table,
)
from cluster.cli.reach import DEFAULT_FOLDER, Addresses, Folder, Who, at, document_of, run
from cluster.client import Answer, Blob, Consistency
from cluster.ids import DocumentId, Position

MORE: Final = {
    "inspect": "history",
    "log": "history",
    "replay": "history",
    "show": "past",
    "diff": "past",
    "why": "past",
    "audit": "past",
    "fork": "forking",
    "repair": "repairing",
    "thaw": "repairing",
    "divergences": "divergences",
}
"""Commands of this group that are in other modules."""

app = typer.Typer(no_args_is_help=True, help="Create, feed, read, watch and examine documents.", cls=lazily(MORE))


def register(root: typer.Typer) -> None:
    """Add the commands of this module."""
    root.add_typer(app, name="doc", rich_help_panel="Documents")


Address = Annotated[str, typer.Argument(help="The document: SPACE/KEY", metavar="DOCUMENT", show_default=False)]
Payload = Annotated[
    str, typer.Argument(help="Parameters, a JSON object; @FILE reads a file, - stdin.", metavar="[JSON]", show_default=False)
]


def _payload(text: str) -> bytes:
    """The bytes to send; whether they fit the channel is the cluster's to judge, that they are an object is told here."""
    if text == "-":
        raw = sys.stdin.buffer.read()
    elif text.startswith("@"):
        try:
            raw = Path(text[1:]).read_bytes()
        except OSError as error:
            raise CommandFailed(
                f"can not read {text[1:]}: {error.strerror}", state="nothing was sent", code=Exit.USAGE, reason="USAGE"
            ) from None
    else:
        raw = text.encode("utf-8", "surrogateescape")
    try:
        decoded = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise CommandFailed(
            f"the parameters are not JSON: {error}",
            state="nothing was sent",
            next_step="""quote them for the shell: '{"text": "hello"}'""",
            code=Exit.USAGE,
            reason="USAGE",
        ) from None
    if not isinstance(decoded, dict):
        raise CommandFailed("the parameters must be a JSON object", state="nothing was sent", code=Exit.USAGE, reason="USAGE")
    return raw


def position_of(text: str) -> Position:
    epoch, dot, index = text.partition(".")
    if not dot or not epoch.isdecimal() or not index.isdecimal():
        raise CommandFailed(
            f"{text!r} is not a position", next_step="write EPOCH.INDEX, for example 1.42", code=Exit.USAGE, reason="USAGE"
        )
    return Position(int(epoch), int(index))


def place(position: Position) -> dict[str, int]:
    return {"epoch": position.epoch, "index": position.index}


def _show_answer(document: DocumentId, answer: Answer, as_json: bool, done: str) -> None:
    if as_json:
        print_json({"document": str(document), "position": place(answer.position), "answer": answer.value})
        return
    out.print(f"{done} at {answer.position}", style="dim" if answer.value is not None else "")
    if answer.value is not None:
        out.print(JSON(json.dumps(answer.value, ensure_ascii=False)))


@app.command()
@command
def create(
    document: Address,
    payload: Payload = "{}",
    who: Who = "",
    address: Addresses = None,
    folder: Folder = DEFAULT_FOLDER,
    as_json: AsJson = False,
) -> Exit:
    """Create a document.

    Exit codes: 0 created. 2 wrong command line. 3 no node answers. 4 refused, nothing exists. 5 not known: read it.

    Example: moot doc create chat/lobby '{"title": "tea"}' --as alice@acme
    """
    target, body = document_of(document), _payload(payload)

    async def ask() -> Answer:
        async with at(address, folder.absolute(), who) as client:
            return await client.create(target.space, target.key, body)

    _show_answer(target, run(ask()), as_json, f"{target} created")
    return Exit.DONE


@app.command()
@command
def send(
    document: Address,
    channel: Annotated[str, typer.Argument(help="The handler's name: moot space show SPACE lists them.", show_default=False)],
    payload: Payload = "{}",
    who: Who = "",
    address: Addresses = None,
    folder: Folder = DEFAULT_FOLDER,
    as_json: AsJson = False,
) -> Exit:
    """Send one message, and show what its handler answers. When it returns, the message is on the disks of a majority.

    Exit codes: 0 answered. 2 wrong command line. 3 no node answers. 4 refused, by the cluster or by the document's code;
    nothing changed. 5 not known: read before you repeat it.

    Example: moot doc send chat/lobby say '{"text": "hello"}' --as alice@acme
    """
    target, body = document_of(document), _payload(payload)

    async def ask() -> Answer:
        async with at(address, folder.absolute(), who) as client:
            return await client.send(target.space, target.key, channel, body)

    _show_answer(target, run(ask()), as_json, "committed")
    return Exit.DONE


@app.command()
@command
def read(
    document: Address,
    who: Who = "",
    at_least: Annotated[
        str,
        typer.Option("--at-least", help="A position EPOCH.INDEX to have reached; any replica may answer.", show_default=False),
    ] = "",
    stale: Annotated[bool, typer.Option("--any", help="Whatever the asked node has; works without a majority.")] = False,
    address: Addresses = None,
    folder: Folder = DEFAULT_FOLDER,
    as_json: AsJson = False,
) -> Exit:
    """Read what you may see of a document. By default it is linearizable: it sees everything acknowledged before.

    Exit codes: 0. 2 wrong command line. 3 no node answers. 4 refused: no such document, or it may not be seen.

    Example: moot doc read chat/lobby --as alice@acme
    """
    target = document_of(document)
    consistency = Consistency.AT_LEAST if at_least else Consistency.ANY if stale else Consistency.LINEARIZABLE
    position = position_of(at_least) if at_least else None

    async def ask() -> Answer:
        async with at(address, folder.absolute(), who) as client:
            return await client.read(target.space, target.key, consistency=consistency, at_least=position)

    answer = run(ask())
    if as_json:
        print_json({"document": str(target), "position": place(answer.position), "view": answer.value})
    else:
        say(f"{target} at {answer.position}", "dim")
        out.print(JSON(json.dumps(answer.value, ensure_ascii=False)))
    return Exit.DONE


@app.command()
@command
def blob(
    document: Address,
    hash: Annotated[str, typer.Argument(help="The blob's hash, as the view shows it.", metavar="HASH", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.", show_default=False)],
    who: Who = "",
    address: Addresses = None,
    folder: Folder = DEFAULT_FOLDER,
    as_json: AsJson = False,
) -> Exit:
    """Write a blob that you may see in a document to a file.

    Exit codes: 0. 2 wrong command line, or the file can not be written. 3 no node answers. 4 refused: no such document, or
    what you may see of it shows no such blob.

    Example: moot doc blob album/wall 9f86d081884c7d65... --output wall.png --as alice@acme
    """
    target = document_of(document)

    async def ask() -> Blob:
        async with at(address, folder.absolute(), who) as client:
            return await client.blob(target.space, target.key, hash)

    found = run(ask())
    try:
        output.write_bytes(found.data)
    except OSError as error:
        raise CommandFailed(f"can not write {output}: {error.strerror}", code=Exit.USAGE, reason="USAGE") from None
    shown = {"hash": found.hash, "size": found.size, "media_type": found.media_type, "output": str(output)}
    if as_json:
        print_json({"document": str(target), **shown})
    else:
        say(f"{output}: {found.size} bytes of {found.media_type}")
    return Exit.DONE


@app.command()
@command
def watch(
    document: Address,
    who: Who = "",
    count: Annotated[int, typer.Option("--count", help="End after so many steps; 0 for never.", min=0)] = 0,
    resume_after: Annotated[
        str, typer.Option("--after", help="Go on after this position, EPOCH.INDEX, with patches only.", show_default=False)
    ] = "",
    address: Addresses = None,
    folder: Folder = DEFAULT_FOLDER,
    as_json: AsJson = False,
) -> Exit:
    """Follow a document: the whole view first, then every change as it is committed, across restarts of nodes. Ctrl-C ends it.

    With --json each step is one line: {"position", "reset", "view"} or {"position", "reset", "patch"}.

    Exit codes: 0 ended by --count. 3 no node answers. 4 refused: no such document, or it may not be seen. 130 Ctrl-C.

    Example: moot doc watch chat/lobby --as alice@acme
    """
    target = document_of(document)
    after = position_of(resume_after) if resume_after else None

    async def follow() -> None:
        steps = 0
        async with (
            at(address, folder.absolute(), who) as client,
            client.watch(target.space, target.key, resume_after=after) as steps_of,
        ):
            if after is not None:
                # the caller holds the view of that position and applies the patches itself.
                steps_of.view = {}
            async for change in steps_of:
                _show_change(change.position, change.view if change.reset else None, change.patch, as_json)
                steps += 1
                if count and steps >= count:
                    return

    run(follow())
    return Exit.DONE


def _show_change(position: Position, view: Any, patch: list[dict[str, Any]] | None, as_json: bool) -> None:
    if as_json:
        step = {"view": view} if patch is None else {"patch": patch}
        print_line({"position": place(position), "reset": patch is None, **step})
        return
    label = Text(f"{position!s:<10}", style="bold cyan")
    if patch is None:
        out.print(label, Text("the whole view", style="dim"))
        out.print(JSON(json.dumps(view, ensure_ascii=False)))
    elif not patch:
        out.print(label, Text("nothing that you may see", style="dim"))
    else:
        for operation in patch:
            out.print(label, _told(operation), soft_wrap=True)
            label = Text(" " * 10)


def _told(operation: dict[str, Any]) -> Text:
    """One operation of a patch on one line."""
    if operation["op"] == "splice":
        text = Text(f"{operation['path']} at {operation['at']}: ")
        if operation["delete"]:
            text.append(f"-{operation['delete']} ", style="red")
        if operation["insert"]:
            text.append("+" + json.dumps(operation["insert"], ensure_ascii=False), style="green")
        return text
    value = json.dumps(operation["value"], ensure_ascii=False) if "value" in operation else ""
    return Text.assemble(
        (operation["op"], "yellow" if operation["op"] == "remove" else "green"), f" {operation['path']} {value}"
    )


@app.command("list")
@command
def list_documents(
    space: Annotated[str, typer.Argument(help="The space.", metavar="SPACE", show_default=False)],
    prefix: Annotated[str, typer.Option("--prefix", help="Only keys that begin with this.", show_default=False)] = "",
    limit: Annotated[int, typer.Option("--limit", help="At most this many; 0 for all.", min=0)] = 1000,
    who: Who = "",
    address: Addresses = None,
    folder: Folder = DEFAULT_FOLDER,
    as_json: AsJson = False,
) -> Exit:
    """List the documents of a space.

    Exit codes: 0. 3 no node answers. 4 no such space.

    Example: moot doc list chat --prefix room-
    """

    async def ask() -> list[tuple[str, Position]]:
        found = []
        async with at(address, folder.absolute(), who) as client:
            async for row in client.list(space, prefix, min(limit, 1000) or 1000):
                found.append(row)
                if limit and len(found) > limit:
                    break
        return found

    rows = run(ask())
    more, rows = bool(limit) and len(rows) > limit, rows[:limit] if limit else rows
    if as_json:
        print_json({"documents": [{"document": f"{space}/{key}", "position": place(at)} for key, at in rows], "more": more})
        return Exit.DONE
    shown = table("document", ">position")
    for key, position in rows:
        add_row(shown, f"{space}/{key}", position)
    out.print(shown)
    if more:
        say("and more; --limit 0 lists all, --prefix narrows", "dim")
    return Exit.DONE


@app.command()
@command
def delete(
    document: Address, who: Who = "", address: Addresses = None, folder: Folder = DEFAULT_FOLDER, as_json: AsJson = False
) -> Exit:
    """Delete a document. Its key can be created again, in a later epoch.

    Exit codes: 0 deleted. 3 no node answers. 4 refused: its code does not allow it, or there is none. 5 not known: read it.

    Example: moot doc delete chat/lobby --as alice@acme
    """
    target = document_of(document)

    async def ask() -> Position:
        async with at(address, folder.absolute(), who) as client:
            return await client.delete(target.space, target.key)

    position = run(ask())
    if as_json:
        print_json({"document": str(target), "position": place(position), "deleted": True})
    else:
        say(f"{target} deleted at {position}")
    return Exit.DONE
