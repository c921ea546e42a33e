"""Where an operation is sent."""

from __future__ import annotations

from cluster.ids import NodeId, ShardId
from cluster.router.router import Router
from cluster.shardmap.map import bootstrap

A, B, C, D, E = (NodeId(name) for name in "abcde")


def router(node: NodeId = E) -> Router:
    """Five nodes, three copies: shard 1 is on a, b and c, so e holds nothing of it."""
    return Router(node, bootstrap([A, B, C, D, E], 5, 3))


def test_a_local_replica_knows_best() -> None:
    assert router(A).node_for(ShardId(1), B, {B, C}) == B


def test_a_leader_that_can_not_be_reached_is_not_guessed_around() -> None:
    assert router(A).node_for(ShardId(1), B, {C}) is None


def test_a_hint_is_followed_until_its_node_is_lost() -> None:
    here = router()
    here.hint(ShardId(1), C)
    assert here.node_for(ShardId(1), None, {A, B, C}) == C
    here.forget_node(C)
    assert here.hinted(ShardId(1)) is None


def test_without_a_hint_the_connected_replicas_are_tried_in_turn() -> None:
    here = router()
    tried = [here.elsewhere(ShardId(1), {A, C, D}) for _ in range(4)]
    assert tried == [A, C, A, C]


def test_nobody_reachable_is_said_so() -> None:
    assert router().node_for(ShardId(1), None, {D}) is None
