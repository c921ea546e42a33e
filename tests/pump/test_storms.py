"""Random crashes, cuts and losses over whole clusters: what was acknowledged is there, once and in order, and replicas
agree.
"""

from __future__ import annotations

import msgspec
import pytest

from cluster.session.operations import Kind
from cluster.shard.replica import CompactionConfig
from tests.pump.tally import session_id
from tests.pump.world import Client, World

MESSAGES = 150
SEEDS = 30


class Writer:
    """Sends 1..MESSAGES to one document over one session, at any node, until all are acknowledged."""

    def __init__(self, world: World, key: str, number: int) -> None:
        self.world, self.key = world, key
        self.session = session_id(number)
        self.acked = 0
        self.client: Client | None = None
        self.waiting: dict[int, int] = {}

    def step(self) -> None:
        if self.client is None or not self.client.node.up or self.client.number not in self.client.node.clients:
            up = [node.name for node in self.world.nodes.values() if node.up]
            if not up:
                return
            self.client, self.waiting = self.world.client(self.world.random.choice(up)), {}
        for number, sequence in list(self.waiting.items()):
            for reply in self.client.replies.get(number, []):
                del self.waiting[number]
                if reply.failure is None and sequence == self.acked + 1:
                    assert reply.index == sequence + 1, "in order, exactly once"
                    self.acked = sequence
        if not self.waiting and self.world.random.random() < 0.1:
            for sequence in range(self.acked + 1, min(self.acked + 3, MESSAGES) + 1):
                more = {"session": self.session, "sequence": sequence, "acked_through": self.acked}
                number = self.client.submit(Kind.SEND, self.key, "add", {"amount": sequence}, **more)
                self.waiting[number] = sequence


def disturb(world: World) -> None:
    """One random event; at most one node is down at a time, so a majority always holds what was acknowledged."""
    chance = world.random.random()
    down = [node for node in world.nodes.values() if not node.up]
    if chance < 0.010 and not down:
        world.random.choice(list(world.nodes.values())).crash(refused=world.random.random() < 0.5)
    elif chance < 0.030 and down:
        down[0].boot()
    elif chance < 0.035:
        world.cut = {(one, other) for one in world.names for other in world.names if world.random.random() < 0.3}
    elif chance < 0.055:
        world.cut = set()
    elif chance < 0.06:
        world.loss = world.random.choice([0.0, 0.05, 0.3])


@pytest.mark.parametrize("seed", range(SEEDS))
def test_what_was_acknowledged_survives_a_storm(seed: int) -> None:
    small = CompactionConfig(every_entries=12, kept_entries=4, lagging_entries=8)
    world = World(shards=2, seed=seed, compaction=small)
    client = world.start()
    for key in "ab":
        client.insist(Kind.CREATE, key)
    writers = [Writer(world, key, number) for number, key in enumerate("ab")]
    for _ in range(2_500):
        disturb(world)
        for writer in writers:
            writer.step()
        world.run(2)
    world.cut, world.loss = set(), 0.0
    for node in world.nodes.values():
        if not node.up:
            node.boot()
    for _ in range(15_000):
        if all(writer.acked == MESSAGES for writer in writers):
            break
        for writer in writers:
            writer.step()
        world.run(2)
    assert [writer.acked for writer in writers] == [MESSAGES, MESSAGES], "with everything healed, everything gets through"
    for key in "ab":
        world.run_until(lambda key=key: len(set(world.records(key))) == 1)
        view = world.client("n1").insist(Kind.READ, key)
        assert msgspec.json.decode(view.payload) == {"numbers": [0, *range(1, MESSAGES + 1)]}
