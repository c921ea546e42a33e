"""Claims of the Raft paper (Ongaro and Ousterhout 2014) that no other test of this folder tells. docs/internals/raft-paper.md
has the whole list, with the test for each.
"""

from __future__ import annotations

import typing
from collections.abc import Callable
from dataclasses import replace

import pytest

from cluster.ids import LogIndex, ReplicaId, Term
from cluster.raft.effects import Role
from cluster.raft.events import ChangeConfiguration, PeerAcked, PeerUnreachable
from cluster.raft.messages import Append, AppendReply, Message, SnapshotMeta, SnapshotOffer, VoteReply, VoteRequest
from tests.raft.network import TEST_CONFIG, Cluster, Faults
from tests.raft.solo import (
    Solo,
    accept,
    append,
    appends,
    configured,
    entry,
    ids,
    reject,
    run,
    timeout_now,
    to,
    vote_reply,
    vote_request,
)

# 5.1, terms and messages


def test_every_message_names_a_term() -> None:
    """Paper 5.1: current terms are exchanged whenever servers communicate."""
    for kind in typing.get_args(Message):
        assert kind.__struct_fields__[0] == "term"


REPEATED: list[Callable[[], Message]] = [
    lambda: append(2, (1, 1), run(2, 2, b"a"), commit=2),
    lambda: append(2, (3, 2), run(4, 2, b"b")),
    lambda: vote_request(3, (9, 2)),
    lambda: vote_request(3, (9, 2), pre=True),
    lambda: vote_reply(3, False),
    lambda: SnapshotOffer(Term(2), SnapshotMeta(LogIndex(2), Term(1), Solo().configuration)),
    lambda: accept(2, 1),
]


@pytest.mark.parametrize("message", REPEATED)
def test_message_that_comes_twice_changes_nothing_the_second_time(message: Callable[[], Message]) -> None:
    """Paper 5.1 and 5.5: Raft's messages are idempotent, so their sender may repeat what was not answered."""
    solo = Solo(term=2, log=[1, 1, 2], voters=3)
    solo.now_ms += 3 * TEST_CONFIG.election_timeout_ms_max
    solo.receive(2, message())
    solo.persist()
    core = solo.core
    once = (core.term, core.vote, core.role, core.leader, core.last_index, core.commit_index, solo.terms)
    assert solo.receive(2, message()).persist is None
    assert (core.term, core.vote, core.role, core.leader, core.last_index, core.commit_index, solo.terms) == once


def test_group_works_when_everything_is_said_twice() -> None:
    """Paper 5.5: repeated and reordered messages do no harm."""
    cluster = Cluster(3, seed=4, faults=Faults(duplication=1.0, delay_ms=(0.5, 30.0)))
    leader = cluster.elect(1)
    for number in range(20):
        cluster.propose(b"%d" % number)
        cluster.run_ms(5)
    cluster.settle()
    written = [payload for _, payload in leader.machine if payload]
    assert written == [b"%d" % number for number in range(20)]
    assert all(node.machine == leader.machine for node in cluster.nodes.values())


# 5.2, elections


def test_follower_says_nothing_on_its_own() -> None:
    """Paper 5.1: followers are passive, they issue no requests but respond to those of others. While the leader is heard, that
    is: for as long as it likes."""
    solo = Solo()
    solo.receive(2, append(1, (0, 0), run(1, 1, b"")))
    solo.persist()
    for event in (PeerUnreachable(ReplicaId(2)), PeerAcked(ReplicaId(2), Term(1), solo.now_ms)):
        effects = solo.step(event)
        assert not effects.send_now + effects.send_after_persist
    for _ in range(20):
        solo.heard = {(2, 1): solo.core.deadline_ms}
        effects = solo.at_deadline()
        assert not effects.send_now + effects.send_after_persist


def test_candidate_rejects_a_leader_of_an_older_term_and_goes_on() -> None:
    """Paper 5.2: if the term in the message is smaller than the candidate's, it rejects it and continues in candidate state."""
    solo = Solo(term=4)
    solo.campaign()
    assert to(solo.receive(2, append(4, (0, 0), run(1, 4, b""))), 2) == [reject(5, 0, (0, 5))]
    assert (solo.core.role, solo.core.term, solo.core.last_index) == (Role.CANDIDATE, 5, 0)


def test_granting_a_vote_restarts_the_election_timer() -> None:
    """Paper 5.2, figure 2, rules for followers: without hearing the leader or granting a vote."""
    solo = Solo()
    first_ms = solo.core.deadline_ms
    solo.now_ms = first_ms - 1
    solo.receive(2, vote_request(1, (0, 0)))
    assert solo.core.deadline_ms >= solo.now_ms + TEST_CONFIG.election_timeout_ms_min
    solo.now_ms = first_ms
    solo.at_deadline()
    assert solo.now_ms > first_ms + TEST_CONFIG.election_timeout_ms_min - 2


def test_refusing_a_vote_does_not_restart_the_election_timer() -> None:
    """Paper 5.2, figure 2: or a candidate that can not win would keep others from trying."""
    solo = Solo(term=1, log=[1])
    before_ms = solo.core.deadline_ms
    solo.receive(2, vote_request(2, (0, 0)))
    assert solo.core.term == 2
    assert solo.core.deadline_ms == before_ms


def test_new_leader_tells_everybody_at_once() -> None:
    """Paper figure 2, leaders; Paper 5.2: it sends to all other servers to establish its authority and prevent new elections;
    learners too."""
    solo = Solo(voters=3, learners=1)
    solo.campaign()
    solo.persist()
    effects = solo.receive(2, vote_reply(1, True))
    assert solo.core.role is Role.LEADER
    assert all(appends(effects, peer) for peer in (2, 3, 4))


# 5.3, replication


def test_entry_is_sent_until_every_follower_has_it_however_long_it_is_committed() -> None:
    """Paper 5.3: the leader retries indefinitely, even after it has responded to the client."""
    cluster = Cluster(3, seed=1)
    cluster.elect(1)
    cluster.isolate(3)
    cluster.propose(b"a")
    cluster.settle_without(3)
    cluster.run_ms(60_000)
    assert cluster.node(3).core.last_index == 1
    cluster.heal()
    cluster.run_until(lambda: cluster.node(3).core.last_index == cluster.node(1).core.last_index, 5_000)


def test_commit_of_an_entry_commits_everything_before_it() -> None:
    """Paper 5.3: including entries created by previous leaders."""
    solo = Solo(term=3, log=[1, 2, 2, 3])
    solo.lead(match=False)
    solo.propose(b"a", b"b")
    solo.persist()
    assert solo.core.commit_index == 0
    assert solo.receive(2, accept(4, 6)).committed == 6


def test_leader_neither_overwrites_nor_deletes_what_is_in_its_log() -> None:
    """Paper 5.3 and figure 3, leader append-only: whatever followers say. The simulation asserts it after every event."""
    solo = Solo(term=2, log=[1, 1, 2])
    solo.lead(match=False)
    before = list(solo.terms)
    for answer in (reject(3, 3, (3, 2)), reject(3, 2, (9, 9)), reject(3, 1, (0, 0)), accept(3, 2), accept(3, 99)):
        effects = solo.receive(2, answer)
        assert effects.persist is None
        assert solo.terms == before


# Figure 2, the rules of receivers that refuse


def test_vote_request_of_an_older_term_is_refused_with_the_newer_one() -> None:
    """Paper figure 2, RequestVote 1: reply false if term < currentTerm."""
    solo = Solo(term=5)
    assert to(solo.receive(2, vote_request(4, (9, 4))), 2) == [vote_reply(5, False)]
    assert solo.core.vote == 0


@pytest.mark.parametrize("role", list(Role))
def test_append_of_an_older_term_is_refused_with_the_newer_one(role: Role) -> None:
    """Paper figure 2, AppendEntries 1: reply false if term < currentTerm. In every role, and nothing of it is believed."""
    solo = Solo(term=5, voters=3)
    if role is Role.LEADER:
        solo.lead()
    elif role is Role.CANDIDATE:
        solo.campaign()
    elif role is Role.PRE_CANDIDATE:
        solo.at_deadline()
    assert solo.core.role is role
    last, leader = solo.core.last_index, solo.core.leader
    (answer,) = to(solo.receive(2, append(4, (0, 0), run(1, 4, b"late"), commit=1)), 2)
    assert isinstance(answer, AppendReply)
    assert answer.rejected
    assert answer.term == solo.core.term >= 5
    assert (solo.core.last_index, solo.core.leader) == (last, leader)


def test_snapshot_of_a_leader_of_an_older_term_is_refused() -> None:
    """Paper figure 13, InstallSnapshot 1: reply immediately if term < currentTerm."""
    solo = Solo(term=5)
    offer = SnapshotOffer(Term(4), SnapshotMeta(LogIndex(9), Term(4), solo.configuration))
    (answer,) = to(solo.receive(2, offer), 2)
    assert isinstance(answer, AppendReply)
    assert (answer.rejected, answer.term, solo.core.leader) == (True, 5, None)


# 6, membership


def stand(solo: Solo) -> None:
    """Hear nobody until it asks for pre-votes."""
    while solo.core.role is not Role.PRE_CANDIDATE:
        solo.at_deadline()


def role(solo: Solo) -> Role:
    return solo.core.role


def test_entries_go_to_everybody_of_both_configurations() -> None:
    """Paper 6: log entries are replicated to all servers in both configurations."""
    solo = Solo(voters=3, learners=2, config=replace(TEST_CONFIG, promotion_lag_entries=10))
    solo.lead()
    solo.acked = {(peer, 1): solo.now_ms for peer in range(2, 6)}
    effects = solo.step(ChangeConfiguration(ids(1, 4, 5), ids(2, 3)))
    assert configured(solo.core) == ([1, 4, 5], [2, 3], [1, 2, 3])
    assert all(appends(effects, peer) for peer in (2, 3, 4, 5))


@pytest.mark.parametrize("candidate", [2, 4])
def test_server_of_either_configuration_may_lead(candidate: int) -> None:
    """Paper 6: any server from either configuration may serve as leader: 2 is only in the old one, 4 only in the new one."""
    joint = entry([1, 4, 5], [2, 3], [1, 2, 3])
    solo = Solo(replica=candidate, voters=3, learners=2)
    solo.receive(1, append(1, (0, 0), run(1, 1, joint)))
    solo.persist()
    stand(solo)
    for voter in (1, 3, 5):
        solo.receive(voter, vote_reply(2, True, pre=True))
    assert role(solo) is Role.CANDIDATE
    solo.persist()
    for voter in (1, 3, 5):
        solo.receive(voter, vote_reply(2, True))
    assert role(solo) is Role.LEADER


def test_new_configuration_decides_nothing_alone_before_the_joint_one_is_committed() -> None:
    """Paper 6: C_old and C_new never make unilateral decisions at a time: all three new voters are not enough."""
    joint = entry([1, 4, 5], [2, 3], [1, 2, 3])
    solo = Solo(voters=3, learners=2)
    solo.receive(2, append(1, (0, 0), run(1, 1, joint)))
    solo.persist()
    stand(solo)
    for voter in (4, 5):
        solo.receive(voter, vote_reply(2, True, pre=True))
    assert role(solo) is Role.PRE_CANDIDATE
    solo.receive(3, vote_reply(2, True, pre=True))
    assert role(solo) is Role.CANDIDATE


# Thesis 3.10 to 10


def test_candidate_that_the_leader_called_is_elected_although_everybody_hears_the_leader() -> None:
    """Thesis 3.10 and 4.2.3 together: the flag of the request sets stickiness aside, for this one election."""
    solo = Solo(voters=3)
    solo.receive(2, append(1, (0, 0), run(1, 1, b"")))
    solo.persist()
    solo.receive(2, timeout_now(1, 1))
    effects = solo.persist()
    assert not effects.send_now
    assert solo.core.role is Role.CANDIDATE
    solo.at_deadline()
    requests = [message for _, message in solo.at_deadline().send_now]
    assert all(isinstance(message, VoteRequest) and message.pre and not message.transfer for message in requests)


def test_writes_to_the_leaders_disk_and_to_followers_go_in_parallel() -> None:
    """Thesis 10.2.1: the append leaves with the step that asks for the write, and may commit before the write is done."""
    solo = Solo()
    solo.lead()
    effects = solo.propose(b"a")
    assert effects.persist is not None
    assert appends(effects, 2)
    solo.receive(2, accept(1, 2))
    assert solo.receive(3, accept(1, 2)).committed == 2
    assert solo.core.persisted_index == 1


def test_appends_follow_each_other_without_waiting_for_answers() -> None:
    """Thesis 10.2.2: pipelining, up to the window."""
    solo = Solo(config=replace(TEST_CONFIG, window_appends=3))
    solo.lead()
    sent: list[Append] = []
    for number in range(5):
        sent += appends(solo.propose(b"%d" % number), 2)
    assert [one.previous_index for one in sent] == [1, 2, 3]


def test_late_answer_of_a_lost_campaign_is_ignored() -> None:
    """Paper 5.1: answers of an older term change nothing."""
    solo = Solo(term=7)
    for answer in (VoteReply(Term(6), True, False), accept(6, 3), reject(6, 3, (2, 2))):
        effects = solo.receive(2, answer)
        assert not effects.send_now + effects.send_after_persist
        assert (solo.core.role, solo.core.term) == (Role.FOLLOWER, 7)
