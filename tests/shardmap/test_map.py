"""Keys on shards, and the first map."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ConfigurationInvalid
from cluster.ids import SYSTEM_SHARD, NodeId, ShardId
from cluster.shardmap.hashing import HASH_SPACE, key_hash
from cluster.shardmap.map import SYSTEM_SPACE, ShardMap, bootstrap

NODES = [NodeId(name) for name in ("n1", "n2", "n3", "n4", "n5")]
node_counts = st.integers(1, 5)


def test_the_hash_of_a_key_never_changes() -> None:
    """It is part of the format on disk and on the wire."""
    assert key_hash("chat", "lobby") == 3869915663
    assert key_hash("text", "ü") == 2250541979


@given(node_counts, st.integers(1, 64), st.sampled_from([1, 3, 5]), st.text(min_size=1), st.text(min_size=1))
def test_every_key_has_exactly_one_shard(nodes: int, shards: int, copies: int, space: str, key: str) -> None:
    space, key = space.encode(errors="replace").decode(), key.encode(errors="replace").decode()
    shard_map = bootstrap(NODES[:nodes], shards, copies)
    at = key_hash(space, key)
    owners = [shard.shard for shard in shard_map.shards if shard.start <= at < shard.end]
    expected = [SYSTEM_SHARD] if space == SYSTEM_SPACE else owners
    assert [shard_map.shard_of(space, key)] == expected


@given(node_counts, st.integers(1, 64), st.sampled_from([1, 3, 5]))
def test_every_node_computes_the_same_first_map(nodes: int, shards: int, copies: int) -> None:
    forward, backward = bootstrap(NODES[:nodes], shards, copies), bootstrap(NODES[:nodes][::-1], shards, copies)
    assert forward.encode() == backward.encode()
    assert ShardMap.decode(forward.encode()).state == forward.state


@given(node_counts, st.integers(1, 64), st.sampled_from([1, 3, 5]))
def test_replicas_are_on_different_nodes_and_their_ids_are_never_reused(nodes: int, shards: int, copies: int) -> None:
    """Reference trap 12."""
    shard_map = bootstrap(NODES[:nodes], shards, copies)
    for shard in shard_map.shards:
        ids = [place.replica for place in shard.replicas]
        assert len(set(ids)) == len(ids)
        assert max(ids) < shard_map.state.next_replica
        holders = [place.node for place in shard.replicas]
        assert len(set(holders)) == len(holders)
        assert len(holders) == (nodes if shard.shard == SYSTEM_SHARD else min(copies, nodes))


def test_intervals_meet_without_gap_and_cover_everything() -> None:
    shard_map = bootstrap(NODES[:3], 7, 3)
    ranged = shard_map.shards[1:]
    assert (ranged[0].start, ranged[-1].end) == (0, HASH_SPACE)
    assert all(left.end == right.start for left, right in itertools.pairwise(ranged))
    assert shard_map.shard(ShardId(3)).replica_on(ranged[2].replicas[0].node) == ranged[2].replicas[0].replica


@pytest.mark.parametrize(("nodes", "shards", "copies"), [([], 1, 3), (NODES[:1] * 2, 1, 3), (NODES, 0, 3), (NODES, 1, 0)])
def test_an_impossible_first_map_is_refused(nodes: list[NodeId], shards: int, copies: int) -> None:
    with pytest.raises(ConfigurationInvalid):
        bootstrap(nodes, shards, copies)
