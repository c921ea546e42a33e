"""Which replicas a turn looks at, and what streams learn on the way."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.ids import NodeId, ShardId
from cluster.pump.schedule import RING_PAUSE_MS, Schedule
from cluster.raft.effects import Role
from cluster.session.operations import Kind
from tests.pump.world import World


@dataclass(frozen=True)
class Believer:
    """A core that follows somebody."""

    leader: int = 1
    role: Role = Role.FOLLOWER


@dataclass(frozen=True)
class Intake:
    """Nobody watches."""

    watched: bool = False
    deadline_ms: float = float("inf")


@dataclass
class Replica:
    """As much of a replica as the schedule asks."""

    id: ShardId
    deadline_ms: float
    due_ms: float = float("inf")
    apply_waits: bool = False
    answers_wait: bool = False
    reads_confirmable: bool = False
    incomplete: bool = False
    intake: Intake = Intake()
    raft: Believer = Believer()


def test_a_deadline_that_moves_back_costs_no_timer_and_still_rings() -> None:
    schedule = Schedule()
    replica = Replica(ShardId(1), 100.0)
    for later in range(50):
        replica.deadline_ms = 100.0 + later
        schedule.look_at(replica)  # type: ignore[arg-type]
    assert len(schedule._timers) == 1
    schedule.ring({replica.id: replica}, 120.0, 0)  # type: ignore[dict-item]
    assert not schedule.busy
    assert schedule.deadline_ms == 149.0
    schedule.ring({replica.id: replica}, 149.0, 0)  # type: ignore[dict-item]
    assert list(schedule.take_ready()) == [1]


def test_what_is_due_rings_by_the_wall_clock_whatever_was_expected_before_it_was_set() -> None:
    schedule = Schedule()
    replica = Replica(ShardId(1), float("inf"), due_ms=5_000.0)
    for _ in range(50):  # nothing can be proposed while entries are on their way
        replica.due_ms = float("inf")
        schedule.look_at(replica)  # type: ignore[arg-type]
        replica.due_ms = 5_000.0
        schedule.look_at(replica)  # type: ignore[arg-type]
    assert (len(schedule._due), schedule.due_ms) == (1, 5_000.0)
    schedule.ring({replica.id: replica}, 1.0, 4_999)  # type: ignore[dict-item]
    assert not schedule.busy
    schedule.ring({replica.id: replica}, 2.0, 9_000)  # type: ignore[dict-item]
    assert list(schedule.take_ready()) == [1]


def test_a_backlog_of_one_shard_is_looked_at_again_only_after_a_pause() -> None:
    schedule = Schedule()
    replica = Replica(ShardId(1), float("inf"), due_ms=5_000.0)
    rung = []
    for wall_ms in range(5_000, 5_100):
        schedule.look_at(replica)  # type: ignore[arg-type]
        schedule.ring({replica.id: replica}, float(wall_ms), wall_ms)  # type: ignore[dict-item]
        rung += [wall_ms] if schedule.take_ready() else []
    assert rung == list(range(5_000, 5_100, int(RING_PAUSE_MS)))
    schedule.look_at(replica)  # type: ignore[arg-type]
    schedule.ring({replica.id: replica}, 200.0, 1_000)  # type: ignore[dict-item]
    replica.due_ms = 900.0  # the clock was set back, and the pause does not last until it is where it was
    schedule.look_at(replica)  # type: ignore[arg-type]
    schedule.ring({replica.id: replica}, 201.0, 1_001)  # type: ignore[dict-item]
    assert list(schedule.take_ready()) == [1]


def test_a_deadline_that_moves_forward_rings_in_time() -> None:
    schedule = Schedule()
    replica = Replica(ShardId(1), 100.0)
    schedule.look_at(replica)  # type: ignore[arg-type]
    replica.deadline_ms = 10.0
    schedule.look_at(replica)  # type: ignore[arg-type]
    schedule.ring({replica.id: replica}, 10.0, 0)  # type: ignore[dict-item]
    assert list(schedule.take_ready()) == [1]
    replica.deadline_ms = float("inf")
    schedule.ring({replica.id: replica}, 500.0, 0)  # type: ignore[dict-item]
    assert not schedule.busy


def test_a_node_without_a_replica_learns_from_refusals_who_leads() -> None:
    """Otherwise it would go on asking the replicas in turn, and two of three operations would be refused."""
    world = World(nodes=5, shards=5)
    client = world.start()
    client.insist(Kind.CREATE, "a")
    router = world.nodes[NodeId("n1")].pump.router
    shard = router.map.shard(router.shard_of("tally", "a"))
    outside = next(name for name in world.names if shard.replica_on(name) is None)
    asking = world.client(outside)
    asking.insist(Kind.READ, "a")
    for _ in range(6):
        assert asking.call(Kind.READ, "a").failure is None


def test_an_idle_cluster_leaves_its_shards_alone() -> None:
    """Housekeeping follows what moved, not how many shards there are."""
    world = World(shards=4)
    client = world.start()
    client.insist(Kind.CREATE, "a")
    client.insist(Kind.SEND, "a", "add", {"amount": 1})
    world.run(8_000)
    assert all(not node.pump._schedule.moved for node in world.nodes.values())
    assert all(not replica.cache.unsaved for node in world.nodes.values() for replica in node.pump.replicas.values())
