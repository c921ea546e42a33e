"""Moving replicas between the nodes of a cluster: under load, and while leader, target or driver die in the middle."""

from __future__ import annotations

import msgspec
import pytest

from cluster.errors import InvalidRequest, LearnerBehind, NotLeader, StaleConfiguration, StaleRoute
from cluster.ids import LogIndex, NodeId, ReplicaId
from cluster.placement.move import Action, Step
from cluster.pump.lanes import Lane
from cluster.session.operations import Kind
from cluster.shard.replica import CompactionConfig
from tests.pump.actors import Actor, ReaderOf, Watcher, Writer
from tests.pump.moving import (
    KEY,
    SHARD,
    finish,
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
from tests.pump.tally import session_id
from tests.pump.world import World

STAGES = 5
"""Steps of a move after which something is made to happen: learner, wait, voters swapped, removal, and one more."""
SMALL = CompactionConfig(every_entries=12, kept_entries=4, lagging_entries=8)


def load(world: World) -> tuple[list[Writer], list[Actor]]:
    writers = [Writer(world, KEY, number, 40) for number in range(2)]
    return writers, [*writers, Watcher(world, KEY), ReaderOf(world, KEY, writers)]


def test_a_voter_is_replaced_through_a_learner_while_writes_go_on() -> None:
    world = started()
    writers, actors = load(world)
    leaving = followers(world)[0]
    steps = move(world, leaving, "n4", actors)
    changes = [step for step in steps if step.action is Action.CHANGE]
    assert [(len(step.voters), len(step.learners)) for step in changes] == [(3, 1), (3, 1), (3, 0)]
    finish(world, writers)
    assert holders(world) == sorted({"n1", "n2", "n3", "n4"} - {leaving})


def test_the_leader_can_be_the_one_that_leaves() -> None:
    """Reference trap 45: it hands over first; clients hardly notice."""
    world = started()
    writers, actors = load(world)
    leaving = leader_of(world).name
    began_ms = world.now_ms
    steps = move(world, leaving, "n4", actors)
    assert Action.TRANSFER in [step.action for step in steps]
    assert world.now_ms - began_ms < 1_000, "nobody waited for an election timeout"
    finish(world, writers)
    assert leaving not in holders(world)


@pytest.mark.parametrize("stage", range(STAGES))
@pytest.mark.parametrize("leader_leaves", [False, True])
def test_the_move_goes_on_when_the_leader_dies_in_the_middle(stage: int, leader_leaves: bool) -> None:
    world = started()
    writers, actors = load(world)
    leaving = leader_of(world).name if leader_leaves else followers(world)[0]
    taken = 0
    died = ""

    def kill(_: Step) -> None:
        nonlocal taken, died
        taken += 1
        if taken == stage + 1:
            victim = leader_of(world)
            died = victim.name
            world.run(stage % 3)  # before, while and after the change travels
            victim.crash()
        elif taken > stage + 20 and not world.nodes[NodeId(died)].up:
            world.nodes[NodeId(died)].boot()

    move(world, leaving, "n4", actors, kill)
    finish(world, writers)
    assert leaving not in holders(world)
    assert "n4" in holders(world)


@pytest.mark.parametrize("stage", range(STAGES))
def test_the_move_goes_on_when_the_target_dies_in_the_middle(stage: int) -> None:
    world = started()
    writers, actors = load(world)
    leaving = followers(world)[0]
    target = world.nodes[NodeId("n4")]
    taken = 0

    def kill(_: Step) -> None:
        nonlocal taken
        taken += 1
        if taken == stage + 1:
            target.crash()
        elif taken == stage + 30 and not target.up:
            target.boot()

    move(world, leaving, "n4", actors, kill)
    finish(world, writers)
    assert "n4" in holders(world)


@pytest.mark.parametrize("stage", range(STAGES))
def test_another_driver_ends_what_a_dead_one_began(stage: int) -> None:
    """Reference trap 46: only the configuration says how far a move is."""
    world = started()
    leaving = followers(world)[0]
    for _ in range(stage):
        step_of(world, leaving, "n4")
        world.run(30)
    world.run(2_000)
    move(world, leaving, "n4")
    world.run_until(lambda: settled(world, 3))
    assert move(world, leaving, "n4")[0].action is Action.DONE, "and once more changes nothing"


def test_a_learner_is_brought_by_snapshot_while_the_log_is_compacted() -> None:
    world = started(compaction=SMALL)
    writers, actors = load(world)
    client = world.client("n1")
    for amount in range(40):
        client.insist(Kind.SEND, KEY, "add", {"amount": amount})
    leader = leader_of(world)
    assert leader.pump.replicas[SHARD].log.snapshot.index > 20
    move(world, followers(world)[0], "n4", actors)
    assert replica_at(world, "n4").log.snapshot.index > 20, "it never had the first entries"
    finish(world, writers)


def test_a_snapshot_says_which_entry_made_its_configuration() -> None:
    """Whoever leads later compares changes, proves removals and corrects the map by it, whether it has that entry or not
    (reference trap 47).
    """
    world = started(compaction=SMALL)
    client = world.client("n1")
    for amount in range(40):
        client.insist(Kind.SEND, KEY, "add", {"amount": amount})
    step_of(world, None, "n4")
    world.run_until(lambda: SHARD in world.nodes[NodeId("n4")].pump.replicas)
    world.run_until(lambda: replica_at(world, "n4").applied == status(world).last_index)
    newcomer = replica_at(world, "n4").raft
    assert newcomer.snapshot.index >= status(world).index > 0, "the entry itself never came"
    assert newcomer.configured_index == status(world).index


def test_sessions_and_configuration_travel_inside_snapshots() -> None:
    """A command that was applied before the snapshot is not applied again after it; the newcomer knows all members."""
    world = started(compaction=SMALL)
    client = world.client("n1")
    told = [client.insist(Kind.SEND, KEY, "add", {"amount": n}, session=session_id(1), sequence=n) for n in range(1, 41)]
    move(world, followers(world)[0], "n4")
    newcomer = replica_at(world, "n4")
    assert newcomer.log.snapshot.configuration.places, "places came with the snapshot"
    world.run_until(lambda: settled(world, 3))
    transfer_to(world, "n4")
    repeated = client.insist(Kind.SEND, KEY, "add", {"amount": 40}, session=session_id(1), sequence=40)
    assert (repeated.failure, repeated.index) == (None, told[-1].index)
    assert len(msgspec.json.decode(client.insist(Kind.READ, KEY).payload)["numbers"]) == 41


def transfer_to(world: World, name: str) -> None:
    leader_of(world).pump.transfer(SHARD, NodeId(name), world.now_ms)
    world.run_until(lambda: replica_at(world, name).serves)


def test_watches_and_writes_outlive_a_transfer_of_leadership() -> None:
    world = started()
    writers, actors = load(world)
    watcher = actors[2]
    assert isinstance(watcher, Watcher)
    for turn in range(300):
        for actor in actors:
            actor.step()
        world.run(2)
        if turn % 60 == 30:
            transfer_to(world, followers(world)[0])
    finish(world, writers)
    for _ in range(200):
        watcher.step()
        world.run(2)
    numbers = msgspec.json.decode(world.client("n1").insist(Kind.READ, KEY).payload)["numbers"]
    assert watcher.numbers == numbers


def test_commands_are_refused_as_retryable_while_leadership_is_handed_over() -> None:
    """Reference trap 40."""
    world = started()
    leader = leader_of(world)
    successor = followers(world)[0]
    world.cut = {(leader.name, NodeId(successor))}
    client = world.client(leader.name)
    leader.pump.transfer(SHARD, NodeId(successor), world.now_ms)
    reply = client.call(Kind.SEND, KEY, "add", {"amount": 1})
    assert reply.failure is not None
    assert (reply.failure.reason, reply.failure.retryable, reply.failure.applied) == ("TRANSFERRING", True, "no")
    assert client.insist(Kind.SEND, KEY, "add", {"amount": 1}).failure is None, "given up after an election timeout"


def test_a_shard_is_found_at_once_after_all_its_replicas_moved_away() -> None:
    """Neither map nor hint is right: the old holders say who leads now."""
    world = started(nodes=6)
    for leaving, joining in zip(["n1", "n2", "n3"], ["n4", "n5", "n6"], strict=True):
        move(world, leaving, joining)
    assert world.client("n2").insist(Kind.SEND, KEY, "add", {"amount": 1}).failure is None
    world.run_until(lambda: settled(world, 3))
    assert holders(world) == ["n4", "n5", "n6"]


def test_a_sleeping_shard_is_moved_and_falls_asleep_again() -> None:
    """Reference trap 50: nobody may miss a change because it sleeps, and a move leaves nothing running."""
    world = started()
    world.run(5_000)
    assert all(node.pump.replicas[SHARD].raft.asleep for node in world.holders(SHARD))
    move(world, leader_of(world).name, "n4")
    world.run_until(lambda: settled(world, 3))
    world.run(5_000)
    assert all(node.pump.replicas[SHARD].raft.asleep for node in world.holders(SHARD))
    assert all(SHARD not in node.pump._schedule.moved for node in world.nodes.values())


def test_a_restart_opens_what_the_node_holds_and_not_what_the_first_map_says() -> None:
    world = started()
    leaving = followers(world)[0]
    move(world, leaving, "n4")
    world.run_until(lambda: settled(world, 3))
    for node in world.nodes.values():
        node.crash()
    for node in world.nodes.values():
        node.boot()
    assert SHARD not in world.nodes[NodeId(leaving)].pump.replicas
    assert SHARD in world.nodes[NodeId("n4")].pump.replicas
    world.run_until(lambda: settled(world, 3))


def test_a_change_is_refused_when_the_configuration_is_not_the_one_that_was_seen() -> None:
    world = started()
    seen = status(world)
    leader = leader_of(world).pump
    learners = (ReplicaId(seen.highest + 1),)
    places = ((learners[0], NodeId("n4")),)
    leader.change_configuration(SHARD, seen.index, seen.voters, learners, places, world.now_ms)
    world.run(50)
    with pytest.raises(StaleConfiguration) as refused:
        leader.change_configuration(SHARD, seen.index, seen.voters, (), (), world.now_ms)
    assert refused.value.details["index"] == str(status(world).index)
    assert status(world).learners == learners


def test_what_can_not_be_done_is_refused_and_changes_nothing() -> None:
    world = started()
    before = status(world)
    pump = leader_of(world).pump
    follower = world.nodes[NodeId(followers(world)[0])].pump
    n4 = world.nodes[NodeId("n4")].pump
    with pytest.raises(NotLeader) as elsewhere:
        follower.move_step(SHARD, NodeId("n1"), NodeId("n4"), world.now_ms)
    assert elsewhere.value.details["leader"] == pump.node
    with pytest.raises(StaleRoute):
        n4.move_step(SHARD, NodeId("n1"), NodeId("n4"), world.now_ms)
    with pytest.raises(InvalidRequest):
        pump.move_step(SHARD, NodeId("n1"), NodeId("n9"), world.now_ms)
    with pytest.raises(InvalidRequest):
        pump.transfer(SHARD, NodeId("n4"), world.now_ms)
    with pytest.raises(InvalidRequest):
        pump.change_configuration(SHARD, before.index, before.voters, (ReplicaId(1),), (), world.now_ms)
    with pytest.raises(InvalidRequest):
        pump.change_configuration(SHARD, before.index, before.voters, (ReplicaId(90),), (), world.now_ms)
    assert status(world) == before
    assert n4.configuration(SHARD) is None


def test_a_learner_that_lacks_the_log_is_not_made_a_voter() -> None:
    """Reference trap 44."""
    world = started()
    world.nodes[NodeId("n4")].crash()
    seen = status(world)
    step_of(world, followers(world)[0], "n4")
    world.run(100)
    pump = leader_of(world).pump
    voters = tuple(sorted((*seen.voters[1:], ReplicaId(seen.highest + 1))))
    with pytest.raises(LearnerBehind):
        pump.change_configuration(SHARD, status(world).index, voters, seen.voters[:1], (), world.now_ms)
    step = step_of(world, followers(world)[0], "n4")
    assert step is not None
    assert step.action is Action.WAIT
    assert status(world).voters == seen.voters


def test_a_new_leader_takes_no_learner_for_its_moves_before_its_node_has_spoken_for_the_shard() -> None:
    """It could be there in place of a replica that its node lost, of which the leader before had heard: then the place of that
    one would stay empty.
    """
    world = started()
    leaving = followers(world)[0]
    step_of(world, leaving, "n4")
    world.run_until(lambda: "n4" in holders(world))
    world.run_until(lambda: replica_at(world, "n4").applied == leader_of(world).pump.replicas[SHARD].applied)
    send = world.send

    def deaf(sender: NodeId, receiver: NodeId, lane: Lane, frame: bytes) -> bool:
        return True if lane is Lane.LIVENESS and sender == "n4" else send(sender, receiver, lane, frame)

    world.send = deaf  # type: ignore[method-assign]
    before = leader_of(world)
    successor = next(name for name in followers(world) if name not in (leaving, "n4"))
    before.pump.transfer(SHARD, NodeId(successor), world.now_ms)
    world.run_until(lambda: replica_at(world, successor).serves)
    step = step_of(world, leaving, "n4")
    assert step is not None
    assert (step.action, step.why) == (Action.WAIT, "n4 has not said yet that it lost no replica")
    world.send = send  # type: ignore[method-assign]
    move(world, leaving, "n4")
    assert leaving not in holders(world)


def test_an_uncommitted_configuration_is_rolled_back_by_a_new_leader_with_its_places() -> None:
    world = started()
    old = leader_of(world)
    others = followers(world)
    world.cut = {(old.name, NodeId(name)) for name in (*others, "n4")}
    seen = status(world)
    step_of(world, others[0], "n4")
    world.run(5)
    replica = old.pump.replicas[SHARD]
    assert replica.members.replica_on(NodeId("n4")) == seen.highest + 1
    world.cut |= {(receiver, sender) for sender, receiver in world.cut}
    world.run_until(lambda: any(replica_at(world, name).serves for name in others), 10_000)
    world.cut = set()
    world.mend()
    world.run_until(lambda: replica.members.replica_on(NodeId("n4")) is None)
    assert replica.raft.configured_index == LogIndex(0)
    assert SHARD not in world.nodes[NodeId("n4")].pump.replicas
    move(world, others[0], "n4")
    world.run_until(lambda: settled(world, 3))
