"""What a group weighs that nobody uses: a node has thousands."""

from __future__ import annotations

import gc
import tracemalloc

from cluster.raft.config import RaftConfig
from cluster.storage import keys, memory
from tests.pump.world import World

FEW, MANY = 10, 90
REPLICA_BYTES_MAX = 4_400
"""Traced bytes of a replica, of the map and of a node's lists for it; not of the engine, which on a real node is not Python."""


def settled_bytes(shards: int) -> int:
    """What three nodes weigh once all groups sleep."""
    gc.collect()
    tracemalloc.start()
    try:
        world = World(shards=shards, raft=RaftConfig())
        world.start()
        asleep = [replica.raft for node in world.nodes.values() for replica in node.pump.replicas.values()]
        world.run_until(lambda: all(raft.asleep for raft in asleep))
        assert all(raft.tail_bytes == 0 for raft in asleep), "entries of a sleeper are on disk alone"
        gc.collect()
        engine = [tracemalloc.Filter(False, str(module.__file__)) for module in (keys, memory)]
        traced = tracemalloc.take_snapshot().filter_traces(engine)
        return sum(trace.size for trace in traced.traces)
    finally:
        tracemalloc.stop()


def test_a_group_that_nobody_uses_weighs_little() -> None:
    more = settled_bytes(MANY) - settled_bytes(FEW)
    assert more / (3 * (MANY - FEW)) < REPLICA_BYTES_MAX
