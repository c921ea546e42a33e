"""`moot doc fork`: a document's past, or what somebody saw of it, as a file to try things on, or as a document of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.cli.doc import place
from cluster.cli.history import exported_history, write_export
from cluster.cli.output import AsJson, CommandFailed, Exit, command, print_json, say
from cluster.cli.past import Epoch, Source, Viewer, file_of, history_of, principal_named, reading
from cluster.cli.reach import DEFAULT_FOLDER, Addresses, Folder, at, document_of, run
from cluster.ids import DocumentId, Position
from cluster.replay.timeline import at as position_at
from cluster.replay.timeline import cut, end, seen_by

Taken = Callable[[dict[str, Any]], tuple[dict[str, Any], list[str]]]
"""From a whole history to what is forked of it, and what is left out."""


def register(app: typer.Typer) -> None:
    """Add the command of this module to `moot doc`."""
    app.command()(fork)


@command
def fork(
    source: Source,
    output: Annotated[Path | None, typer.Option("--output", help="The file to write.", show_default=False)] = None,
    to: Annotated[
        str,
        typer.Option(
            "--to", help="SPACE/KEY: a document to make of it in the cluster.", metavar="DOCUMENT", show_default=False
        ),
    ] = "",
    index: Annotated[int, typer.Option("--at", help="The last index to keep; 0 for all.", min=0)] = 0,
    viewer: Viewer = None,
    epoch: Epoch = 0,
    address: Addresses = None,
    folder: Folder = DEFAULT_FOLDER,
    as_json: AsJson = False,
) -> Exit:
    """Take a document as it was at one of its positions: into a file, or into a document of its own.

    The file holds the history up to there; `Document.simulate(history=FILE)` goes on from it in a test, and replay, show, diff,
    why and audit read it. With --as it holds no commands, and of the state only what that principal was shown: visible fields
    as they were, all others at their defaults.

    With --to a document begins with that state, by one command of its log: no constructor, no gate, and nothing armed. The
    code must have been deployed to its space.

    Exit codes: 0. 2 no such position, or the gate said no then. 3 no node answers. 4 no such document, or the key is taken.

    Example: moot doc fork cards/table --at 12 --output before-the-quarrel.json; moot doc fork cards/table --to cards/copy
    """
    if (output is None) is (not to):
        raise CommandFailed(
            "a fork goes to a file or to a document",
            next_step="--output FILE, or --to SPACE/KEY",
            code=Exit.USAGE,
            reason="USAGE",
        )
    who = principal_named(viewer)
    target = document_of(to) if to else None

    def taken(exported: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        with reading():
            position, _ = position_at(exported, index, epoch)
            forked = cut(exported, position)
            return (forked, []) if who is None else seen_by(forked, who)

    told: dict[str, Any]
    if target is not None:
        forked, left_out, made = run(_made(source, taken, target, viewer or "", address, folder.absolute()))
        told = {"to": str(target), "made": place(made)}
        text = f"{target} begins at {made} as {forked['document']} was"
    else:
        assert output is not None, "it goes to a file or to a document"
        forked, left_out = taken(history_of(source, address, folder))
        write_export(forked, output)
        count = len(forked["commands"])
        told = {"file": str(output), "commands": count}
        text = f"{f'{count} commands' if who is None else f'what {who} saw'} of {forked['document']} written to {output}"
    told = {"document": forked["document"], "position": forked["position"]} | told
    if who is not None:
        told |= {"as": viewer, "left_out": left_out}
    if as_json:
        print_json(told)
        return Exit.DONE
    say(text)
    if left_out:
        say(f"only a part of these was shown, so they are left out: {', '.join(left_out)}", "yellow")
    return Exit.DONE


async def _made(
    source: str, taken: Taken, target: DocumentId, seen_as: str, address: list[str] | None, folder: Path
) -> tuple[dict[str, Any], list[str], Position]:
    """Fetch, take, and send, in one event loop: a second one would find the first one's connections."""
    exported = file_of(source) or await exported_history(document_of(source), address, folder)
    forked, left_out = taken(exported)
    live = end(forked)
    assert live.instance is not None, "a document is forked where it existed"
    async with at(address, folder) as client:
        answer: Any = await client.admin(
            "ForkDocument",
            document={"space": target.space, "key": target.key},
            source=forked["document"],
            position=place(live.position),
            seen_by=seen_as,
            code_hash=live.code_hash,
            state=live.instance.dump(),
        )
    return forked, left_out, Position(answer.position.epoch, answer.position.index)
