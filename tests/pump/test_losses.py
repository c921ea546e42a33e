"""Replicas whose logs are not what they acknowledged: they never speak again, and others take their places under new ids."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from cluster.errors import InvalidRequest
from cluster.ids import NodeId, ReplicaId, ShardId
from cluster.placement.move import Action
from cluster.pump import facts, frames
from cluster.pump.lanes import Lane
from cluster.raft.messages import AppendReply, VoteReply, VoteRequest
from cluster.session.operations import Kind
from cluster.shard.replica import CompactionConfig
from cluster.shard.turn import RaftItem
from cluster.storage import keys
from cluster.storage.engine import Batch, Family
from cluster.storage.memory import MemoryEngine
from tests.pump.world import SimulatedNode, World

SHARD = ShardId(1)


def started(**more: object) -> World:
    world = World(shards=2, **more)  # type: ignore[arg-type]
    client = world.start()
    for key in "abcdef":
        assert client.insist(Kind.CREATE, key).failure is None
    world.run_until(lambda: quiet(world))
    return world


def quiet(world: World) -> bool:
    for shard in range(3):
        held = [node.pump.replicas.get(ShardId(shard)) for node in world.nodes.values() if node.up]
        if len({replica.applied if replica is not None else -1 for replica in held}) != 1:
            return False
    return True


def follower(world: World) -> SimulatedNode:
    """A node that leads nothing of shard 1."""
    return next(node for node in world.nodes.values() if not node.pump.replicas[SHARD].leads)


def leader_of(world: World) -> SimulatedNode:
    return next(node for node in world.holders(SHARD) if node.pump.replicas[SHARD].leads)


def cut_tail(node: SimulatedNode, entries: int = 3, shard: ShardId = SHARD) -> None:
    """The newest entries of a shard's log are gone, as from a disk that lied about a sync."""
    log = node.pump.replicas[shard].log
    loss, newest = Batch(), log.last_index
    loss.delete_range(Family.LOG, keys.log_entry(shard, newest - entries + 1), keys.log_entry(shard, keys.INDEX_MAX))
    node.engine.write(loss)
    node.engine.sync()


def rot_entry(node: SimulatedNode, index: int) -> None:
    node.engine.corrupt(Family.LOG, keys.log_entry(SHARD, index), b"rotten")


def rot_vote(node: SimulatedNode) -> None:
    node.engine.corrupt(Family.META, keys.shard_meta(SHARD, keys.SHARD_HARD_STATE), b"rotten")


class Listener:
    """Hears every vote and acknowledgement that a replica sends."""

    def __init__(self, world: World, node: NodeId, replica: ReplicaId) -> None:
        self.said: list[object] = []
        send = world.send

        def heard(sender: NodeId, receiver: NodeId, lane: Lane, frame: bytes) -> bool:
            if lane is Lane.RAFT and sender == node:
                for item in frames.unpack_raft(frame):
                    if isinstance(item, RaftItem) and item.shard == SHARD and item.sender == replica:
                        speaks = isinstance(item.message, VoteRequest)
                        grants = isinstance(item.message, VoteReply) and item.message.granted
                        if speaks or grants or (isinstance(item.message, AppendReply) and not item.message.rejected):
                            self.said.append(item.message)
            return send(sender, receiver, lane, frame)

        world.send = heard  # type: ignore[method-assign]


def replaced(world: World, node: SimulatedNode, old: ReplicaId, shard: ShardId = SHARD) -> Callable[[], bool]:
    def holds() -> bool:
        replica = node.pump.replicas.get(shard)
        return replica is not None and replica.replica > old and not node.pump.lost

    return holds


def check_whole(world: World, client_at: str = "n1") -> None:
    client = world.client(client_at)
    for amount, key in enumerate("abcdef"):
        assert client.insist(Kind.SEND, key, "add", {"amount": 1000 + amount}).failure is None
    world.run_until(lambda: quiet(world))
    for key in "abcdef":
        world.run_until(lambda key=key: len(set(world.records(key))) == 1)
        assert len(world.records(key)) == 3


def test_a_follower_whose_log_became_shorter_is_told_and_replaced_under_a_new_id() -> None:
    """Reference traps 11 and 14, design section 4. Its node and its other shards go on."""
    world = started()
    victim = follower(world)
    old = victim.pump.replicas[SHARD].replica
    others = {shard: replica.replica for shard, replica in victim.pump.replicas.items() if shard != SHARD}
    victim.crash(lose_unsynced=False, refused=False)
    cut_tail(victim)
    victim.boot()
    world.run_until(lambda: SHARD in victim.pump.lost)
    why = victim.pump.lost[SHARD].why
    assert "acknowledged entry" in why
    assert str(old) in why
    said = Listener(world, victim.name, old)
    world.run_until(replaced(world, victim, old))
    assert said.said == []
    assert {shard: victim.pump.replicas[shard].replica for shard in others} == others
    committed = victim.pump.replicas[SHARD].raft.committed_configuration
    assert old not in dict(committed.places)
    assert len(committed.voters) == 3
    check_whole(world, victim.name)


@pytest.mark.parametrize("damage", [rot_vote, lambda node: rot_entry(node, node.pump.replicas[SHARD].log.last_index)])
def test_a_log_that_can_not_be_read_at_start_is_a_lost_one_and_the_node_starts(damage: Callable[[SimulatedNode], None]) -> None:
    """Votes that can not be read may have been given: that replica gives none again."""
    world = started()
    victim = follower(world)
    old = victim.pump.replicas[SHARD].replica
    victim.crash(lose_unsynced=False)
    damage(victim)
    said = Listener(world, victim.name, old)
    victim.boot()
    assert victim.pump.lost[SHARD].lost == old
    assert SHARD not in victim.pump.replicas
    world.run_until(replaced(world, victim, old))
    assert said.said == []
    check_whole(world)


def test_rot_in_the_middle_of_a_log_is_found_when_it_is_read_and_ends_that_replica_alone() -> None:
    """Reference trap 10. Not at the start, which reads only the end; not ever by a follower that nobody asks."""
    world = started(compaction=CompactionConfig(every_entries=500, kept_entries=400))
    for amount in range(120):
        assert world.client("n1").insist(Kind.SEND, "abcdef"[amount % 6], "add", {"amount": amount}).failure is None
    world.run_until(lambda: quiet(world))
    victim = follower(world)
    old = victim.pump.replicas[SHARD].replica
    victim.crash(lose_unsynced=False)
    rot_entry(victim, 3)
    victim.boot()
    assert SHARD in victim.pump.replicas
    world.run_until(replaced(world, victim, old))
    check_whole(world)


def test_a_lost_replica_stays_lost_through_restarts_of_everybody_until_it_is_replaced() -> None:
    world = started()
    victim = follower(world)
    old = victim.pump.replicas[SHARD].replica
    victim.crash(lose_unsynced=False)
    rot_vote(victim)
    others = [node for node in world.nodes.values() if node is not victim]
    others[0].crash()
    said = Listener(world, victim.name, old)
    for _ in range(3):
        victim.boot()
        world.run(1_500)
        assert victim.pump.lost[SHARD].lost == old
        victim.crash()
    assert said.said == [], "with one other there is no majority, and the lost one does not make it up"
    victim.boot()
    others[0].boot()
    world.run_until(replaced(world, victim, old))
    check_whole(world)


def test_a_replacement_that_is_interrupted_anywhere_goes_on() -> None:
    """The leader or the node dies at each point in turn; whoever leads next takes the next step from what is committed."""
    for after_ms in (150, 300, 450, 600, 750, 900):
        world = started(seed=after_ms)
        victim = follower(world)
        old = victim.pump.replicas[SHARD].replica
        victim.crash(lose_unsynced=False)
        rot_vote(victim)
        victim.boot()
        world.run(after_ms)
        target = victim if after_ms % 300 else leader_of(world)
        target.crash(keep_batches=world.random.randint(0, target.unsynced_batches))
        world.run(200)
        target.boot()
        world.run_until(replaced(world, victim, old), within_ms=60_000)
        check_whole(world)


def test_a_move_to_where_a_lost_replica_is_being_replaced_waits_and_then_is_refused() -> None:
    """It took the replacement for its own learner, put it in the place of another voter, and two voters were left of three."""
    world = started()
    leader, victim = leader_of(world), follower(world)
    other = next(node for node in world.holders(SHARD) if node is not leader and node is not victim)
    old = victim.pump.replicas[SHARD].replica
    victim.crash(lose_unsynced=False)
    rot_vote(victim)
    victim.boot()
    world.run_until(lambda: old not in leader.pump.replicas[SHARD].raft.configuration.voters)
    waits = leader.pump.move_step(SHARD, other.name, victim.name, world.now_ms)
    assert waits.action is Action.WAIT
    while not replaced(world, victim, old)():
        assert leader.pump.move_step(SHARD, other.name, victim.name, world.now_ms) == waits
        world.run(20)
    world.run(1_100)
    with pytest.raises(InvalidRequest, match="holds a voter"):
        leader.pump.move_step(SHARD, other.name, victim.name, world.now_ms)
    assert len(leader.pump.replicas[SHARD].raft.configuration.voters) == 3
    check_whole(world, leader.name)


def test_the_system_shard_is_replaced_like_any_other() -> None:
    world = started()
    system = ShardId(0)
    victim = next(node for node in world.nodes.values() if not node.pump.replicas[system].leads)
    old = victim.pump.replicas[system].replica
    victim.crash(lose_unsynced=False)
    victim.engine.corrupt(Family.META, keys.shard_meta(system, keys.SHARD_HARD_STATE), b"rotten")
    victim.boot()
    world.run_until(replaced(world, victim, old, system))
    check_whole(world)


def test_a_leader_does_not_count_the_node_of_a_lost_replica_for_its_reads() -> None:
    """The lost replica may have voted for another leader: its node's word about this one is worth nothing."""
    world = started()
    victim = follower(world)
    leader = leader_of(world)
    third = next(node for node in world.nodes.values() if node not in (victim, leader))
    key = next(key for key in "abcdef" if leader.pump.router.shard_of("tally", key) == SHARD)
    victim.crash(lose_unsynced=False)
    rot_vote(victim)
    third.crash()
    victim.boot()
    client = world.client(leader.name)
    number = client.submit(Kind.READ, key)
    world.run(900)
    assert number not in client.replies or client.replies[number][0].failure is not None


# -- the whole store -----------------------------------------------------------------------------------------------------


def lose_store(node: SimulatedNode) -> dict[ShardId, ReplicaId]:
    """All of a node's store is gone; what remains of its directory says whose it was. Returns what it held."""
    held = {shard: replica.replica for shard, replica in node.pump.replicas.items()}
    store = node.pump.liveness.store
    if node.up:
        node.crash()
    node.engine = MemoryEngine()
    facts.start_over(node.engine, store)
    return held


def test_a_node_that_lost_its_whole_store_holds_nothing_until_it_is_given_new_replicas() -> None:
    world = started()
    victim = follower(world)
    old = lose_store(victim)
    said = [Listener(world, victim.name, replica) for replica in old.values()]
    victim.boot()
    assert victim.pump.replicas == {}
    for shard, replica in old.items():
        world.run_until(replaced(world, victim, replica, shard))
    assert not victim.pump.fenced
    assert all(not listener.said for listener in said)
    check_whole(world, victim.name)


def test_a_blank_node_takes_no_invitation_to_what_it_may_have_been() -> None:
    """The leader still counts its old replica, whose id an empty directory would not recognise (reference trap 11)."""
    world = started()
    victim = follower(world)
    old = lose_store(victim)
    others = [node for node in world.nodes.values() if node is not victim]
    others[0].crash()
    victim.boot()
    world.run(3_000)
    assert victim.pump.replicas == {}
    assert {shard: held.lost for shard, held in victim.pump.lost.items()}.items() <= old.items()
    others[0].boot()
    for shard, replica in old.items():
        world.run_until(replaced(world, victim, replica, shard))
    check_whole(world)


def test_two_stores_lost_one_after_the_other_cost_nothing_that_was_acknowledged() -> None:
    world = started()
    for name in ("n2", "n3", "n1"):
        victim = world.nodes[NodeId(name)]
        old = lose_store(victim)
        world.run(100)
        victim.boot()
        for shard, replica in old.items():
            world.run_until(replaced(world, victim, replica, shard), within_ms=60_000)
        world.run_until(lambda: quiet(world))
    client = world.client("n1")
    for key in "abcdef":
        assert msgspec.json.decode(client.insist(Kind.READ, key).payload) == {"numbers": [0]}
    check_whole(world)


def test_the_only_voter_is_not_replaced() -> None:
    world = World(nodes=1, shards=1)
    client = world.start()
    assert client.insist(Kind.CREATE, "a").failure is None
    only = world.nodes[NodeId("n1")]
    only.crash(lose_unsynced=False)
    rot_vote(only)
    only.boot()
    world.run(2_000)
    assert only.pump.lost[SHARD].lost > 0
    assert SHARD not in only.pump.replicas
