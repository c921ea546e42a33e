"""Every reason not to deploy is explained, and the explanation is true: broken code is refused for it, repaired code is not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import cluster.documents
from cluster.documents.bundle import from_source
from cluster.documents.explained import EXPLANATIONS, HEADER, Explanation, page
from cluster.documents.loader import BundleLoader
from cluster.errors import InvalidBundle

SOURCES = Path(cluster.documents.__file__).parent
PAGE = Path(__file__).parents[2] / "docs" / "authoring" / "refusals.md"
LATER_ONLY = {"upgrade", "version", "channel-removed"}
"""Codes that compare a bundle with the one before it: they are explained in versions.md."""


@pytest.mark.parametrize("each", EXPLANATIONS, ids=lambda each: each.code)
def test_breaking_the_rule_is_refused_with_a_place_a_reason_and_a_replacement(each: Explanation) -> None:
    with pytest.raises(InvalidBundle) as refused:
        BundleLoader().load(from_source(HEADER + each.broken, entry=each.entry).encode())
    for line in str(refused.value).splitlines():
        found = re.fullmatch(r"document(?:\.py)?(?::\w+)?:(\d+): ([a-z-]+): (.+); (.+)", line)
        assert found is not None, line
        assert found[2] == each.code
        assert 1 <= int(found[1]) <= 1 + (HEADER + each.broken).count("\n")


@pytest.mark.parametrize("each", EXPLANATIONS, ids=lambda each: each.code)
def test_the_repaired_code_is_accepted(each: Explanation) -> None:
    program = BundleLoader().load(from_source(HEADER + each.repaired, entry=each.entry).encode())
    assert program.declaration.gate is not None


def test_the_page_is_made_of_the_table() -> None:
    assert PAGE.read_text() == page(), "write it anew: python -m cluster.documents.explained > docs/authoring/refusals.md"


def test_every_code_that_a_finding_can_have_is_explained() -> None:
    used: set[str] = set()
    for source in sorted(SOURCES.glob("*.py")):
        if source.name != "explained.py":
            text = source.read_text()
            used |= set(re.findall(r'(?:refuse|Finding)\((?:[^()"]|\([^()]*\))*?"([a-z]+(?:-[a-z]+)*)", f?"', text))
            used |= set(re.findall(r'_all\(\s*(?:"[^"]*"\s*)+, "([a-z-]+)"', text))
    assert len(used) > 25
    assert used - LATER_ONLY <= {each.code for each in EXPLANATIONS}
