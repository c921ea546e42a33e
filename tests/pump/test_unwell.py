"""Leaders that can not serve: state that rotted, disks that hang. Others lead soon, and nobody loses anything."""

from __future__ import annotations

import msgspec

from cluster.ids import NodeId, ShardId
from cluster.pump.pump import PumpConfig
from cluster.session.operations import Kind
from cluster.shard.replica import CompactionConfig
from cluster.storage.engine import Family
from tests.pump.tally import session_id
from tests.pump.world import SimulatedNode, World

SHARD = ShardId(1)
ELECTION_TIMEOUT_MS = PumpConfig().election_timeout_ms


def started(**more: object) -> World:
    world = World(shards=1, **more)  # type: ignore[arg-type]
    client = world.start()
    for key in "abc":
        assert client.insist(Kind.CREATE, key).failure is None
    world.run_until(lambda: len({node.pump.replicas[SHARD].applied for node in world.nodes.values()}) == 1)
    return world


def rot(node: SimulatedNode, key: str) -> None:
    """The record of a document rots, and nothing of it is in memory."""
    replica = node.pump.replicas[SHARD]
    replica.save_all(node.pump._turn)
    node.world.run(5)
    replica.cache._documents.clear()
    stored = next(at for at, _ in node.engine.scan(Family.RECORDS, b"\0\0\0\1", b"\0\0\0\2") if at.endswith(key.encode()))
    node.engine.corrupt(Family.RECORDS, stored, b"rotten")


def leads(world: World) -> list[NodeId]:
    return [node.name for node in world.nodes.values() if node.up and node.pump.replicas[SHARD].serves]


def test_a_leader_whose_state_rots_hands_over_in_a_few_round_trips() -> None:
    world = started()
    leader = world.leader("a")
    client = world.client(next(name for name in world.names if name != leader.name))
    rot(leader, "a")
    began_ms = world.now_ms
    assert client.insist(Kind.SEND, "a", "add", {"amount": 4}).failure is None
    assert leader.pump.replicas[SHARD].raft.term > 1
    assert leads(world) != [leader.name]
    assert world.now_ms - began_ms < ELECTION_TIMEOUT_MS / 2, "nobody waited for a timeout"
    world.run_until(lambda: not leader.pump.replicas[SHARD].damaged)
    world.run_until(lambda: len(set(world.records("a"))) == 1)


def test_an_unwell_leader_tries_the_next_voter_when_the_first_is_unwell_too() -> None:
    """It would only hand over again; so it does not take over at all."""
    world = started()
    leader = world.leader("a")
    others = [node for node in world.nodes.values() if node is not leader]
    sick, well = others if others[0].pump.replicas[SHARD].replica < others[1].pump.replicas[SHARD].replica else others[::-1]
    for node in (sick, leader):
        node.pump._transfers._receiving.look_after = lambda replica, turn: None  # type: ignore[method-assign]
        node.pump.replicas[SHARD].damaged = "rot"
        node.pump.look_at(node.pump.replicas[SHARD], world.now_ms)
    began_ms = world.now_ms
    world.run_until(lambda: leads(world) == [well.name])
    assert world.now_ms - began_ms < 2.5 * ELECTION_TIMEOUT_MS
    assert world.client(sick.name).insist(Kind.SEND, "a", "add", {"amount": 4}).failure is None


def test_damage_that_is_found_while_a_snapshot_is_sent_breaks_it_off_and_the_next_leader_goes_on() -> None:
    small = PumpConfig(snapshot_chunk_bytes=100)
    world = started(compaction=CompactionConfig(every_entries=10, kept_entries=4, lagging_entries=6), pump=small)
    late = next(node for node in world.nodes.values() if node is not world.leader("a") and node.name != "n1")
    late.crash()
    client = world.client(world.leader("a").name)
    for amount in range(60):
        assert client.insist(Kind.SEND, "abc"[amount % 3], "add", {"amount": amount}).failure is None
    sender = world.leader("a")
    rot(sender, "c")
    late.boot()
    world.run_until(lambda: bool(sender.pump.replicas[SHARD].damaged))
    partial = late.pump.replicas[SHARD].stored.partial
    assert partial is not None
    assert partial.after >= b"tally\0a"
    world.run_until(lambda: late.pump.replicas[SHARD].cache.generation == 1)
    world.run_until(lambda: not any(node.pump.replicas[SHARD].damaged for node in world.nodes.values()))
    world.run_until(lambda: all(len(set(world.records(key))) == 1 for key in "abc"))


# -- disks that hang -----------------------------------------------------------------------------------------------------


def test_a_leader_whose_disk_hangs_gives_up_leadership_within_an_election_timeout_and_comes_back() -> None:
    """Reference trap 21: heartbeats beside a hung disk would keep everybody waiting for it."""
    world = started()
    leader = world.leader("a")
    client = world.client(next(name for name in world.names if name != leader.name))
    leader.syncs = False
    began_ms = world.now_ms
    client.submit(Kind.SEND, "a", "add", {"amount": 0})
    world.run_until(lambda: not leader.pump.replicas[SHARD].leads, within_ms=1.3 * ELECTION_TIMEOUT_MS)
    assert world.now_ms - began_ms >= 0.9 * ELECTION_TIMEOUT_MS, "an ordinary stall costs nobody anything"
    for sequence in range(1, 20):
        send = {"session": session_id(5), "sequence": sequence}
        assert client.insist(Kind.SEND, "a", "add", {"amount": 100 + sequence}, **send).failure is None
    assert world.now_ms - began_ms < 4 * ELECTION_TIMEOUT_MS, "writes go on elsewhere"
    assert leads(world) not in ([], [leader.name])
    leader.syncs = True
    world.run_until(lambda: len(set(world.records("a"))) == 1)
    numbers = msgspec.json.decode(client.insist(Kind.READ, "a").payload)["numbers"]
    assert [number for number in numbers if number > 100] == [100 + sequence for sequence in range(1, 20)]
    for node in world.nodes.values():
        if node is not leader:
            node.crash()
    for node in world.nodes.values():
        if not node.up:
            node.boot()
    world.run_until(world.settled)
    assert world.client(leader.name).insist(Kind.SEND, "a", "add", {"amount": 1}).failure is None


def test_a_leader_does_not_acknowledge_what_its_hanging_disk_has_not_got() -> None:
    """A majority of others may have it; then it is committed, and the leader still does not count itself."""
    world = started()
    leader = world.leader("a")
    leader.syncs = False
    client = world.client(leader.name)
    number = client.submit(Kind.SEND, "a", "add", {"amount": 7})
    world.run(300)
    replica = leader.pump.replicas[SHARD]
    assert replica.raft.persisted_index < replica.raft.last_index
    assert client.replies[number][0].failure is None, "two others have it durably"
    for node in world.nodes.values():
        if node is not leader:
            node.syncs = False
    stuck = client.submit(Kind.SEND, "a", "add", {"amount": 8})
    world.run(300)
    assert stuck not in client.replies


def test_a_node_that_stands_still_in_a_sync_is_replaced_and_follows_afterwards() -> None:
    """A sync in the loop's own thread stops its liveness too, so the others elect without being told anything."""
    world = started()
    leader = world.leader("a")
    client = world.client(next(name for name in world.names if name != leader.name))
    leader.paused_until_ms = world.now_ms + 8_000
    began_ms = world.now_ms
    assert client.insist(Kind.SEND, "a", "add", {"amount": 4}).failure is None
    assert world.now_ms - began_ms < 4 * ELECTION_TIMEOUT_MS
    world.run_until(lambda: world.now_ms > leader.paused_until_ms + 500)
    assert not leader.pump.replicas[SHARD].leads
    world.run_until(lambda: len(set(world.records("a"))) == 1)
