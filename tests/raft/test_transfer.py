"""Leadership handed over on purpose (thesis 3.10): fast when it works, harmless when it does not."""

from __future__ import annotations

import math

import pytest

from cluster.errors import InvalidRequest, NotLeader, Transferring
from cluster.ids import ReplicaId
from cluster.raft.effects import Effects, Role
from cluster.raft.events import Deadline, Transfer
from cluster.raft.messages import TimeoutNow
from tests.raft.network import TEST_CONFIG, Cluster
from tests.raft.solo import Solo, accept, append, run, timeout_now, to, vote_reply, vote_request


def hand_over(solo: Solo, peer: int) -> Effects:
    return solo.step(Transfer(ReplicaId(peer)))


def told(effects: Effects, peer: int) -> list[TimeoutNow]:
    return [message for message in to(effects, peer) if isinstance(message, TimeoutNow)]


def test_successor_that_has_the_whole_log_is_told_to_campaign_at_once() -> None:
    """Thesis 3.10."""
    solo = Solo()
    solo.lead()
    effects = hand_over(solo, 2)
    assert effects.refusal is None
    assert told(effects, 2) == [timeout_now(1, 1)]
    assert solo.core.transferring_to == 2
    assert solo.core.role is Role.LEADER, "it leads until somebody of a later term says otherwise"


def test_successor_that_lags_is_told_once_it_has_caught_up() -> None:
    """Thesis 3.10: the leader brings its successor up to date first."""
    solo = Solo()
    solo.lead()
    solo.propose(b"a")
    solo.persist()
    assert not told(hand_over(solo, 3), 3)
    assert not told(solo.receive(2, accept(1, 2)), 2)
    assert told(solo.receive(3, accept(1, 2)), 3) == [timeout_now(1, 2)]
    assert not told(solo.receive(3, accept(1, 2)), 3), "once is enough"


def test_proposals_are_refused_while_leadership_is_handed_over() -> None:
    """Thesis 3.10; reference trap 40: a leader that went on appending would never see its successor catch up."""
    solo = Solo()
    solo.lead()
    hand_over(solo, 2)
    effects = solo.propose(b"a")
    assert isinstance(effects.refusal, Transferring)
    assert effects.refusal.retry_after_ms > 0
    assert effects.refusal.details == {"successor": "2"}
    assert effects.ticket is None
    assert effects.persist is None
    assert solo.core.last_index == 1


def test_transfer_that_does_not_succeed_is_given_up_after_an_election_timeout() -> None:
    """Thesis 3.10; reference trap 40."""
    solo = Solo()
    solo.lead()
    solo.propose(b"a")
    solo.persist()
    hand_over(solo, 2)
    began_ms = solo.now_ms
    while solo.core.transferring_to is not None:
        solo.acked = {(3, 1): solo.core.deadline_ms, (2, 1): solo.core.deadline_ms}
        solo.at_deadline()
    assert solo.now_ms - began_ms == TEST_CONFIG.election_timeout_ms_min
    assert solo.core.role is Role.LEADER
    assert solo.propose(b"b").ticket is not None
    assert told(solo.receive(2, accept(1, 2)), 2) == [], "an aborted transfer does not come back"


def test_transfer_to_the_same_successor_may_be_tried_again() -> None:
    solo = Solo()
    solo.lead()
    for _ in range(2):
        assert told(hand_over(solo, 2), 2) == [timeout_now(1, 1)]
        while solo.core.transferring_to is not None:
            solo.acked = {(3, 1): solo.core.deadline_ms, (2, 1): solo.core.deadline_ms}
            solo.at_deadline()
        assert solo.core.role is Role.LEADER


def test_another_transfer_is_refused_meanwhile_and_the_same_one_changes_nothing() -> None:
    solo = Solo()
    solo.lead()
    hand_over(solo, 2)
    assert isinstance(hand_over(solo, 3).refusal, Transferring)
    again = hand_over(solo, 2)
    assert again.refusal is None
    assert again.send_now == []
    assert solo.core.transferring_to == 2


@pytest.mark.parametrize("peer", [1, 4, 9])
def test_leadership_is_handed_to_another_voter_only(peer: int) -> None:
    """Not to oneself, not to a learner, not to a stranger."""
    solo = Solo(learners=1)
    solo.lead()
    assert isinstance(hand_over(solo, peer).refusal, InvalidRequest)
    assert solo.core.transferring_to is None
    assert solo.propose(b"a").ticket is not None


def test_only_a_leader_hands_over() -> None:
    solo = Solo()
    solo.receive(3, append(1, (0, 0)))
    refusal = hand_over(solo, 2).refusal
    assert isinstance(refusal, NotLeader)
    assert refusal.details == {"leader": "3"}


def test_successor_campaigns_without_asking_first() -> None:
    """Thesis 4.2.3: no pre-vote, which everybody who hears the leader would refuse."""
    solo = Solo()
    solo.receive(2, append(1, (0, 0), run(1, 1, b"a")))
    solo.persist()
    effects = solo.receive(2, timeout_now(1, 1))
    assert solo.core.role is Role.CANDIDATE
    assert solo.core.term == 2
    assert [message for _, message in effects.send_after_persist] == [vote_request(2, (1, 1), transfer=True)] * 2
    assert effects.send_now == [], "the own vote is durable before it is asked for (reference trap 1)"


@pytest.mark.parametrize("message", [timeout_now(1, 0), timeout_now(1, 2), timeout_now(0, 1)])
def test_stale_timeout_now_is_refused(message: TimeoutNow) -> None:
    """Reference trap 38: of an earlier term, or of a log that has changed since."""
    solo = Solo()
    solo.receive(2, append(1, (0, 0), run(1, 1, b"a")))
    solo.receive(2, message)
    assert solo.core.role is Role.FOLLOWER
    assert solo.core.term == 1


def test_learner_that_is_told_to_campaign_does_not() -> None:
    solo = Solo(replica=4, learners=1)
    solo.receive(2, append(1, (0, 0), run(1, 1, b"a")))
    solo.receive(2, timeout_now(1, 1))
    assert solo.core.role is Role.FOLLOWER


def test_voters_that_hear_the_leader_vote_for_its_successor() -> None:
    """Thesis 4.2.3: the leader's own wish is no disruption. Without the flag the same request is refused."""
    for transfer in (False, True):
        solo = Solo()
        solo.receive(2, append(1, (0, 0), run(1, 1, b"a")))
        reply = to(solo.receive(3, vote_request(2, (1, 1), transfer=transfer)), 3)
        assert reply == [vote_reply(2 if transfer else 1, transfer)]


def test_leader_votes_for_its_successor_and_steps_down() -> None:
    solo = Solo()
    solo.lead()
    hand_over(solo, 2)
    effects = solo.receive(2, vote_request(2, (1, 1), transfer=True))
    assert vote_reply(2, True) in to(effects, 2)
    assert solo.core.role is Role.FOLLOWER
    assert solo.core.transferring_to is None
    assert solo.core.deadline_ms < math.inf


def test_candidate_that_was_overtaken_ignores_timeout_now() -> None:
    solo = Solo()
    solo.campaign()
    solo.receive(2, timeout_now(1, 0))
    assert solo.core.role is Role.CANDIDATE
    assert solo.core.term == 1


@pytest.mark.parametrize("successor", [2, 3])
def test_group_is_handed_over_within_a_few_round_trips(successor: int) -> None:
    """No election timeout passes, and what was accepted before is kept."""
    cluster = Cluster(seed=successor)
    cluster.elect(1)
    cluster.propose(b"before")
    began_ms = cluster.now_ms
    cluster.node(1).step(Transfer(ReplicaId(successor)))
    node = cluster.node(successor)
    cluster.run_until(lambda: node.core.role is Role.LEADER)
    assert cluster.now_ms - began_ms <= 10
    cluster.propose(b"after")
    cluster.settle()
    assert [payload for _, payload in node.machine] == [b"", b"before", b"", b"after"]
    assert cluster.node(1).core.leader == successor


def test_group_goes_on_when_the_successor_dies_meanwhile() -> None:
    """Reference trap 40."""
    cluster = Cluster(seed=4)
    cluster.elect(1)
    cluster.crash(2)
    cluster.propose(b"missed")
    leader = cluster.node(1)
    leader.step(Transfer(ReplicaId(2)))
    cluster.run_ms(TEST_CONFIG.election_timeout_ms_min + 10)
    assert leader.core.role is Role.LEADER
    assert cluster.propose(b"again").ticket is not None
    leader.step(Deadline())
    cluster.restart(2)
    cluster.settle()
