"""A shard's time is its leader's clock, held near its voters' median; a leader with a wrong clock lets another lead."""

from __future__ import annotations

from functools import cache
from statistics import median

from hypothesis import given
from hypothesis import strategies as st

from cluster.ids import NodeId, ShardId
from cluster.pump.clocks import CLOCK_OFF_MS_MAX, RESIGN_OFF_MS, RESIGN_PAUSE_MS, Clocks
from cluster.session.operations import Kind
from cluster.shard.replica import ShardReplica
from tests.pump.world import SimulatedNode, World

SHARD = ShardId(1)
TOLERANCE_MS = 100
"""An answer may take a while after its entry was stamped."""


def replica_of(node: SimulatedNode) -> ShardReplica:
    return node.pump.replicas[SHARD]


def shard_ahead_ms(world: World) -> float:
    """How far the shard's time is ahead of the true one."""
    return world.leader("a").pump.replicas[SHARD].time_ms - world.wall_ms


def sent(world: World) -> None:
    assert world.client(world.leader("a").name).insist(Kind.SEND, "a", "add", {"amount": 1}).failure is None


def started() -> World:
    world = World(shards=1)
    world.start().insist(Kind.CREATE, "a")
    return world


@cache
def some_replica() -> ShardReplica:
    """One of a shard with three voters."""
    return replica_of(World(shards=1).nodes[NodeId("n1")])


def test_clocks_that_agree_are_left_alone() -> None:
    world = started()
    leader = world.leader("a")
    leader.clock_ahead_ms = 300
    world.run(400)
    sent(world)
    assert abs(shard_ahead_ms(world) - 300) <= TOLERANCE_MS
    assert not any(node.pump.clocks.off for node in world.nodes.values())


def test_what_a_leader_stamps_stays_near_the_median_of_its_voters() -> None:
    world = started()
    leader = world.leader("a")
    leader.clock_ahead_ms = int(RESIGN_OFF_MS) - 100
    world.run(400)
    sent(world)
    assert world.leader("a") is leader, "not so far off that it must not lead"
    assert abs(shard_ahead_ms(world) - CLOCK_OFF_MS_MAX) <= TOLERANCE_MS


def test_a_leader_that_is_slow_is_taken_along() -> None:
    world = started()
    world.leader("a").clock_ahead_ms = -(int(RESIGN_OFF_MS) - 100)
    world.run(400)
    sent(world)
    world.run(2_000)
    sent(world)
    assert abs(shard_ahead_ms(world) + CLOCK_OFF_MS_MAX) <= TOLERANCE_MS


def test_a_leader_whose_clock_is_far_off_hands_over_and_the_time_goes_on() -> None:
    world = started()
    leader = world.leader("a")
    before = world.leader("a").pump.replicas[SHARD].time_ms
    leader.clock_ahead_ms = 3_600_000
    world.run_until(lambda: any(replica_of(node).serves for node in world.nodes.values() if node is not leader))
    sent(world)
    assert world.leader("a") is not leader
    assert before <= world.leader("a").pump.replicas[SHARD].time_ms
    assert shard_ahead_ms(world) <= CLOCK_OFF_MS_MAX + TOLERANCE_MS
    term = replica_of(leader).raft.term
    world.run(2 * RESIGN_PAUSE_MS)
    assert replica_of(leader).raft.term == term, "leadership does not wander"


def test_it_stays_where_it_is_when_no_clock_is_nearer() -> None:
    """Three clocks far apart: whoever stands in the middle is right; nobody is asked to lead who is as wrong."""
    world = started()
    leader = world.leader("a")
    others = [node for node in world.nodes.values() if node is not leader]
    leader.clock_ahead_ms, others[0].clock_ahead_ms, others[1].clock_ahead_ms = 0, -60_000, 60_000
    world.run(2 * RESIGN_PAUSE_MS)
    assert world.leader("a") is leader


def test_the_time_never_falls_when_a_wrong_clock_is_set_right() -> None:
    world = started()
    leader = world.leader("a")
    for node in world.nodes.values():
        node.clock_ahead_ms = 60_000
    world.run(400)
    sent(world)
    before = replica_of(world.leader("a")).time_ms
    for node in world.nodes.values():
        node.clock_ahead_ms = 0
    world.run(400)
    sent(world)
    assert replica_of(world.leader("a")).time_ms >= before
    assert world.leader("a") is leader


def test_a_lonely_leader_uses_its_own_clock() -> None:
    """Without a majority of clocks there is no median to hold to."""
    world = started()
    leader = world.leader("a")
    for node in world.nodes.values():
        if node is not leader:
            leader.pump.clocks.forget(node.name)
    assert leader.pump.clocks.median_ms(replica_of(leader)) is None
    assert leader.pump.clocks.stamp(replica_of(leader), 42) == 42


@given(
    own=st.integers(-10_000, 10_000),
    others=st.lists(st.integers(-10_000, 10_000), min_size=2, max_size=2),
    delays=st.lists(st.integers(0, 900), min_size=2, max_size=2),
)
def test_a_stamp_is_within_the_bound_of_the_true_median(own: int, others: list[int], delays: list[int]) -> None:
    """Whatever the clocks show and however long answers take: half a round trip is all that it can be wrong by."""
    replica = some_replica()
    clocks = Clocks()
    now_ms, true_ms = 50_000.0, 1_700_000_000_000
    clocks.note(now_ms, true_ms + own)
    for node, ahead, delay in zip(("n2", "n3"), others, delays, strict=True):
        clocks.heard(NodeId(node), round(true_ms + ahead - delay), now_ms - delay, now_ms)
    stamped = clocks.stamp(replica, true_ms + own) - true_ms
    middle = median([own, *others])
    slack = max(delays) / 2 + 5
    assert stamped == own or abs(stamped - middle) <= CLOCK_OFF_MS_MAX + slack
    if abs(own - middle) > CLOCK_OFF_MS_MAX + slack:
        assert abs(stamped - middle) <= CLOCK_OFF_MS_MAX + slack
