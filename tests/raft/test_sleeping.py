"""Sleep: who may, what wakes, and that nothing which a timer would have found out is missed."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from cluster.ids import LogIndex, ReplicaId, Term
from cluster.raft.core import Raft
from cluster.raft.effects import Role
from cluster.raft.events import (
    Deadline,
    LivenessChanged,
    PeerAcked,
    PeerUnreachable,
    Propose,
    Read,
    Transfer,
)
from tests.raft.network import TEST_CONFIG, Cluster
from tests.raft.solo import Solo, accept, append, appends, run, to, vote_request

TIMEOUT_MS = TEST_CONFIG.election_timeout_ms_min


def sleeping_follower(**options: object) -> Solo:
    """Replica 1 follows 2 in term 1, whose node lists the group."""
    solo = Solo(term=1, **options)  # type: ignore[arg-type]
    solo.receive(2, append(1, (0, 0), run(1, 1, b""), commit=1))
    solo.persist()
    solo.core.applied_to(LogIndex(1))
    solo.heard[2, 1] = solo.core.deadline_ms
    solo.at_deadline()
    return solo


def sleeping_leader(**options: object) -> Solo:
    """Replica 1 leads; everybody has everything and acknowledges liveness."""
    solo = Solo(**options)  # type: ignore[arg-type]
    solo.lead()
    solo.core.applied_to(solo.core.last_index)
    hear(solo)
    solo.at_deadline()
    return solo


def hear(solo: Solo, *peers: int) -> None:
    """Peers (all when none is named) acknowledge liveness now, and a while from now."""
    for peer in peers or [int(peer) for peer in solo.core.progress if peer != solo.core.replica]:
        solo.acked[peer, solo.core.term] = solo.now_ms + TIMEOUT_MS


def asleep(core: Raft) -> bool:
    assert core.asleep == (core.deadline_ms == math.inf), "sleeping is having no deadline"
    return core.asleep


def test_an_idle_group_has_no_deadline_anywhere() -> None:
    cluster = Cluster(seed=1)
    cluster.elect(2)
    cluster.run_until(lambda: all(node.core.asleep for node in cluster.nodes.values()), 5_000)
    assert all(asleep(node.core) for node in cluster.nodes.values())
    sent, terms = len(cluster.delivered), [node.core.term for node in cluster.nodes.values()]
    cluster.run_ms(60_000)
    assert all(asleep(node.core) for node in cluster.nodes.values())
    assert (len(cluster.delivered), [node.core.term for node in cluster.nodes.values()]) == (sent, terms)


def test_a_deadline_event_does_not_wake_a_sleeper() -> None:
    for solo in (sleeping_follower(), sleeping_leader()):
        solo.now_ms += 1_000_000
        assert not solo.step(Deadline()).role_changed
        assert asleep(solo.core)


def test_a_follower_does_not_sleep_on_an_append_alone() -> None:
    """Trap 53: an append tells that the leader lived; only its node, which lists the group, tells when it no longer does."""
    solo = Solo(term=1)
    solo.receive(2, append(1, (0, 0), run(1, 1, b""), commit=1))
    solo.persist()
    solo.core.applied_to(LogIndex(1))
    solo.now_ms = solo.core.deadline_ms - 1
    solo.receive(2, append(1, (1, 1), commit=1))
    solo.persist()
    solo.at_deadline()
    assert solo.core.leader == 2
    assert not asleep(solo.core)


@pytest.mark.parametrize("lacks", ["durability", "commit", "apply"])
def test_a_follower_with_something_under_way_does_not_sleep(lacks: str) -> None:
    solo = Solo(term=1)
    solo.receive(2, append(1, (0, 0), run(1, 1, b""), commit=0 if lacks == "commit" else 1))
    if lacks != "durability":
        solo.persist()
    if lacks == "durability":
        solo.core.applied_to(LogIndex(1))
    solo.heard[2, 1] = solo.core.deadline_ms
    solo.at_deadline()
    assert not asleep(solo.core)


def test_a_leader_sleeps_only_when_everybody_who_is_there_has_everything_and_knows_it() -> None:
    """Trap 51."""
    solo = Solo()
    solo.lead()
    solo.core.applied_to(solo.core.last_index)
    hear(solo)
    solo.propose(b"a")
    solo.persist()
    solo.receive(2, accept(1, 2, 1))
    solo.core.applied_to(LogIndex(2))
    hear(solo)
    solo.at_deadline()
    assert not asleep(solo.core), "3 has not acknowledged the entry"
    solo.receive(3, accept(1, 2, 1))
    hear(solo)
    solo.at_deadline()
    assert not asleep(solo.core), "neither is known to know that it is committed"
    solo.receive(2, accept(1, 2, 2))
    solo.receive(3, accept(1, 2, 2))
    hear(solo)
    solo.at_deadline()
    assert asleep(solo.core)


def test_a_leader_sleeps_beside_a_follower_that_is_away_and_asks_it_when_it_is_back() -> None:
    """Trap 51: otherwise one dead node keeps every group awake that has a replica there."""
    solo = Solo()
    solo.lead(match=False)
    solo.persist()
    solo.receive(2, accept(1, 1, 0))
    solo.receive(2, accept(1, 1, 1))
    solo.core.applied_to(LogIndex(1))
    for _ in range(20):
        hear(solo, 2)
        solo.silent = {3}
        if solo.core.asleep:
            break
        solo.at_deadline()
    assert asleep(solo.core)
    solo.now_ms += 100_000
    hear(solo)
    solo.silent = set()
    asked = solo.step(LivenessChanged())
    for _ in range(5):
        if to(asked, 3):
            break
        asked = solo.at_deadline()
    assert appends(asked, 3), "it lacks the entry still"
    assert not asleep(solo.core)


def test_a_leader_does_not_sleep_while_a_follower_that_is_there_lacks_something() -> None:
    solo = Solo()
    solo.lead(match=False)
    solo.persist()
    solo.receive(2, accept(1, 1, 1))
    solo.core.applied_to(LogIndex(1))
    for _ in range(20):
        hear(solo, 2)
        solo.at_deadline()
        assert not asleep(solo.core), "3's node is heard, whatever it says of this group"


def test_a_leader_that_owes_a_read_does_not_sleep() -> None:
    solo = sleeping_leader()
    hear(solo)
    solo.step(Read(1))
    for _ in range(3):
        hear(solo)
        solo.at_deadline()
        assert not asleep(solo.core)


def test_a_leader_that_hands_over_does_not_sleep_before_it_gives_up() -> None:
    solo = sleeping_leader()
    hear(solo)
    solo.step(Transfer(ReplicaId(2)))
    while solo.core.transferring_to is not None:
        assert not asleep(solo.core)
        hear(solo)
        solo.at_deadline()


@pytest.mark.parametrize("event", [Propose([b"a"]), Read(1), PeerUnreachable(ReplicaId(2)), LivenessChanged()], ids=str)
def test_a_leader_that_wakes_without_its_quorum_stops_before_it_hears_what_woke_it(event: object) -> None:
    """Traps 20 and 50: it may have been deposed long ago."""
    solo = sleeping_leader()
    solo.now_ms += 10 * TIMEOUT_MS
    effects = solo.step(event)  # type: ignore[arg-type]
    assert solo.core.role is Role.FOLLOWER
    assert effects.role_changed
    assert (effects.ticket, effects.persist, effects.reads_ready) == (None, None, [])
    assert not asleep(solo.core) or isinstance(event, LivenessChanged)


def test_a_sleeping_leader_grants_a_vote_once_its_quorum_is_gone() -> None:
    """Stickiness is for leaders who have a quorum (trap 16)."""
    solo = sleeping_leader()
    solo.now_ms += 10 * TIMEOUT_MS
    solo.receive(2, vote_request(2, (1, 1)))
    granted = solo.persist()
    assert solo.core.term == 2
    assert solo.core.vote == 2
    assert not granted.role_changed


def test_acknowledgements_of_rounds_do_not_wake_a_leader() -> None:
    """They come ten times a second; only reads wait for them."""
    solo = sleeping_leader()
    for sent_ms in range(5):
        solo.step(PeerAcked(ReplicaId(2), Term(1), solo.now_ms + sent_ms))
    assert asleep(solo.core)


@pytest.mark.parametrize("pre", [True, False])
def test_a_sleeping_follower_answers_for_votes_by_what_liveness_says_now(pre: bool) -> None:
    """Trap 50: vote refused by a sleeping voter."""
    solo = sleeping_follower()
    refused = solo.receive(3, vote_request(2, (1, 1), pre=pre))
    assert not [reply for reply in to(refused, 3) if reply.granted]  # type: ignore[union-attr]
    assert solo.core.term == 1
    solo = sleeping_follower()
    solo.now_ms += 2 * TIMEOUT_MS
    granted = solo.receive(3, vote_request(2, (1, 1), pre=pre))
    assert [reply for reply in to(granted, 3) if reply.granted]  # type: ignore[union-attr]


def test_a_follower_that_learns_of_a_term_in_its_sleep_looks_out_for_the_leader() -> None:
    """It knows nobody then, and nobody else may be awake."""
    solo = sleeping_follower()
    solo.receive(3, append(3, (7, 2)))
    assert solo.core.leader == 3
    assert solo.core.deadline_ms < math.inf
    solo = sleeping_follower()
    solo.now_ms += 2 * TIMEOUT_MS
    solo.receive(3, vote_request(5, (0, 0)))
    assert (solo.core.term, solo.core.leader) == (5, None)
    assert solo.core.deadline_ms < math.inf


def test_who_is_told_of_a_change_that_does_not_concern_it_sleeps_on() -> None:
    solo = sleeping_follower()
    solo.heard[2, 1] = solo.now_ms
    effects = solo.step(LivenessChanged())
    assert not effects.send_now
    assert asleep(solo.core)
    leader = sleeping_leader()
    hear(leader)
    assert not leader.step(LivenessChanged()).send_now
    assert asleep(leader.core)


def test_followers_that_wake_without_their_leader_stand_in_turn() -> None:
    """All sleepers of a dead node wake at about the same time; each group's ranks keep its candidates apart."""
    ranks = []
    for replica in (2, 3):
        solo = Solo(replica=replica, term=1)
        solo.receive(1, append(1, (0, 0), run(1, 1, b""), commit=1))
        solo.persist()
        solo.core.applied_to(LogIndex(1))
        solo.heard[1, 1] = solo.core.deadline_ms
        solo.at_deadline()
        assert asleep(solo.core)
        solo.now_ms += 2 * TIMEOUT_MS
        solo.step(LivenessChanged())
        ranks.append(0 if solo.core.role is Role.PRE_CANDIDATE else round(solo.core.deadline_ms - solo.now_ms))
    assert sorted(ranks) == [0, TEST_CONFIG.stagger_ms]


def test_a_leader_that_was_only_out_of_sight_is_followed_again() -> None:
    solo = sleeping_follower()
    solo.now_ms += 2 * TIMEOUT_MS
    solo.silent = {2}
    solo.step(LivenessChanged())
    if solo.core.role is Role.PRE_CANDIDATE:
        solo.at_deadline()
    solo.silent = {2, 3}
    while not solo.core.asleep:
        solo.at_deadline()
    assert solo.core.leader is None
    solo.silent = set()
    solo.now_ms += 50
    solo.heard[2, 1] = solo.now_ms
    solo.step(LivenessChanged())
    assert solo.core.leader == 2


def test_who_can_not_win_asks_nobody_and_sleeps() -> None:
    """A node that is cut off with thousands of groups would otherwise campaign for all of them, for ever."""
    solo = Solo(term=1, log=[1])
    solo.silent = {2, 3}
    effects = solo.at_deadline()
    assert not effects.send_now
    assert solo.core.role is Role.FOLLOWER
    assert asleep(solo.core)
    solo.silent = {3}
    solo.step(LivenessChanged())
    assert not asleep(solo.core)
    assert to(solo.at_deadline(), 2), "with one other it can win"


def test_a_candidate_whose_voters_vanish_gives_up_for_now() -> None:
    solo = Solo()
    solo.campaign()
    solo.silent = {2, 3}
    solo.persist()
    solo.at_deadline()
    assert (solo.core.role, solo.core.term, solo.core.vote) == (Role.FOLLOWER, 1, 1)
    assert asleep(solo.core)


def test_a_lone_voter_sleeps_and_needs_nobody() -> None:
    solo = Solo(voters=1)
    solo.step(Deadline())
    while solo.core.role is not Role.LEADER:
        solo.at_deadline() if solo.core.role is Role.FOLLOWER else solo.persist()
    solo.persist()
    solo.core.applied_to(LogIndex(1))
    solo.at_deadline()
    assert asleep(solo.core)
    solo.now_ms += 1_000_000
    assert solo.propose(b"a").ticket is not None


def settled(cluster: Cluster, *away: int) -> None:
    cluster.run_until(lambda: all(node.core.asleep for key, node in cluster.nodes.items() if node.alive and key not in away))


@pytest.mark.parametrize("leases", [False, True])
def test_sleepers_replace_a_leader_that_dies_in_silence(leases: bool) -> None:
    """Within the time in which they would if they were awake. With leases its promises are waited out (trap 39)."""
    cluster = Cluster(seed=5, config=replace(TEST_CONFIG, lease_reads=leases))
    cluster.elect(1)
    settled(cluster)
    died_ms = cluster.now_ms
    cluster.crash(1)
    cluster.run_until(lambda: cluster.leader is not None and cluster.leader.core.commit_index == 2)
    assert TIMEOUT_MS <= cluster.now_ms - died_ms + cluster.heartbeat_ms <= TIMEOUT_MS + 500


def test_a_sleeping_leader_that_is_cut_off_answers_no_read_and_is_replaced() -> None:
    cluster = Cluster(seed=6)
    cluster.elect(1)
    settled(cluster)
    cluster.isolate(1)
    context = cluster.read(1)
    cluster.run_until(lambda: any(cluster.node(replica).core.role is Role.LEADER for replica in (2, 3)))
    assert context not in cluster.node(1).read_results
    cluster.run_until(lambda: context in cluster.node(1).refused)
    settled(cluster)
    assert cluster.node(1).core.leader is None, "it sleeps and believes in nobody"
    cluster.heal()
    cluster.settle()
    settled(cluster)
    assert cluster.node(1).core.leader == cluster.leader.replica  # type: ignore[union-attr]


def test_a_follower_that_restarts_while_all_sleep_is_told_what_it_forgot() -> None:
    """Its commit index is gone, and nobody has anything new to say (trap 50, the replica that is not ready after a restart)."""
    cluster = Cluster(seed=7)
    cluster.elect(1)
    cluster.propose(b"a")
    cluster.settle()
    settled(cluster)
    cluster.crash(3)
    cluster.restart(3)
    cluster.run_until(lambda: cluster.node(3).core.commit_index == 2, 5_000)
    settled(cluster)


def test_a_group_with_a_dead_follower_sleeps_and_wakes_for_its_return() -> None:
    cluster = Cluster(seed=8)
    cluster.elect(1)
    cluster.crash(3)
    cluster.propose(b"a")
    cluster.settle_without(3)
    settled(cluster)
    cluster.run_ms(30_000)
    cluster.restart(3)
    cluster.run_until(lambda: cluster.node(3).core.commit_index == 2, 5_000)
    settled(cluster)
