"""The controller of placement over real pumps: what it orders is done, whoever dies meanwhile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import msgspec
import pytest

from cluster.ids import SYSTEM_SHARD, NodeId, ShardId, Term
from cluster.placement.plan import Plan
from cluster.placement.rules import PlacementRules
from cluster.pump.config import PumpConfig
from cluster.pump.controlling import Controlling
from cluster.pump.frames import pack_raft
from cluster.pump.lanes import Lane
from cluster.session.operations import Kind
from cluster.shard.replica import CompactionConfig
from cluster.shard.steering import OrderedMove, OrderItem, ReportItem
from cluster.shardmap.nodes import Standing
from tests.pump.actors import Writer
from tests.pump.world import SimulatedNode, World

RULES = PlacementRules(dead_after_ms=4_000.0, warm_up_ms=5_000.0, balance_after_ms=3_000.0)
SMALL = CompactionConfig(every_entries=12, kept_entries=4, lagging_entries=8)


def started(nodes: int = 4, shards: int = 4, **more: object) -> World:
    world = World(nodes=nodes, shards=shards, pump=PumpConfig(placement=RULES), **more)  # type: ignore[arg-type]
    client = world.start()
    for key in "abcdef":
        assert client.insist(Kind.CREATE, key).failure is None
    return world


def controller(world: World) -> Controlling | None:
    """That of the node that leads the system shard in the highest term."""
    leading = [node for node in world.holders(SYSTEM_SHARD) if node.pump.replicas[SYSTEM_SHARD].serves]
    best = max(leading, key=lambda node: node.pump.replicas[SYSTEM_SHARD].raft.term, default=None)
    return best.pump.steering.controlling if best is not None else None


def plan(world: World) -> Plan | None:
    found = controller(world)
    return found.plan if found is not None else None


def settled(world: World) -> bool:
    now = plan(world)
    return now is not None and now.settled


def voters(world: World) -> dict[int, set[NodeId]]:
    """Of each shard, by the configuration of whoever leads it."""
    found = {}
    for number in range(1, world.shards + 1):
        shard = ShardId(number)
        leading = [node for node in world.holders(shard) if node.pump.replicas[shard].serves]
        if leading:
            best = max(leading, key=lambda node: node.pump.replicas[shard].raft.term)
            now = best.pump.replicas[shard].raft.configuration
            found[number] = {node for replica, node in now.places if replica in now.voters}
    return found


def counts(world: World) -> Counter[NodeId]:
    found: Counter[NodeId] = Counter(dict.fromkeys(world.names, 0))
    for nodes in voters(world).values():
        found.update(nodes)
    return found


def leads(world: World) -> Counter[NodeId]:
    found: Counter[NodeId] = Counter(dict.fromkeys(world.names, 0))
    for node in world.nodes.values():
        if node.up:
            found[node.name] += sum(replica.serves for replica in node.pump.replicas.values())
    return found


def system_leader(world: World) -> SimulatedNode:
    return next(node for node in world.holders(SYSTEM_SHARD) if node.pump.replicas[SYSTEM_SHARD].serves)


def set_standing(world: World, node: str, standing: Standing) -> None:
    world.tell_system("node", {"do": "standing", "node": node, "standing": int(standing)})


def write(world: World, writers: list[Writer], holds: Callable[[], bool], within_ms: float) -> None:
    """Time passes, and the writers write, until something holds and all is written; each number is there once and in order."""
    ends_ms = world.now_ms + within_ms
    while not (holds() and all(writer.done for writer in writers)):
        assert world.now_ms < ends_ms, "nothing came of it in time"
        for writer in writers:
            writer.step()
        world.run(5)
    reader = world.client(next(node.name for node in world.nodes.values() if node.up))
    for writer in writers:
        numbers = msgspec.json.decode(reader.insist(Kind.READ, writer.key).payload)["numbers"][1:]
        assert numbers == [writer.base + number for number in range(1, writer.messages + 1)]


def test_a_cluster_that_is_as_it_should_be_is_left_alone() -> None:
    world = started()
    before = {number: world.nodes[world.names[0]].pump.router.map.shard(ShardId(number)) for number in range(1, 5)}
    world.run_until(lambda: settled(world))
    world.run(20_000)
    assert settled(world)
    now = {number: world.nodes[world.names[0]].pump.router.map.shard(ShardId(number)) for number in range(1, 5)}
    assert now == before
    assert max(leads(world).values()) - min(leads(world).values()) <= 1


def test_a_dead_node_is_replaced_while_writes_go_on() -> None:
    world = started(compaction=SMALL)
    world.run_until(lambda: settled(world))
    victim = next(node for node in world.nodes.values() if node is not system_leader(world))
    writers = [Writer(world, key, number, 30) for number, key in enumerate("abcd")]
    victim.crash()
    died_ms = world.now_ms
    write(world, writers, lambda: all(victim.name not in nodes for nodes in voters(world).values()), within_ms=60_000)
    assert world.now_ms - died_ms >= RULES.dead_after_ms
    assert all(len(nodes) == 3 for nodes in voters(world).values())


def test_the_system_shards_leader_is_replaced_when_it_dies_like_any_other() -> None:
    world = started()
    world.run_until(lambda: settled(world))
    victim = system_leader(world)
    victim.crash()
    world.run_until(lambda: len(voters(world)) == 4 and victim.name not in set().union(*voters(world).values()), 60_000)


def test_a_node_that_comes_back_after_its_replicas_were_rebuilt_gets_some_again() -> None:
    world = started()
    world.run_until(lambda: settled(world))
    victim = next(node for node in world.nodes.values() if node is not system_leader(world))
    victim.crash()
    world.run_until(lambda: all(victim.name not in nodes for nodes in voters(world).values()), within_ms=60_000)
    victim.boot()
    world.run_until(lambda: settled(world) and max(counts(world).values()) - min(counts(world).values()) <= 1, 120_000)
    assert counts(world)[victim.name] == 3


@pytest.mark.parametrize("seed", range(4))
def test_another_controller_goes_on_when_the_first_dies_in_the_middle_of_moves(seed: int) -> None:
    world = started(nodes=5, shards=6, seed=seed, compaction=SMALL)
    world.run_until(lambda: settled(world))
    leaving = next(node.name for node in world.nodes.values() if node is not system_leader(world))
    set_standing(world, leaving, Standing.DECOMMISSIONING)
    world.run_until(lambda: bool(plan(world) and plan(world).orders))  # type: ignore[union-attr]
    world.run(world.random.randrange(1_500))
    first = system_leader(world)
    first.crash()
    world.run(world.random.randrange(3_000))
    first.boot()
    world.run_until(lambda: counts(world)[NodeId(leaving)] == 0 and settled(world), within_ms=120_000)
    assert all(len(nodes) == 3 for nodes in voters(world).values())


def test_a_draining_node_leads_nothing_and_keeps_its_replicas() -> None:
    world = started()
    world.run_until(lambda: settled(world))
    before = counts(world)
    set_standing(world, "n2", Standing.DRAINING)
    world.run_until(lambda: leads(world)[NodeId("n2")] == 0, within_ms=10_000)
    world.run(20_000)
    assert counts(world) == before
    assert leads(world)[NodeId("n2")] == 0


def test_a_decommissioned_node_is_left_by_everything() -> None:
    world = started(nodes=5, shards=5)
    world.run_until(lambda: settled(world))
    set_standing(world, "n2", Standing.DECOMMISSIONING)
    world.run_until(lambda: settled(world) and counts(world)[NodeId("n2")] == 0, within_ms=120_000)
    assert all(len(nodes) == 3 for nodes in voters(world).values())
    world.run(2_000)
    assert not world.nodes[NodeId("n2")].pump.replicas, "the system shard has left too"


def test_replicas_are_spread_over_zones() -> None:
    world = World(nodes=4, shards=4, pump=PumpConfig(placement=RULES))
    world.zones = {"n1": "x", "n2": "x", "n3": "y", "n4": "z"}
    world.start()
    world.run_until(lambda: settled(world), within_ms=120_000)
    assert all(len({world.zones[node] for node in nodes}) == 3 for nodes in voters(world).values())


def test_a_frozen_cluster_stands_still() -> None:
    world = started()
    world.run_until(lambda: settled(world))
    world.tell_system("placement", {"frozen": True})
    set_standing(world, "n2", Standing.DECOMMISSIONING)
    before = counts(world)
    world.run(20_000)
    assert counts(world) == before
    now = plan(world)
    assert now is not None
    assert "frozen" in now.standstill


def test_a_shard_that_somebody_moves_by_hand_is_left_to_him() -> None:
    world = started(nodes=5, shards=5)
    world.run_until(lambda: settled(world))
    shard = ShardId(1)
    leader = world.leader_of(shard)
    holders = voters(world)[1]
    leaving = next(name for name in holders if name != leader.name)
    joining = next(name for name in world.names if name not in holders)
    for _ in range(200):
        leader.pump.move_step(shard, leaving, joining, world.now_ms)
        world.run(5)
    assert joining in voters(world)[1]
    assert leaving not in voters(world)[1]


def test_orders_of_a_deposed_controller_are_void() -> None:
    world = started()
    world.run_until(lambda: settled(world))
    node = system_leader(world)
    obeying = node.pump.steering.obeying
    term = obeying.term
    order = OrderedMove(ShardId(1), NodeId("n1"), NodeId("n4"))
    node.pump.steering.on_item(NodeId("n2"), OrderItem(type(term)(term - 1), 1, [order]), world.now_ms)
    assert not obeying.moves
    node.pump.steering.on_item(NodeId("n2"), OrderItem(term, 1, [order]), world.now_ms)
    assert obeying.moves


def test_a_lost_report_is_made_up_for() -> None:
    """A controller that lacks the base of a report asks for everything; one that confirms nothing gets it again."""
    world = started()
    world.run_until(lambda: settled(world))
    found = controller(world)
    assert found is not None
    other = next(node for node in world.nodes.values() if node is not system_leader(world) and leads(world)[node.name])
    found.on_report(other.name, ReportItem(10_000, 10_001, [], [], []), world.now_ms)
    world.loss = 0.3
    set_standing(world, "n3", Standing.DRAINING)
    world.run(5_000)
    world.loss = 0.0
    world.mend()
    world.run_until(lambda: leads(world)[NodeId("n3")] == 0)
    world.run_until(lambda: settled(world))


def test_idle_shards_are_not_reported_again() -> None:
    """Ten thousand shards in which nothing happens cost nothing but a message every ten seconds a node."""
    world = started()
    world.run_until(lambda: settled(world))
    world.run(10_000)
    seen: list[ReportItem] = []
    for node in world.nodes.values():
        reporting, send = node.pump.steering.reporting, node.pump.steering.reporting._send

        def note(to: NodeId, item: ReportItem, now_ms: float, send=send) -> None:  # type: ignore[no-untyped-def]
            seen.append(item)
            send(to, item, now_ms)

        reporting._send = note
    world.run(20_000)
    assert not any(item.led for item in seen)
    assert len(seen) <= 3 * len(world.nodes)


@pytest.mark.parametrize(
    "item",
    [
        ReportItem(-1, 1, [], [], []),
        ReportItem(0, 1, [], [ShardId(-1)], []),
        ReportItem(0, 1, [], [], [(NodeId("n1"), 1 << 63)]),
        OrderItem(Term(1 << 63), 1, []),
    ],
)
def test_what_can_be_no_report_and_no_order_is_garbage(item: ReportItem | OrderItem) -> None:
    world = started()
    world.run_until(lambda: settled(world))
    node, before = world.nodes[NodeId("n1")], plan(world)
    garbage = node.pump.garbage_frames
    for frame in pack_raft([item]):
        node.pump.on_frame(NodeId("n2"), Lane.RAFT, frame, world.now_ms)
    assert node.pump.garbage_frames == garbage + 1
    assert plan(world) == before
