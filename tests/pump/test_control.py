"""Operators' calls travel between nodes like operations, and each gets its one answer."""

from __future__ import annotations

from cluster.pump.control import WAITING_MAX, Control
from cluster.session.operations import Kind, Operation, Reply
from cluster.shard.turn import Turn
from cluster.shardmap.map import SYSTEM_KEY, SYSTEM_SPACE
from tests.pump.world import World


def call(number: int = 1) -> Operation:
    return Operation(number, Kind.CONTROL, SYSTEM_SPACE, SYSTEM_KEY, "operator@moot", "MoveReplica", b'{"a":1}')


def test_a_call_reaches_the_leader_of_its_shard_and_comes_back_answered() -> None:
    world = World()
    world.start()
    leader = world.leader("a")
    asked = next(node for node in world.nodes.values() if node is not leader)
    client = world.client(asked.name)
    shard = leader.pump.router.shard_of("tally", "a")
    asked.pump.streams.submit_to(client.number, shard, call(), world.now_ms)
    world.run_until(lambda: bool(leader.pump.control))
    assert not any(node.pump.control for node in world.nodes.values() if node is not leader)
    ((stream, operation),) = leader.pump.control.take()
    assert (operation.channel, operation.payload) == ("MoveReplica", b'{"a":1}')
    leader.pump.control.answer(stream, Reply(operation.id, payload=b'{"b":2}'))
    world.run_until(lambda: 1 in client.replies)
    assert [reply.payload for reply in client.replies[1]] == [b'{"b":2}']
    assert not leader.pump.control


def test_calls_that_nobody_takes_are_refused_beyond_a_bound_and_others_pass_by() -> None:
    turn = Turn()
    control = Control(turn)
    read = Operation(7, Kind.READ, "tally", "a", "alice@acme")
    others = control.arrived(("n2", 1), [*(call(number) for number in range(WAITING_MAX + 1)), read])  # type: ignore[arg-type]
    assert others == [read]
    ((refused,),) = turn.replies.values()
    assert refused.id == WAITING_MAX
    assert refused.failure is not None
    assert (refused.failure.reason, refused.failure.retryable) == ("OVERLOADED", True)
    assert len(control.take()) == WAITING_MAX
    assert not control
