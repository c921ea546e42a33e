"""What the documentation tells people to type exists, and what it shows them to write runs."""

from __future__ import annotations

import ast
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from cluster.documents.bundle import from_source
from cluster.documents.loader import BundleLoader
from cluster.documents.runtime import Code, Invocation, Outcome
from cluster.errors import InvalidBundle
from cluster.ids import DocumentId, Principal

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "deploy" / "README.md"]
AUTHORING = sorted((ROOT / "docs" / "authoring").glob("*.md"))


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
    for page in [*PAGES, *AUTHORING]:
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


class Guests:
    """The guestbook of the quickstart, on the real runtime."""

    def __init__(self) -> None:
        (sample,) = [block for block in blocks(ROOT / "docs" / "quickstart.md", "python") if "class Guestbook" in block]
        self.program = BundleLoader().load(from_source(sample, name="guestbook").encode())
        self.instance = self.program.new(DocumentId("guestbook", "party"))
        self.index = 0

    def run(self, sender: str, channel: str, payload: bytes = b"{}") -> Outcome:
        self.index += 1
        checked = self.program.check(channel, payload)
        return self.instance.run(
            Invocation(channel, checked, Principal.parse(sender), 1_700_000_000_000, bytes(32), self.index)
        )

    def view(self, who: str) -> dict[str, Any]:
        view: dict[str, Any] = json.loads(self.instance.view(Principal.parse(who)))
        return view


def test_guestbook_of_the_quickstart_does_what_the_page_says() -> None:
    guests = Guests()
    assert guests.run("alice@acme", "").code is Code.OK
    first = guests.run("bob@acme", "sign", b'{"text": "hello"}')
    assert (first.code, first.answer) == (Code.OK, b"1")
    again = guests.run("bob@acme", "sign", b'{"text": "hello"}')
    assert again.code is Code.REFUSED
    assert json.loads(again.answer)["name"] == "AlreadySigned"
    assert guests.run("eve@elsewhere", "sign", b'{"text": "hi"}').code is Code.DENIED
    view = guests.view("carol@acme")
    assert view["owner"] == "alice@acme"
    assert len(view["entries"]) == 1
    assert "notes" not in view


def test_sample_that_loses_its_gate_is_refused_as_the_page_says() -> None:
    (sample,) = [block for block in blocks(ROOT / "docs" / "quickstart.md", "python") if "class Guestbook" in block]
    gateless = re.sub(r"    @read\.gate\n.*?\n\n", "", sample, flags=re.DOTALL)
    assert "enter" not in gateless
    with pytest.raises(InvalidBundle, match="gate"):
        BundleLoader().load(from_source(gateless, name="guestbook").encode())
