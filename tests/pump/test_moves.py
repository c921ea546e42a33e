"""Moving replicas between the nodes of a cluster, under load and through faults."""

from __future__ import annotations

import contextlib

from cluster.errors import RetryableError
from cluster.ids import NodeId, ShardId
from cluster.placement.move import Action, Step
from cluster.session.operations import Kind
from tests.pump.world import World

SHARD = ShardId(1)


def started(nodes: int = 4, **more: object) -> World:
    """Four nodes and one shard on the first three."""
    world = World(nodes=nodes, shards=1, **more)  # type: ignore[arg-type]
    client = world.start()
    assert client.insist(Kind.CREATE, "a").failure is None
    return world


def step_of(world: World, leaving: str | None, joining: str | None) -> Step | None:
    """One step of a move at whoever leads; None while nobody does."""
    for node in world.holders(SHARD):
        if node.pump.replicas[SHARD].leads:
            old, new = (NodeId(name) if name is not None else None for name in (leaving, joining))
            with contextlib.suppress(RetryableError):
                return node.pump.move_step(SHARD, old, new, world.now_ms)
    return None


def move(world: World, leaving: str | None, joining: str | None, within_ms: float = 20_000) -> list[Step]:
    """Drive a move to its end; says what it took."""
    steps: list[Step] = []
    ends_ms = world.now_ms + within_ms
    while world.now_ms < ends_ms:
        step = step_of(world, leaving, joining)
        if step is not None:
            steps.append(step)
            if step.action is Action.DONE:
                return steps
        world.run(20)
    raise AssertionError(f"the move does not end: {steps[-5:]}")


def names(world: World) -> list[str]:
    return [node.name for node in world.holders(SHARD)]


def test_a_voter_is_replaced_through_a_learner_and_its_node_forgets_the_shard() -> None:
    world = started()
    client = world.client("n1")
    leaving = next(node.name for node in world.holders(SHARD) if not node.pump.replicas[SHARD].leads)
    steps = move(world, leaving, "n4")
    assert [step.action for step in steps].count(Action.CHANGE) == 3
    world.run_until(lambda: leaving not in names(world))
    assert names(world) == sorted({"n1", "n2", "n3", "n4"} - {leaving})
    assert client.insist(Kind.SEND, "a", "add", {"amount": 1}).failure is None
    world.run_until(lambda: all(node.pump.router.map.version == 2 for node in world.nodes.values()))
    assert {place.node for place in client.node.pump.router.map.shard(SHARD).replicas} == set(names(world))
    world.run_until(lambda: len(set(world.records("a"))) == 1)
    assert len(world.records("a")) == 3
