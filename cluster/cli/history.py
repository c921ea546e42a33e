"""`moot doc inspect | log | replay`: what a document is on every replica, what made it, and whether that still comes out."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from cluster.cli.doc import Address, place
from cluster.cli.output import AsJson, CommandFailed, Exit, add_row, command, err, out, print_json, say, styled, table
from cluster.cli.reach import DEFAULT_FOLDER, Addresses, Folder, addresses_of, ask_one, at, document_of, run
from cluster.cli.space import moment
from cluster.client import Client
from cluster.errors import ClusterError, HistoryTrimmed, InvalidRequest, NoReplica, UnknownDocument
from cluster.ids import DocumentId, Position
from cluster.replay.audit import BY_HAND, reason_of
from cluster.replay.file import CODE_BRINGING, command_row, export_of, read_export
from cluster.replay.verify import Verdict
from cluster.replay.verify import replay as replay_export
from cluster.v1 import admin_pb2

PAGE: Final = 500


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `moot doc`."""
    for function in (inspect, log, replay):
        app.command()(function)


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
    others: list[str] = []
    named = {"space": target.space, "key": target.key}
    asked = (ask_one(address, "InspectDocument", document=named) for address in addresses)
    answers = await asyncio.gather(*asked, return_exceptions=True)
    for address, answer in zip(addresses, answers, strict=True):
        if isinstance(answer, NoReplica):
            others.append(answer.message)
        elif isinstance(answer, ClusterError):
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
    if not rows and others and not errors:
        raise CommandFailed(
            f"only nodes that hold none of it were asked: {'; '.join(others)}",
            next_step="name one that does with --address",
            code=Exit.REFUSED,
            reason=NoReplica.reason,
        )
    if not rows:
        raise CommandFailed(f"no node answered: {errors}", code=Exit.UNREACHABLE, next_step="moot status", reason="UNAVAILABLE")
    return rows, errors


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
        async with _at_holder(address, folder.absolute(), target) as client:
            return await _history(client, target, epoch, first, limit)

    commands, answer = run(ask())
    if as_json:
        position = Position(answer.position.epoch, answer.position.index)
        rows = [command_row(each) for each in commands]
        print_json({"document": str(target), "position": place(position), "earliest": answer.earliest_index, "commands": rows})
        return Exit.DONE
    shown = table(">position", "time (UTC)", "who", "what", "ended", "answer")
    for each in commands:
        row = command_row(each)
        what = row["kind"] if row["kind"] != "send" else f"{row['channel']} {_short(row['payload'], 60)}"
        if row["kind"] in BY_HAND:
            what = f"{row['kind']}: {_short(reason_of(row), 60)}"
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


@contextlib.asynccontextmanager
async def _at_holder(given: list[str] | None, folder: Path, target: DocumentId) -> AsyncIterator[Client]:
    """A client at a node that holds a document: its leader's if that answers. Others have no history of it."""
    async with at(given, folder) as client:
        where: Any = await client.admin("Where", document={"space": target.space, "key": target.key})
        listed: Any = await client.admin("ListNodes")
    gateways = {node.node_id: node.gateway_address for node in listed.nodes}
    names = dict.fromkeys([where.shard.leader, *(replica.node_id for replica in where.shard.replicas)])
    async with at([gateways[name] for name in names if name in gateways] or given, folder) as client:
        yield client


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


async def exported_history(target: DocumentId, address: list[str] | None, folder: Path) -> dict[str, Any]:
    """A document's whole history with its code, as a file holds it. Raises UnknownDocument and what calls raise."""
    async with _at_holder(address, folder, target) as client:
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
        whole = whole and bool(commands) and commands[0].position.epoch == 1 and begins(commands[0])
        names = {each.code_hash for each in commands if each.kind in CODE_BRINGING}
        bundles = {name: (await client.admin("GetBundle", code_hash=name)).bundle for name in names}  # type: ignore[attr-defined]
        return export_of(target, commands, bundles, inspected, whole=whole)


def begins(command: Any) -> bool:
    """Whether a command may be the first of a document: a fork goes on at the index that it was taken at."""
    return bool(command.position.index == 1 or command.kind == admin_pb2.COMMAND_KIND_FORK)


def _export(target: DocumentId, path: Path, address: list[str] | None, folder: Path, as_json: bool) -> Exit:
    exported = run(exported_history(target, address, folder))
    write_export(exported, path)
    count = len(exported["commands"])
    if as_json:
        print_json({"document": str(target), "file": str(path), "commands": count, "whole": exported["whole"]})
    else:
        say(f"{count} commands of {target} written to {path}   [dim]moot doc replay {path}[/]")
    return Exit.DONE


def write_export(exported: dict[str, Any], path: Path) -> None:
    """Write a history to a file. Raises CommandFailed."""
    try:
        path.write_text(json.dumps(exported, ensure_ascii=False) + "\n")
    except OSError as error:
        raise CommandFailed(f"can not write {path}: {error.strerror}", code=Exit.USAGE, reason="USAGE") from None


def _reached(position: Any, end: Any) -> bool:
    return (position.epoch, position.index) <= (end.epoch, end.index)


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
