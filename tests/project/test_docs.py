"""What the documentation tells people to type exists, and what it shows them to write runs."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "deploy" / "README.md"]


def blocks(page: Path, language: str) -> list[str]:
    """Contents of the fenced blocks of a language; "" are those that name none."""
    found: list[str] = []
    opened: str | None = None
    for line in page.read_text().splitlines():
        if line.startswith("```"):
            if opened is None:
                opened = line.removeprefix("```").strip()
                found += [""] if opened == language else []
            else:
                opened = None
        elif opened == language:
            found[-1] += line + "\n"
    return found


def typed_commands() -> list[tuple[str, str]]:
    """(page, command line) of every `moot` and `make` line in blocks that name no language."""
    found = []
    for page in PAGES:
        for block in blocks(page, ""):
            for line in block.splitlines():
                command = line.partition(" exec n1 ")[2] or line
                if command.startswith(("moot ", "make ")):
                    found.append((page.name, command))
    return found


def test_there_is_something_to_check() -> None:
    assert len(typed_commands()) > 10


@pytest.mark.parametrize(("page", "line"), [pair for pair in typed_commands() if pair[1].startswith("make ")])
def test_every_make_target_exists(page: str, line: str) -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert line.partition("#")[0].split()[1] in targets, page


@pytest.mark.parametrize(("page", "line"), [pair for pair in typed_commands() if pair[1].startswith("moot ")])
def test_every_command_and_option_exists(page: str, line: str) -> None:
    from cluster.cli.app import app

    command: Any = get_command(app)
    words = shlex.split(line, comments=True)[1:]
    while words and hasattr(command, "commands") and words[0] in command.commands:
        command = command.commands[words.pop(0)]
    assert not hasattr(command, "commands"), f"{page}: {line!r} does not name a command"
    options = {name: parameter for parameter in command.params for name in parameter.opts if name.startswith("-")}
    positional = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    given = 0
    while words:
        word = words.pop(0)
        if word.startswith("-"):
            assert word in options, f"{page}: {line!r} has an option that does not exist"
            if not options[word].is_flag:
                words.pop(0)
        else:
            given += 1
    required = sum(parameter.required for parameter in positional)
    assert required <= given, f"{page}: {line!r} lacks an argument"
    assert given <= len(positional) or any(parameter.nargs == -1 for parameter in positional), f"{page}: {line!r} has too many"


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_every_python_sample_parses_and_fits_the_page(page: Path) -> None:
    for block in blocks(page, "python"):
        ast.parse(block)
        assert max(map(len, block.splitlines())) <= 100
