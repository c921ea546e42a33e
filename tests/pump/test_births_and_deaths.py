"""Replicas begin by invitation and end by notice; ids never come back; what a node held it does not keep."""

from __future__ import annotations

import msgspec
import pytest

from cluster.config import SHARDS_MAX
from cluster.ids import LogIndex, NodeId, ReplicaId, ShardId, Term
from cluster.placement.move import Action
from cluster.pump import facts, frames
from cluster.pump.lanes import Lane
from cluster.pump.liveness import Heartbeat
from cluster.session.operations import Kind
from cluster.shard.turn import AbsentItem, InquiryItem, InviteItem, MemberItem, RaftLaneItem, RemovedItem
from cluster.shardmap.map import Shard
from cluster.storage.engine import Family
from cluster.storage.memory import MemoryEngine
from tests.pump.moving import (
    KEY,
    SHARD,
    followers,
    holders,
    leader_of,
    move,
    replica_at,
    settled,
    started,
    status,
    step_of,
)
from tests.pump.world import World

N4 = NodeId("n4")


def tell(world: World, receiver: str, item: MemberItem, sender: str | None = None) -> None:
    """A peer's item, as if it came over the wire."""
    items: list[RaftLaneItem] = [item]
    sender = sender or next(name for name in world.names if name != receiver)
    [frame] = frames.pack_raft(items)
    world.nodes[NodeId(receiver)].pump.on_frame(NodeId(sender), Lane.RAFT, frame, world.now_ms)
    world.run(20)


def invitation(world: World, replica: int) -> InviteItem:
    shard = leader_of(world).pump.router.map.shard(SHARD)
    return InviteItem(msgspec.structs.replace(shard, replicas=()), ReplicaId(replica), Term(9))


def stored(world: World, name: str) -> int:
    """Values of the shard on a node's disk, other than what it remembers of having held it."""
    engine = world.nodes[NodeId(name)].engine
    prefix = SHARD.to_bytes(4, "big")
    families = (Family.LOG, Family.RECORDS, Family.HISTORY)
    count = sum(1 for family in families for _ in engine.scan(family, prefix, prefix + b"\xff" * 16))
    for start in (b"\x01" + prefix, b"\x02" + prefix):
        count += sum(1 for _ in engine.scan(Family.META, start, start + b"\xff" * 16))
    return count


def test_a_removed_replica_leaves_nothing_but_the_memory_of_its_id() -> None:
    world = started()
    leaving = followers(world)[0]
    replica = replica_at(world, leaving).replica
    assert stored(world, leaving) > 0
    move(world, leaving, "n4")
    world.run_until(lambda: settled(world, 3))
    world.run(100)
    assert stored(world, leaving) == 0
    node = world.nodes[NodeId(leaving)]
    held = facts.held(node.engine, node.name, node.pump.router.map)[SHARD]
    assert (held.replica, held.highest) == (0, replica)
    assert held.term >= 1


def test_a_replica_that_comes_back_to_a_node_is_another_one() -> None:
    """Reference trap 12."""
    world = started()
    client = world.client("n1")
    leaving = followers(world)[0]
    first = replica_at(world, leaving).replica
    move(world, leaving, "n4")
    client.insist(Kind.SEND, KEY, "add", {"amount": 1})
    move(world, "n4", leaving)
    world.run_until(lambda: settled(world, 3))
    assert replica_at(world, leaving).replica > first
    world.run_until(lambda: len(set(world.records(KEY))) == 1)


@pytest.mark.parametrize("restarts", [False, True])
def test_a_replica_that_missed_its_removal_asks_once_the_map_does_not_name_it(restarts: bool) -> None:
    world = started()
    leaving = followers(world)[0]
    victim = world.nodes[NodeId(leaving)]
    step_of(world, leaving, "n4")
    world.run(200)
    if restarts:
        victim.crash()
    else:
        world.cut = {pair for name in world.names for pair in ((NodeId(leaving), name), (name, NodeId(leaving)))}
    move(world, leaving, "n4")
    world.run(3_000)
    if restarts:
        victim.boot()
        assert SHARD in victim.pump.replicas, "its disk knows nothing of it"
    world.cut = set()
    world.mend()
    world.run_until(lambda: settled(world, 3))
    assert stored(world, leaving) == 0


def test_a_removed_replica_that_asks_for_votes_is_told_instead_of_heard() -> None:
    """It would disturb those who are left for ever, and the map may not know yet."""
    world = started()
    leaving = followers(world)[0]
    victim = world.nodes[NodeId(leaving)]
    victim.crash()
    move(world, leaving, "n4")
    victim.boot()
    world.run_until(lambda: SHARD not in victim.pump.replicas, 10_000)


def test_an_invitation_beyond_the_present_replica_ends_that_one_first() -> None:
    """A leader invites only to what its configuration places there, and that needs the place to be free."""
    world = started()
    leaving = followers(world)[0]
    old = replica_at(world, leaving)
    victim = world.nodes[NodeId(leaving)]
    world.cut = {pair for name in world.names for pair in ((victim.name, name), (name, victim.name))}
    move(world, leaving, "n4")
    world.run_until(lambda: leaving not in [member.node for member in status(world).members])
    step_of(world, "n4", leaving)
    world.run(50)
    assert replica_at(world, leaving) is old
    world.cut = set()
    world.mend()
    move(world, "n4", leaving)
    world.run_until(lambda: settled(world, 3))
    assert replica_at(world, leaving).replica > old.replica


def test_late_and_repeated_invitations_begin_nothing() -> None:
    """Reference trap 12: neither for the present replica, nor for one that is gone, nor for what never was."""
    world = started()
    leaving = followers(world)[0]
    victim = world.nodes[NodeId(leaving)]
    first = replica_at(world, leaving)
    tell(world, leaving, invitation(world, first.replica))
    assert replica_at(world, leaving) is first
    move(world, leaving, "n4")
    world.run_until(lambda: settled(world, 3))
    tell(world, leaving, invitation(world, first.replica))
    tell(world, leaving, invitation(world, first.replica - 1))
    assert SHARD not in victim.pump.replicas
    victim.crash()
    victim.boot()
    world.run(100)
    tell(world, leaving, invitation(world, first.replica))
    assert SHARD not in victim.pump.replicas, "nor after a restart"


def test_impossible_invitations_are_garbage() -> None:
    world = started()
    pump = world.nodes[N4].pump
    before = pump.garbage_frames
    for shard, end, replica in (
        (SHARDS_MAX + 1, 9, 9),
        (0, 9, 9),
        (-1, 9, 9),
        (1, 0, 9),
        (1, 9, 0),
        (1, 9, -5),
        (1, 9, 1 << 63),
    ):
        tell(world, "n4", InviteItem(Shard(ShardId(shard), 0, end, 1, ()), ReplicaId(replica), Term(1)))
    tell(world, "n4", RemovedItem(SHARD, ReplicaId(1), LogIndex(1), Term(1 << 63), NodeId("n1")))
    assert pump.garbage_frames == before + 8
    assert set(pump.replicas) == {0}


def test_an_invited_replica_that_nobody_speaks_to_stays_a_silent_newcomer() -> None:
    """It knows no configuration, so it does not campaign, and it is there again after a restart."""
    world = started()
    tell(world, "n4", invitation(world, 40))
    node = world.nodes[N4]
    world.run(5_000)
    assert (node.pump.replicas[SHARD].raft.term, node.pump.replicas[SHARD].deadline_ms) == (0, float("inf"))
    node.crash(lose_unsynced=False)
    node.boot()
    assert node.pump.replicas[SHARD].replica == 40
    assert node.pump.replicas[SHARD].raft.configuration.voters == ()


def test_a_notice_for_an_earlier_replica_does_not_end_the_present_one() -> None:
    world = started()
    leaving = followers(world)[0]
    first = replica_at(world, leaving).replica
    move(world, leaving, "n4")
    move(world, "n4", leaving)
    world.run_until(lambda: settled(world, 3))
    present = replica_at(world, leaving)
    tell(world, leaving, RemovedItem(SHARD, first, LogIndex(9), Term(9), NodeId("n1")))
    assert replica_at(world, leaving) is present


def test_a_notice_that_contradicts_what_is_committed_ends_nothing() -> None:
    world = started()
    follower = followers(world)[0]
    present = replica_at(world, follower)
    before = world.nodes[NodeId(follower)].pump.garbage_frames
    tell(world, follower, RemovedItem(SHARD, present.replica, LogIndex(0), Term(9), NodeId("n1")))
    assert replica_at(world, follower) is present
    assert world.nodes[NodeId(follower)].pump.garbage_frames == before + 1


def test_a_newcomer_vouches_for_no_leader_before_the_one_that_invited_it() -> None:
    """Its own term begins at 0, but an earlier replica here may have been a voter of an earlier leader (reference trap 53)."""
    world = started()
    tell(world, "n4", invitation(world, 40))
    pump = world.nodes[N4].pump
    for term, excepted in ((8, (SHARD,)), (9, ())):
        digest = bytes([term]) * 8
        beat = Heartbeat(1, b"store", term, digest, ((SHARD, Term(term)),))
        reply, _ = pump.liveness.on_heartbeat(NodeId("n9"), beat, world.now_ms)
        assert reply is not None
        assert reply.exceptions == excepted


def test_only_who_can_prove_it_tells_that_a_replica_was_removed() -> None:
    world = started()
    leader = leader_of(world).pump.replicas[SHARD]
    member = status(world).members[0]
    assert leader.removal_of(member.replica, member.node) is None
    assert leader.removal_of(ReplicaId(status(world).highest + 1), N4) is None, "a later configuration may have it"
    assert leader.removal_of(member.replica, N4) is not None, "it is known to be elsewhere"
    step_of(world, followers(world)[0], "n4")
    newcomer = ReplicaId(status(world).highest)
    assert leader.removal_of(newcomer, N4) is None, "not even committed yet"


def test_questions_of_strangers_are_harmless() -> None:
    world = started()
    for node in world.nodes.values():
        for item in (AbsentItem(SHARD, ReplicaId(7)), InquiryItem(SHARD, ReplicaId(7)), AbsentItem(ShardId(9), ReplicaId(1))):
            tell(world, node.name, item)
    assert holders(world) == ["n1", "n2", "n3"]


def test_a_wiped_target_never_becomes_a_voter_and_another_one_takes_its_place() -> None:
    """Reference traps 11 and 44."""
    world = started(nodes=5)
    leaving = followers(world)[0]
    step_of(world, leaving, "n4")
    world.run(300)
    target = world.nodes[N4]
    target.crash()
    target.engine = MemoryEngine()
    target.boot()
    for _ in range(50):
        step = step_of(world, leaving, "n4")
        assert step is None or step.action is Action.WAIT
        world.run(50)
    assert target.pump.fenced
    target.up = False
    move(world, "n4", None)
    move(world, leaving, "n5")
    assert sorted(member.node for member in status(world).members) == sorted({"n1", "n2", "n3", "n5"} - {leaving})


@pytest.mark.parametrize("restarts", [False, True])
def test_a_node_does_not_vouch_for_a_leader_whose_successor_removed_its_replica(restarts: bool) -> None:
    """Reference traps 36 and 53: a leader that slept through its own succession would count nodes that hold nothing any more,
    and answer a read from the past."""
    world = started(nodes=5)
    stale = leader_of(world)
    first, second = followers(world)
    slept_at_ms = world.now_ms
    stale.paused_until_ms = world.now_ms + 10_000
    for node in world.nodes.values():
        if node is not stale:
            node.pump.on_disconnected(stale.name, True, world.now_ms)
    world.run_until(lambda: any(replica_at(world, name).serves for name in (first, second)))
    for leaving, joining in ((first, "n4"), (second, "n5")):
        for _ in range(100):
            pumps = [node.pump for node in world.holders(SHARD) if node is not stale and node.pump.replicas[SHARD].serves]
            if pumps and pumps[0].move_step(SHARD, NodeId(leaving), NodeId(joining), world.now_ms).action is Action.DONE:
                break
            world.run(5)
    assert world.client("n4").insist(Kind.SEND, KEY, "add", {"amount": 5}).failure is None
    world.run_until(lambda: SHARD not in world.nodes[NodeId(first)].pump.replicas)
    world.run_until(lambda: SHARD not in world.nodes[NodeId(second)].pump.replicas)
    assert world.now_ms - slept_at_ms < 900, "the sleeper has no reason of its own to stop leading yet"
    world.cut = {pair for name in (N4, NodeId("n5")) for pair in ((stale.name, name), (name, stale.name))}
    for name in (first, second):
        if restarts:
            world.nodes[NodeId(name)].crash(lose_unsynced=False, refused=False)
            world.nodes[NodeId(name)].boot()
        world.nodes[NodeId(name)].pump.on_connected(stale.name, world.now_ms)
    stale.inbox.clear()
    stale.paused_until_ms = 0.0
    client = world.client(stale.name)
    asked = client.submit(Kind.READ, KEY)
    world.run(20)
    assert stale.pump.replicas[SHARD].leads or client.replies.get(asked)
    world.run_until(lambda: asked in client.replies)
    reply = client.replies[asked][0]
    assert reply.failure is not None, "the read would miss what was acknowledged before it began"
