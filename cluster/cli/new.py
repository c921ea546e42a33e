"""`moot new`: a directory with a document type that works, its tests, and nothing that is not needed."""

from __future__ import annotations

import keyword
import re
import sys
from enum import StrEnum
from importlib import resources
from pathlib import Path
from typing import Annotated, Final

import typer

from cluster.cli.output import AsJson, CommandFailed, Exit, command, print_json, say

NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,62}\Z")


class Template(StrEnum):
    """What to begin with."""

    COUNTER = "counter"
    CHAT = "chat"
    GAME = "game"


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("new", rich_help_panel="Documents")(new)


@command
def new(
    name: Annotated[str, typer.Argument(help="Name of the directory, the module and the space.", metavar="NAME")],
    template: Annotated[Template, typer.Option("--template", help="What to begin with.")] = Template.COUNTER,
    as_json: AsJson = False,
) -> Exit:
    """Make a directory with a document type that works: its code, tests that pass, pyproject.toml and a README.

    Exit codes: 0 made. 2 the name can not be used, or something of that name is here already; nothing was changed.

    Example: moot new duel --template game
    """
    _check(name)
    folder = Path(name)
    files = project_files(name, template)
    try:
        folder.mkdir()
    except FileExistsError:
        raise _refused(f"{name} exists already", "choose another name, or another directory") from None
    except OSError as error:
        raise _refused(f"can not make {name}: {error.strerror}", "go to a directory that you may write to") from None
    (folder / "tests").mkdir()
    for path, text in files.items():
        (folder / path).write_text(text)
    if as_json:
        print_json({"folder": name, "template": str(template), "files": sorted(files)})
        return Exit.DONE
    say(f"made [bold]{name}[/]: {', '.join(sorted(files))}")
    say(f"try      cd {name}; pytest; moot dev .", "dim")
    return Exit.DONE


def _check(name: str) -> None:
    if not NAME.match(name):
        raise _refused(f"{name!r} can not name a module and a space", "use a-z, 0-9 and _, beginning with a letter")
    if keyword.iskeyword(name) or name in sys.stdlib_module_names or name in ("cluster", "chaos", "tests", "pytest"):
        raise _refused(f"{name} is a name that Python or Moot uses itself", "choose another name")


def _refused(what: str, next_step: str) -> CommandFailed:
    return CommandFailed(what, state="nothing was changed", next_step=next_step, code=Exit.USAGE, reason="USAGE")


def project_files(name: str, template: Template) -> dict[str, str]:
    """Contents by path in the new directory."""
    cls = "".join(part.capitalize() for part in name.split("_") if part)
    folder = resources.files("cluster.cli.templates")

    def text(file: str) -> str:
        return folder.joinpath(file).read_text().replace("Template", cls).replace("template", name)

    return {
        f"{name}.py": text(f"{template}.txt"),
        f"tests/test_{name}.py": text(f"{template}_test.txt"),
        "pyproject.toml": text("pyproject.txt"),
        "README.md": text("readme.txt"),
    }
