"""The rules of changing who votes, against brute force: every quorum of one step meets every quorum of the next."""

from __future__ import annotations

from itertools import combinations, pairwise, product

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ChangePending, ClusterError, InvalidRequest
from cluster.ids import ReplicaId
from cluster.raft.configuration import (
    MEMBERS_MAX,
    TAG,
    check,
    decode,
    encode,
    entered,
    entries_in,
    highest_of,
    is_reserved,
    left,
    members_of,
    voters_of,
    without_configurations,
)
from cluster.raft.messages import Configuration
from tests.raft.solo import run


def ids(*numbers: int) -> tuple[ReplicaId, ...]:
    return tuple(ReplicaId(number) for number in numbers)


def configuration(voters: list[int], learners: list[int] = [], outgoing: list[int] = [], highest: int = 0) -> Configuration:  # noqa: B006
    return Configuration(ids(*voters), ids(*learners), ids(*outgoing), ReplicaId(highest))


def quorums(joint: Configuration) -> list[set[ReplicaId]]:
    everybody = voters_of(joint)
    halves = [half for half in (joint.voters, joint.outgoing) if half]
    subsets = [set(some) for size in range(len(everybody) + 1) for some in combinations(everybody, size)]
    return [some for some in subsets if all(2 * len(some & set(half)) > len(half) for half in halves)]


def allowed(now: Configuration, voters: tuple[ReplicaId, ...], learners: tuple[ReplicaId, ...]) -> bool:
    """The rules told once more, one replica at a time."""
    before = dict.fromkeys(now.voters, "voter") | dict.fromkeys(now.learners, "learner")
    after = dict.fromkeys(voters, "voter") | dict.fromkeys(learners, "learner")
    moves = {replica: (before.get(replica, ""), after.get(replica, "")) for replica in {*before, *after}}
    return (
        not now.outgoing
        and "voter" in after.values()
        and len(after) == len(voters) + len(learners) <= MEMBERS_MAX
        and any(was != becomes for was, becomes in moves.values())
        and all(move != ("", "voter") and move != ("voter", "") for move in moves.values())
        and all(replica > highest_of(now) for replica, (was, _) in moves.items() if not was)
    )


SOME = st.sets(st.integers(1, 8), max_size=5).map(lambda numbers: ids(*sorted(numbers)))


@given(st.lists(st.tuples(SOME, SOME), min_size=1, max_size=12), st.integers(1, 4))
def test_every_step_is_allowed_by_the_rules_and_shares_a_voter_with_the_one_before(
    goals: list[tuple[tuple[ReplicaId, ...], tuple[ReplicaId, ...]]], voters: int
) -> None:
    """Thesis 4.3: two majorities that decide apart are what a joint configuration prevents. Reference trap 12: and an id
    that was removed never comes back."""
    now = configuration(list(range(1, voters + 1)))
    gone: set[ReplicaId] = set()
    for wanted, learners in goals:
        try:
            following = entered(now, wanted, learners)
        except ClusterError:
            assert not allowed(now, wanted, learners)
            continue
        assert allowed(now, wanted, learners)
        steps = [now, following] + ([left(following)] if following.outgoing else [])
        for one, next_one in pairwise(steps):
            check(next_one)
            assert all(a & b for a in quorums(one) for b in quorums(next_one))
            gone |= set(members_of(one)) - set(members_of(next_one))
            assert not gone & set(members_of(next_one))
        now = steps[-1]
        assert (now.voters, now.learners) == (wanted, learners)


def goals(ids_: tuple[ReplicaId, ...]) -> list[tuple[tuple[ReplicaId, ...], tuple[ReplicaId, ...]]]:
    """Every way to make each of these replicas a voter, a learner or nothing."""
    return [
        (
            tuple([one for one, part in zip(ids_, parts, strict=True) if part == "voter"]),
            tuple([one for one, part in zip(ids_, parts, strict=True) if part == "learner"]),
        )
        for parts in product(("voter", "learner", ""), repeat=len(ids_))
    ]


def test_every_change_that_can_follow_another_overlaps_with_it() -> None:
    """Thesis 4.3, exhaustively for four replicas: from whatever configuration some changes lead to, to whatever the rules allow
    next. A change begins only once the one before is committed, so it is enough that each step shares a voter with the next:
    nobody further back can decide any more."""
    everybody = ids(1, 2, 3, 4)
    seen: set[Configuration] = set()
    reached = {configuration([1]), configuration([1, 2]), configuration([1, 2, 3])}
    steps = 0
    while reached:
        now = reached.pop()
        seen.add(now)
        for voters, learners in goals(everybody):
            try:
                following = entered(now, voters, learners)
            except ClusterError:
                continue
            path = [now, following] + ([left(following)] if following.outgoing else [])
            for one, next_one in pairwise(path):
                steps += 1
                assert all(a & b for a in quorums(one) for b in quorums(next_one)), f"{one} and {next_one} decide apart"
            if path[-1] not in seen:
                reached.add(path[-1])
    assert len(seen) > 50
    assert steps > 500


@pytest.mark.parametrize(
    ("voters", "learners", "why"),
    [
        ([1, 2, 3, 4], [], "starts as a learner"),
        ([1, 2], [], "demote it"),
        ([], [1, 2, 3], "needs voters"),
        ([1, 2, 3], [3], "either a voter or a learner"),
        ([2, 1, 3], [], "sorted"),
        ([1, 1, 2, 3], [], "sorted"),
        ([1, 2, 3], [], "already"),
        ([0, 1, 2, 3], [], "used before"),
        ([1, 2, 3], list(range(4, 4 + MEMBERS_MAX)), "at most"),
    ],
)
def test_goal_that_can_not_be_reached_in_one_change_is_refused_with_its_reason(
    voters: list[int], learners: list[int], why: str
) -> None:
    """Reference trap 44: learner first, demote before remove."""
    with pytest.raises(InvalidRequest, match=why):
        entered(configuration([1, 2, 3]), ids(*voters), ids(*learners))


def test_learners_come_and_go_without_a_joint_step() -> None:
    now = entered(configuration([1, 2, 3]), ids(1, 2, 3), ids(4, 5))
    assert now == configuration([1, 2, 3], [4, 5], highest=5)
    assert entered(now, ids(1, 2, 3), ids(5)) == configuration([1, 2, 3], [5], highest=5)


def test_voters_change_through_a_joint_step() -> None:
    """Thesis 4.3. A swap is one change: the old voter votes until the joint configuration is left."""
    joint = entered(configuration([1, 2, 3], [4]), ids(2, 3, 4), ids(1))
    assert joint == configuration([2, 3, 4], [1], [1, 2, 3], highest=4)
    assert voters_of(joint) == ids(1, 2, 3, 4)
    assert left(joint) == configuration([2, 3, 4], [1], highest=4)
    with pytest.raises(ChangePending):
        entered(joint, ids(2, 3), ids(1, 4))


def test_id_of_a_removed_replica_is_never_used_again() -> None:
    """Reference trap 12, across any number of later changes."""
    now = entered(configuration([1, 2, 3]), ids(1, 2, 3), ids(9))
    now = entered(now, ids(1, 2, 3), ())
    for number in (4, 9):
        with pytest.raises(InvalidRequest, match="used before"):
            entered(now, ids(1, 2, 3), ids(number))
    assert entered(now, ids(1, 2, 3), ids(10)).learners == ids(10)


@given(SOME.filter(bool), SOME)
def test_entry_survives_its_encoding(voters: tuple[ReplicaId, ...], learners: tuple[ReplicaId, ...]) -> None:
    one = Configuration(voters, tuple(learner for learner in learners if learner not in voters))
    assert decode(encode(one)) == one


@given(st.recursive(st.none() | st.integers(-(1 << 63), (1 << 64) - 1) | st.binary() | st.text() | st.floats(), st.lists))
def test_no_msgpack_value_is_taken_for_a_configuration(value: object) -> None:
    """What owners propose are msgpack values; the tag is the one byte that the format leaves unused."""
    assert not is_reserved([msgspec.msgpack.encode(value)])


@given(st.binary() | st.builds(encode, st.builds(Configuration, SOME, SOME, SOME)).map(lambda payload: payload[1:]))
def test_bytes_are_a_sound_configuration_or_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        decode(b"\x93" + body)
    try:
        decoded = decode(bytes([TAG]) + body)
    except InvalidRequest:
        return
    check(decoded)


def test_configurations_of_a_run_are_found_and_hidden() -> None:
    one = encode(configuration([1, 2, 3]))
    mixed = run(5, 2, b"a", one, b"", one)
    assert [index for index, _ in entries_in(mixed)] == [6, 8]
    assert without_configurations(mixed) == run(5, 2, b"a", b"", b"", b"")
