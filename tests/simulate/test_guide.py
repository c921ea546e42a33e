"""The tests that the authors' guide shows are tests that pass."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

GUIDE = Path(__file__).parents[2] / "docs" / "authoring"


def shown_tests() -> list[tuple[str, str, str]]:
    """(page, name of the test, source of its block)."""
    found = []
    for page in sorted(GUIDE.glob("*.md")):
        for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL):
            found += [(page.name, name, block) for name in re.findall(r"^def (test_\w+)\(\)", block, flags=re.MULTILINE)]
    return found


def test_the_guide_shows_tests() -> None:
    assert shown_tests()


@pytest.mark.parametrize(("page", "name", "source"), shown_tests())
def test_shown_test_passes(page: str, name: str, source: str) -> None:
    module: dict[str, Any] = {"__name__": f"guide_{page.partition('.')[0]}"}
    exec(compile(source, page, "exec"), module)
    module[name]()
