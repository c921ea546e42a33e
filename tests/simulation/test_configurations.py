"""Whether configurations overlap, held against what the thesis says of joint consensus and of its bug."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from chaos.checkers.configurations import Configurations, is_quorum, overlap
from chaos.checkers.violation import Violation
from cluster.ids import LogIndex, NodeId, ReplicaId, ShardId, Term
from cluster.raft import configuration
from cluster.raft.messages import Configuration
from cluster.shardmap.map import bootstrap

SHARD = ShardId(1)


def of(*voters: int, outgoing: tuple[int, ...] = (), learners: tuple[int, ...] = ()) -> Configuration:
    def ids(numbers: tuple[int, ...]) -> tuple[ReplicaId, ...]:
        return tuple([ReplicaId(number) for number in numbers])

    return Configuration(ids(voters), ids(learners), ids(outgoing))


def test_a_joint_configuration_needs_a_majority_of_both() -> None:
    joint = of(1, 2, 4, outgoing=(1, 2, 3))
    assert is_quorum([ReplicaId(1), ReplicaId(2)], joint)
    assert not is_quorum([ReplicaId(2), ReplicaId(4)], joint)


def test_exchanging_a_voter_at_once_does_not_overlap_and_adding_one_does() -> None:
    """Thesis 4.1: 1 and 3 decide here, 2 and 4 there."""
    assert not overlap(of(1, 2, 3), of(1, 2, 4))
    assert overlap(of(1, 2, 3), of(1, 2, 3, 4))


def test_a_joint_configuration_overlaps_with_both_ends() -> None:
    """Thesis 4.3."""
    joint = of(4, 5, 6, outgoing=(1, 2, 3))
    assert overlap(of(1, 2, 3), joint)
    assert overlap(joint, of(4, 5, 6))
    assert not overlap(of(1, 2, 3), of(4, 5, 6))


_SETS = some.sets(some.integers(1, 6), min_size=1, max_size=5)


@given(_SETS, _SETS)
def test_overlap_is_the_same_both_ways(one: set[int], other: set[int]) -> None:
    assert overlap(of(*sorted(one)), of(*sorted(other))) == overlap(of(*sorted(other)), of(*sorted(one)))


def _committed(*following: Configuration) -> Configurations:
    known = Configurations(bootstrap([NodeId(f"n{number}") for number in range(1, 4)], 1, 3))
    for place, made in enumerate(following):
        index = LogIndex(10 + place)
        known.written(SHARD, index, Term(1), configuration.encode(made))
        known.committed(SHARD, index, Term(1))
    return known


def _placed(voters: tuple[int, ...], learners: tuple[int, ...] = (), outgoing: tuple[int, ...] = ()) -> Configuration:
    made = of(*voters, learners=learners, outgoing=outgoing)
    places = tuple([(member, NodeId(f"m{member}")) for member in configuration.members_of(made)])
    return Configuration(made.voters, made.learners, made.outgoing, places=places)


def _first() -> tuple[int, ...]:
    return tuple(int(voter) for voter in _committed().newest(SHARD).voters)


def test_a_shard_that_replaces_all_voters_at_once_is_reported() -> None:
    a, b, c = _first()
    with pytest.raises(Violation, match="can decide without"):
        _committed(_placed((a, b, c), (c + 1, c + 2, c + 3)), _placed((c + 1, c + 2, c + 3)))


def test_a_shard_that_goes_through_a_joint_configuration_is_not() -> None:
    a, b, c = _first()
    learning = _placed((a, b, c), (c + 1,))
    joint = _placed((a, b, c + 1), (c,), outgoing=(a, b, c))
    known = _committed(learning, joint, _placed((a, b, c + 1), (c,)), _placed((a, b, c + 1)))
    assert known.newest(SHARD).voters == (a, b, c + 1)


def test_a_replica_that_comes_back_is_reported() -> None:
    """Reference trap 12."""
    a, b, c = _first()
    gone = _placed((a, b))
    with pytest.raises(Violation, match="brings back"):
        _committed(_placed((a, b), (c,)), gone, _placed((a, b), (c,)))
