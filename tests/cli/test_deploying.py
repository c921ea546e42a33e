"""Plans as they are typed."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.cli.deploying import plan_of
from cluster.cli.output import CommandFailed, Exit


@pytest.mark.parametrize(
    ("typed", "plan"),
    [
        ("all", {}),
        ("keys a,b", {"keys": ["a", "b"]}),
        (" keys  a b, c ", {"keys": ["a", "b", "c"]}),
        ("prefix team-", {"prefix": "team-"}),
        ("percent 10", {"percent": 10}),
        ("percent 0", {"percent": 0}),
    ],
)
def test_a_plan_is_read(typed: str, plan: dict[str, Any]) -> None:
    assert plan_of(typed) == plan


@pytest.mark.parametrize(
    "typed", ["", "some", "keys", "percent", "percent 101", "percent -1", "percent ten", "prefix", "all 5"]
)
def test_what_is_no_plan_is_refused_before_anything_is_sent(typed: str) -> None:
    with pytest.raises(CommandFailed) as failed:
        plan_of(typed)
    assert (failed.value.code, failed.value.state) == (Exit.USAGE, "nothing was deployed")
