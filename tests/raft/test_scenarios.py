"""Every story in tests/raft/scenarios happens as it is written there. `--rewrite` writes what happens now; read the diff."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest

from tests.raft.scenario import COMMANDS, play

FILES = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_scenario_happens_as_written(path: Path, request: pytest.FixtureRequest) -> None:
    text = path.read_text()
    assert text.startswith("# "), "a story says what it is about"
    now = play(text)
    if request.config.getoption("--rewrite", default=False):
        path.write_text(now)
        return
    difference = "\n".join(difflib.unified_diff(text.splitlines(), now.splitlines(), "written", "now", lineterm="", n=5))
    assert not difference, difference


def test_scenarios_are_found_and_use_every_command() -> None:
    used = {line.split()[1] for path in FILES for line in path.read_text().splitlines() if line.startswith("> ")}
    assert used == set(COMMANDS)


def test_what_happens_otherwise_than_written_is_noticed() -> None:
    text = "# A lone voter.\n> add-replicas 1\n> campaign 1\n  1: follower in term 0\n"
    assert play(text) == "# A lone voter.\n> add-replicas 1\n> campaign 1\n  1: candidate in term 1\n"


def test_same_scenario_happens_the_same_way_twice() -> None:
    """Cores, disks and randomness are functions of the commands."""
    for path in FILES:
        assert play(path.read_text()) == play(path.read_text())
