"""Cutting logs in whole clusters: every cut is held against what the other nodes really have, not what its leader believes."""

from __future__ import annotations

import random

import pytest

from cluster.ids import ShardId
from cluster.pump.pump import PumpConfig
from cluster.raft.events import Compact
from cluster.session.operations import Kind
from cluster.shard.replica import CompactionConfig, ShardReplica
from tests.pump.world import World

SHARD = ShardId(1)
KEYS = [f"key-{number}" for number in range(9)]
LAGGING = 24


class Watch:
    """Looks at each cut as it happens."""

    def __init__(self, world: World, patch: pytest.MonkeyPatch) -> None:
        self.world = world
        self.cuts = 0
        self.held = 0
        original = ShardReplica.handle

        def handle(replica, event, now_ms, turn):  # type: ignore[no-untyped-def]
            if isinstance(event, Compact) and replica.id == SHARD:
                self.cut(replica, event.index)
            return original(replica, event, now_ms, turn)

        patch.setattr(ShardReplica, "handle", handle)

    def cut(self, replica: ShardReplica, index: int) -> None:
        self.cuts += 1
        wanted = replica.applied - replica._compaction.kept_entries
        assert index <= wanted
        assert all(live.first_unsaved > index for live in replica.cache.unsaved.values()), "a record still lacks an entry"
        if not replica.serves:
            return
        progress = replica.raft.progress
        for node in self.world.nodes.values():
            other = node.pump.replicas[SHARD]
            if not node.up or other is replica:
                continue
            sending = self.world.nodes[replica.node].pump._transfers._sending._outgoing.get((SHARD, other.replica))
            partial = other.stored.partial
            if sending is not None and sending.pull is not None and partial is not None:
                assert index <= partial.point, "a snapshot in flight will be replayed from there"
            match = progress.get(other.replica, 0)
            if match >= wanted - LAGGING:
                assert index <= other.raft.last_index or other.raft.last_index < match, "a live follower needs it"
                self.held += index < wanted


@pytest.mark.parametrize("seed", range(6))
def test_no_cut_goes_past_what_somebody_alive_still_needs(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    compaction = CompactionConfig(every_entries=6, kept_entries=3, lagging_entries=LAGGING)
    rate = 1 << 20 if seed % 2 else 4_000
    world = World(
        shards=1, seed=seed, compaction=compaction, pump=PumpConfig(snapshot_bytes_per_second=rate, snapshot_chunk_bytes=200)
    )
    client = world.start()
    for key in KEYS:
        assert client.insist(Kind.CREATE, key).failure is None
    watch, source = Watch(world, monkeypatch), random.Random(seed)
    for amount in range(500):
        up = [node for node in world.nodes.values() if node.up]
        leader = next((node for node in up if node.pump.replicas[SHARD].serves), None)
        chance = source.random()
        if chance < 0.02 and len(up) == 3:
            source.choice(up).crash()
        elif chance < 0.06 and len(up) == 2:
            next(node for node in world.nodes.values() if not node.up).boot()
        elif chance < 0.10:
            source.choice(up).paused_until_ms = world.now_ms + source.uniform(10, 400)
        if leader is not None and leader.up:
            world.client(leader.name).submit(Kind.SEND, source.choice(KEYS), "add", {"amount": amount})
        world.run(source.choice((4, 24)))
    for node in world.nodes.values():
        node.paused_until_ms = 0.0
        if not node.up:
            node.boot()
    world.run_until(lambda: all(len(set(world.records(key))) == 1 for key in KEYS), within_ms=90_000)
    assert watch.cuts > 20
    assert watch.held > 0, "somebody held a log"


def test_a_follower_further_behind_than_the_bound_gets_a_snapshot_and_one_within_it_the_log() -> None:
    for lag, by_snapshot in ((LAGGING + 30, True), (LAGGING // 2, False)):
        compaction = CompactionConfig(every_entries=6, kept_entries=3, lagging_entries=LAGGING)
        world = World(shards=1, compaction=compaction)
        client = world.start()
        for key in KEYS:
            assert client.insist(Kind.CREATE, key).failure is None
        world.run_until(lambda world=world: len({node.pump.replicas[SHARD].applied for node in world.nodes.values()}) == 1)
        late = next(node for node in world.nodes.values() if node is not world.leader(KEYS[0]) and node.name != "n1")
        late.crash()
        for amount in range(lag):
            assert client.insist(Kind.SEND, KEYS[amount % 9], "add", {"amount": amount}).failure is None
        late.boot()
        world.run_until(lambda world=world: all(len(set(world.records(key))) == 1 for key in KEYS))
        assert (late.pump.replicas[SHARD].cache.generation == 1) is by_snapshot
