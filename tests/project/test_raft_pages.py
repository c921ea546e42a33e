"""docs/internals/raft-traps.md and raft-paper.md stay true: what their rows name exists and speaks of that trap or section."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGES = TESTS.parent / "docs" / "internals"
TRAPS = 54
SECTIONS = ["5.1", "5.2", "5.3", "5.4.1", "5.4.2", "5.4.3", "5.5", "5.6", "6", "7", "8", "figure 2", "figure 3", "figure 13"]

ROW = re.compile(r"^\| ((?:figure )?[0-9.]+) \| .+ \| ([^|]+) \|$", re.MULTILINE)
SHOWN = re.compile(r"`([a-z_/]+\.(?:py::\w+|txt))`")
NUMBERS = re.compile(r"[Tt]raps? ((?:\d+|,|and|to|or| )+)")


def rows(page: str) -> list[tuple[str, list[str]]]:
    return [(first, SHOWN.findall(shown)) for first, shown in ROW.findall((PAGES / page).read_text())]


def traps_in(text: str) -> set[int]:
    """`trap 3`, `traps 3 and 5`, `traps 3, 5`, `traps 40 to 49`."""
    found: set[int] = set()
    for numbers in NUMBERS.findall(" ".join(text.replace("#", " ").split())):
        found |= {int(number) for number in re.findall(r"\d+", numbers)}
        for first, last in re.findall(r"(\d+) to (\d+)", numbers):
            found |= set(range(int(first), int(last) + 1))
    return found


def names(text: str, section: str) -> bool:
    """Whether a docstring names `5.4.2`, or `figure 2`, or the paper's section `6`."""
    if section.startswith("figure"):
        return re.search(rf"\bfigure {section.split()[1]}\b", text, re.IGNORECASE) is not None
    if "." not in section:
        return re.search(rf"\b[Pp]aper (?:[0-9.]+(?:,| and) )*{section}(?![0-9.]\d)", text) is not None
    return re.search(rf"(?<![0-9.]){re.escape(section)}(?!\.?\d)", text) is not None


@cache
def docstrings(path: Path) -> dict[str, str]:
    functions = (
        node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
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
    assert [first for first, _ in rows("raft-traps.md")] == [str(number) for number in range(1, TRAPS + 1)]


@pytest.mark.parametrize(("trap", "shown"), rows("raft-traps.md"))
def test_what_shows_a_trap_exists_and_names_it(trap: str, shown: list[str]) -> None:
    assert shown, f"nothing shows trap {trap}"
    silent = [one for one in shown if int(trap) not in traps_in(said_by(one))]
    assert not silent, f"these do not say that they are about trap {trap}"


def test_every_section_of_the_paper_has_a_row() -> None:
    told = {section for section, _ in rows("raft-paper.md")}
    assert set(SECTIONS) - told == set()


@pytest.mark.parametrize(("section", "shown"), rows("raft-paper.md"))
def test_what_shows_a_claim_exists_and_names_its_section(section: str, shown: list[str]) -> None:
    assert shown, f"nothing shows this claim of {section}"
    silent = [one for one in shown if not names(said_by(one), section)]
    assert not silent, f"these do not name {section}"


def test_stories_that_the_pages_name_exist() -> None:
    for page in ("raft-traps.md", "raft-paper.md"):
        for one in SHOWN.findall((PAGES / page).read_text()):
            assert said_by(one) is not None


def test_numbers_of_traps_and_sections_are_understood() -> None:
    assert traps_in("Reference traps 12, 23 and 40 to 43 at once; trap 9.") == {9, 12, 23, 40, 41, 42, 43}
    assert names("Paper 5.2 and 6: a vote", "6")
    assert not names("Paper 6.4: a read", "6")
    assert not names("Thesis 4.2.3", "4.2")
