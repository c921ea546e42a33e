"""Replicas wander between nodes while everything else goes wrong: what was acknowledged is there, once and in order, replicas
agree, every move can be completed, and no node keeps what it no longer holds.

A seed that once found a fault stays in `FOUND`, with what it found.
"""

from __future__ import annotations

import msgspec
import pytest

from cluster.errors import InvalidRequest, RetryableError
from cluster.ids import NodeId, ShardId
from cluster.placement.move import Action, ConfigurationStatus
from cluster.session.operations import Kind
from cluster.shard.replica import CompactionConfig
from tests.pump.actors import Actor, ReaderOf, Watcher, Writer
from tests.pump.test_storms import Storm, settle
from tests.pump.world import World

NODES, COPIES, SHARDS = 5, 3, 2
KEYS = ("a", "e")
"""One document a shard."""
MESSAGES = 60
STORM_STEPS = 4_000
SEEDS = 8
FOUND: dict[int, str] = {}


class Mover(Actor):
    """Moves the replicas of one shard about, one after the other; now and then it dies, and another begins something else. With
    odd seeds two of them drive the same shard.
    """

    def __init__(self, world: World, shard: ShardId, *, tidies: bool) -> None:
        super().__init__(world)
        self.shard = shard
        self.tidies = tidies
        """Whether it is this one that cleans up in the end."""
        self.move: tuple[NodeId | None, NodeId | None] | None = None
        self.completed = 0
        self.ends = False
        self.tidy = False

    @property
    def done(self) -> bool:
        return self.ends and self.tidy

    def step(self) -> None:
        random = self.world.random
        if random.random() > 0.2:
            return
        leaders = [node for node in self.world.holders(self.shard) if node.pump.replicas[self.shard].leads]
        if not leaders:
            return
        pump = random.choice(leaders).pump
        status = pump.configuration(self.shard)
        assert status is not None
        if self.move is None:
            self.begin(status)
        elif random.random() < 0.03 and not self.ends:
            self.move = None
        if self.move is not None:
            try:
                if pump.move_step(self.shard, *self.move, self.world.now_ms).action is Action.DONE:
                    self.completed += 1
                    self.move = None
            except RetryableError:
                pass
            except InvalidRequest:
                self.move = None  # somebody else moves the same shard, and it has become pointless

    def begin(self, status: ConfigurationStatus) -> None:
        """Something new; first of all, what somebody who died left half done."""
        random = self.world.random
        voters = [member.node for member in status.members if member.replica in status.voters]
        learners = [member.node for member in status.members if member.replica in status.learners]
        outside = [name for name in self.world.names if name not in voters + learners]
        settled = not learners and not status.outgoing and status.committed and len(voters) == COPIES
        self.tidy = self.ends and (settled or not self.tidies)
        if self.tidy:
            return
        if len(voters) > COPIES:
            self.move = random.choice(voters), None
        elif len(voters) < COPIES and not learners:
            self.move = None, random.choice(outside)
        elif learners:
            self.move = (None, learners[0]) if len(voters) < COPIES else (learners[0], None)
        elif not self.ends:
            self.move = random.choice(voters), random.choice(outside)


def leftovers(world: World) -> list[tuple[str, int]]:
    """Nodes that hold a replica which is none of its shard's."""
    found: list[tuple[str, int]] = []
    for shard in range(1, SHARDS + 1):
        leader = next((node for node in world.holders(ShardId(shard)) if node.pump.replicas[ShardId(shard)].serves), None)
        if leader is None:
            return [("nobody", shard)]
        places = leader.pump.replicas[ShardId(shard)].raft.configuration.places
        here = [(node.pump.replicas[ShardId(shard)].replica, node.name) for node in world.holders(ShardId(shard))]
        found += [(name, shard) for replica, name in here if (replica, name) not in places]
        found += [(name, -shard) for replica, name in places if (replica, name) not in here]
    return found


def mapped(world: World) -> bool:
    """Whether every node's map names exactly the replicas that there are."""
    here = {(s, node.name, node.pump.replicas[s].replica) for node in world.nodes.values() for s in node.pump.replicas}
    return all(
        {(shard.shard, place.node, place.replica) for shard in node.pump.router.map.shards for place in shard.replicas} == here
        for node in world.nodes.values()
    )


@pytest.mark.parametrize("seed", [*range(SEEDS), *FOUND])
def test_what_was_acknowledged_survives_wandering_replicas(seed: int) -> None:
    small = CompactionConfig(every_entries=12, kept_entries=4, lagging_entries=8)
    world = World(nodes=NODES, shards=SHARDS, seed=seed, compaction=small, checkpoints=seed % 5 != 4)
    client = world.start()
    assert {client.node.pump.router.shard_of("tally", key) for key in KEYS} == {1, 2}
    for key in KEYS:
        client.insist(Kind.CREATE, key)
    one, other = KEYS
    writers = [Writer(world, key, number, MESSAGES) for number, key in enumerate((one, one, other, other))]
    watchers = [Watcher(world, key) for key in KEYS]
    readers = [ReaderOf(world, one, writers[:2]), ReaderOf(world, other, writers[2:])]
    movers = [Mover(world, ShardId(shard), tidies=True) for shard in range(1, SHARDS + 1)]
    movers += [Mover(world, ShardId(1), tidies=False) for _ in range(seed % 2)]
    actors: list[Actor] = [*writers, *watchers, *readers, *movers]
    storm = Storm(world)
    for _ in range(STORM_STEPS):
        storm.step()
        for actor in actors:
            actor.step()
        world.run(2)
    storm.heal()
    for mover in movers:
        mover.ends = True
    settle(world, actors, lambda: all(writer.done for writer in writers) and all(mover.done for mover in movers))
    assert any(mover.completed for mover in movers), "the storm let nothing through"
    world.run_until(lambda: not leftovers(world))
    for key, pair, watcher in ((one, writers[:2], watchers[0]), (other, writers[2:], watchers[1])):
        view = msgspec.json.decode(world.client("n1").insist(Kind.READ, key).payload)["numbers"]
        for writer in pair:
            own = [number - writer.base for number in view if writer.base < number < writer.base + 1000]
            assert own == list(range(1, MESSAGES + 1)), "once and in order"
        assert len(view) == 1 + 2 * MESSAGES
        settle(world, actors, lambda watcher=watcher: watcher.at == (1, 1 + 2 * MESSAGES))
        assert watcher.numbers == view
        world.run_until(lambda key=key: len(set(world.records(key))) == 1)
        assert len(world.records(key)) == COPIES
    for node in world.nodes.values():
        for replica in node.pump.replicas.values():
            assert (replica.damaged, replica.halted) == ("", "")
    world.run_until(lambda: mapped(world))
