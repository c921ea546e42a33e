"""What `moot` says of itself: every command explains, shows an example and its exit codes, and takes --json."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import cluster
from cluster.cli.app import app
from cluster.cli.output import Exit
from tests.cli.terminal import environment

ROOT: Any = get_command(app)
runner = CliRunner()
WITHOUT_JSON = {("node", "start")}
"""A daemon: it logs, it does not answer."""


def commands() -> Iterator[tuple[str, ...]]:
    """Names of all commands, groups left out."""

    def below(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        if hasattr(command, "commands"):
            for name, child in command.commands.items():
                yield from below(child, (*path, name))
        else:
            yield path

    yield from below(ROOT, ())


ALL = sorted(commands())


def command_of(path: tuple[str, ...]) -> Any:
    command = ROOT
    for name in path:
        command = command.commands[name]
    return command


def test_there_is_everything_that_the_documentation_names() -> None:
    names = {" ".join(path) for path in ALL}
    assert names >= {
        "demo", "up", "down", "kill", "pause", "restart", "status", "nodes", "where", "node start", "config show",
        "shards list", "shards isolate", "space deploy", "space list", "space show", "space errors", "doc create", "doc send",
        "doc read", "doc watch", "doc log", "doc replay", "doc list", "doc delete", "doc inspect", "bench send",
        "bench recover",
        "bench idle",
    }  # fmt: skip


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_command_teaches_with_an_example_and_its_exit_codes(path: tuple[str, ...]) -> None:
    text = " ".join((command_of(path).help or "").split())
    assert re.search(rf"Example: .*moot {' '.join(path)}\b", text), text
    assert "Exit codes: 0" in text


@pytest.mark.parametrize("path", [path for path in ALL if path not in WITHOUT_JSON], ids=" ".join)
def test_command_answers_programs_too(path: tuple[str, ...]) -> None:
    assert "--json" in {option for parameter in command_of(path).params for option in parameter.opts}


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_option_is_explained(path: tuple[str, ...]) -> None:
    for parameter in command_of(path).params:
        assert getattr(parameter, "help", None), parameter.name


@pytest.mark.parametrize("path", [(), *ALL], ids=lambda path: " ".join(path) or "moot")
def test_help_can_be_shown(path: tuple[str, ...]) -> None:
    shown = runner.invoke(app, [*path, "--help"])
    assert shown.exit_code == 0
    assert "Usage:" in shown.output


def test_examples_name_commands_and_options_that_exist() -> None:
    for path in ALL:
        text = (command_of(path).help or "").partition("Example: ")[2]
        for example in re.split(r"; |&& ", text.strip().splitlines()[0]):
            words = example.split()
            if words[0] != "moot":
                continue
            named = ROOT
            rest = words[1:]
            while rest and hasattr(named, "commands"):
                named = named.commands[rest.pop(0)]
            known = {option for parameter in named.params for option in parameter.opts}
            assert {word for word in rest if word.startswith("--")} <= known, example


def test_exit_codes_are_written_down_where_people_look() -> None:
    shown = " ".join(runner.invoke(app, ["--help"]).output.split())
    for code in Exit:
        assert f"{int(code)} " in shown


def test_version_is_the_packages() -> None:
    assert runner.invoke(app, ["--version"]).output.strip() == f"moot {cluster.__version__}"


LOADED = """
import json, sys
from typer.testing import CliRunner
from cluster.cli.app import app
CliRunner().invoke(app, json.loads(sys.argv[1]))
print(json.dumps(sorted(sys.modules)))
"""


@pytest.mark.parametrize(
    ("arguments", "needless"),
    [
        (["--version"], ["asyncio", "grpc", "rocksdict", "cluster.client", "cluster.documents", "cluster.node"]),
        (["node", "start", "--node-id", "n1"], ["cluster.client", "cluster.replay", "cluster.cli.status"]),
        (["doc", "read", "nokey"], ["rocksdict", "cluster.node", "cluster.replay", "cluster.documents.loader"]),
        (["status", "--address", "nowhere"], ["rocksdict", "cluster.node", "cluster.replay", "cluster.documents.loader"]),
    ],
    ids=lambda value: value[0],
)
def test_command_does_not_load_what_only_others_need(arguments: list[str], needless: list[str]) -> None:
    """Imports are most of what a short command does, and nodes are commands too."""
    command = [sys.executable, "-c", LOADED, json.dumps(arguments)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=True)
    loaded = json.loads(done.stdout)
    assert "cluster.cli.app" in loaded
    assert [name for name in needless if name in loaded] == []
