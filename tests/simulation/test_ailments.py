"""Whom a simulated cluster can be asked to do without."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from chaos.sim.ailments import Ailment, befall, keeps_state
from chaos.sim.guard import sealed
from chaos.sim.node import SimulatedNode
from chaos.sim.run import _warm_up
from chaos.sim.scenario import draw
from chaos.sim.workload import Work
from chaos.sim.world import World
from cluster.ids import ShardId
from cluster.session.operations import Kind
from cluster.shard.turn import Turn
from cluster.storage.engine import Family

SEED = 12228
"""Three nodes, one shard, logs that are cut every four entries."""
SHARD = ShardId(1)


@pytest.fixture
def world() -> Iterator[World]:
    """A cluster that works, and whose shard has records."""
    with sealed():
        world = World(draw(SEED))
        _warm_up(world)
        world.after(0.0, "work", Work(0.0, 0, Kind.CREATE, "ledger", "a"))
        world.run_until(world.now_ms + 500.0)
        write(world)
        yield world


def write(world: World) -> None:
    """Twenty entries that are applied by whoever can, and two seconds for everything that nodes do once in a while."""
    for number in range(20):
        payload = b'{"number":%d}' % (number + world.now_ms * 1_000)
        world.after(number * 20.0, "work", Work(0.0, 0, Kind.SEND, "ledger", "a", "append", payload))
    world.run_until(world.now_ms + 2_000.0)


def leader_and_others(world: World) -> tuple[SimulatedNode, list[SimulatedNode]]:
    leader = next(node for node in world.nodes.values() if node.pump.replicas[SHARD].leads)
    return leader, [node for node in world.nodes.values() if node is not leader]


def leave_behind(world: World, node: SimulatedNode) -> None:
    """Let the others go on without this one until their logs are cut behind what it has."""
    node.freeze()
    world.shun(node)
    write(world)
    world.shun(None)


def damage(node: SimulatedNode) -> None:
    """What apply does that meets a rotten record."""
    node.pump.replicas[SHARD].found_unreadable("a record is rotten", Turn())


def test_others_that_are_well_keep_a_state_however_far_one_is_behind(world: World) -> None:
    _, others = leader_and_others(world)
    leave_behind(world, others[0])
    assert others[0].pump.replicas[SHARD].raft.last_index < others[1].pump.replicas[SHARD].raft.snapshot.index
    assert keeps_state(SHARD, others)


def test_others_keep_a_state_when_the_one_that_is_whole_can_go_on_with_the_log_of_the_damaged_one(world: World) -> None:
    _, others = leader_and_others(world)
    damage(others[1])
    assert keeps_state(SHARD, others)


def test_others_keep_no_state_when_the_one_that_is_whole_needs_a_snapshot_and_the_other_is_damaged(world: World) -> None:
    """Then only the leader has all records as of where the logs begin."""
    _, others = leader_and_others(world)
    leave_behind(world, others[0])
    damage(others[1])
    assert not keeps_state(SHARD, others)


def test_nobody_keeps_a_state_when_all_are_damaged(world: World) -> None:
    _, others = leader_and_others(world)
    for node in others:
        damage(node)
    assert not keeps_state(SHARD, others)


def test_a_record_that_rots_unseen_counts_until_another_stands_there(world: World) -> None:
    _, others = leader_and_others(world)
    disk, place = others[1].disk, random.Random(7)
    for _ in range(20):
        disk.flip_bit(Family.RECORDS, place)
    rotten = [key for family, key in disk.rotten if key.startswith(SHARD.to_bytes(4, "big"))]
    assert rotten
    assert not keeps_state(SHARD, others)
    for family, key in list(disk.rotten):
        disk.corrupt(family, key, disk.rotten[(family, key)])
    assert keeps_state(SHARD, others)


def test_a_leader_falls_ill_only_after_the_damaged_replica_that_needs_its_records_was_healed(world: World) -> None:
    _, others = leader_and_others(world)
    leave_behind(world, others[0])
    damage(others[1])
    others[0].thaw(others[0].lives)
    began_ms = world.now_ms
    ill = befall(world, Ailment.FROZEN)
    assert ill is not None
    assert keeps_state(SHARD, [node for node in world.nodes.values() if node is not ill])
    assert world.now_ms > began_ms, "it could not have been spared at once"
