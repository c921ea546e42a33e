"""Who keeps a leader, who ends belief in it, how it is replaced: stickiness, LeaderLost, CheckQuorum, returning replicas."""

from __future__ import annotations

import pytest

from cluster.ids import LogIndex, ReplicaId, Term
from cluster.raft.effects import Role
from cluster.raft.election import LOST_RETRIES_MAX, rank_of
from cluster.raft.events import Campaign, LeaderLost, PeerAcked
from cluster.raft.messages import Append, AppendReply, TimeoutNow, VoteRequest
from tests.raft.network import TEST_CONFIG, Cluster
from tests.raft.solo import Solo, accept, append, run, timeout_now, to, vote_reply, vote_request

# Stickiness and liveness


@pytest.mark.parametrize("pre", [True, False])
def test_voter_that_hears_its_leader_refuses_and_keeps_its_term(pre: bool) -> None:
    """Thesis 4.2.3."""
    solo = Solo()
    solo.receive(2, append(1, (0, 0)))
    effects = solo.receive(3, vote_request(5, (0, 0), pre=pre))
    assert to(effects, 3) == [vote_reply(1, False, pre=pre)]
    assert (solo.core.term, solo.core.leader) == (1, 2)


def test_liveness_of_the_leader_in_this_term_is_hearing_it() -> None:
    """Reference trap 53: only a listing of this group at this term suppresses elections."""
    solo = Solo()
    solo.receive(2, append(1, (0, 0)))
    solo.now_ms += 5_000
    solo.heard = {(2, 1): solo.now_ms - 100}
    assert to(solo.receive(3, vote_request(2, (0, 0), pre=True)), 3) == [vote_reply(1, False, pre=True)]
    solo.heard = {(2, 7): solo.now_ms, (3, 1): solo.now_ms}
    assert to(solo.receive(3, vote_request(2, (0, 0), pre=True)), 3) == [vote_reply(2, True, pre=True)]


def test_follower_sleeps_on_while_liveness_hears_its_leader() -> None:
    """Paper 5.2: it stays a follower while it hears its leader. Reference trap 52: real time and pulled evidence, no counted
    ticks. An entry is on its way, or it had no deadline."""
    solo = Solo()
    solo.receive(2, append(1, (0, 0), run(1, 1, b"a")))
    solo.persist()
    for _ in range(20):
        solo.heard = {(2, 1): solo.core.deadline_ms - 50}
        effects = solo.at_deadline()
        assert not effects.send_now
        assert solo.now_ms < solo.core.deadline_ms <= solo.now_ms + 2_000
    solo.at_deadline()
    assert solo.core.role is Role.PRE_CANDIDATE


def test_appends_count_as_hearing_without_moving_the_deadline() -> None:
    """Performance: the owner's timer wheel is not touched by every append."""
    solo = Solo()
    solo.receive(2, append(1, (0, 0)))
    deadline_ms = solo.core.deadline_ms
    solo.now_ms = deadline_ms - 1
    solo.receive(2, append(1, (0, 0)))
    assert solo.core.deadline_ms == deadline_ms
    solo.at_deadline()
    assert solo.core.role is Role.FOLLOWER


def test_idle_replica_answers_votes_at_once() -> None:
    """Reference trap 50: a sleeping group that lost its leader must not be asleep to candidates."""
    solo = Solo()
    solo.receive(2, append(1, (0, 0)))
    solo.now_ms += 60_000
    assert to(solo.receive(3, vote_request(2, (0, 0))), 3) == [vote_reply(2, True)]


# LeaderLost


def test_ranks_are_a_permutation_that_every_replica_agrees_on() -> None:
    voters = [ReplicaId(3), ReplicaId(5), ReplicaId(9)]
    firsts = set()
    for shard in range(40):
        ranks = {voter: rank_of(voter, voters, shard, Term(4)) for voter in voters}
        assert sorted(ranks.values()) == [0, 1, 2]
        firsts.add(min(ranks, key=lambda voter: ranks[voter]))
    assert firsts == set(voters), "failover work is spread over voters"


def test_voters_that_lost_their_leader_campaign_in_the_order_of_their_rank() -> None:
    """Rank 0 at once, the next 50 ms later; the lost leader takes no turn."""
    first_moves = {}
    for replica in (1, 2, 3):
        solo = Solo(replica=replica, voters=4)
        solo.receive(4, append(1, (0, 0)))
        effects = solo.step(LeaderLost())
        assert solo.core.leader is None
        first_moves[replica] = 0.0 if effects.send_now else solo.core.deadline_ms - solo.now_ms
    assert sorted(first_moves.values()) == [0.0, 50.0, 100.0]


def test_voter_that_lost_its_leader_grants_votes() -> None:
    solo = Solo(replica=3)
    solo.receive(2, append(1, (0, 0)))
    solo.heard = {(2, 1): solo.now_ms}
    solo.step(LeaderLost())
    assert to(solo.receive(1, vote_request(2, (0, 0), pre=True)), 1) == [vote_reply(2, True, pre=True)]
    assert to(solo.receive(1, vote_request(2, (0, 0))), 1) == [vote_reply(2, True)]


def test_leader_lost_is_ignored_by_leaders() -> None:
    solo = Solo()
    solo.lead()
    effects = solo.step(LeaderLost())
    assert solo.core.role is Role.LEADER
    assert not effects.role_changed


def test_refused_candidate_of_a_lost_leader_retries_soon_but_not_for_ever() -> None:
    """Evidence reaches voters at different times; a majority that is gone must not cause a storm."""
    solo = Solo(replica=3)
    solo.receive(2, append(1, (0, 0)))
    solo.step(LeaderLost())
    pauses = []
    for _ in range(LOST_RETRIES_MAX + 2):
        if solo.core.role is not Role.PRE_CANDIDATE:
            solo.at_deadline()
        for voter in (1, 2):
            solo.receive(voter, vote_reply(1, False, pre=True))
        assert solo.core.role is Role.FOLLOWER
        pauses.append(solo.core.deadline_ms - solo.now_ms)
    assert all(pause <= 300 for pause in pauses[:LOST_RETRIES_MAX])
    assert all(pause >= 1_000 for pause in pauses[LOST_RETRIES_MAX:])


@pytest.mark.parametrize("replica", [3, 4])
def test_leader_that_was_lost_from_sight_only_is_believed_again(replica: int) -> None:
    """A broken connection is not a death: a fresh listing of the group at this term restores belief. Learners too."""
    solo = Solo(replica=replica, learners=1)
    solo.receive(2, append(1, (0, 0)))
    solo.step(LeaderLost())
    if solo.core.role is Role.PRE_CANDIDATE:
        solo.receive(1, vote_reply(1, False, pre=True))
        solo.receive(2, vote_reply(1, False, pre=True))
    solo.heard = {(2, 1): solo.now_ms + 1}
    solo.at_deadline()
    assert (solo.core.role, solo.core.leader) == (Role.FOLLOWER, 2)


@pytest.mark.parametrize("seed", range(5))
def test_group_replaces_a_lost_leader_within_a_few_staggers(seed: int) -> None:
    """Fast failover: far below the election timeout once everybody has its own evidence."""
    cluster = Cluster(5, seed=seed)
    cluster.elect(1)
    cluster.propose(b"kept")
    cluster.settle()
    cluster.crash(1)
    began_ms = cluster.now_ms
    for replica in (2, 3, 4, 5):
        cluster.node(replica).step(LeaderLost())
    cluster.run_until(lambda: cluster.leader is not None)
    assert cluster.now_ms - began_ms < 300
    assert cluster.leader is not None
    assert (Term(1), b"kept") in cluster.leader.machine


# CheckQuorum


def test_leader_without_a_quorum_steps_down_within_an_election_timeout() -> None:
    """Thesis 6.2; reference trap 20: silence by stepping down, which also delists the group from heartbeats."""
    solo = Solo()
    solo.lead()
    assert solo.resign() <= 1_000
    assert solo.core.leader is None


def test_leader_stays_while_a_quorum_answers_liveness_or_appends() -> None:
    solo = Solo(voters=5)
    solo.lead()
    for _ in range(20):
        solo.acked = {(2, 1): solo.core.deadline_ms - 100}
        solo.now_ms = solo.core.deadline_ms - 50
        solo.receive(3, accept(1, 1, 1))
        solo.at_deadline()
        assert solo.core.role is Role.LEADER
    assert solo.resign(acked=[4]) <= 1_000, "one of four is no quorum"


def test_learners_do_not_keep_a_leader_in_office() -> None:
    """Reference trap 36: one quorum for everything."""
    solo = Solo(voters=3, learners=2)
    solo.lead()
    assert solo.resign(acked=[4, 5]) <= 1_000


def test_leader_whose_disk_hangs_steps_down() -> None:
    """Reference trap 21: heartbeats beside a dead disk would keep a leader that can do nothing."""
    solo = Solo()
    solo.lead()
    solo.propose(b"never durable here")
    assert solo.resign(acked=[2, 3]) <= 2_000


@pytest.mark.parametrize("pause_ms", [1, 400, 999])
def test_write_that_takes_an_election_timeout_ends_leadership_at_that_moment(pause_ms: float) -> None:
    """Reference trap 21: whenever it began, and although a quorum answers all the time."""
    solo = Solo()
    solo.lead()
    until_ms = solo.now_ms + pause_ms
    while solo.core.deadline_ms < until_ms:
        solo.acked = {(2, 1): solo.core.deadline_ms, (3, 1): solo.core.deadline_ms}
        solo.at_deadline()
    solo.now_ms = until_ms
    solo.propose(b"slow")
    assert solo.resign(acked=[2, 3]) == TEST_CONFIG.election_timeout_ms_min


def test_leader_that_stops_because_of_its_disk_calls_who_has_the_whole_log() -> None:
    """Reference trap 21: the network is well, so nobody needs to wait until this leader is missed."""
    solo = Solo()
    solo.lead()
    solo.propose(b"never durable here")
    solo.receive(3, accept(1, 2))
    while solo.core.role is Role.LEADER:
        solo.acked = {(peer, solo.core.term): solo.core.deadline_ms for peer in (2, 3)}
        effects = solo.at_deadline()
    assert effects.send_now == [(3, timeout_now(1, 2))]


def test_leader_calls_the_one_that_was_heard_last_of_those_that_have_everything() -> None:
    """Replica 2 acknowledged everything, and died."""
    solo = Solo()
    solo.lead()
    solo.propose(b"never durable here")
    solo.receive(3, accept(1, 2))
    solo.receive(2, accept(1, 2))
    while solo.core.role is Role.LEADER:
        solo.acked = {(3, solo.core.term): solo.core.deadline_ms}
        effects = solo.at_deadline()
    assert effects.send_now == [(3, timeout_now(1, 2))]


def test_lone_voter_leads_on_however_long_its_disk_takes() -> None:
    """Reference trap 21 is about others that wait: here nobody could do better, and an election would need the disk too."""
    solo = Solo(voters=1, learners=1)
    solo.campaign()
    solo.persist()
    solo.persist()
    solo.propose(b"slow")
    for _ in range(20):
        solo.at_deadline()
        assert solo.core.role is Role.LEADER
    assert solo.persist().committed == 2


def test_leader_that_stops_for_want_of_a_quorum_calls_nobody() -> None:
    solo = Solo()
    solo.lead()
    while solo.core.role is Role.LEADER:
        effects = solo.at_deadline()
    assert not [message for _, message in effects.send_now if isinstance(message, TimeoutNow)]


def test_replica_whose_disk_hangs_does_not_campaign() -> None:
    """Reference trap 21: its own vote could not become durable, and each vain term would turn away who could win."""
    solo = Solo()
    solo.receive(2, append(1, (0, 0), run(1, 1, b"never durable here")))
    for _ in range(10):
        effects = solo.at_deadline()
        assert not effects.send_now
        assert solo.core.role is Role.FOLLOWER
    assert not solo.step(Campaign()).send_now
    solo.persist()
    assert solo.at_deadline().send_now
    assert solo.core.role is Role.PRE_CANDIDATE


def test_candidate_whose_own_vote_does_not_become_durable_gives_up() -> None:
    """Reference trap 21 again: it would ask in a higher term each time."""
    solo = Solo()
    solo.campaign()
    solo.at_deadline()
    assert (solo.core.role, solo.core.term) == (Role.FOLLOWER, 1)


@pytest.mark.parametrize("seed", range(5))
def test_group_replaces_a_leader_whose_disk_hangs(seed: int) -> None:
    """Reference trap 21, whole: the others elect at once, and the hung one never stands in their way."""
    cluster = Cluster(3, seed=seed)
    old = cluster.elect(1)
    cluster.hung_disks.add(old.replica)
    cluster.propose(b"a")
    began_ms = cluster.now_ms
    cluster.run_until(lambda: cluster.leader is not None and cluster.leader is not old)
    assert cluster.now_ms - began_ms < TEST_CONFIG.election_timeout_ms_min + 50
    leader = cluster.leader
    cluster.run_ms(10_000)
    assert cluster.leader is leader, "and keeps it"
    cluster.hung_disks.clear()
    cluster.settle()
    assert old.machine == cluster.node(2).machine


def test_writes_that_take_less_do_not() -> None:
    solo = Solo()
    solo.lead()
    for _ in range(20):
        solo.propose(b"slow")
        until_ms = solo.now_ms + TEST_CONFIG.election_timeout_ms_min - 1
        while solo.core.deadline_ms < until_ms:
            solo.acked = {(2, 1): solo.core.deadline_ms, (3, 1): solo.core.deadline_ms}
            solo.at_deadline()
        solo.now_ms = until_ms
        solo.persist()
        assert solo.core.role is Role.LEADER


def test_leader_answers_who_asks_for_votes_with_an_append() -> None:
    """A restarted replica of an idle group knows no leader, and the leader has nothing to send: its question tells."""
    solo = Solo()
    solo.lead()
    effects = solo.receive(3, vote_request(2, (1, 1), pre=True))
    refusal, teaching = to(effects, 3)
    assert refusal == vote_reply(1, False, pre=True)
    assert teaching == append(1, (1, 1), commit=1)


def test_replica_stuck_in_a_higher_term_deposes_the_leader_and_rejoins() -> None:
    """Reference trap 19: it refuses appends of a lower term by telling its own."""
    stuck = Solo(replica=3, term=9)
    (reply,) = to(stuck.receive(1, append(4, (0, 0))), 1)
    assert isinstance(reply, AppendReply)
    assert (reply.term, reply.rejected) == (9, True)
    cluster = Cluster(seed=5)
    cluster.elect(1)
    cluster.node(3).core._state.save_vote(Term(9), ReplicaId(0))
    cluster.run_until(lambda: cluster.leader is not None and cluster.leader.core.term > 9 and cluster.converged())


def test_restarted_replica_of_an_idle_group_learns_leader_and_commit_index() -> None:
    for replica in (3, 4):
        cluster = Cluster(3, learners=1, seed=replica)
        cluster.elect(1)
        cluster.propose(b"a", b"b")
        cluster.settle()
        cluster.run_ms(1_000)  # until the leader is sure that everybody knows, and says nothing more
        cluster.crash(replica)
        cluster.restart(replica)
        assert cluster.node(replica).core.commit_index == 0
        cluster.settle()
        assert cluster.leader is cluster.node(1)


def test_same_seed_gives_the_same_run() -> None:
    """Reference section 2, rule 4: a step depends on state, event and time alone."""

    def trace(seed: int) -> list[object]:
        cluster = Cluster(seed=seed)
        cluster.run_ms(5_000)
        return [(a, b, message) for a, b, message in cluster.delivered if isinstance(message, VoteRequest | Append)]

    assert trace(4) == trace(4)
    assert trace(4) != trace(5)


def test_peer_acknowledgement_counts_as_contact() -> None:
    solo = Solo()
    solo.lead()
    solo.now_ms += 900
    solo.step(PeerAcked(ReplicaId(2), Term(1), solo.now_ms))
    solo.at_deadline()
    assert solo.core.role is Role.LEADER
    assert solo.core.commit_index == LogIndex(1)
