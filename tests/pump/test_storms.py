"""Random crashes, cuts, losses, delays, pauses and slow disks over whole clusters: what was acknowledged is there, once and in
order; reads and viewers never see less; replicas agree; and when everything is healed, everything gets through.

A seed that once found a fault stays in `FOUND`, with what it found.
"""

from __future__ import annotations

import msgspec
import pytest

from cluster.session.operations import Kind
from cluster.shard.replica import CompactionConfig
from tests.pump.actors import Actor, FreshReader, Racer, ReaderOf, Recreator, Watcher, Writer
from tests.pump.world import World

MESSAGES = 60
ROUNDS = 8
RACES = 12
STORM_STEPS = 1_200
SEEDS = 12
FOUND: dict[int, str] = {}


class Storm:
    """One random event at a time; at most one node is down, so a majority always holds what was acknowledged."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.slow = 0.0
        world.sync_ms = lambda: world.random.random() * self.slow
        self.far = 0.0
        world.delay_ms = lambda sender, receiver, lane: world.random.random() * self.far

    def step(self) -> None:
        world, chance = self.world, self.world.random.random()
        down = [node for node in world.nodes.values() if not node.up]
        nodes = list(world.nodes.values())
        if chance < 0.008 and not down:
            victim = world.random.choice(nodes)
            victim.crash(keep_batches=world.random.randint(0, victim.unsynced_batches), refused=world.random.random() < 0.5)
        elif chance < 0.030 and down:
            down[0].boot()
        elif chance < 0.035:
            world.cut = {(one, other) for one in world.names for other in world.names if world.random.random() < 0.3}
        elif chance < 0.055:
            world.cut = set()
            world.mend()
        elif chance < 0.060:
            world.loss = world.random.choice([0.0, 0.05, 0.3])
        elif chance < 0.065:
            self.slow = world.random.choice([0.0, 5.0, 300.0])
        elif chance < 0.070:
            self.far = world.random.choice([0.0, 3.0, 40.0])
        elif chance < 0.075:
            world.random.choice(nodes).paused_until_ms = world.now_ms + world.random.random() * 2_500
        elif chance < 0.080:
            world.duplicated = world.random.choice([0.0, 0.05])
        elif chance < 0.084:
            world.refusing = {(one, other) for one in world.names for other in world.names if world.random.random() < 0.2}
        elif chance < 0.095:
            world.refusing = set()

    def heal(self) -> None:
        world = self.world
        world.cut, world.loss, world.duplicated, world.refusing = set(), 0.0, 0.0, set()
        self.slow = self.far = 0.0
        for node in world.nodes.values():
            node.paused_until_ms = 0.0
            if not node.up:
                node.boot()
        world.mend()


def settle(world: World, actors: list[Actor], done) -> None:  # type: ignore[no-untyped-def]
    for _ in range(30_000):
        if done():
            return
        for actor in actors:
            actor.step()
        world.run(2)
    raise AssertionError("with everything healed, something still does not get through")


@pytest.mark.parametrize("seed", [*range(SEEDS), *FOUND])
def test_what_was_acknowledged_survives_a_storm(seed: int) -> None:
    small = CompactionConfig(every_entries=12, kept_entries=4, lagging_entries=8)
    cache_bytes_max = 1 << 24 if seed % 3 else 2_000
    world = World(shards=2, seed=seed, compaction=small, cache_bytes_max=cache_bytes_max, checkpoints=seed % 5 != 4)
    client = world.start()
    for key in "ab":
        client.insist(Kind.CREATE, key)
    won: dict[str, int] = {}
    writers = [Writer(world, key, number, MESSAGES) for number, key in enumerate("aabb")]
    recreator = Recreator(world, "c", 0, ROUNDS)
    racers = [Racer(world, number, RACES, won) for number in range(2)]
    watchers = [Watcher(world, key) for key in "abc"]
    readers = [ReaderOf(world, "a", writers[:2]), ReaderOf(world, "b", writers[2:]), FreshReader(world, "a", writers[0])]
    finite: list[Writer | Recreator | Racer] = [*writers, recreator, *racers]
    actors: list[Actor] = [*finite, *watchers, *readers]
    storm = Storm(world)
    for _ in range(STORM_STEPS):
        storm.step()
        for actor in actors:
            actor.step()
        world.run(2)
    storm.heal()
    settle(world, actors, lambda: all(actor.done for actor in finite))
    assert set(won) == {f"race-{number}" for number in range(RACES)}
    for key, pair, watcher in (("a", writers[:2], watchers[0]), ("b", writers[2:], watchers[1])):
        view = msgspec.json.decode(world.client("n1").insist(Kind.READ, key).payload)["numbers"]
        for writer in pair:
            own = [number - writer.base for number in view if writer.base < number < writer.base + 1000]
            assert own == list(range(1, MESSAGES + 1)), "once and in order"
        assert len(view) == 1 + 2 * MESSAGES
        settle(world, actors, lambda watcher=watcher: watcher.at == (1, 1 + 2 * MESSAGES))
        assert watcher.numbers == view
    for key in ("a", "b", "c", "race-0"):
        world.run_until(lambda key=key: len(set(world.records(key))) == 1)
    for node in world.nodes.values():
        for replica in node.pump.replicas.values():
            assert (replica.damaged, replica.halted) == ("", "")
