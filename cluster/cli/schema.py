"""`moot space schema`: what a document type takes and shows, as JSON Schema or as typed code for its clients."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.cli.deploying import read_bundle
from cluster.cli.output import AsJson, CommandFailed, Exit, command, print_json, say
from cluster.cli.reach import DEFAULT_FOLDER, Addresses, Folder, at, run
from cluster.cli.space import checked_space
from cluster.documents.loader import BundleLoader


class Format(StrEnum):
    """What to write."""

    JSON = "json"
    PYTHON = "python"
    TYPESCRIPT = "typescript"


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `moot space`."""
    app.command()(schema)


@command
def schema(
    source: Annotated[
        str, typer.Argument(help="A space of a running cluster, or a Python file or directory.", metavar="NAME|FILE")
    ],
    form: Annotated[Format, typer.Option("--format", help="json, or typed code for clients.")] = Format.JSON,
    output: Annotated[Path | None, typer.Option("--output", help="Write to a file.", show_default=False)] = None,
    space: Annotated[str, typer.Option("--space", help="Of a file: the space's name, for the generated head.")] = "",
    address: Addresses = None,
    folder: Folder = DEFAULT_FOLDER,
    as_json: AsJson = False,
) -> Exit:
    """Write what a document type takes and shows: its JSON Schema, or a typed client in Python or TypeScript.

    A path with a dot or a slash is a file, which needs no cluster; anything else is a space. Equal code gives equal output, so
    a generated file may be committed and compared.

    Exit codes: 0. 2 the file can not be read or written. 3 no node answers. 4 there is no such space, or the code of the file
    is refused.

    Example: moot space schema cards.py --format python --output cards_client.py
    """
    described, name = _read(source, space, address, folder)
    text = _written(described, name, form)
    if output is not None:
        _write(output, text)
    if as_json:
        more = {"output": str(output)} if output is not None else {"text": text} if form is not Format.JSON else {}
        print_json({"space": name, "format": str(form), "schema": described, **more})
    elif output is not None:
        say(f"wrote {output}")
    else:
        typer.echo(text, nl=False)
    return Exit.DONE


def _read(source: str, space: str, address: list[str] | None, folder: Path) -> tuple[dict[str, Any], str]:
    """The schema and the space's name."""
    if "." in source or "/" in source:
        path = Path(source)
        bundle = read_bundle(path)
        return BundleLoader().load(bundle.encode()).schema(), checked_space(space) if space else path.absolute().stem

    folder = folder.absolute()

    async def ask() -> Any:
        async with at(address, folder) as client:
            return await client.admin("GetSpace", space=checked_space(source))

    found: dict[str, Any] = json.loads(run(ask()).schema)
    return found, source


def _written(described: dict[str, Any], name: str, form: Format) -> str:
    from cluster.stubs import python_stub, typescript_stub

    if form is Format.PYTHON:
        return python_stub(described, name)
    if form is Format.TYPESCRIPT:
        return typescript_stub(described, name)
    return json.dumps(described, indent=2, ensure_ascii=False) + "\n"


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise CommandFailed(
            f"can not write {path}: {error.strerror}", state="nothing was written", code=Exit.USAGE, reason="USAGE"
        ) from None
