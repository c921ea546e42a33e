"""A gateway that is cut off from a leader, and a third node that is not: clients notice nothing but the way round.

Partial partitions: `cluster.pump.relaying`.
"""

from __future__ import annotations

from itertools import pairwise

import pytest

from cluster.ids import NodeId
from cluster.pump import frames
from cluster.pump.lanes import Lane
from cluster.session.operations import Delta, Kind, Operation, Reply
from cluster.shard.turn import AnswerItem, ForwardItem, RelayItem, RelayLostItem
from tests.pump.tally import session_id
from tests.pump.world import Client, SimulatedNode, World


def cut(world: World, one: SimulatedNode, other: SimulatedNode) -> None:
    """The connection between two nodes breaks, both ways, and is not made again."""
    for sender, receiver in ((one, other), (other, one)):
        world.cut.add((sender.name, receiver.name))
        sender.pump.on_disconnected(receiver.name, False, world.now_ms)


def heal(world: World, one: SimulatedNode, other: SimulatedNode) -> None:
    for sender, receiver in ((one, other), (other, one)):
        world.cut.discard((sender.name, receiver.name))
        world.broken.discard((sender.name, receiver.name))
        sender.pump.on_connected(receiver.name, world.now_ms)


def cut_off(nodes: int = 3, *, holder: bool = True) -> tuple[World, Client, SimulatedNode, SimulatedNode, list[SimulatedNode]]:
    """(world, a client of the gateway, the gateway, the leader, the others); gateway and leader do not reach each other.
    holder: whether the gateway has a replica of the shard.
    """
    world = World(nodes=nodes, seed=5)
    world.start().insist(Kind.CREATE, "a")
    leader = world.leader("a")
    shard = leader.pump.router.shard_of("tally", "a")
    gateway = next(node for node in world.nodes.values() if node is not leader and (shard in node.pump.replicas) is holder)
    others = [node for node in world.nodes.values() if node not in (leader, gateway)]
    client = world.client(gateway.name)
    client.insist(Kind.READ, "a")
    cut(world, gateway, leader)
    return world, client, gateway, leader, others


def add(client: Client, sequence: int, amount: int = 1) -> Reply:
    return client.insist(Kind.SEND, "a", "add", {"amount": amount}, session=session_id(1), sequence=sequence)


@pytest.mark.parametrize(("nodes", "holder"), [(3, True), (5, False)])
def test_sends_and_reads_go_round_a_connection_that_is_broken(nodes: int, holder: bool) -> None:
    world, client, _, leader, _ = cut_off(nodes, holder=holder)
    first = add(client, 1)
    began_ms = world.now_ms
    for sequence in range(2, 12):
        assert add(client, sequence).index == first.index + sequence - 1
    assert client.insist(Kind.READ, "a").index == first.index + 10
    assert world.now_ms - began_ms < 200, "the way is known"
    assert world.leader("a") is leader


def test_a_watch_goes_on_over_a_third_node_in_order_and_without_a_gap() -> None:
    world, client, gateway, leader, _ = cut_off()
    heal(world, gateway, leader)
    writer = world.client(leader.name)
    client.submit(Kind.WATCH, "a", credit=1_000_000)
    world.run_until(lambda: bool(client.deltas))
    for sequence in range(1, 31):
        add(writer, sequence)
        if sequence == 10:
            cut(world, gateway, leader)
        if sequence == 20:
            heal(world, gateway, leader)
        if sequence in (15, 25):
            last = (
                world.nodes[leader.name].pump.replicas[leader.pump.router.shard_of("tally", "a")].cache.get("tally", "a").index
            )
            world.run_until(lambda last=last: client.deltas[-1].index == last)
    world.run(1_000)
    assert_unbroken(client.deltas)
    assert client.deltas[-1].index == world.client(leader.name).insist(Kind.READ, "a").index


def assert_unbroken(deltas: list[Delta]) -> None:
    """Each delta begins where the one before ended, or is a whole view."""
    for before, after in pairwise(deltas):
        assert after.reset or (after.from_epoch, after.from_index) == (before.epoch, before.index)
        assert (after.epoch, after.index) >= (before.epoch, before.index)


def test_the_way_ends_with_the_node_in_the_middle_and_another_is_found() -> None:
    world, client, _, _, others = cut_off(5, holder=False)
    assert add(client, 1).failure is None
    middle = next(node for node in others if node.pump.routes.relays._carried)
    middle.crash()
    assert add(client, 2).failure is None
    assert add(client, 3).failure is None
    assert len(set(world.records("a"))) == 1


@pytest.mark.parametrize("seed", range(6))
def test_what_is_under_way_when_the_way_breaks_runs_once(seed: int) -> None:
    """Operations are given up with an unknown outcome; the session repeats them."""
    world, client, gateway, leader, others = cut_off()
    world.random.seed(seed)
    first = add(client, 1).index
    middle = others[0]
    for sequence in range(2, 20):
        number = client.submit(Kind.SEND, "a", "add", {"amount": 1}, session=session_id(1), sequence=sequence)
        world.run(world.random.randrange(3))
        end = world.random.choice([leader, gateway])
        cut(world, middle, end)
        world.run(1 + world.random.randrange(3))
        heal(world, middle, end)
        world.run_until(lambda number=number: number in client.replies)
        reply = client.replies[number][0]
        assert reply.failure is None or reply.failure.retryable
        assert add(client, sequence).index == first + sequence - 1


def test_operations_that_could_not_be_passed_on_are_refused_as_not_run() -> None:
    world, client, _, leader, others = cut_off()
    add(client, 1)
    middle = others[0]
    leader.up = False
    middle.pump.on_disconnected(leader.name, False, world.now_ms)
    number = client.submit(Kind.SEND, "a", "add", {"amount": 1}, session=session_id(1), sequence=2)
    world.run_until(lambda: number in client.replies)
    failure = client.replies[number][0].failure
    assert failure is not None
    assert failure.retryable
    assert add(client, 2).failure is None, "another leader is found"


def test_a_connection_that_is_made_again_is_used() -> None:
    world, client, gateway, leader, others = cut_off()
    add(client, 1)
    assert gateway.pump.routes.relays.reaches(leader.name)
    heal(world, gateway, leader)
    world.run(200)
    assert not gateway.pump.routes.relays.reaches(leader.name)
    middle, passed = others[0], []
    take = middle.pump.routes.relays.take
    middle.pump.routes.relays.take = lambda *arguments: passed.append(arguments) or take(*arguments)  # type: ignore[method-assign,func-returns-value]
    assert add(client, 2).failure is None
    assert not passed


def test_nothing_is_passed_on_twice() -> None:
    """Two nodes that each took the other for the way would send it round for ever."""
    world, _, gateway, leader, others = cut_off()
    middle = others[0]
    stranger = RelayItem(NodeId("n9"), leader.name, [ForwardItem(leader.pump.replicas[1].id, 1, [])])  # type: ignore[index]
    (frame,) = frames.pack_raft([stranger, RelayLostItem(NodeId("n9"))])
    middle.pump.on_frame(gateway.name, Lane.RAFT, frame, world.now_ms)
    assert leader.name not in middle.pump._turn.raft_now


def test_a_relayed_frame_that_is_too_large_leaves_in_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "FRAME_BYTES_SPLIT", 1_000)
    operations = [Operation(number, Kind.SEND, "s", "k", "a@b", "c", b"x" * 200) for number in range(20)]
    item = RelayItem(NodeId("n1"), NodeId("n2"), [ForwardItem(1, 7, operations), AnswerItem(3, [], [Reply(4)])])  # type: ignore[arg-type]
    packed = frames.pack_raft([item])
    assert all(len(frame) <= 1_000 for frame in packed)
    found: list[int] = []
    for frame in packed:
        for relay in frames.unpack_raft(frame):
            assert isinstance(relay, RelayItem)
            for inner in relay.items:
                found += [each.id for each in inner.operations] if isinstance(inner, ForwardItem) else []
    assert found == list(range(20))
