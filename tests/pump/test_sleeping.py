"""Groups that nobody uses: they cost nothing, and wake for whatever a timer would have told them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest

from cluster.errors import InvalidRequest
from cluster.ids import NodeId, ShardId
from cluster.pump import waking
from cluster.pump.lanes import Lane
from cluster.raft.core import Raft
from cluster.raft.effects import Effects
from cluster.raft.events import Event
from cluster.session.operations import Kind
from cluster.shard.replica import ShardReplica
from tests.pump.world import Client, SimulatedNode, World

ELECTION_MS = 1_000.0


@contextmanager
def counted_steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """How often any Raft core is stepped, by event."""
    counts: Counter[str] = Counter()
    step = Raft.step

    def counting(self: Raft, event: Event, now_ms: float) -> Effects:
        counts[type(event).__name__] += 1
        return step(self, event, now_ms)

    with monkeypatch.context() as patch:
        patch.setattr(Raft, "step", counting)
        yield counts


def replicas(world: World) -> list[ShardReplica]:
    return [replica for node in world.nodes.values() if node.up for replica in node.pump.replicas.values()]


def all_asleep(world: World) -> bool:
    return all(replica.raft.asleep for replica in replicas(world))


def sleeping_world(nodes: int = 3, shards: int = 8, seed: int = 1) -> tuple[World, Client]:
    world = World(nodes=nodes, shards=shards, seed=seed)
    client = world.start()
    world.run_until(lambda: all_asleep(world))
    return world, client


def led_by(world: World, node: SimulatedNode) -> list[ShardId]:
    return [shard for shard, replica in node.pump.replicas.items() if replica.leads]


def beats_only(world: World, duration_ms: float) -> None:
    """Run, looking at what leaves the nodes."""
    lanes: Counter[Lane] = Counter()
    send = world.send

    def watching(sender: NodeId, receiver: NodeId, lane: Lane, frame: bytes) -> bool:
        lanes[lane] += 1
        return send(sender, receiver, lane, frame)

    world.send = watching  # type: ignore[method-assign]
    world.run(duration_ms)
    world.send = send  # type: ignore[method-assign]
    assert set(lanes) == {Lane.LIVENESS}, lanes


def test_idle_groups_are_never_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Minutes without one step of any core; node pairs go on exchanging heartbeats, which name no group."""
    world, _ = sleeping_world()
    with counted_steps(monkeypatch) as steps:
        beats_only(world, 120_000)
    assert not steps
    for node in world.nodes.values():
        assert node.pump._schedule.deadline_ms == float("inf"), "no timer is left"
        assert not node.pump.busy


def test_nodes_that_beat_at_different_times_fall_into_step_and_wake_for_nothing_else() -> None:
    """Each waking costs a node that sleeps otherwise more than what it wakes for. So the rounds of all nodes go out together,
    at the pace of the first, and nothing is due in between: housekeeping goes with a round.
    """
    world, _ = sleeping_world()
    for late, node in enumerate(world.nodes.values()):
        node.pump._heartbeat_due_ms = world.now_ms + 40.0 * late
    world.run(500)
    rounds: dict[NodeId, list[float]] = {name: [] for name in world.names}
    housekept = {node.pump._housekeeping_due_ms for node in world.nodes.values()}
    for _ in range(5_000):
        before = {name: node.pump.liveness.round for name, node in world.nodes.items()}
        world.run(1)
        for name, node in world.nodes.items():
            assert node.pump.deadline_ms == node.pump._heartbeat_due_ms, "nothing is due before the next round"
            if node.pump.liveness.round != before[name]:
                rounds[name].append(world.now_ms)
    for together in zip(*rounds.values(), strict=True):
        assert max(together) - min(together) <= 2
    assert 48 <= len(rounds[world.names[0]]) <= 52, "and no more of them than one every 100 ms"
    assert not housekept & {node.pump._housekeeping_due_ms for node in world.nodes.values()}


def test_one_operation_wakes_one_group(monkeypatch: pytest.MonkeyPatch) -> None:
    world, client = sleeping_world()
    began_ms = world.now_ms
    assert client.call(Kind.CREATE, "a").failure is None
    assert world.now_ms - began_ms <= 20, "it is as fast as ever"
    awake = {replica.id for replica in replicas(world) if not replica.raft.asleep}
    assert awake == {world.nodes[NodeId("n1")].pump.router.shard_of("tally", "a")}
    world.run_until(lambda: all_asleep(world), 10_000)


def test_what_an_operator_is_refused_wakes_a_group_for_a_moment_only() -> None:
    """A refusal too has woken the core: without a timer it would neither sleep again nor ask again what it had asked."""
    world, _ = sleeping_world()
    leader = next(node for node in world.nodes.values() if led_by(world, node))
    shard = led_by(world, leader)[0]
    with pytest.raises(InvalidRequest):
        leader.pump.transfer(shard, leader.name, world.now_ms)
    assert not leader.pump.replicas[shard].raft.asleep
    world.run_until(lambda: all_asleep(world), 10_000)


def test_a_leader_that_dies_in_silence_is_replaced_in_all_its_groups() -> None:
    """Trap 50: its connections stand, nobody is refused, only its heartbeats are missing."""
    world, _ = sleeping_world(shards=40)
    victim = max(world.nodes.values(), key=lambda node: len(led_by(world, node)))
    lost = led_by(world, victim)
    assert lost
    victim.up = False
    others = [node for node in world.nodes.values() if node.up]
    began_ms = world.now_ms
    world.run_until(lambda: all(any(node.pump.replicas[shard].serves for node in others) for shard in lost))
    assert world.now_ms - began_ms <= ELECTION_MS + 500
    world.run_until(lambda: all_asleep(world), 10_000)


@pytest.mark.parametrize("seed", range(8))
def test_the_silent_leader_of_a_group_in_use_is_replaced_after_one_timeout_by_whose_turn_it_is(seed: int) -> None:
    """Followers that each waited for a random time of one to two timeouts, and again when the first had too short a log, took
    more than two.
    """
    world = World(seed=seed)
    client = world.start()
    client.insist(Kind.CREATE, "a")
    leader = world.leader("a")
    shard = leader.pump.router.shard_of("tally", "a")
    asking = world.client(next(node.name for node in world.nodes.values() if node is not leader))
    for amount in range(1, 60):
        asking.submit(Kind.SEND, "a", "add", {"amount": amount})
        world.run(5)
    assert not any(node.pump.replicas[shard].raft.asleep for node in world.nodes.values())
    leader.up = False
    began_ms = world.now_ms
    others = [node for node in world.nodes.values() if node.up]
    world.run_until(lambda: any(node.pump.replicas[shard].serves for node in others))
    assert world.now_ms - began_ms <= ELECTION_MS + 200


@pytest.mark.parametrize("gateway_holds_a_replica", [True, False])
def test_the_first_operation_after_a_silent_death_is_answered_within_about_an_election(gateway_holds_a_replica: bool) -> None:
    """Trap 50: it is on its way to the dead leader, or nobody has noticed yet; to repeat it is the session's part."""
    world, client = sleeping_world(nodes=5, shards=10, seed=3)
    client.insist(Kind.CREATE, "a")
    world.run_until(lambda: all_asleep(world), 10_000)
    leader = world.leader("a")
    shard = leader.pump.router.shard_of("tally", "a")
    gateway = next(
        node for node in world.nodes.values() if node is not leader and (shard in node.pump.replicas) == gateway_holds_a_replica
    )
    asking = world.client(gateway.name)
    assert asking.insist(Kind.READ, "a").failure is None, "the gateway knows the leader"
    world.run_until(lambda: all_asleep(world), 10_000)
    leader.up = False
    began_ms = world.now_ms
    assert asking.insist(Kind.SEND, "a", "add", {"amount": 1}).failure is None
    assert world.now_ms - began_ms <= ELECTION_MS + 600


def test_a_crash_that_is_refused_is_repaired_without_a_timeout() -> None:
    world, _ = sleeping_world(shards=40)
    victim = max(world.nodes.values(), key=lambda node: len(led_by(world, node)))
    lost = led_by(world, victim)
    victim.crash()
    others = [node for node in world.nodes.values() if node.up]
    began_ms = world.now_ms
    world.run_until(lambda: all(any(node.pump.replicas[shard].serves for node in others) for shard in lost))
    assert world.now_ms - began_ms <= 500


def test_thousands_of_sleepers_wake_some_at_a_time_and_who_is_used_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a node's death stops everybody until all groups have elected."""
    monkeypatch.setattr(waking, "WAKES_PER_TURN", 2)
    world, client = sleeping_world(shards=40, seed=2)
    client.insist(Kind.CREATE, "a")
    world.run_until(lambda: all_asleep(world), 10_000)
    leader = world.leader("a")
    used = leader.pump.router.shard_of("tally", "a")
    lost = led_by(world, leader)
    assert len(lost) > 8
    leader.crash()
    other = next(node for node in world.nodes.values() if node.up)
    waiting = other.pump._waking
    asking = world.client(other.name)
    asking.submit(Kind.READ, "a")
    sizes: list[int] = []
    woken = None
    while not sizes or sizes[-1]:
        world.run(1)
        sizes.append(waiting.pending)
        if woken is None and not other.pump.replicas[used].raft.asleep:
            woken = len(sizes)
    assert all(before - after <= 2 for before, after in pairwise(sizes))
    assert woken is not None
    assert woken <= 3
    world.run_until(lambda: world.settled_without(leader), 10_000)


def test_a_cut_off_node_falls_silent_and_finds_its_groups_again() -> None:
    """Its sleeping leaders learn that their quorum is gone, campaign for nothing, and follow when the network heals."""
    world, _ = sleeping_world(shards=12)
    victim = max(world.nodes.values(), key=lambda node: len(led_by(world, node)))
    world.cut = {pair for other in world.names if other != victim.name for pair in ((victim.name, other), (other, victim.name))}
    world.run(10_000)
    assert led_by(world, victim) == []
    assert all(replica.raft.asleep and replica.raft.leader is None for replica in victim.pump.replicas.values())
    beats_only(world, 10_000)
    world.cut = set()
    world.mend()
    world.run_until(lambda: all(replica.raft.leader is not None for replica in replicas(world)), 5_000)
    assert world.settled()
    world.run_until(lambda: all_asleep(world), 10_000)


def test_a_sleeping_leader_that_is_cut_off_serves_no_stale_read() -> None:
    world, client = sleeping_world()
    client.insist(Kind.CREATE, "a")
    world.run_until(lambda: all_asleep(world), 10_000)
    leader = world.leader("a")
    inside = world.client(leader.name)
    world.cut = {pair for other in world.names if other != leader.name for pair in ((leader.name, other), (other, leader.name))}
    read = inside.submit(Kind.READ, "a")
    outside = world.client(next(name for name in world.names if name != leader.name))
    assert outside.insist(Kind.SEND, "a", "add", {"amount": 7}).failure is None
    world.run_until(lambda: read in inside.replies)
    assert inside.replies[read][0].failure is not None


def test_a_deposed_sleeper_follows_the_new_leader() -> None:
    """Nobody could tell it: it slept behind a connection that lost its messages one way only."""
    world, client = sleeping_world()
    client.insist(Kind.CREATE, "a")
    world.run_until(lambda: all_asleep(world), 10_000)
    leader = world.leader("a")
    shard = leader.pump.router.shard_of("tally", "a")
    world.cut = {(leader.name, other) for other in world.names if other != leader.name}
    others = [node for node in world.nodes.values() if node is not leader]
    world.run_until(lambda: any(node.pump.replicas[shard].serves for node in others))
    world.cut = set()
    world.mend()
    world.run_until(lambda: leader.pump.replicas[shard].leader_node is not None, 5_000)
    assert world.settled()
    assert leader.pump.replicas[shard].leader_node == world.leader("a").name


def test_a_leader_whose_disk_hangs_loses_its_sleeping_groups_too() -> None:
    """Trap 21: heartbeats beside a hung disk would keep everybody waiting."""
    world, client = sleeping_world(shards=12)
    client.insist(Kind.CREATE, "a")
    leader = world.leader("a")
    lost = led_by(world, leader)
    world.run_until(lambda: all_asleep(world), 10_000)
    leader.syncs = False
    client.submit(Kind.SEND, "a", "add", {"amount": 1})
    others = [node for node in world.nodes.values() if node is not leader]
    world.run_until(lambda: all(any(node.pump.replicas[shard].serves for node in others) for shard in lost), 10_000)
    leader.syncs = True
    world.run_until(world.settled, 10_000)


def test_a_node_that_restarts_takes_part_again_in_all_groups() -> None:
    """Trap 50: it has forgotten what is committed, and the leaders have nothing new to say."""
    world, client = sleeping_world(shards=12)
    client.insist(Kind.CREATE, "a")
    world.run_until(lambda: all_asleep(world), 10_000)
    victim = min(world.nodes.values(), key=lambda node: len(led_by(world, node)))
    victim.crash()
    world.run(3_000)
    victim.boot()
    world.run_until(lambda: all_asleep(world), 20_000)
    for replica in replicas(world):
        assert replica.raft.commit_index == replica.raft.last_index == replica.applied
    assert len(set(world.records("a"))) == 1


def test_groups_sleep_beside_a_dead_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may stay dead for long; its peers do not ask it once a second in each group."""
    world, _ = sleeping_world(shards=12)
    world.nodes[NodeId("n3")].crash()
    world.run(15_000)
    assert all_asleep(world)
    with counted_steps(monkeypatch) as steps:
        world.run(30_000)
    assert not steps


def test_watches_do_not_keep_a_group_awake_and_follow_it_to_another_leader() -> None:
    world, client = sleeping_world()
    client.insist(Kind.CREATE, "a")
    leader = world.leader("a")
    watcher = world.client(next(name for name in world.names if name != leader.name))
    watch = watcher.submit(Kind.WATCH, "a")
    world.run_until(lambda: watch in watcher.replies)
    world.run_until(lambda: all_asleep(world), 10_000)
    leader.up = False
    began_ms, seen = world.now_ms, len(watcher.deltas)
    writer = world.client(watcher.node.name)
    assert writer.insist(Kind.SEND, "a", "add", {"amount": 4}).failure is None
    world.run_until(lambda: len(watcher.deltas) > seen, 1_000)
    assert world.now_ms - began_ms <= ELECTION_MS + 700
