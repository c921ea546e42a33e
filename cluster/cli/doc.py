"""`moot doc`: documents: create, send, read, watch, list, delete, inspect, log, replay."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.json import JSON
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from cluster.cli.export import PAGE, Verdict, command_row, export_of, read_export
from cluster.cli.export import replay as replay_export
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
    styled,
    table,
)
from cluster.cli.reach import DEFAULT_FOLDER, Addresses, Folder, Who, addresses_of, ask_one, at, document_of, run
from cluster.cli.space import moment
from cluster.client import Answer, Client, Consistency
from cluster.errors import ClusterError, HistoryTrimmed, InvalidRequest, UnknownDocument
from cluster.ids import DocumentId, Position

app = typer.Typer(no_args_is_help=True, help="Create, feed, read, watch and examine documents.")

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


def _position(text: str) -> Position:
    epoch, dot, index = text.partition(".")
    if not dot or not epoch.isdecimal() or not index.isdecimal():
        raise CommandFailed(
            f"{text!r} is not a position", next_step="write EPOCH.INDEX, for example 1.42", code=Exit.USAGE, reason="USAGE"
        )
    return Position(int(epoch), int(index))


def _place(position: Position) -> dict[str, int]:
    return {"epoch": position.epoch, "index": position.index}


def _show_answer(document: DocumentId, answer: Answer, as_json: bool, done: str) -> None:
    if as_json:
        print_json({"document": str(document), "position": _place(answer.position), "answer": answer.value})
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
    position = _position(at_least) if at_least else None

    async def ask() -> Answer:
        async with at(address, folder.absolute(), who) as client:
            return await client.read(target.space, target.key, consistency=consistency, at_least=position)

    answer = run(ask())
    if as_json:
        print_json({"document": str(target), "position": _place(answer.position), "view": answer.value})
    else:
        say(f"{target} at {answer.position}", "dim")
        out.print(JSON(json.dumps(answer.value, ensure_ascii=False)))
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
    after = _position(resume_after) if resume_after else None

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
        print_line({"position": _place(position), "reset": patch is None, **step})
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
        print_json({"documents": [{"document": f"{space}/{key}", "position": _place(at)} for key, at in rows], "more": more})
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
        print_json({"document": str(target), "position": _place(position), "deleted": True})
    else:
        say(f"{target} deleted at {position}")
    return Exit.DONE


@app.command()
@command
def inspect(document: Address, address: Addresses = None, folder: Folder = DEFAULT_FOLDER, as_json: AsJson = False) -> Exit:
    """Compare the replicas of a document: position, hash of the record, chain. Equal positions must have equal records.

    Exit codes: 0 those at one position are equal. 1 they differ, or none has it. 3 no node answers.

    Example: moot doc inspect chat/lobby
    """
    target = document_of(document)
    rows, errors = run(_inspected(addresses_of(address, folder.absolute()), target))
    by_position: dict[str, set[str]] = {}
    for row in rows:
        by_position.setdefault(row["position"], set()).add(row["record_hash"])
    equal = all(len(hashes) == 1 for hashes in by_position.values())
    if as_json:
        print_json({"document": str(target), "equal": equal, "replicas": rows, "errors": errors})
    else:
        shown = table("node", ">position", "record", "chain", ">state bytes", ">sessions", "code", "")
        for row in rows:
            notes = ", ".join(name for name in ("deleted", "frozen", "unsaved") if row[name])
            add_row(shown, *_replica_cells(row), notes)
        out.print(shown)
        for node, text in errors.items():
            out.print(Text(f"{node}: {text}", style="yellow"))
        if not equal:
            out.print(Text("replicas at one position differ", style="bold red"))
        elif len(by_position) > 1:
            out.print(Text("replicas are at different positions: some are still applying", style="dim"))
    return Exit.DONE if equal and any(row["exists"] for row in rows) else Exit.NO


def _replica_cells(row: dict[str, Any]) -> list[object]:
    name = styled(row["node_id"], "bold")
    if not row["exists"]:
        return [name, "none", "", "", "", "", ""]
    hashes = [row["record_hash"][:12], row["chain"][:12]]
    return [name, row["position"], *hashes, row["state_bytes"], row["sessions"], row["code_hash"][:12]]


async def _inspected(addresses: list[str], target: DocumentId) -> tuple[list[dict[str, Any]], dict[str, str]]:
    rows: list[dict[str, Any]] = []
    errors: dict[str, str] = {}
    named = {"space": target.space, "key": target.key}
    asked = (ask_one(address, "InspectDocument", document=named) for address in addresses)
    answers = await asyncio.gather(*asked, return_exceptions=True)
    for address, answer in zip(addresses, answers, strict=True):
        if isinstance(answer, ClusterError):
            errors[address] = answer.message
        elif isinstance(answer, BaseException):
            raise answer
        else:
            rows.append(
                {
                    "node_id": answer.node_id,
                    "exists": answer.exists,
                    "position": f"{answer.position.epoch}.{answer.position.index}",
                    "record_hash": answer.record_hash.hex(),
                    "chain": answer.chain.hex(),
                    "unsaved": answer.dirty,
                    "applied_raft_index": answer.applied_raft_index,
                    "code_hash": answer.code_hash.hex(),
                    "state_bytes": answer.state_bytes,
                    "sessions": answer.sessions,
                    "deleted": answer.deleted,
                    "frozen": answer.frozen,
                    "shard": answer.shard_id,
                }
            )
    if not rows:
        raise CommandFailed(f"no node answered: {errors}", code=Exit.UNREACHABLE, next_step="moot status", reason="UNAVAILABLE")
    return rows, errors


# history


@app.command()
@command
def log(
    document: Address,
    first: Annotated[int, typer.Option("--from", help="First index; 0 for the earliest that is kept.", min=0)] = 0,
    limit: Annotated[int, typer.Option("--limit", help="At most this many commands; 0 for all.", min=0)] = 100,
    epoch: Annotated[int, typer.Option("--epoch", help="The epoch; 0 for the present one.", min=0)] = 0,
    export: Annotated[
        Path | None,
        typer.Option(
            "--export", help="Write the whole history with its code to a file for `moot doc replay`.", show_default=False
        ),
    ] = None,
    address: Addresses = None,
    folder: Folder = DEFAULT_FOLDER,
    as_json: AsJson = False,
) -> Exit:
    """Show the commands that made a document: who sent what, when, and how it ended.

    Exit codes: 0. 3 no node answers. 4 no such document, or older than what is kept.

    Example: moot doc log chat/lobby --limit 20; moot doc log chat/lobby --export lobby.json
    """
    target = document_of(document)
    if export is not None:
        return _export(target, export, address, folder.absolute(), as_json)

    async def ask() -> tuple[list[Any], Any]:
        async with at(address, folder.absolute()) as client:
            return await _history(client, target, epoch, first, limit)

    commands, answer = run(ask())
    if as_json:
        position = Position(answer.position.epoch, answer.position.index)
        rows = [command_row(each) for each in commands]
        print_json({"document": str(target), "position": _place(position), "earliest": answer.earliest_index, "commands": rows})
        return Exit.DONE
    shown = table(">position", "time (UTC)", "who", "what", "ended", "answer")
    for each in commands:
        row = command_row(each)
        what = row["kind"] if row["kind"] != "send" else f"{row['channel']} {_short(row['payload'], 60)}"
        add_row(
            shown, f"{each.position.epoch}.{each.position.index}", moment(row["time_ms"]), row["sender"], what,
            styled(row["code"], "green" if row["code"] == "OK" else "yellow"), _short(row["answer"], 40),
        )  # fmt: skip
    out.print(shown)
    last = commands[-1].position.index if commands else 0
    if last < answer.position.index and (not epoch or epoch == answer.position.epoch):
        say(f"up to {answer.position.index}: --from {last + 1}", "dim")
    return Exit.DONE


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


async def _history(client: Client, target: DocumentId, epoch: int, first: int, limit: int) -> tuple[list[Any], Any]:
    """Commands of one epoch from `first` on, page by page."""
    commands: list[Any] = []
    while True:
        wanted = min(PAGE, limit - len(commands)) if limit else PAGE
        answer: Any = await client.admin(
            "ReadHistory",
            document={"space": target.space, "key": target.key},
            epoch=epoch,
            from_index=first + len(commands) if first else 0,
            limit=wanted,
        )
        commands += answer.commands
        first = first or answer.earliest_index
        if len(answer.commands) < wanted or (limit and len(commands) >= limit):
            return commands, answer


def _export(target: DocumentId, path: Path, address: list[str] | None, folder: Path, as_json: bool) -> Exit:
    async def ask() -> dict[str, Any]:
        async with at(address, folder) as client:
            where: Any = await client.admin("Where", document={"space": target.space, "key": target.key})
        holder = where.leader_gateway_address
        async with at([holder] if holder else address, folder) as client:
            inspected: Any = await client.admin("InspectDocument", document={"space": target.space, "key": target.key})
            if not inspected.exists:
                raise UnknownDocument(f"{target} was never created")
            commands: list[Any] = []
            whole = True
            for epoch in range(1, inspected.position.epoch + 1):
                try:
                    found, _ = await _history(client, target, epoch, 0, 0)
                except HistoryTrimmed:
                    commands, whole = [], False
                    continue
                commands += found
            commands = [each for each in commands if _reached(each.position, inspected.position)]
            whole = whole and bool(commands) and (commands[0].position.epoch, commands[0].position.index) == (1, 1)
            names = {each.code_hash for each in commands if each.kind == 1}
            bundles = {name: (await client.admin("GetBundle", code_hash=name)).bundle for name in names}  # type: ignore[attr-defined]
            return export_of(target, commands, bundles, inspected, whole=whole)

    exported = run(ask())
    try:
        path.write_text(json.dumps(exported, ensure_ascii=False) + "\n")
    except OSError as error:
        raise CommandFailed(f"can not write {path}: {error.strerror}", code=Exit.USAGE, reason="USAGE") from None
    count = len(exported["commands"])
    if as_json:
        print_json({"document": str(target), "file": str(path), "commands": count, "whole": exported["whole"]})
    else:
        say(f"{count} commands of {target} written to {path}   [dim]moot doc replay {path}[/]")
    return Exit.DONE


def _reached(position: Any, end: Any) -> bool:
    return (position.epoch, position.index) <= (end.epoch, end.index)


@app.command()
@command
def replay(
    file: Annotated[Path, typer.Argument(help="What `moot doc log --export` wrote.", show_default=False)],
    as_json: AsJson = False,
) -> Exit:
    """Run an exported history again, without any cluster, and compare: every outcome, every answer, and the chain of all
    writes.

    Exit codes: 0 everything is as it was. 1 something differs. 2 the file can not be replayed.

    Example: moot doc log chat/lobby --export lobby.json && moot doc replay lobby.json
    """
    try:
        exported = read_export(file)
        verdict = _replayed(exported, quiet=as_json)
    except OSError as error:
        raise CommandFailed(f"can not read {file}: {error.strerror}", code=Exit.USAGE, reason="USAGE") from None
    except InvalidRequest as error:
        raise CommandFailed(error.message, state="nothing was compared", code=Exit.USAGE, reason=error.reason) from None
    differences = [
        {"position": each.position, "what": each.what, "logged": each.logged, "replayed": each.replayed}
        for each in verdict.differences
    ]
    if as_json:
        print_json(
            {
                "document": verdict.document,
                "commands": verdict.commands,
                "equal": verdict.equal,
                "differences": differences,
                "chain": verdict.chain,
                "state_bytes": verdict.state_bytes,
            }
        )
    else:
        mark = "[bold green]equal[/]" if verdict.equal else "[bold red]differs[/]"
        say(f"{mark}  {verdict.document}: {verdict.commands} commands run again; chain {verdict.chain}")
        if differences:
            shown = table(">position", "what", "logged", "replayed")
            for row in differences[:20]:
                add_row(shown, row["position"], row["what"], _short(row["logged"], 50), _short(row["replayed"], 50))
            out.print(shown)
    return Exit.DONE if verdict.equal else Exit.NO


def _replayed(exported: dict[str, Any], quiet: bool) -> Verdict:
    columns = (TextColumn("replaying"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=err, transient=True, disable=quiet or not err.is_terminal) as progress:
        task = progress.add_task("", total=len(exported["commands"]))
        step: Callable[[int], None] = lambda done: progress.update(task, completed=done)  # noqa: E731
        return replay_export(exported, step)
