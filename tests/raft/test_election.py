"""Votes, pre-votes, stickiness, staggered failover, CheckQuorum."""

from __future__ import annotations

import math

import pytest

from cluster.ids import LogIndex, ReplicaId, Term
from cluster.raft.effects import Role
from cluster.raft.election import LOST_RETRIES_MAX, rank_of
from cluster.raft.events import Campaign, LeaderLost, PeerAcked
from cluster.raft.messages import Append, AppendReply, HardState, VoteReply, VoteRequest
from tests.raft.network import Cluster
from tests.raft.solo import Solo, accept, append, run, to, vote_reply, vote_request

# Paper 5.1 and 5.2


def test_replica_starts_as_follower_without_a_leader() -> None:
    """Paper 5.2: when servers start up, they begin as followers."""
    core = Solo(term=4, vote=2).core
    assert (core.role, core.leader, core.term, core.vote) == (Role.FOLLOWER, None, 4, 2)


@pytest.mark.parametrize("role", list(Role))
def test_any_role_becomes_follower_on_a_higher_term(role: Role) -> None:
    """Paper 5.1: if a server's term is out of date it updates it, and candidates and leaders step back."""
    solo = Solo()
    if role is Role.PRE_CANDIDATE:
        solo.step(Campaign())
    elif role is Role.CANDIDATE:
        solo.campaign()
    elif role is Role.LEADER:
        solo.lead()
    assert solo.core.role is role
    effects = solo.receive(2, append(7, (0, 0)))
    assert (solo.core.role, solo.core.term, solo.core.leader) == (Role.FOLLOWER, 7, 2)
    assert effects.role_changed
    assert effects.persist is not None
    assert effects.persist.hard_state == HardState(Term(7), ReplicaId(0))


def test_message_of_an_older_term_changes_nothing() -> None:
    """Paper 5.1: a server that receives a request with a stale term number rejects the request."""
    solo = Solo(term=5)
    effects = solo.receive(2, append(4, (0, 0), run(1, 4, b"late"), commit=1))
    assert effects.persist is None
    assert (solo.core.last_index, solo.core.commit_index, solo.core.leader) == (0, 0, None)


def test_follower_campaigns_after_an_election_timeout_of_silence() -> None:
    """Paper 5.2, thesis 9.6: pre-votes first; the term does not rise by asking."""
    solo = Solo(term=3, log=[1, 3])
    timeout_ms = solo.core.deadline_ms - solo.now_ms
    assert 1_000 <= timeout_ms < 2_000
    effects = solo.at_deadline()
    assert solo.core.role is Role.PRE_CANDIDATE
    assert solo.core.term == 3
    assert effects.persist is None
    assert effects.send_now == [(2, vote_request(4, (2, 3), pre=True)), (3, vote_request(4, (2, 3), pre=True))]


def test_election_timeouts_are_random_between_their_bounds() -> None:
    """Paper 5.2: randomized timeouts make split votes rare. One generator serves all; the spread is what matters."""
    solo = Solo()
    timeouts = set()
    for _ in range(50):
        solo.at_deadline()
        timeouts.add(solo.core.deadline_ms - solo.now_ms)
    assert len(timeouts) == 50
    assert 1_000 <= min(timeouts) < 1_200
    assert 1_800 < max(timeouts) < 2_000


def test_winner_of_the_pre_vote_enters_the_next_term_and_votes_for_itself_durably_first() -> None:
    """Paper 5.2, reference trap 1: nobody is asked before the own vote can not be forgotten."""
    solo = Solo(term=3)
    effects = solo.campaign()
    assert solo.core.term == 4
    assert effects.persist is not None
    assert effects.persist.hard_state == HardState(Term(4), ReplicaId(1))
    assert not effects.send_now
    assert effects.send_after_persist == [(2, vote_request(4, (0, 0))), (3, vote_request(4, (0, 0)))]


def test_candidate_with_a_majority_leads_and_appends_its_no_op() -> None:
    """Paper 5.2 and 8."""
    solo = Solo()
    solo.campaign()
    solo.persist()
    effects = solo.receive(3, vote_reply(1, True))
    assert solo.core.role is Role.LEADER
    assert effects.persist is not None
    assert effects.persist.runs == [run(1, 1, b"")]
    assert to(effects, 2) == to(effects, 3) == [append(1, (0, 0), run(1, 1, b""))]
    assert effects.send_now, "appends do not wait for the leader's own disk"


def test_candidate_that_hears_a_leader_of_its_term_follows_it() -> None:
    """Paper 5.2."""
    solo = Solo()
    solo.campaign()
    solo.receive(2, append(1, (0, 0)))
    assert (solo.core.role, solo.core.leader, solo.core.term) == (Role.FOLLOWER, 2, 1)


def test_split_vote_ends_in_another_campaign_after_a_random_timeout() -> None:
    """Paper 5.2: each candidate times out and starts a new election."""
    solo = Solo(voters=4)
    solo.campaign()
    solo.persist()
    solo.receive(2, vote_reply(1, True))
    solo.receive(3, vote_reply(1, False))
    assert solo.core.role.value == "candidate"
    solo.at_deadline()
    assert solo.core.role is Role.PRE_CANDIDATE


def test_candidate_that_can_not_win_any_more_steps_back() -> None:
    solo = Solo()
    solo.campaign()
    solo.receive(2, vote_reply(1, False))
    solo.receive(3, vote_reply(1, False))
    assert solo.core.role is Role.FOLLOWER


def test_duplicate_votes_count_once() -> None:
    """Reference trap 15."""
    solo = Solo(voters=5)
    solo.campaign()
    solo.persist()
    for _ in range(5):
        solo.receive(2, vote_reply(1, True))
        solo.receive(9, vote_reply(1, True))
    assert solo.core.role is Role.CANDIDATE


def test_lone_voter_elects_itself_and_commits_once_each_write_is_durable() -> None:
    """Reference trap 7: even alone, a vote and an entry count only from the disk on."""
    solo = Solo(voters=1)
    solo.at_deadline()
    assert not solo.core.progress
    solo.persist()
    assert solo.core.role is Role.LEADER
    assert solo.core.commit_index == 0
    assert solo.persist().committed == 1


# Voting


def test_vote_is_durable_before_the_reply_leaves() -> None:
    """Reference trap 1."""
    solo = Solo()
    effects = solo.receive(2, vote_request(1, (0, 0)))
    assert effects.persist is not None
    assert effects.persist.hard_state == HardState(Term(1), ReplicaId(2))
    assert not effects.send_now
    assert effects.send_after_persist == [(2, vote_reply(1, True))]


def test_vote_in_a_term_that_is_already_durable_is_made_durable_too() -> None:
    """Reference trap 1: the term needs no write here, the vote does."""
    solo = Solo(term=5)
    effects = solo.receive(2, vote_request(5, (0, 0)))
    assert effects.persist is not None
    assert effects.persist.hard_state == HardState(Term(5), ReplicaId(2))


def test_own_vote_counts_only_once_it_is_durable() -> None:
    """Reference traps 1, 23: the candidate is polled like any other voter."""
    solo = Solo()
    solo.campaign()
    assert not solo.receive(2, vote_reply(1, True)).role_changed
    assert solo.persist().role_changed
    assert solo.core.role is Role.LEADER


def test_term_and_vote_are_one_record() -> None:
    """Reference trap 2: whenever either changes, both are written, together."""
    solo = Solo(term=1, vote=3)
    for message in (append(2, (0, 0)), vote_request(3, (0, 0)), vote_reply(9, False)):
        effects = solo.receive(2, message)
        if effects.persist is not None:
            assert effects.persist.hard_state == HardState(solo.core.term, solo.core.vote)
    assert solo.core.term == 9


def test_replica_votes_once_in_a_term_even_across_a_restart() -> None:
    """Paper 5.2: first come first served; reference trap 1: also after a crash."""
    solo = Solo()
    assert solo.receive(2, vote_request(1, (0, 0))).send_after_persist == [(2, vote_reply(1, True))]
    assert solo.receive(3, vote_request(1, (0, 0))).send_after_persist == [(3, vote_reply(1, False))]
    assert solo.receive(2, vote_request(1, (0, 0))).send_after_persist == [(2, vote_reply(1, True))]
    reborn = Solo(term=1, vote=2)
    assert reborn.receive(3, vote_request(1, (0, 0))).send_after_persist == [(3, vote_reply(1, False))]


def test_vote_survives_stepping_back_within_its_term() -> None:
    """Reference trap 3: cleared only when the term rises."""
    solo = Solo()
    solo.campaign()
    solo.receive(2, append(1, (0, 0)))
    assert solo.core.vote == 1
    solo.step(LeaderLost())
    assert solo.receive(3, vote_request(1, (9, 1))).send_after_persist == [(3, vote_reply(1, False))]


@pytest.mark.parametrize(
    ("own", "candidate", "granted"),
    [
        ([1], (1, 1), True),
        ([1], (2, 1), True),
        ([1, 1], (1, 1), False),
        ([1], (1, 2), True),
        ([1, 1], (1, 2), True),
        ([2], (9, 1), False),
        ([], (0, 0), True),
    ],
)
@pytest.mark.parametrize("pre", [True, False])
def test_vote_goes_only_to_a_log_at_least_as_complete(
    own: list[int], candidate: tuple[int, int], granted: bool, pre: bool
) -> None:
    """Paper 5.4.1: later last term wins, then length."""
    solo = Solo(term=2, log=own)
    (reply,) = to(solo.receive(2, vote_request(3, candidate, pre=pre)), 2)
    assert isinstance(reply, VoteReply)
    assert reply.granted is granted


def test_learner_answers_votes_but_never_campaigns() -> None:
    """Reference trap 16: a learner that the candidate's configuration counts as voter must not wedge the group."""
    solo = Solo(replica=4, learners=1)
    assert solo.core.deadline_ms == math.inf
    assert solo.receive(2, vote_request(1, (0, 0))).send_after_persist == [(2, vote_reply(1, True))]
    solo.step(Campaign())
    solo.step(LeaderLost())
    assert solo.core.role is Role.FOLLOWER


def test_votes_of_learners_do_not_elect() -> None:
    solo = Solo(voters=3, learners=2)
    solo.step(Campaign())
    for learner in (4, 5):
        solo.receive(learner, vote_reply(1, True, pre=True))
    assert solo.core.role is Role.PRE_CANDIDATE


def test_seeing_a_vote_for_another_is_not_a_vote_granted() -> None:
    """Reference trap 22: adopting a term and granting a vote in it are different things."""
    solo = Solo(term=2, log=[2])
    effects = solo.receive(2, vote_request(5, (1, 1)))
    assert (solo.core.term, solo.core.vote) == (5, 0)
    assert effects.send_after_persist == [(2, vote_reply(5, False))]
    assert solo.receive(3, vote_request(5, (1, 2))).send_after_persist == [(3, vote_reply(5, True))]


# PreVote


def test_pre_vote_changes_nothing_at_the_voter() -> None:
    """Thesis 9.6."""
    solo = Solo(term=1, vote=3)
    effects = solo.receive(2, vote_request(8, (0, 0), pre=True))
    assert effects.send_now == [(2, vote_reply(8, True, pre=True))]
    assert effects.persist is None
    assert (solo.core.term, solo.core.vote) == (1, 3)


def test_pre_vote_is_granted_with_its_own_term_and_refused_with_the_voters() -> None:
    """Reference trap 17: a grant in the voter's lower term would be dropped as stale."""
    solo = Solo(term=6, log=[6])
    assert solo.receive(2, vote_request(7, (1, 6), pre=True)).send_now == [(2, vote_reply(7, True, pre=True))]
    assert solo.receive(2, vote_request(7, (1, 5), pre=True)).send_now == [(2, vote_reply(6, False, pre=True))]


def test_pre_candidate_adopts_the_higher_term_of_a_refusal() -> None:
    """Reference trap 18: else a short log in a high term and a long one in a low term block each other for ever."""
    solo = Solo(term=2, log=[2])
    assert solo.receive(2, vote_request(2, (0, 0), pre=True)).send_now == [(2, vote_reply(2, False, pre=True))]
    behind = Solo(term=1, log=[1, 1])
    behind.step(Campaign())
    behind.receive(2, vote_reply(5, False, pre=True))
    assert (behind.core.role, behind.core.term) == (Role.FOLLOWER, 5)


def test_group_elects_although_the_higher_term_has_the_shorter_log() -> None:
    """Reference trap 18, whole: the cluster finds a leader that has every committed entry."""
    cluster = Cluster(seed=2)
    cluster.elect(1)
    cluster.isolate(3)
    cluster.propose(b"a", b"b")
    cluster.run_until(lambda: cluster.node(2).core.commit_index == 3)
    cluster.crash(1)
    cluster.node(3).core._state.save_vote(Term(9), ReplicaId(0))
    cluster.heal()
    cluster.run_until(lambda: cluster.leader is not None and cluster.leader.core.term > 9)
    assert cluster.leader is not None
    assert cluster.leader.replica == 2


def test_late_answers_to_an_earlier_campaign_are_not_counted() -> None:
    solo = Solo(term=1)
    solo.step(Campaign())
    solo.receive(2, vote_reply(1, True, pre=True))
    solo.receive(2, vote_reply(2, True, pre=False))
    assert solo.core.role is not Role.CANDIDATE
    assert solo.core.role is not Role.LEADER


def test_replica_that_was_cut_off_does_not_depose_the_leader() -> None:
    """Thesis 9.6: its pre-votes are refused, so its term has not run away when it comes back."""
    cluster = Cluster(seed=3)
    cluster.elect(1)
    term = cluster.node(1).core.term
    cluster.isolate(3)
    cluster.run_ms(10_000)
    assert cluster.node(3).core.role in (Role.PRE_CANDIDATE, Role.FOLLOWER)
    cluster.heal()
    cluster.settle()
    assert cluster.leader is cluster.node(1)
    assert cluster.node(1).core.term == cluster.node(3).core.term == term


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
    """Reference trap 52: real time and pulled evidence, no counted ticks."""
    solo = Solo()
    solo.receive(2, append(1, (0, 0)))
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
