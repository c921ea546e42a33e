"""docs/internals/raft-traps.md stays true: it has a row for each trap, and what a row names exists and speaks of that trap."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "internals" / "raft-traps.md"
TRAPS = 54

ROW = re.compile(r"^\| (\d+) \| [^|]+ \| [^|]+ \| ([^|]+) \|$", re.MULTILINE)
SHOWN = re.compile(r"`([a-z_/]+\.(?:py::\w+|txt))`")
NUMBERS = re.compile(r"[Tt]raps? ((?:\d+|,|and|to|or| )+)")


def rows() -> dict[int, list[str]]:
    return {int(number): SHOWN.findall(shown) for number, shown in ROW.findall(PAGE.read_text())}


def traps_in(text: str) -> set[int]:
    """`trap 3`, `traps 3 and 5`, `traps 3, 5`, `traps 40 to 49`."""
    found: set[int] = set()
    for numbers in NUMBERS.findall(" ".join(text.replace("#", " ").split())):
        found |= {int(number) for number in re.findall(r"\d+", numbers)}
        for first, last in re.findall(r"(\d+) to (\d+)", numbers):
            found |= set(range(int(first), int(last) + 1))
    return found


@cache
def docstrings(path: Path) -> dict[str, str]:
    functions = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef))
    return {function.name: ast.get_docstring(function) or "" for function in functions}


def said_by(shown: str) -> str:
    """The docstring of a test, the comments of a scenario."""
    name, _, test = shown.partition("::")
    path = TESTS / name
    assert path.is_file(), f"{name} does not exist"
    if not test:
        return "\n".join(line for line in path.read_text().splitlines() if line.startswith("#"))
    assert test in docstrings(path), f"{name} has no {test}"
    return docstrings(path)[test]


def test_every_trap_has_a_row() -> None:
    assert list(rows()) == list(range(1, TRAPS + 1))


@pytest.mark.parametrize("trap", range(1, TRAPS + 1))
def test_what_shows_a_trap_exists_and_names_it(trap: int) -> None:
    shown = rows()[trap]
    assert shown, f"nothing shows trap {trap}"
    silent = [one for one in shown if trap not in traps_in(said_by(one))]
    assert not silent, f"these do not say that they are about trap {trap}"


def test_numbers_of_traps_are_understood() -> None:
    assert traps_in("Reference traps 12, 23 and 40 to 43 at once; trap 9.") == {9, 12, 23, 40, 41, 42, 43}
