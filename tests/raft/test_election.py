"""Votes and pre-votes, by paper section and reference trap."""

from __future__ import annotations

import math

import pytest

from cluster.ids import ReplicaId, Term
from cluster.raft.effects import Role
from cluster.raft.events import Campaign, LeaderLost
from cluster.raft.messages import HardState, VoteReply
from tests.raft.network import Cluster
from tests.raft.solo import Solo, append, run, to, vote_reply, vote_request

# Paper 5.1 and 5.2


def test_replica_starts_as_follower_without_a_leader() -> None:
    """Paper 5.1 and 5.2: when servers start up, they begin as followers."""
    core = Solo(term=4, vote=2).core
    assert (core.role, core.leader, core.term, core.vote) == (Role.FOLLOWER, None, 4, 2)


@pytest.mark.parametrize("role", list(Role))
def test_any_role_becomes_follower_on_a_higher_term(role: Role) -> None:
    """Paper figure 2, all servers; paper 5.1: if a server's term is out of date it updates it, and candidates and leaders step
    back."""
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
    """Paper figure 2, followers; paper 5.2, thesis 9.6: pre-votes first; the term does not rise by asking."""
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
    """Paper figure 2, candidates; paper 5.2, reference trap 1: nobody is asked before the own vote can not be forgotten."""
    solo = Solo(term=3)
    effects = solo.campaign()
    assert solo.core.term == 4
    assert effects.persist is not None
    assert effects.persist.hard_state == HardState(Term(4), ReplicaId(1))
    assert not effects.send_now
    assert effects.send_after_persist == [(2, vote_request(4, (0, 0))), (3, vote_request(4, (0, 0)))]


def test_candidate_with_a_majority_leads_and_appends_its_no_op() -> None:
    """Paper figure 2, candidates; paper 5.2 and 8."""
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
    """Paper figure 2, candidates; paper 5.2."""
    solo = Solo()
    solo.campaign()
    solo.receive(2, append(1, (0, 0)))
    assert (solo.core.role, solo.core.leader, solo.core.term) == (Role.FOLLOWER, 2, 1)


def test_split_vote_ends_in_another_campaign_after_a_random_timeout() -> None:
    """Paper figure 2, candidates; paper 5.2: each candidate times out and starts a new election."""
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
    """Paper figure 2, persistent state; reference trap 1."""
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
    """Paper figure 2, RequestVote 2; paper 5.2: first come first served; reference trap 1: also after a crash."""
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
    """Paper figure 2, RequestVote 2; paper 5.4.1: later last term wins, then length."""
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
