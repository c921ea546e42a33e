"""Replicas and nodes of one shard, as one of its replicas knows them."""

from __future__ import annotations

from cluster.ids import NodeId, ReplicaId
from cluster.raft.messages import Configuration
from cluster.shard.members import STRANGERS_MAX, Members

A, B, C, D = (NodeId(name) for name in "abcd")


def replica(number: int) -> ReplicaId:
    return ReplicaId(number)


def configuration(*places: tuple[int, NodeId]) -> Configuration:
    sorted_places = tuple((ReplicaId(number), node) for number, node in places)
    return Configuration(tuple(number for number, _ in sorted_places), places=sorted_places)


def test_a_configuration_that_is_rolled_back_takes_its_places_with_it() -> None:
    before, after = configuration((1, A), (2, B)), configuration((1, A), (2, B), (3, C))
    members = Members(before)
    assert members.adopt(after) == {}
    assert (members.node_of(replica(3)), members.replica_on(C)) == (C, 3)
    assert members.adopt(before) == {3: C}
    assert not members.has(replica(3))
    assert members.replica_on(C) is None


def test_who_left_can_still_be_answered() -> None:
    """Whoever asks for votes without knowing that it was removed waits for an answer (reference trap 16)."""
    members = Members(configuration((1, A), (2, B)))
    members.adopt(configuration((1, A)))
    assert members.node_of(replica(2)) == B


def test_a_member_speaks_only_from_its_place() -> None:
    members = Members(configuration((1, A), (2, B)))
    assert members.admits(replica(2), B)
    assert not members.admits(replica(2), C)
    assert members.admits(replica(7), C), "a later configuration may have placed it there"


def test_a_stranger_is_answered_where_it_last_spoke_from() -> None:
    members = Members(Configuration(()))
    members.heard(replica(7), C)
    members.heard(replica(7), D)
    assert members.node_of(replica(7)) == D
    members.adopt(configuration((7, A)))
    assert members.node_of(replica(7)) == A, "the configuration knows better"


def test_strangers_are_bounded_and_the_oldest_goes() -> None:
    members = Members(Configuration(()))
    for number in range(1, STRANGERS_MAX + 2):
        members.heard(replica(number), C)
    assert members.node_of(replica(1)) is None
    assert all(members.node_of(replica(number)) == C for number in range(2, STRANGERS_MAX + 2))
