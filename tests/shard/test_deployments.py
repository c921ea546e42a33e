"""Timelines and plans: which code a document gets next."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.shard.compilations import Compilations
from cluster.shard.deployments import DEPLOYMENTS_KEPT_MAX, Deployment, Plan, Space, bucket, space_of


def deployed(*versions: int, plan: Plan | None = None) -> Space:
    """A space with these versions; the plan is the newest's."""
    space: Space | None = None
    for version in versions:
        one = Deployment(b"%d" % version, version, "operator@moot", 0, plan if plan and version == versions[-1] else Plan())
        space = space.deployed(one) if space is not None else space_of("tally", one)
    assert space is not None
    return space


def walk(space: Space, key: str, code: bytes) -> list[bytes]:
    """Every code that a document goes through."""
    codes = []
    following = space.next_code(key, code)
    while following is not None:
        codes.append(following)
        assert len(codes) <= 2 * DEPLOYMENTS_KEPT_MAX, "the walk does not end"
        following = space.next_code(key, following)
    return codes


def test_a_document_goes_through_every_version_in_turn() -> None:
    space = deployed(1, 2, 3)
    assert walk(space, "a", b"1") == [b"2", b"3"]
    assert walk(space, "a", b"3") == []
    assert space.next_code("a", b"1", directly=True) == b"3"


def test_code_that_the_timeline_does_not_have_is_left_alone() -> None:
    """A leader that knows too little must not take a document back."""
    assert walk(deployed(1, 2), "a", b"3") == []


def test_what_was_rolled_back_is_passed_over_and_left() -> None:
    space = deployed(1, 2, 3).rolled_back("operator@moot", 1, returns=True)
    assert (space.code_hash, space.deployments) == (b"2", 4)
    assert walk(space, "a", b"1") == [b"2"]
    assert walk(space, "a", b"3") == [b"2"]
    later = space.deployed(Deployment(b"4", 4, "", 0))
    assert walk(later, "a", b"3") == [b"2", b"4"]
    assert later.version_max == 4


def test_who_can_not_return_stays_until_there_is_something_newer() -> None:
    space = deployed(1, 2).rolled_back("operator@moot", 1, returns=False)
    assert walk(space, "a", b"2") == []
    assert walk(space, "a", b"1") == []
    assert walk(space.deployed(Deployment(b"3", 3, "", 0)), "a", b"2") == [b"3"]


def test_a_rollback_can_be_rolled_back_and_ends_where_it_began() -> None:
    space = deployed(1, 2, 3).rolled_back("", 1, returns=True).rolled_back("", 2, returns=True)
    assert space.code_hash == b"1"
    assert walk(space, "a", b"3")[-1] == b"1"
    with pytest.raises(ValueError, match="no earlier deployment"):
        space.rolled_back("", 3, returns=True)


def test_a_plan_is_for_some_and_the_others_get_what_was_before() -> None:
    space = deployed(1, 2, 3, plan=Plan(keys=("a",)))
    assert [space.code_for("a"), space.code_for("b")] == [b"3", b"2"]
    assert walk(space, "b", b"1") == [b"2"]
    assert walk(space, "a", b"1") == [b"2", b"3"]


def test_another_plan_for_the_same_code_replaces_the_plan() -> None:
    space = deployed(1, 2, plan=Plan(percent=0))
    wider = space.deployed(Deployment(b"2", 2, "", 0))
    assert len(wider.walked) == 2
    assert [space.code_for("a"), wider.code_for("a")] == [b"1", b"2"]


@given(st.text(min_size=1, max_size=20), st.integers(0, 100), st.integers(0, 100))
def test_with_more_percent_nobody_leaves(key: str, less: int, more: int) -> None:
    less, more = sorted((less, more))
    assert Plan(percent=more).includes("s", key) or not Plan(percent=less).includes("s", key)
    assert 0 <= bucket("s", key) < 100


def test_percent_takes_about_that_share_within_a_prefix() -> None:
    plan = Plan(prefix="k", percent=30)
    taken = sum(plan.includes("s", f"k{number}") for number in range(2_000))
    assert 500 < taken < 700
    assert not plan.includes("s", "other")


@given(st.lists(st.sampled_from(["deploy", "back", "stay", "some"]), max_size=12))
def test_whatever_is_deployed_every_walk_ends_at_the_code_of_a_new_document(steps: list[str]) -> None:
    """Unless it can not return: then it waits for the next deployment for all."""
    space = deployed(1)
    for step in steps:
        if step in ("deploy", "some"):
            version = space.version_max + 1
            plan = Plan(percent=0) if step == "some" else Plan()
            space = space.deployed(Deployment(b"%d" % version, version, "", 0, plan))
        elif space.behind() is not None:
            space = space.rolled_back("", 0, returns=step == "back")
    for code in {each.code_hash for each in space.walked}:
        walked = walk(space, "a", code)
        withdrawn = {each.code_hash for each in space.walked if each.withdrawn}
        standing = {each.code_hash for each in space.walked if not each.withdrawn}
        assert not set(walked) & (withdrawn - standing), "nobody is given what was rolled back"
    version = space.version_max + 1
    last = space.deployed(Deployment(b"last", version, "", 0))
    assert all(([code, *walk(last, "a", code)])[-1] == b"last" for code in {each.code_hash for each in last.walked})


def test_a_timeline_is_bounded() -> None:
    space = deployed(*range(1, DEPLOYMENTS_KEPT_MAX + 20))
    assert len(space.walked) == DEPLOYMENTS_KEPT_MAX
    assert walk(space, "a", b"1") == [], "code that is forgotten is left alone"


def test_what_a_node_said_counts_until_its_connection_breaks() -> None:
    compilations = Compilations()
    node, code = deployed(1).name, b"x"
    revision = compilations.revision
    assert compilations.heard(node, code)  # type: ignore[arg-type]
    assert compilations.revision > revision, "documents are looked at again"
    assert not compilations.heard(node, code)  # type: ignore[arg-type]
    compilations.forget_node(node)  # type: ignore[arg-type]
    assert not compilations.has(node, code)  # type: ignore[arg-type]


def test_what_no_space_has_is_neither_wanted_nor_remembered() -> None:
    compilations = Compilations()
    compilations.want(b"old")
    compilations.want(b"new")
    compilations.keep([b"new"])
    assert list(compilations.wanted) == [b"new"]
