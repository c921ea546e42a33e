"""From any state the controller comes to an end, and there everything is as the rules say; on the way nothing is at risk.

What must hold at every step is asserted by the executor: quorum, one move a shard, one replica of a shard a node, room.
"""

from __future__ import annotations

from itertools import pairwise

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from cluster.ids import SYSTEM_SHARD, NodeId
from cluster.placement.spread import crowding, exchanged
from cluster.placement.view import Liveness
from cluster.shardmap.nodes import Standing
from tests.placement.executor import Executor, nodes

NAMES = "abcdefgh"
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
"""A cluster is drawn by running it, which can not be made smaller within reason: what is found is small enough to read."""


@st.composite
def clusters(draw: st.DrawFn, labels: bool) -> Executor:
    """Some nodes, some shards anywhere, then some of the nodes dead, removed, draining, decommissioned, suspect or back."""
    count = draw(st.integers(2, len(NAMES)))
    names = NAMES[:count]
    zones = draw(st.text("xyz", min_size=count, max_size=count)) if labels else ""
    hosts = draw(st.text("pqrst", min_size=count, max_size=count)) if labels else ""
    factor = draw(st.sampled_from([1, 3, 5]))
    voters = st.lists(st.sampled_from(names), min_size=1, max_size=min(5, count), unique=True)
    placements = dict(enumerate(draw(st.lists(voters, min_size=1, max_size=12)), draw(st.integers(0, 1))))
    cluster = Executor(nodes(names, zones, hosts), placements, replication_factor=factor)
    cluster.run(draw(st.integers(0, 12)))
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from(names))
        what = draw(st.sampled_from(["dead", "suspect", "back", "drain", "decommission", "activate", "controller"]))
        if what in ("dead", "suspect", "back"):
            liveness = {"dead": Liveness.DEAD, "suspect": Liveness.SUSPECT, "back": Liveness.ALIVE}[what]
            cluster.change(name, liveness=liveness)
        elif what == "controller":
            cluster.elect_controller()
        else:
            standings = {
                "drain": Standing.DRAINING,
                "decommission": Standing.DECOMMISSIONING,
                "activate": Standing.ACTIVE,
            }
            cluster.change(name, standing=standings[what])
        cluster.run(draw(st.integers(0, 40)))
    return cluster


@given(clusters(labels=True))
@settings(max_examples=60, deadline=None, phases=PHASES)
def test_from_any_state_the_controller_reaches_a_fixpoint_and_then_orders_nothing(cluster: Executor) -> None:
    cluster.settle()
    moves = cluster.moves.copy()
    cluster.run(100)
    assert cluster.moves == moves
    cluster.elect_controller()
    cluster.run(100)
    assert cluster.moves == moves, "nor does the next controller"


@given(clusters(labels=True))
@settings(max_examples=60, deadline=None, phases=PHASES)
def test_at_the_fixpoint_no_single_exchange_would_stand_further_apart(cluster: Executor) -> None:
    cluster.settle()
    if cluster.plan.standstill:
        return
    able = [
        node for node, view in cluster.nodes.items() if view.liveness is Liveness.ALIVE and view.standing is Standing.ACTIVE
    ]
    for shard in cluster.shards.values():
        if shard.leader is None or any(cluster.away(voter) for voter in shard.voters):
            continue
        now = crowding(cluster.nodes, shard.voters)
        for leaving in shard.voters:
            for joining in able:
                if joining not in shard.voters:
                    assert crowding(cluster.nodes, exchanged(shard.voters, leaving, joining)) >= now


@given(clusters(labels=False))
@settings(max_examples=60, deadline=None, phases=PHASES)
def test_at_the_fixpoint_replicas_and_leaders_differ_by_one_at_most(cluster: Executor) -> None:
    for name in list(cluster.nodes):
        cluster.change(name, liveness=Liveness.ALIVE, standing=Standing.ACTIVE)
    cluster.settle()
    assert cluster.plan.settled
    counts = cluster.counts().values()
    assert max(counts) - min(counts) <= 1
    wanted = min(cluster.settings.replication_factor, len(cluster.nodes))
    assert all(len(shard.voters) == wanted for shard in cluster.shards.values() if shard.id != SYSTEM_SHARD)
    if wanted == len(cluster.nodes):
        leads = cluster.leads().values()
        assert max(leads) - min(leads) <= 1


@given(clusters(labels=False))
@settings(max_examples=50, deadline=None, phases=PHASES)
def test_the_number_of_moves_is_bounded(cluster: Executor) -> None:
    """Every replica is rebuilt at most once for a lost voter, and once for a hole in the counts."""
    cluster.moves.clear()
    replicas = sum(len(shard.nodes) for shard in cluster.shards.values())
    wanted = max(cluster.settings.replication_factor, 5) * len(cluster.shards)
    cluster.settle()
    assert cluster.moves["moves"] <= 2 * max(replicas, wanted)
    assert cluster.moves["transfers"] <= 4 * len(cluster.shards) * len(cluster.nodes)


@given(st.permutations(NAMES[:6]), st.integers(1, 20))
@settings(max_examples=20, deadline=None, phases=PHASES)
def test_a_rolling_decommission_never_leaves_a_shard_short(order: list[str], shards: int) -> None:
    placements = {number: [order[(number + step) % 6] for step in range(3)] for number in range(1, shards + 1)}
    cluster = Executor(nodes("".join(order)), placements)
    for name in order[:3]:
        cluster.change(name, standing=Standing.DECOMMISSIONING)
        cluster.settle()
        assert cluster.counts()[NodeId(name)] == 0
        cluster.remove(name)
        cluster.settle()
        assert cluster.plan.settled
    assert all(len(shard.voters) == 3 for shard in cluster.shards.values())


@given(clusters(labels=True))
@settings(max_examples=40, deadline=None, phases=PHASES)
def test_the_same_plan_comes_again_while_nothing_happens(cluster: Executor) -> None:
    view = cluster.view()
    plans = [cluster.controller.step(view, cluster.now_ms) for _ in range(3)]
    assert all(one == other for one, other in pairwise(plans))
