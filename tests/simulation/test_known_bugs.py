"""The page about known bugs speaks of planted bugs that exist, and of tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

from chaos.mutants.hunt import MUTANTS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "internals" / "known-bugs.md").read_text()
TESTING = (ROOT / "docs" / "internals" / "testing.md").read_text()


def names_in(text: str) -> set[str]:
    """What stands in code marks and could be a mutant: words with underscores."""
    return {name for name in re.findall(r"`([a-z0-9_]+)`", text) if "_" in name}


def test_every_planted_bug_that_the_page_names_exists() -> None:
    named = names_in(PAGE)
    assert len(named) > 60
    assert named <= set(MUTANTS), sorted(named - set(MUTANTS))


def test_every_test_that_the_pages_name_exists() -> None:
    found = re.findall(r"`((?:tests|chaos)/[a-z_/]+(?:\.py)?)`", PAGE + TESTING)
    assert len(found) > 15
    for path in found:
        assert (ROOT / path).exists(), path


def test_all_forty_two_findings_have_a_row() -> None:
    rows = [int(number) for number in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)]
    assert rows == list(range(1, 43))


def test_the_published_table_is_about_the_planted_bugs_that_there_are() -> None:
    rows = re.findall(r"^\| `([a-z0-9_]+)` \|", TESTING, re.MULTILINE)
    assert sorted(rows) == sorted(MUTANTS)
