"""The rules of the controller, each by name, on small clusters."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from cluster.ids import NodeId, ReplicaId, ShardId
from cluster.placement.controller import Controller
from cluster.placement.plan import Cause, Move, State, Transfer
from cluster.placement.view import Liveness
from cluster.raft.configuration import entered
from cluster.shardmap.nodes import PlacementSettings, Standing
from tests.placement.executor import RULES, Executor, nodes

DEAD_STEPS = int(RULES.dead_after_ms / 1000) + 2


def three_of_four() -> Executor:
    return Executor(nodes("abcd"), {1: list("abc"), 2: list("bcd"), 3: list("cda"), 4: list("dab")})


def test_a_balanced_cluster_is_left_alone() -> None:
    cluster = Executor(nodes("abc"), {1: list("abc"), 2: list("bca"), 3: list("cab")})
    cluster.settle()
    assert not cluster.moves
    assert cluster.plan.settled


def test_nothing_is_ordered_until_most_shards_have_reported() -> None:
    """Reference section 4, item 7: after an election what is not known yet looks like what is not there."""
    cluster = three_of_four()
    cluster.elect_controller()
    cluster.silent = {ShardId(1), ShardId(2)}
    cluster.change("d", standing=Standing.DECOMMISSIONING)
    cluster.run(5)
    assert "2 of 4 shards have reported" in cluster.plan.standstill
    assert not cluster.moves
    cluster.silent.clear()
    cluster.run(1)
    assert not cluster.plan.standstill


def test_nothing_is_ordered_for_so_long_after_an_election_if_shards_stay_silent() -> None:
    cluster = three_of_four()
    cluster.elect_controller()
    cluster.silent = {ShardId(1), ShardId(2)}
    cluster.change("d", standing=Standing.DECOMMISSIONING)
    cluster.run(int(RULES.warm_up_ms / 1000) + 1)
    assert not cluster.plan.standstill
    cluster.elect_controller()
    cluster.run(1)
    assert cluster.plan.standstill, "another controller waits again"


def test_a_shard_that_has_not_reported_is_unknown_and_not_empty() -> None:
    """oxidecomputer/omicron#8445: nothing under-replicated was said of what nobody had looked at."""
    cluster = three_of_four()
    cluster.silent = {ShardId(1)}
    cluster.run(60)
    assert cluster.plan.shards[ShardId(1)].state is State.UNKNOWN
    assert not cluster.plan.settled
    assert not cluster.moves, "counts without it would be wrong, so nothing moves for balance"


def test_a_dead_node_is_replaced_after_its_time_and_not_before() -> None:
    cluster = three_of_four()
    cluster.run(1)
    cluster.kill("c")
    cluster.run(int(RULES.dead_after_ms / 1000) - 1)
    assert not cluster.moves["moves"]
    assert "rebuilt in" in cluster.why(1)
    cluster.settle()
    assert all("c" not in shard.nodes and len(shard.voters) == 3 for shard in cluster.shards.values())


def test_a_node_that_comes_back_in_time_costs_no_move() -> None:
    cluster = three_of_four()
    cluster.kill("c")
    cluster.run(5)
    cluster.change("c", liveness=Liveness.ALIVE)
    cluster.run(DEAD_STEPS)
    assert cluster.moves["moves"] == 0


def test_one_observer_is_not_enough_to_rebuild_replicas() -> None:
    """Reference section 4, item 8: gossip calls it dead, and the shard's leader still hears it."""
    cluster = three_of_four()
    cluster.deaf = {NodeId("a"), NodeId("b"), NodeId("d")}
    cluster.kill("c")
    cluster.run(3 * DEAD_STEPS)
    assert not cluster.moves["moves"]
    assert "which leads the shard, hears it" in cluster.why(1)


def test_a_leader_that_hears_nothing_is_not_enough_to_rebuild_replicas() -> None:
    cluster = three_of_four()
    cluster.run(1)
    view = cluster.view()
    unheard = {observer: {NodeId("c"): -1e9} for observer in view.nodes}
    plan = cluster.controller.step(replace(view, unheard=unheard), cluster.now_ms)
    assert not plan.orders


def test_leaders_leave_a_suspect_node_at_once() -> None:
    cluster = three_of_four()
    cluster.change("a", liveness=Liveness.SUSPECT)
    cluster.run(1)
    assert cluster.leads()[NodeId("a")] == 0
    assert not cluster.moves["moves"], "its replicas stay"


def test_nothing_is_ordered_while_more_than_a_third_of_the_nodes_look_dead() -> None:
    cluster = Executor(nodes("abcde"), {1: list("abc"), 2: list("bcd"), 3: list("cde")})
    cluster.settle()
    before = cluster.moves.copy()
    cluster.kill("d", "e")
    cluster.run(3 * DEAD_STEPS)
    assert cluster.moves == before
    assert "2 of 5 nodes look dead (d, e)" in cluster.plan.standstill
    cluster.change("e", liveness=Liveness.ALIVE)
    cluster.settle()
    assert all("d" not in shard.nodes for shard in cluster.shards.values())


def test_a_shard_without_a_majority_is_not_touched() -> None:
    cluster = Executor(nodes("abcdefg"), {1: list("abc"), 2: list("cde"), 3: list("efg")})
    cluster.settle()
    cluster.kill("a", "b")
    cluster.run(3 * DEAD_STEPS)
    assert cluster.voters(1) == {"a", "b", "c"}
    assert cluster.plan.shards[ShardId(1)].state is State.UNKNOWN


def test_unsafe_shards_come_before_those_that_lost_less() -> None:
    placements = {number: list("acdef") for number in range(1, 6)} | {9: list("abcde")}
    cluster = Executor(nodes("abcdefgh"), placements, replication_factor=5)
    cluster.controller = Controller(replace(RULES, balance_after_ms=1e9))
    cluster.run(1)
    cluster.kill("a", "b")
    cluster.run(int(RULES.dead_after_ms / 1000))
    first = cluster.step().orders
    assert {order.cause for order in first if isinstance(order, Move)} == {Cause.UNSAFE, Cause.DEAD}
    assert [order.shard for order in first if isinstance(order, Move) and order.cause is Cause.UNSAFE] == [9]
    cluster.run(60)
    assert all(not shard.voters.count(NodeId("a")) for shard in cluster.shards.values())


def test_a_node_under_maintenance_leads_nothing_and_nothing_is_rebuilt_for_it() -> None:
    cluster = three_of_four()
    cluster.run(1)
    cluster.settings = replace_settings(cluster, maintenance="c", maintenance_until_ms=1_000_000 + 100_000)
    cluster.run(2)
    assert cluster.leads()[NodeId("c")] == 0
    cluster.kill("c")
    cluster.run(2 * DEAD_STEPS)
    assert not cluster.moves["moves"]
    assert "c is under maintenance" in cluster.why(1)
    cluster.settle()
    assert cluster.now_ms > 100_000, "it ends by itself"
    assert all("c" not in shard.nodes for shard in cluster.shards.values())


def replace_settings(cluster: Executor, **changes: object) -> PlacementSettings:
    return msgspec.structs.replace(cluster.settings, **changes)


def test_replicas_leave_a_zone_that_they_share_without_need() -> None:
    cluster = Executor(nodes("abcd", zones="xxyz"), {1: list("abc"), 2: list("acd")})
    cluster.settle()
    for shard in cluster.shards.values():
        assert len({cluster.nodes[node].zone for node in shard.voters}) == 3


def test_replicas_leave_a_host_that_they_share_without_need() -> None:
    cluster = Executor(nodes("abcd", hosts="ppqr"), {1: list("abc")})
    cluster.settle()
    assert len({cluster.nodes[node].host for node in cluster.shards[ShardId(1)].voters}) == 3


def test_three_voters_in_two_zones_stand_two_and_one() -> None:
    cluster = Executor(nodes("abcde", zones="xxxyy"), {1: list("abc")})
    cluster.settle()
    assert sorted(cluster.nodes[node].zone for node in cluster.shards[ShardId(1)].voters) in (["x", "x", "y"], ["x", "y", "y"])
    assert cluster.moves["moves"] == 1


def test_a_draining_node_leads_nothing_and_keeps_its_replicas() -> None:
    cluster = three_of_four()
    cluster.change("a", standing=Standing.DRAINING)
    cluster.settle()
    assert cluster.leads()[NodeId("a")] == 0
    assert cluster.counts()[NodeId("a")] == 3
    assert cluster.plan.nodes[NodeId("a")].why == "no leaderships left"


def test_a_draining_node_gets_no_new_replicas() -> None:
    cluster = Executor(nodes("abcde"), {number: list("abc") for number in range(1, 7)})
    cluster.change("e", standing=Standing.DRAINING)
    cluster.settle()
    assert cluster.counts()[NodeId("e")] == 0
    assert cluster.counts()[NodeId("d")] > 0


def test_a_decommissioned_node_is_left_by_everything() -> None:
    cluster = three_of_four()
    cluster.change("a", standing=Standing.DECOMMISSIONING)
    cluster.settle()
    assert cluster.counts()[NodeId("a")] == 0
    assert all(len(shard.voters) == 3 and "a" not in shard.nodes for shard in cluster.shards.values())
    assert cluster.plan.nodes[NodeId("a")].why == "no replicas left"


def test_what_blocks_a_decommission_is_said_for_each_shard() -> None:
    """cockroach#76249 and cockroachdb/docs#4435: stuck, and nobody says on what."""
    cluster = Executor(nodes("abc"), {1: list("abc"), 2: list("bca")})
    cluster.change("a", standing=Standing.DECOMMISSIONING)
    cluster.settle()
    assert cluster.counts()[NodeId("a")] == 2
    assert cluster.why(1) == "blocked: a is decommissioned, and no other node can take a replica: b, c hold one already"
    assert cluster.plan.nodes[NodeId("a")].why == "2 replicas left"


def test_a_node_receives_and_sends_no_more_than_two_replicas_at_a_time() -> None:
    cluster = Executor(nodes("abcd"), {number: list("abc") for number in range(1, 20)})
    cluster.change("a", standing=Standing.DECOMMISSIONING)
    cluster.run(2)
    learning = [shard for shard in cluster.shards.values() if shard.now.learners]
    assert 1 <= len(learning) <= RULES.moves_in_max
    assert any("nodes receive as much as they may" in each.why for each in cluster.plan.shards.values())
    cluster.settle()
    assert cluster.counts()[NodeId("a")] == 0


def test_a_shard_grows_to_the_replication_factor_when_nodes_come() -> None:
    cluster = Executor(nodes("a"), {1: ["a"], 2: ["a"]})
    cluster.settle()
    assert cluster.plan.settled, "with one node there is nothing to wish for"
    for name in "bc":
        cluster.nodes[NodeId(name)] = nodes(name)[name]
    cluster.settle()
    assert cluster.voters(1) == cluster.voters(2) == {"a", "b", "c"}


def test_a_shard_shrinks_when_the_replication_factor_does() -> None:
    cluster = Executor(nodes("abcde"), {1: list("abcde"), 2: list("abcde")}, replication_factor=3)
    cluster.settle()
    assert all(len(shard.voters) == 3 for shard in cluster.shards.values())


def test_a_frozen_cluster_and_a_frozen_shard_stand_still_and_say_so() -> None:
    cluster = three_of_four()
    cluster.settings = replace_settings(cluster, frozen=True)
    cluster.change("a", standing=Standing.DECOMMISSIONING)
    cluster.run(30)
    assert not cluster.moves
    assert "frozen" in cluster.plan.standstill
    cluster.settings = replace_settings(cluster, frozen=False, frozen_shards=(ShardId(3),))
    cluster.settle()
    assert "a" in cluster.voters(3)
    assert "a" not in cluster.voters(1)
    assert "frozen" in cluster.why(3)


def test_a_shard_that_somebody_moves_by_hand_is_left_to_him() -> None:
    cluster = three_of_four()
    cluster.shards[ShardId(1)].held = "somebody moves it by hand"
    cluster.change("a", standing=Standing.DECOMMISSIONING)
    cluster.settle()
    assert cluster.voters(1) == {"a", "b", "c"}
    assert cluster.why(1) == "waiting: somebody moves it by hand"


def test_leaders_are_balanced_one_at_a_time() -> None:
    cluster = Executor(nodes("abc"), {number: list("abc") for number in range(1, 10)})
    handed = 0
    for _ in range(60):
        plan = cluster.step()
        transfers = [order for order in plan.orders if isinstance(order, Transfer)]
        assert len(transfers) <= 1
        handed += len(transfers)
    assert set(cluster.leads().values()) == {3}
    assert handed == 6


def test_leaders_are_balanced_through_others_where_no_shard_is_shared() -> None:
    cluster = Executor(
        nodes("abc"), {1: ["a", "b"], 2: ["a", "b"], 3: ["a", "b"], 4: ["b", "c"], 5: ["b", "c"]}, replication_factor=2
    )
    cluster.settle()
    assert max(cluster.leads().values()) - min(cluster.leads().values()) <= 1


def test_who_lacks_too_much_does_not_get_a_leadership() -> None:
    cluster = Executor(nodes("abc"), {number: list("abc") for number in range(1, 4)})
    cluster.run(10)
    view = cluster.view()
    lagging = {}
    for shard, report in view.shards.items():
        assert report is not None
        members = tuple([replace(member, lag=5_000 if member.node != "a" else 0) for member in report.status.members])
        lagging[shard] = replace(report, status=replace(report.status, members=members, leader=NodeId("a")))
    suspect = dict(view.nodes) | {NodeId("a"): replace(view.nodes[NodeId("a")], liveness=Liveness.SUSPECT)}
    plan = cluster.controller.step(replace(view, shards=lagging, nodes=suspect), cluster.now_ms)
    assert not plan.orders
    assert {each.state for each in plan.shards.values()} == {State.WAITING}


def test_who_does_not_take_over_is_asked_last() -> None:
    """A node with a hung disk is heard, and never becomes leader."""
    cluster = Executor(nodes("abc"), {1: list("abc"), 2: list("abc"), 3: list("abc")})
    cluster.run(1)
    cluster.shards[ShardId(2)].leader = NodeId("b")
    cluster.change("a", standing=Standing.DRAINING)
    asked: list[NodeId] = []
    view = cluster.view()
    for second in range(12):
        plan = cluster.controller.step(view, cluster.now_ms + second * 1_000)
        asked.extend(order.to for order in plan.orders if isinstance(order, Transfer) and order.shard == 1)
        assert plan.again_ms > cluster.now_ms + second * 1_000
    first, last = asked[0], asked[-1]
    assert asked == [first] * 6 + [last] * 6
    assert first != last


def test_a_useless_learner_does_not_hold_the_room_that_its_shard_waits_for() -> None:
    cluster = Executor(nodes("abcde"), {1: list("abc"), 2: list("abc")})
    cluster.run(1)
    for number in (1, 2):
        shard = cluster.shards[ShardId(number)]
        shard.now = entered(shard.now, shard.now.voters, (ReplicaId(9),), ((ReplicaId(9), NodeId("e")),))
        shard.leader = NodeId("a")
    cluster.kill("e")
    cluster.change("c", standing=Standing.DECOMMISSIONING)
    cluster.settle()
    assert all(set(shard.nodes) == {"a", "b", "d"} for shard in cluster.shards.values())


def test_a_learner_that_no_move_needs_is_removed() -> None:
    cluster = three_of_four()
    cluster.settle()
    cluster.nodes[NodeId("e")] = nodes("e")["e"]
    cluster.settings = replace_settings(cluster, frozen=True)
    cluster.run(1)
    shard = cluster.shards[ShardId(1)]
    shard.now = entered(shard.now, shard.now.voters, (ReplicaId(9),), ((ReplicaId(9), NodeId("e")),))
    cluster.change("e", standing=Standing.DRAINING)
    cluster.settings = replace_settings(cluster, frozen=False)
    cluster.settle()
    assert "e" not in shard.nodes


def test_another_controller_goes_on_with_what_the_one_before_began() -> None:
    cluster = three_of_four()
    cluster.change("a", standing=Standing.DECOMMISSIONING)
    for _ in range(400):
        cluster.elect_controller()
        cluster.step()
    assert all("a" not in shard.nodes and len(shard.voters) == 3 for shard in cluster.shards.values())
    assert cluster.moves["moves"] == 3, "nothing was begun twice"


def test_a_plan_says_in_which_term_it_was_made() -> None:
    cluster = three_of_four()
    cluster.elect_controller()
    assert cluster.step().term == cluster.term


def test_the_system_shard_is_kept_at_three_to_five_voters_over_zones() -> None:
    cluster = Executor(nodes("abcdefg", zones="xxxyyzz"), {0: list("abcdefg"), 1: list("abc")})
    cluster.settle()
    assert len(cluster.voters(0)) == 5
    assert sorted(cluster.nodes[NodeId(name)].zone for name in cluster.voters(0)) in (
        ["x", "x", "y", "y", "z"],
        ["x", "x", "y", "z", "z"],
        ["x", "y", "y", "z", "z"],
    )
    small = Executor(nodes("abcd", zones="xxyz"), {0: list("ab")}, replication_factor=1)
    small.settle()
    assert {small.nodes[NodeId(name)].zone for name in small.voters(0)} == {"x", "y", "z"}
    four = Executor(nodes("abcd"), {0: list("abcd"), 1: list("abc")})
    four.settle()
    assert len(four.voters(0)) == 4, "nothing is gained by taking one away"


def test_the_system_shard_leaves_a_dead_node_and_a_decommissioned_one() -> None:
    cluster = Executor(nodes("abcde"), {0: list("abcd"), 1: list("abc")})
    cluster.change("a", standing=Standing.DECOMMISSIONING)
    cluster.settle()
    assert "a" not in cluster.shards[ShardId(0)].nodes
    cluster.kill("b")
    cluster.settle()
    assert "b" not in cluster.shards[ShardId(0)].nodes
    assert len(cluster.voters(0)) >= 3
