"""What stands in the way of a drain or a decommission."""

from __future__ import annotations

import pytest

from cluster.ids import NodeId, ReplicaId, ShardId
from cluster.placement.leaving import Blocker, Lack, Others, blocks_decommission, blocks_drain
from cluster.shardmap.map import Placement, Shard

N1, N2, N3, N4, N5 = (NodeId(f"n{number}") for number in range(1, 6))


def shard(number: int, *nodes: NodeId) -> Shard:
    return Shard(ShardId(number), 0, 1, 1, tuple(Placement(ReplicaId(place), node) for place, node in enumerate(nodes, 1)))


def others(*alive: NodeId, drained: tuple[NodeId, ...] = (), factor: int = 3) -> Others:
    return Others(frozenset(alive), frozenset(alive) - frozenset(drained), factor)


def lacks(found: list[Blocker]) -> list[tuple[int, Lack]]:
    return [(each.shard, each.lack) for each in found]


def test_with_a_spare_node_nothing_stands_in_the_way() -> None:
    assert blocks_decommission(N1, [shard(1, N1, N2, N3)], others(N2, N3, N4), answers=True) == []


def test_without_a_spare_node_each_shard_is_named_that_would_be_short() -> None:
    """cockroach#76249: a decommission that can not end must say what blocks it, before it begins."""
    found = blocks_decommission(N1, [shard(1, N1, N2, N3), shard(2, N2, N3, N4)], others(N2, N3), answers=True)
    assert lacks(found) == [(1, Lack.REPLICAS)]
    assert "n2, n3 stay" in found[0].why


def test_a_drained_node_is_no_spare() -> None:
    found = blocks_decommission(N1, [shard(1, N1, N2, N3)], others(N2, N3, N4, drained=(N4,)), answers=True)
    assert lacks(found) == [(1, Lack.REPLICAS)]


def test_a_shard_that_has_no_quorum_now_can_not_be_changed() -> None:
    found = blocks_decommission(N1, [shard(1, N1, N2, N3)], others(N4, N5), answers=True)
    assert lacks(found) == [(1, Lack.QUORUM)]
    assert "1 of its 3 voters answer" in found[0].why


def test_a_dead_node_can_leave_while_the_others_are_a_majority() -> None:
    assert blocks_decommission(N1, [shard(1, N1, N2, N3)], others(N2, N3, N4), answers=False) == []
    found = blocks_decommission(N1, [shard(1, N1, N2, N3)], others(N2, N4), answers=False)
    assert lacks(found) == [(1, Lack.QUORUM)]


def test_more_voters_than_wanted_may_become_fewer() -> None:
    assert blocks_decommission(N1, [shard(0, N1, N2, N3, N4, N5)], others(N2, N3, N4, N5), answers=True) == []


def test_one_node_of_a_cluster_of_one_stays() -> None:
    assert lacks(blocks_decommission(N1, [shard(1, N1)], others(), answers=True)) == [(1, Lack.QUORUM)]


@pytest.mark.parametrize(
    ("alive", "drained", "expected"),
    [((N2, N3), (), []), ((N2, N3), (N2,), []), ((N2, N3), (N2, N3), [(1, Lack.LEADER)]), ((), (), [(1, Lack.LEADER)])],
)
def test_a_node_is_drained_while_another_voter_may_lead(
    alive: tuple[NodeId, ...], drained: tuple[NodeId, ...], expected: list[tuple[int, Lack]]
) -> None:
    assert lacks(blocks_drain(N1, [shard(1, N1, N2, N3)], others(*alive, drained=drained))) == expected
