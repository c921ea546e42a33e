"""Driving moves in a world: what the tests of moves share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import msgspec

from cluster.errors import RetryableError
from cluster.ids import NodeId, ReplicaId, ShardId
from cluster.placement.move import Action, ConfigurationStatus, Step
from cluster.session.operations import Kind
from cluster.shard.replica import ShardReplica
from tests.pump.actors import Actor, Writer
from tests.pump.world import SimulatedNode, World

SHARD = ShardId(1)
KEY = "a"
"""A document of SHARD, wherever that is."""


def started(nodes: int = 4, **more: object) -> World:
    """Four nodes and one shard, on the first three of them."""
    world = World(nodes=nodes, shards=1, **more)  # type: ignore[arg-type]
    client = world.start()
    assert client.insist(Kind.CREATE, KEY).failure is None
    return world


def leader_of(world: World) -> SimulatedNode:
    """Whoever leads in the highest term, once there is one that serves."""
    world.run_until(lambda: any(node.pump.replicas[SHARD].serves for node in world.holders(SHARD)))
    leading = [node for node in world.holders(SHARD) if node.pump.replicas[SHARD].serves]
    return max(leading, key=lambda node: node.pump.replicas[SHARD].raft.term)


def replica_at(world: World, name: str) -> ShardReplica:
    return world.nodes[NodeId(name)].pump.replicas[SHARD]


def followers(world: World) -> list[str]:
    leader = leader_of(world)
    return [node.name for node in world.holders(SHARD) if node is not leader]


def status(world: World) -> ConfigurationStatus:
    found = leader_of(world).pump.configuration(SHARD)
    assert found is not None
    return found


def holders(world: World) -> list[str]:
    return [node.name for node in world.holders(SHARD)]


def step_of(world: World, leaving: str | None, joining: str | None) -> Step | None:
    """One step of a move at whoever leads; None while nobody does."""
    old, new = (NodeId(name) if name is not None else None for name in (leaving, joining))
    for node in world.holders(SHARD):
        if node.pump.replicas[SHARD].leads:
            with contextlib.suppress(RetryableError):
                return node.pump.move_step(SHARD, old, new, world.now_ms)
    return None


def move(
    world: World,
    leaving: str | None,
    joining: str | None,
    actors: list[Actor] | None = None,
    on_step: Callable[[Step], None] = lambda step: None,
    within_ms: float = 60_000,
) -> list[Step]:
    """Drive a move to its end while `actors` go on; says what it took."""
    steps: list[Step] = []
    ends_ms = world.now_ms + within_ms
    while world.now_ms < ends_ms:
        step = step_of(world, leaving, joining)
        if step is not None:
            steps.append(step)
            if step.action is Action.DONE:
                return steps
            on_step(step)
        for _ in range(5):
            for actor in actors or []:
                actor.step()
            world.run(2)
    raise AssertionError(f"the move does not end: {steps[-5:]}")


def finish(world: World, writers: list[Writer], members: int = 3) -> None:
    """With everything up: all is written once and in order, replicas agree, and only members hold the shard."""
    for node in world.nodes.values():
        if not node.up:
            node.boot()
    world.mend()
    for _ in range(20_000):
        if all(writer.done for writer in writers):
            break
        for writer in writers:
            writer.step()
        world.run(2)
    world.run_until(lambda: settled(world, members))
    numbers = msgspec.json.decode(world.client("n1").insist(Kind.READ, KEY).payload)["numbers"]
    for writer in writers:
        own = [number - writer.base for number in numbers if writer.base < number < writer.base + 1000]
        assert own == list(range(1, writer.messages + 1)), "once and in order"
    world.run_until(lambda: len(set(world.records(KEY))) == 1)


def settled(world: World, members: int) -> bool:
    """Whether exactly the members of the newest configuration hold the shard, and every node's map names them."""
    now = status(world)
    places = {(member.replica, member.node) for member in now.members}
    held: set[tuple[ReplicaId, NodeId]] = {
        (node.pump.replicas[SHARD].replica, node.name) for node in world.nodes.values() if SHARD in node.pump.replicas
    }
    maps = [node.pump.router.map.shard(SHARD).replicas for node in world.nodes.values()]
    named = [{(place.replica, place.node) for place in replicas} for replicas in maps]
    return len(places) == members and held == places and not now.learners and all(each == places for each in named)
