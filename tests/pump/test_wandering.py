"""What a shard owes while its replicas wander, found by simulated clusters."""

from __future__ import annotations

from cluster.ids import NodeId, ReplicaId
from cluster.placement.move import Action
from cluster.pump.frames import pack_liveness, pack_raft
from cluster.pump.lanes import Lane
from cluster.pump.liveness import Heartbeat, digest_of
from cluster.raft.progress import Pace
from cluster.session.operations import Kind
from cluster.shard.removal import take_leave
from cluster.shard.turn import RemovedItem, Turn
from tests.pump.moving import KEY, SHARD, leader_of, move, started, step_of


def test_commands_that_gather_at_a_replica_when_it_is_removed_are_refused_and_not_forgotten() -> None:
    """They had arrived behind entries on their way, so they were neither proposed nor refused; the leader's clock was slow, and
    the shard had gone on without it."""
    world = started()
    leader = next(node for node in world.holders(SHARD) if node.pump.replicas[SHARD].leads)
    client = world.client(leader.name)
    others = [NodeId(name) for name in world.names if name != leader.name]
    world.cut |= {pair for other in others for pair in ((leader.name, other), (other, leader.name))}
    on_its_way = client.submit(Kind.SEND, "a", "add", {"amount": 1})
    world.run(5)
    gathering = client.submit(Kind.SEND, "a", "add", {"amount": 2})
    world.run(5)
    assert not client.replies
    replica = leader.pump.replicas[SHARD]
    removed = RemovedItem(SHARD, replica.replica, replica.raft.commit_index, replica.raft.term, others[0])
    (frame,) = pack_raft([removed])
    leader.pump.on_frame(others[0], Lane.RAFT, frame, world.now_ms)
    world.run(20)
    assert SHARD not in leader.pump.replicas
    answers = [client.replies[number][0].failure for number in (on_its_way, gathering)]
    assert [failure.applied for failure in answers if failure is not None] == ["unknown", "no"]


def test_asking_in_vain_does_not_keep_a_sleeping_leader_from_its_learner() -> None:
    """A refused change woke the leader and left it without a place in the schedule, so it never spoke to the learner again."""
    world = started()
    there = [node for node in world.nodes.values() if node.name != "n4"]
    absent = world.nodes[NodeId("n4")]
    absent.crash()
    world.run_until(lambda: (step := step_of(world, None, "n4")) is not None and step.action is Action.CHANGE)
    for _ in range(100):
        world.run(50)
        assert (step := step_of(world, None, "n4")) is None or step.action is Action.WAIT
    assert all(node.up for node in there)
    absent.boot()
    assert move(world, None, "n4", within_ms=20_000)[-1].action is Action.DONE


def test_a_leader_tells_its_own_node_nothing_about_a_replica_that_lived_there_before() -> None:
    """It learns from the log that its predecessor on this node was removed. A node has no connection with itself."""
    world = started()
    leader = leader_of(world)
    move(world, None, "n4")
    replica = leader.pump.replicas[SHARD]
    turn = Turn()
    departed = {ReplicaId(1): leader.name, ReplicaId(2): NodeId("n9")}
    take_leave(replica.raft, SHARD, leader.name, departed, turn)
    assert list(turn.raft_now) == ["n9"]
    assert not departed


def test_a_leader_that_is_awake_when_a_restarted_follower_is_heard_asks_what_it_still_has() -> None:
    """It may have slept when the connection to the process before broke. A follower that has forgotten what is committed was
    taken for one that knows."""
    world = started()
    leader = leader_of(world)
    replica = leader.pump.replicas[SHARD]
    world.run_until(lambda: replica.raft.asleep)
    follower = next(node for node in world.holders(SHARD) if node is not leader)
    world.delay_ms = lambda sender, receiver, lane: 20.0
    world.client(leader.name).submit(Kind.READ, KEY)
    world.run(5)
    assert not replica.raft.asleep
    store = leader.pump._stores[follower.name]
    beat = Heartbeat(follower.generation + 1, store, 1 << 40, digest_of(()), ())
    leader.pump.on_frame(follower.name, Lane.LIVENESS, pack_liveness(beat), world.now_ms)
    leader.turn()
    number = replica.members.replica_on(follower.name)
    assert number is not None
    assert replica.raft._state.progress[number].pace is Pace.PROBE
