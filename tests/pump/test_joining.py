"""A node that joined after the beginning: it has no replica of shard 0, and must know all that is decided nevertheless."""

from __future__ import annotations

import base64

import msgspec
import pytest

from cluster.errors import InvalidRequest
from cluster.ids import SYSTEM_SHARD, NodeId, ShardId
from cluster.placement.move import Action
from cluster.pump.learning import read_decisions
from cluster.session.operations import Kind
from cluster.shard.directory import Decisions
from cluster.shard.system.program import OPERATOR
from cluster.shard.turn import DecisionsReply
from cluster.shardmap.map import SYSTEM_KEY, SYSTEM_SPACE, MapState
from cluster.shardmap.nodes import Standing
from tests.pump.actors import Watcher, Writer
from tests.pump.moving import KEY, SHARD, finish, followers, holders, leader_of, move
from tests.pump.world import Client, SimulatedNode, World

SYSTEM = {"space": SYSTEM_SPACE, "principal": str(OPERATOR)}
N4 = NodeId("n4")


def grown() -> tuple[World, Client, SimulatedNode]:
    """Three nodes with one shard, a document, and a fourth node that joined."""
    world = World(nodes=3, shards=1, registry=True)
    client = world.start()
    assert client.insist(Kind.CREATE, KEY).failure is None
    return world, client, world.join("n4", client)


def decide(client: Client, channel: str, **fields: object) -> None:
    assert client.insist(Kind.SEND, SYSTEM_KEY, channel, fields, **SYSTEM).failure is None


def knows_as_much(world: World, node: SimulatedNode) -> bool:
    return all(other.directory.decisions == node.directory.decisions for other in world.nodes.values() if other.up)


def move_shard(world: World, shard: ShardId, leaving: str | None, joining: str | None) -> None:
    """Drive a move of any shard to its end."""
    old, new = (NodeId(name) if name is not None else None for name in (leaving, joining))

    def done() -> bool:
        leading = [node for node in world.holders(shard) if node.pump.replicas[shard].serves]
        steps = [node.pump.move_step(shard, old, new, world.now_ms) for node in leading[:1]]
        world.run(10)
        return [step.action for step in steps] == [Action.DONE]

    world.run_until(done)


def test_a_node_that_joined_holds_nothing_and_serves_everything_in_one_hop() -> None:
    world, _, n4 = grown()
    assert not n4.pump.replicas
    client = world.client("n4")
    assert client.insist(Kind.SEND, KEY, "add", {"amount": 5}).failure is None
    assert msgspec.json.decode(client.insist(Kind.READ, KEY).payload)["numbers"][-1] == 5


def test_what_is_decided_after_the_join_reaches_a_node_without_a_replica_of_the_system_shard() -> None:
    world, client, n4 = grown()
    decide(client, "deploy", space="later", bundle=base64.b64encode(b"tally 7").decode())
    world.run_until(lambda: n4.directory.find_space("later") is not None)
    code = n4.directory.space("later").code_hash
    world.run_until(lambda: n4.pump.bundle(code) is not None)
    assert SYSTEM_SHARD not in n4.pump.replicas
    assert world.client("n4").insist(Kind.CREATE, "x", space="later").failure is None


def test_a_document_of_a_later_space_is_served_by_the_node_that_joined() -> None:
    world, client, _ = grown()
    decide(client, "deploy", space="later", bundle=base64.b64encode(b"tally 7").decode())
    assert client.insist(Kind.CREATE, "x", space="later").failure is None
    move(world, followers(world)[0], None)
    move(world, followers(world)[0], "n4")
    move(world, leader_of(world).name, None)
    assert holders(world) == ["n4"]
    assert client.insist(Kind.SEND, "x", "add", {"amount": 3}, space="later").failure is None
    assert msgspec.json.decode(client.insist(Kind.READ, "x", space="later").payload)["numbers"][-1] == 3


def test_a_node_that_was_away_learns_what_was_decided_meanwhile() -> None:
    world, client, n4 = grown()
    n4.crash()
    decide(client, "deploy", space="later", bundle=base64.b64encode(b"tally 7").decode())
    decide(client, "node", do="standing", node="n4", standing=Standing.DRAINING)
    n4.boot()
    world.run_until(lambda: knows_as_much(world, n4))
    n4.crash(lose_unsynced=False)
    n4.boot()
    assert n4.directory.find_space("later") is not None, "it is on its disk"


def test_moves_to_a_node_that_joined_go_on_under_load() -> None:
    world, _, _ = grown()
    writers = [Writer(world, KEY, number, 40) for number in range(2)]
    move(world, leader_of(world).name, "n4", [*writers, Watcher(world, KEY)])
    finish(world, writers)
    assert "n4" in holders(world)


def test_the_map_is_corrected_on_nodes_without_the_system_shard_too() -> None:
    world, _, n4 = grown()
    leaving = followers(world)[0]
    move(world, leaving, "n4")
    world.run_until(lambda: n4.pump.router.map.shard(SHARD).replica_on(N4) is not None)
    world.run_until(lambda: knows_as_much(world, n4))


def test_the_system_shard_moves_like_any_other() -> None:
    """A first node can not be taken away as long as it has to hold the cluster's own shard."""
    world, client, n4 = grown()
    move_shard(world, SYSTEM_SHARD, "n1", "n4")
    assert [node.name for node in world.holders(SYSTEM_SHARD)] == ["n2", "n3", "n4"]
    decide(client, "deploy", space="later", bundle=base64.b64encode(b"tally 7").decode())
    world.run_until(lambda: all(node.directory.find_space("later") for node in world.nodes.values()))
    world.run_until(lambda: n4.pump.router.map.shard(SYSTEM_SHARD).replica_on(NodeId("n1")) is None)
    world.run_until(lambda: knows_as_much(world, n4))
    world.nodes[NodeId("n2")].crash()
    decide(client, "deploy", space="last", bundle=base64.b64encode(b"tally 8").decode())
    world.run_until(lambda: all(node.directory.find_space("last") for node in world.nodes.values() if node.up))


def test_every_node_follows_the_registry() -> None:
    world, client, n4 = grown()
    first = world.nodes[NodeId("n2")]
    world.run_until(lambda: sorted(first.pump.peers) == ["n1", "n3", "n4"])
    assert sorted(n4.pump.peers) == ["n1", "n2", "n3"]
    decide(client, "node", do="standing", node="n4", standing=Standing.DECOMMISSIONING)
    decide(client, "node", do="standing", node="n4", standing=Standing.REMOVED)
    world.run_until(lambda: sorted(first.pump.peers) == ["n1", "n3"])
    world.run_until(lambda: n4.directory.decisions.nodes[-1].standing is Standing.REMOVED)
    with pytest.raises(InvalidRequest):
        leader_of(world).pump.move_step(SHARD, followers(world)[0], N4, world.now_ms)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode(Decisions(version=99, shard_map=MapState(99, 1, ()))),
        msgspec.msgpack.encode([99, None, [], [], [["N 9", 1, b"", "h", 1, 2, 3]]]),
        msgspec.msgpack.encode([99, None, [], [], [["n9", 77, b"", "h", 1, 2, 3]]]),
    ],
)
def test_one_bad_value_does_not_end_every_node_that_it_reaches(encoded: bytes) -> None:
    """Trap 25: gossip and its like amplify a blast."""
    world, _, n4 = grown()
    before = n4.directory.decisions
    with pytest.raises(InvalidRequest):
        read_decisions(encoded)
    world.nodes[NodeId("n1")].pump._turn.send_bulk(N4, DecisionsReply(encoded))
    garbage = n4.pump.garbage_frames
    world.run_until(lambda: n4.pump.garbage_frames > garbage)
    assert n4.directory.decisions == before


def test_an_older_version_never_replaces_a_newer_one() -> None:
    world, client, n4 = grown()
    old = n4.directory.encode()
    decide(client, "node", do="standing", node="n4", standing=Standing.DRAINING)
    world.run_until(lambda: knows_as_much(world, n4))
    now = n4.directory.decisions
    world.nodes[NodeId("n1")].pump._turn.send_bulk(N4, DecisionsReply(old))
    world.run(1_000)
    assert n4.directory.decisions == now
