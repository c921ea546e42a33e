"""Every name that an author can import is explained, and the page says what the code says."""

from __future__ import annotations

from pathlib import Path

from cluster.documents.facades import AUTHOR_NAMES
from cluster.documents.reference import GROUPS, page

PAGE = Path(__file__).parents[2] / "docs" / "authoring" / "reference.md"


def test_the_page_is_made_of_the_docstrings() -> None:
    assert PAGE.read_text() == page(), "write it anew: python -m cluster.documents.reference > docs/authoring/reference.md"


def test_every_name_has_its_place() -> None:
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(AUTHOR_NAMES)
