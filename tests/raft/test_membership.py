"""Changing who votes while the group works (paper section 6, thesis chapter 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from cluster.errors import ChangePending, InvalidRequest, LearnerBehind, NotLeader, Transferring
from cluster.ids import LogIndex, ReplicaId, Term
from cluster.raft.configuration import TAG, members_of
from cluster.raft.effects import Effects, Role
from cluster.raft.events import Campaign, ChangeConfiguration, LeaderLost, PeerAcked, Read, Transfer
from cluster.raft.messages import Append, Configuration, HardState, TimeoutNow
from tests.raft.network import TEST_CONFIG, Cluster
from tests.raft.solo import Solo, accept, append, appends, configured, entry, ids, reject, run, to, vote_reply, vote_request


def change(solo: Solo, voters: Sequence[int], learners: Sequence[int] = ()) -> Effects:
    return solo.step(ChangeConfiguration(ids(*voters), ids(*learners)))


def acknowledge(solo: Solo, *peers: int) -> None:
    """Everything is durable here and at `peers`."""
    solo.persist()
    for peer in peers:
        solo.receive(peer, accept(solo.core.term, solo.core.last_index, solo.core.commit_index))


# Entering and leaving


def test_configuration_counts_as_soon_as_it_is_in_the_log() -> None:
    """Thesis 4.1: not when it commits. The owner is told, so that it can reach the newcomer."""
    solo = Solo()
    solo.lead()
    effects = change(solo, [1, 2, 3], [4])
    assert effects.ticket is not None
    assert effects.ticket.first == effects.ticket.last == 2
    assert effects.configuration == Configuration(ids(1, 2, 3), ids(4), (), ReplicaId(4))
    assert solo.core.configuration == effects.configuration
    assert effects.persist is not None
    assert effects.persist.hard_state == HardState(Term(1), ReplicaId(1), (LogIndex(2),))
    assert len(appends(effects, 4)) == 1, "a learner gets the log"
    assert solo.propose(b"a").configuration is None


def test_voters_change_through_a_joint_configuration_that_the_leader_leaves_by_itself() -> None:
    """Thesis 4.3; reference trap 46: nobody has to come back for the second step."""
    solo = Solo(learners=1)
    solo.lead()
    acknowledge(solo, 4)
    change(solo, [1, 2, 3, 4])
    assert configured(solo.core) == ([1, 2, 3, 4], [], [1, 2, 3])
    acknowledge(solo, 2)
    assert solo.core.commit_index == 1, "two of three, but only two of four"
    acknowledge(solo, 4)
    assert solo.core.commit_index == 2
    assert configured(solo.core) == ([1, 2, 3, 4], [], [])
    acknowledge(solo, 2, 4)
    assert solo.core.commit_index == solo.core.last_index == 3


def test_commit_in_a_joint_configuration_needs_a_majority_of_each_half() -> None:
    """Thesis 4.3, reference trap 36: five of six replicas are not enough if they are the wrong ones."""
    solo = Solo(learners=3)
    solo.lead()
    acknowledge(solo, 4, 5, 6)
    change(solo, [4, 5, 6], [1, 2, 3])
    acknowledge(solo, 4, 5, 6)
    assert solo.core.commit_index == 1, "all of the new ones, one of the old ones"
    acknowledge(solo, 2)
    assert solo.core.commit_index == 2


def test_elections_in_a_joint_configuration_need_a_majority_of_each_half() -> None:
    """Thesis 4.3; reference trap 23: the candidate's own vote counts in each half that it is in."""
    solo = Solo(term=1, log=[1])
    solo.receive(2, append(2, (1, 1), run(2, 2, entry([1, 4, 5], [2, 3], [1, 2, 3]))))
    solo.persist()
    solo.step(Campaign())
    for peer in (4, 5):
        assert solo.receive(peer, vote_reply(3, True, pre=True)).persist is None
    assert solo.receive(2, vote_reply(3, True, pre=True)).persist is not None
    solo.persist()
    solo.receive(4, vote_reply(3, True))
    assert solo.core.leader is None, "two of the new ones, one of the old ones"
    solo.receive(3, vote_reply(3, True))
    assert solo.core.role is Role.LEADER


def test_leader_that_is_being_demoted_still_votes_for_itself() -> None:
    """Reference trap 23: an outgoing voter campaigns and is polled like any other."""
    solo = Solo(term=1, log=[1])
    solo.receive(2, append(2, (1, 1), run(2, 2, entry([2, 3], [1], [1, 2, 3]))))
    solo.persist()
    solo.step(Campaign())
    solo.receive(2, vote_reply(3, True, pre=True))
    assert solo.core.term == 2, "two of the old ones, one of the new ones"
    solo.receive(3, vote_reply(3, True, pre=True))
    assert solo.core.term == 3
    solo.persist()
    solo.receive(2, vote_reply(3, True))
    solo.receive(3, vote_reply(3, True))
    assert solo.core.role is Role.LEADER


def test_reads_and_quorum_checks_of_a_joint_configuration_need_each_half() -> None:
    """Reference trap 36."""
    solo = Solo(learners=2)
    solo.lead()
    acknowledge(solo, 4, 5)
    change(solo, [1, 4, 5], [2, 3])
    solo.step(Read(1))
    assert not solo.step(PeerAcked(ReplicaId(4), Term(1), solo.now_ms)).reads_ready
    assert solo.step(PeerAcked(ReplicaId(2), Term(1), solo.now_ms)).reads_ready == [(1, 1)]
    solo.persist()
    took_ms = solo.resign(acked=[4, 5])
    assert took_ms <= TEST_CONFIG.election_timeout_ms_min + 1, "the outgoing half is gone"


def test_new_leader_leaves_a_joint_configuration_only_once_it_has_committed_it() -> None:
    """Reference trap 43: C_new may follow C_old,new only when that can no longer be lost."""
    solo = Solo(term=1, log=[1])
    solo.receive(2, append(2, (1, 1), run(2, 2, entry([1, 2, 4], [3], [1, 2, 3]))))
    solo.persist()
    solo.step(Campaign())
    for pre in (True, False):
        for peer in (2, 3, 4):
            solo.receive(peer, vote_reply(3, True, pre=pre))
        solo.persist()
    assert solo.core.role is Role.LEADER
    assert solo.core.last_index == 3, "the no-op and nothing else"
    solo.receive(2, accept(3, 2))
    solo.receive(4, accept(3, 2))
    assert solo.core.last_index == 3, "replicated everywhere, but of an earlier term (paper figure 8)"
    solo.receive(2, accept(3, 3))
    solo.receive(4, accept(3, 3))
    assert configured(solo.core) == ([1, 2, 4], [3], [])
    assert solo.core.last_index == 4


def test_new_leader_that_knows_the_joint_configuration_to_be_committed_waits_all_the_same() -> None:
    """Reference trap 43: one rule, committed in this leadership, however much the leader happens to know."""
    solo = Solo(term=1, log=[1])
    solo.receive(2, append(2, (1, 1), run(2, 2, entry([1, 2, 4], [3], [1, 2, 3])), commit=2))
    solo.persist()
    assert solo.core.commit_index == 2
    solo.step(Campaign())
    for pre in (True, False):
        for peer in (2, 4):
            solo.receive(peer, vote_reply(3, True, pre=pre))
        solo.persist()
    assert solo.core.role is Role.LEADER
    assert solo.core.last_index == 3
    solo.receive(2, accept(3, 3))
    solo.receive(4, accept(3, 3))
    assert configured(solo.core) == ([1, 2, 4], [3], [])


def test_follower_that_becomes_a_voter_watches_over_its_leader() -> None:
    """A learner has no election timer; one that votes must have."""
    solo = Solo(replica=4, learners=1)
    solo.receive(1, append(1, (0, 0), run(1, 1, b"a")))
    assert solo.core.deadline_ms == float("inf")
    effects = solo.receive(1, append(1, (1, 1), run(2, 1, entry([1, 2, 3, 4], [], [1, 2, 3]))))
    assert effects.configuration is not None
    solo.persist()
    solo.at_deadline()
    assert solo.core.role is Role.PRE_CANDIDATE


def test_joint_configuration_is_not_left_while_leadership_is_handed_over() -> None:
    """An entry more would make the successor's TimeoutNow stale. Whoever leads next leaves it (reference trap 46); so does this
    leader when the transfer comes to nothing."""
    solo = Solo(learners=1)
    solo.lead()
    acknowledge(solo, 4)
    change(solo, [1, 2, 3, 4])
    solo.step(Transfer(ReplicaId(2)))
    acknowledge(solo, 2, 3, 4)
    assert solo.core.commit_index == 2
    assert configured(solo.core) == ([1, 2, 3, 4], [], [1, 2, 3])
    while solo.core.transferring_to is not None:
        solo.acked = {(peer, 1): solo.core.deadline_ms for peer in (2, 3, 4)}
        solo.at_deadline()
    assert configured(solo.core) == ([1, 2, 3, 4], [], [])


# Refusals


def test_first_change_waits_for_the_no_op_of_the_term() -> None:
    """Reference trap 41 (raft-dev 2015): else two leaders could each change from what the other does not know."""
    solo = Solo()
    solo.lead(match=False)
    effects = change(solo, [1, 2, 3], [4])
    assert isinstance(effects.refusal, ChangePending)
    assert effects.ticket is None
    assert effects.configuration is None
    acknowledge(solo, 2)
    assert change(solo, [1, 2, 3], [4]).ticket is not None


def test_one_change_at_a_time() -> None:
    """Reference trap 41: not while the last one is uncommitted, and not inside a joint configuration."""
    solo = Solo(learners=1)
    solo.lead()
    acknowledge(solo, 4)
    change(solo, [1, 2, 3], [4, 5])
    assert isinstance(change(solo, [1, 2, 3], [4, 5, 6]).refusal, ChangePending)
    acknowledge(solo, 2, 4)
    change(solo, [1, 2, 3, 4], [5])
    assert isinstance(change(solo, [1, 2, 3], [4, 5, 6]).refusal, ChangePending)
    acknowledge(solo, 2, 4)
    assert configured(solo.core)[2] == [], "left, but that entry is not committed"
    assert isinstance(change(solo, [1, 2, 3, 4], [5, 6]).refusal, ChangePending)
    acknowledge(solo, 2, 4)
    assert change(solo, [1, 2, 3, 4], [5, 6]).ticket is not None


def test_learner_becomes_a_voter_only_when_it_is_close() -> None:
    """Thesis 4.2.1; reference trap 44: a voter that lacks the log, or is not there at all, holds up every commit."""
    solo = Solo(learners=1, config=replace(TEST_CONFIG, promotion_lag_entries=1))
    solo.lead(match=False)
    acknowledge(solo, 2, 3)
    assert isinstance(change(solo, [1, 2, 3, 4]).refusal, LearnerBehind), "never heard"
    acknowledge(solo, 4)
    solo.propose(b"a", b"b")
    assert isinstance(change(solo, [1, 2, 3, 4]).refusal, LearnerBehind), "two entries behind"
    solo.receive(4, accept(1, 2))
    solo.now_ms += TEST_CONFIG.election_timeout_ms_min + 1
    assert isinstance(change(solo, [1, 2, 3, 4]).refusal, LearnerBehind), "one behind, but silent"
    solo.acked[4, 1] = solo.now_ms
    assert change(solo, [1, 2, 3, 4]).ticket is not None


def test_goal_against_the_rules_is_refused_and_changes_nothing() -> None:
    """Reference traps 12 and 44; test_configuration has every rule."""
    solo = Solo()
    solo.lead()
    for voters in ([1, 2, 3, 4], [1, 2], [1, 2, 3]):
        effects = change(solo, voters)
        assert isinstance(effects.refusal, InvalidRequest)
        assert effects.persist is None
    assert configured(solo.core) == ([1, 2, 3], [], [])


def test_only_a_leader_that_is_not_handing_over_changes_the_configuration() -> None:
    solo = Solo()
    solo.receive(3, append(1, (0, 0)))
    assert isinstance(change(solo, [1, 2, 3], [4]).refusal, NotLeader)
    leader = Solo()
    leader.lead()
    leader.step(Transfer(ReplicaId(2)))
    assert isinstance(change(leader, [1, 2, 3], [4]).refusal, Transferring)


def test_proposal_that_would_be_taken_for_a_configuration_is_refused() -> None:
    solo = Solo()
    solo.lead()
    for payload in (bytes([TAG]), entry([1])):
        assert isinstance(solo.propose(b"a", payload).refusal, InvalidRequest)
    assert solo.core.last_index == 1


def test_append_with_a_configuration_that_is_not_sound_is_refused_before_anything_changes() -> None:
    solo = Solo(term=1)
    for payload in (bytes([TAG]), bytes([TAG]) + b"\xff", entry([]), entry([2, 1]), entry([1], [1])):
        with pytest.raises(InvalidRequest):
            solo.receive(2, append(3, (0, 0), run(1, 3, b"a", payload)))
    assert (solo.core.term, solo.core.last_index) == (1, 0)


# Removing


def test_leader_without_a_vote_hands_over_and_stops_once_that_is_committed() -> None:
    """Thesis 4.2.2, reference trap 45: it manages the group while not counting itself, then goes in order."""
    solo = Solo()
    solo.lead()
    change(solo, [2, 3], [1])
    acknowledge(solo, 2, 3)
    assert configured(solo.core) == ([2, 3], [1], [])
    assert solo.core.commit_index == 2
    solo.persist()
    solo.receive(2, accept(1, 3))
    assert solo.core.commit_index == 2, "its own copy does not count any more"
    assert solo.core.transferring_to is None
    effects = solo.receive(3, accept(1, 3))
    assert solo.core.commit_index == 3
    assert solo.core.transferring_to in (2, 3)
    told = [message for _, message in effects.send_now if isinstance(message, TimeoutNow)]
    assert told == [TimeoutNow(Term(1), LogIndex(3))]
    assert isinstance(solo.propose(b"a").refusal, Transferring)


def test_leader_without_a_vote_stops_even_if_nobody_takes_over() -> None:
    """Reference trap 45: step down always."""
    solo = Solo()
    solo.lead()
    change(solo, [2, 3], [1])
    for _ in range(2):
        acknowledge(solo, 2, 3)
    assert solo.resign(acked=[2, 3]) == TEST_CONFIG.election_timeout_ms_min
    assert solo.core.deadline_ms == float("inf"), "a learner campaigns never"


@pytest.mark.parametrize("seed", range(5))
def test_leader_is_demoted_and_removed_while_the_group_works(seed: int) -> None:
    """Reference traps 44 and 45: demote, then remove; no election timeout passes."""
    cluster = Cluster(seed=seed)
    cluster.elect(1)
    cluster.propose(b"a")
    began_ms = cluster.now_ms
    cluster.change([2, 3], [1])
    cluster.run_until(lambda: cluster.leader is not None and cluster.leader.replica != 1)
    assert cluster.now_ms - began_ms < 20
    cluster.settle()
    cluster.change([2, 3])
    cluster.propose(b"b")
    cluster.settle()
    leader = cluster.leader
    assert leader is not None
    assert members_of(leader.core.configuration) == ids(2, 3)
    assert (Term(leader.core.term), b"b") in leader.machine
    assert b"b" not in [payload for _, payload in cluster.node(1).machine], "nothing is sent to who was removed"


def test_removed_replica_does_not_disturb_the_group() -> None:
    """Thesis 4.2.3: it campaigns by what it last knew; PreVote and leader stickiness hold. Reference trap 19."""
    cluster = Cluster(4, seed=3)
    cluster.elect(1)
    cluster.isolate(4)
    cluster.change([1, 2, 3], [4])
    cluster.settle_without(4)
    cluster.change([1, 2, 3])
    cluster.settle_without(4)
    term = cluster.node(1).core.term
    cluster.heal()
    cluster.run_ms(20_000)
    assert cluster.node(1).core.role is Role.LEADER
    assert cluster.node(1).core.term == term
    assert cluster.node(4).core.role is not Role.LEADER


def test_replica_that_loses_its_vote_campaigns_until_that_is_committed() -> None:
    """Thesis 4.2.2: replica 2 made itself a learner, but only its own log says so. Replica 1 needs its vote by what it knows,
    and is refused for its shorter log; so replica 2 must lead once more, on the vote of replica 1 alone."""
    cluster = Cluster(2, seed=1)
    cluster.elect(2)
    cluster.dropped = lambda _, __, message: isinstance(message, Append) and message.previous_index >= 2
    cluster.change([1], [2])
    cluster.run_until(lambda: cluster.node(2).core.last_index == 3)
    cluster.run_ms(5)
    cluster.crash(2)
    cluster.heal()
    cluster.restart(2)
    assert cluster.node(2).core.configuration.voters == ids(1)
    assert cluster.node(1).core.configuration.voters == ids(1)
    assert cluster.node(1).core.configuration.outgoing == ids(1, 2)
    cluster.run_until(lambda: cluster.node(2).core.role is Role.LEADER)
    cluster.run_until(lambda: cluster.node(1).core.role is Role.LEADER)
    cluster.settle()


def test_replica_that_loses_its_vote_stands_behind_all_voters_when_the_leader_is_lost() -> None:
    """Thesis 4.2.2 again: it may be needed, so it takes a turn, but only after those who have a vote."""
    solo = Solo(term=1, log=[1])
    solo.receive(3, append(2, (1, 1), run(2, 2, entry([2, 3], [1]))))
    solo.step(LeaderLost())
    assert solo.core.deadline_ms == solo.now_ms + TEST_CONFIG.stagger_ms
    solo.at_deadline()
    assert solo.core.role is Role.PRE_CANDIDATE


# Adding


def test_group_grows_from_one_to_three_and_shrinks_to_the_newcomers() -> None:
    """Reference traps 16 and 44: an empty replica that is in no configuration it knows of catches up, votes, and leads."""
    cluster = Cluster(1, seed=1)
    leader = cluster.elect(1).core
    cluster.propose(*(b"%d" % number for number in range(20)))
    cluster.settle()
    for replica in (2, 3):
        cluster.add(replica)
        cluster.change(list(range(1, replica)), [replica])
        cluster.run_until(lambda replica=replica: leader.progress[ReplicaId(replica)] == leader.last_index)  # type: ignore[misc]
        cluster.change(list(range(1, replica + 1)))
        cluster.settle()
    cluster.change([2, 3], [1])
    cluster.run_until(lambda: cluster.leader is not None and cluster.leader.replica != 1)
    cluster.settle()
    cluster.change([2, 3])
    cluster.settle()
    cluster.crash(1)
    cluster.propose(b"last")
    cluster.settle()
    assert cluster.node(2).machine == cluster.node(3).machine
    assert cluster.node(2).machine[-1][1] == b"last"


def test_learner_that_joins_a_compacted_log_gets_a_snapshot_with_its_configuration() -> None:
    """Reference trap 47."""
    cluster = Cluster(seed=2)
    cluster.elect(1)
    cluster.add(4)
    cluster.change([1, 2, 3], [4])
    cluster.isolate(4)
    cluster.propose(b"a", b"b", b"c")
    cluster.settle_without(4)
    cluster.compact(1, cluster.node(1).core.applied_index)
    cluster.heal()
    cluster.settle()
    assert cluster.node(4).core.snapshot.configuration == cluster.node(1).core.configuration
    assert cluster.node(4).machine == cluster.node(1).machine


def test_voters_grant_votes_to_a_candidate_that_they_do_not_know() -> None:
    """Reference trap 16: term and log decide, never the voter's own configuration."""
    solo = Solo(term=1, log=[1])
    solo.now_ms += 10_000
    assert to(solo.receive(8, vote_request(2, (2, 1))), 8) == [vote_reply(2, True)]


def test_interrupted_change_is_finished_by_the_next_leader() -> None:
    """Reference trap 46: the old leader dies inside the joint configuration."""
    cluster = Cluster(3, learners=1, seed=5)
    cluster.elect(1)
    cluster.dropped = lambda sender, _, message: sender == 1 and isinstance(message, Append) and message.commit > 1
    cluster.change([1, 2, 4], [3])
    cluster.run_until(lambda: not cluster.node(1).core.configuration.outgoing)
    cluster.crash(1)
    cluster.heal()
    assert cluster.node(2).core.configuration.outgoing, "nobody else knows that it was left"
    cluster.settle_without(1)
    leader = cluster.leader
    assert leader is not None
    assert (leader.core.configuration.voters, leader.core.configuration.outgoing) == (ids(1, 2, 4), ())


def test_log_of_a_learner_that_parts_is_repaired_like_a_voters() -> None:
    solo = Solo()
    solo.lead()
    change(solo, [1, 2, 3], [4])
    effects = solo.receive(4, reject(1, 1, (0, 0)))
    assert [message.previous_index for message in appends(effects, 4)] == [0]
