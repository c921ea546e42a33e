"""`moot doc repair | thaw`: an operator changes a document's state by hand, or decides which replica is right: each as one
command of the document's log.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.cli.doc import Address, place, position_of
from cluster.cli.output import AsJson, CommandFailed, Exit, command, print_json, say
from cluster.cli.past import Source, history_of, reading, show_patch
from cluster.cli.reach import DEFAULT_FOLDER, Addresses, Folder, Who, ask_one, at, document_of, principal_of, run
from cluster.errors import ClusterError
from cluster.ids import DocumentId, Position, Principal
from cluster.replay.timeline import repaired

Patch = list[dict[str, Any]]


def register(app: typer.Typer) -> None:
    """Add the command of this module to `moot doc`."""
    app.command()(repair)
    app.command()(thaw)


@command
def repair(
    source: Source,
    patch: Annotated[
        str,
        typer.Option("--patch", help="A JSON Patch of the state: a file, or the operations themselves.", show_default=False),
    ] = "[]",
    reason: Annotated[str, typer.Option("--reason", help="Why; it stays in the history.", show_default=False)] = "",
    expect: Annotated[
        str,
        typer.Option("--expect-position", help="Only if the document is at this position, EPOCH.INDEX.", show_default=False),
    ] = "",
    thaw: Annotated[
        bool, typer.Option("--thaw", help="Let a document that was frozen with an isolated command take commands again.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, by replay; change nothing.")] = False,
    who: Who = "",
    address: Addresses = None,
    folder: Folder = DEFAULT_FOLDER,
    as_json: AsJson = False,
) -> Exit:
    """Change a document's state by hand: add, replace, remove, test, or splice, at paths that begin with a declared field.

    It is one command of the log: its viewers are told, and `moot doc log` shows who did it and why. None of the document's code
    is asked; types and limits are checked as for a handler. Everything is done or nothing.

    With --dry-run a file of `moot doc log --export` will do in place of a document.

    Exit codes: 0 done. 2 wrong command line, or --dry-run found that it does not fit. 3 no node answers. 4 refused: it does not
    fit the state, or the document is elsewhere; nothing changed. 5 not known: look at moot doc log.

    Example: moot doc repair chat/lobby --patch '[{"op": "replace", "path": "/title", "value": "tea"}]' --reason "typo, #12"
    """
    operations = _operations(patch)
    if not reason.strip():
        raise CommandFailed(
            "a repair needs a reason", state="nothing was sent", next_step="--reason TEXT", code=Exit.USAGE, reason="USAGE"
        )
    expected = position_of(expect) if expect else None
    if dry_run:
        wanted = [expected.epoch, expected.index] if expected is not None else None
        order = {"patch": operations, "reason": reason, "expect": wanted, "thaw": thaw}
        return _tried(source, order, principal_of(who), address, folder, as_json)
    position = run(_repaired(source, operations, reason, expected, thaw, who, address, folder.absolute()))
    if as_json:
        print_json({"document": source, "position": place(position), "operations": len(operations), "thawed": thaw})
    else:
        say(f"{source} repaired at {position}   [dim]moot doc log {source} --from {position.index}[/]")
    return Exit.DONE


def _operations(given: str) -> Patch:
    """The patch, of a file or of the command line. Raises CommandFailed."""
    text = given
    try:
        if not given.lstrip().startswith("["):
            text = Path(given).read_text()
        operations = json.loads(text)
        assert isinstance(operations, list)
    except OSError as error:
        what = f"can not read {given}: {error.strerror}"
    except (ValueError, AssertionError, RecursionError):
        what = "the patch is not a JSON array of operations"
    else:
        return operations
    raise CommandFailed(
        what,
        state="nothing was sent",
        next_step="""for example --patch '[{"op": "replace", "path": "/title", "value": "tea"}]', or a file with that""",
        code=Exit.USAGE,
        reason="USAGE",
    )


def _tried(source: str, order: dict[str, Any], who: str, address: list[str] | None, folder: Path, as_json: bool) -> Exit:
    exported = history_of(source, address, folder)
    with reading():
        position, changes = repaired(exported, json.dumps(order).encode(), Principal.parse(who))
    if as_json:
        print_json({"document": exported["document"], "position": place(position), "dry_run": True, "patch": changes})
        return Exit.DONE
    say(f"{exported['document']} at {position} would change in {len(changes)} places; nothing was changed", "dim")
    show_patch(changes)
    return Exit.DONE


async def _repaired(
    source: str,
    operations: Patch,
    reason: str,
    expected: Position | None,
    thaw: bool,
    who: str,
    address: list[str] | None,
    folder: Path,
) -> Position:
    target = document_of(source)
    wanted: dict[str, Any] = {"patch": json.dumps(operations).encode(), "reason": reason, "thaw": thaw}
    if expected is not None:
        wanted["expected"] = place(expected)
    async with at(address, folder, who) as client:
        answer: Any = await client.admin("RepairDocument", document={"space": target.space, "key": target.key}, **wanted)
    return Position(answer.position.epoch, answer.position.index)


@command
def thaw(
    document: Address,
    node: Annotated[str, typer.Option("--from", help="The node whose replica is right.", show_default=False)],
    reason: Annotated[str, typer.Option("--reason", help="Why; it stays in the history.", show_default=False)],
    who: Who = "",
    address: Addresses = None,
    folder: Folder = DEFAULT_FOLDER,
    as_json: AsJson = False,
) -> Exit:
    """Let a document that is frozen because its replicas differ take commands again, as it is on one node.

    What the other replicas had is gone. The document goes on in a later epoch, and everybody who watches gets it whole. Look at
    what each has first: moot doc divergences, moot doc inspect SPACE/KEY.

    Exit codes: 0 done. 2 wrong command line. 3 no node answers, or not that one. 4 refused: it is not frozen; nothing changed.
    5 not known: look at moot doc inspect.

    Example: moot doc thaw chat/lobby --from n2 --reason "n1 and n3 had the old release"
    """
    target = document_of(document)
    position, lost, unasked = run(_thawed(target, node, reason, who, address, folder.absolute()))
    if as_json:
        print_json(
            {"document": document, "position": place(position), "from": node, "replaced": lost, "unasked": sorted(unasked)}
        )
        return Exit.DONE
    say(f"{document} goes on at {position} as it was on {node}; replaced: {', '.join(lost) or 'nothing'}")
    for name, why in unasked.items():
        say(f"{name} was not asked what it has: {why}", "yellow")
    return Exit.DONE


async def _thawed(
    target: DocumentId, node: str, reason: str, who: str, given: list[str] | None, folder: Path
) -> tuple[Position, list[str], dict[str, str]]:
    """The position of the thaw, the nodes whose replica was another, and those that could not be asked, with why."""
    named = {"space": target.space, "key": target.key}
    async with at(given, folder, who) as client:
        where: Any = await client.admin("Where", document=named)
        listed: Any = await client.admin("ListNodes")
        gateways = {each.node_id: each.gateway_address for each in listed.nodes}
        found: dict[str, Any] = {}
        unasked: dict[str, str] = {}
        for holder in {replica.node_id: None for replica in where.shard.replicas}:
            try:
                asked = ask_one(gateways.get(holder, ""), "InspectDocument", document=named, with_record=holder == node)
                found[holder] = await asked
            except ClusterError as error:
                unasked[holder] = error.message
        if node not in found:
            held = ", ".join(replica.node_id for replica in where.shard.replicas)
            raise CommandFailed(
                f"{node} does not answer: {unasked[node]}" if node in unasked else f"{node} has no replica of {target}",
                state="nothing changed",
                next_step=f"choose one of {held}",
                code=Exit.UNREACHABLE if node in unasked else Exit.USAGE,
                reason="NO_REPLICA",
            )
        epoch = 1 + max(each.position.epoch for each in found.values())
        right = found[node]
        answer: Any = await client.admin(
            "ThawDocument", document=named, node_id=node, record=right.record, epoch=epoch, reason=reason
        )
    lost = [holder for holder, each in found.items() if each.record_hash != right.record_hash]
    return Position(answer.position.epoch, answer.position.index), lost, unasked
