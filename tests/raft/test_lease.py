"""Reads answered from a lease (thesis 6.4.1), and every promise that they rest on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest

from cluster.errors import ConfigurationInvalid
from cluster.ids import ReplicaId, Term
from cluster.raft.config import RaftConfig
from cluster.raft.effects import Role
from cluster.raft.events import Campaign, LeaderLost, Read, Transfer
from cluster.raft.messages import VoteReply
from tests.raft.network import TEST_CONFIG, Cluster
from tests.raft.solo import Solo, accept, append, run, timeout_now, to, vote_reply, vote_request

LEASES = replace(TEST_CONFIG, lease_reads=True)
TIMEOUT_MS = LEASES.election_timeout_ms_min


def leader(voters: int = 3, config: RaftConfig = LEASES) -> Solo:
    """A leader of committed things; every promise of the past is over."""
    solo = Solo(voters=voters, config=config)
    solo.now_ms += TIMEOUT_MS
    solo.lead()
    return solo


def answered(solo: Solo) -> bool:
    """Whether a read is answered at once."""
    return bool(solo.step(Read(1)).reads_leased)


def acked(solo: Solo, sent_ms: float, *peers: int) -> None:
    """Rounds sent then were acknowledged."""
    for peer in peers:
        solo.acked[peer, solo.core.term] = sent_ms


def follower(*, config: RaftConfig = LEASES) -> Solo:
    """Long since started; follows replica 2, whom liveness hears until now."""
    solo = Solo(config=config)
    solo.now_ms += TIMEOUT_MS
    solo.receive(2, append(1, (0, 0), run(1, 1, b"a")))
    solo.persist()
    solo.heard[2, 1] = solo.now_ms
    return solo


def grants(solo: Solo, *, pre: bool) -> bool:
    """Whether it votes for replica 3 in a later term."""
    reply = to(solo.receive(3, vote_request(5, (1, 1), pre=pre)), 3)[0]
    assert isinstance(reply, VoteReply)
    return reply.granted


def test_leases_are_off_unless_asked_for() -> None:
    """Reference trap 37."""
    solo = leader(config=TEST_CONFIG)
    acked(solo, solo.now_ms, 2, 3)
    assert not answered(solo)
    assert solo.core.deadline_ms < math.inf


def test_lease_is_measured_from_the_send_time_of_the_acknowledged_round_minus_drift() -> None:
    """Reference trap 37: not from the receipt of the acknowledgement, which may be arbitrarily late."""
    sent_ms = 0.0
    for late_ms, holds in [
        (0.0, True),
        (TIMEOUT_MS - LEASES.lease_drift_ms - 1, True),
        (TIMEOUT_MS - LEASES.lease_drift_ms, False),
    ]:
        solo = leader()
        sent_ms = solo.now_ms
        solo.now_ms += late_ms
        acked(solo, sent_ms, 2)
        assert answered(solo) is holds, late_ms


def test_lease_needs_a_quorum_of_promises() -> None:
    """Reference trap 36."""
    solo = leader(voters=5)
    acked(solo, solo.now_ms, 2)
    assert not answered(solo)
    acked(solo, solo.now_ms, 2, 3)
    assert answered(solo)


def test_promise_of_a_voter_that_may_not_be_in_the_term_does_not_count() -> None:
    """Its node answers rounds, but a voter hears a leader only in its own term."""
    solo = Solo(config=LEASES)
    solo.now_ms += TIMEOUT_MS
    solo.lead(match=False)
    solo.persist()
    acked(solo, solo.now_ms, 2, 3)
    assert not answered(solo)
    solo.receive(2, accept(1, 1))
    assert answered(solo)


def test_lease_is_as_long_as_the_quorum_promised() -> None:
    """Reference trap 37: a voter with leases off, or with shorter timeouts, has not given the leader's own word."""
    solo = leader()
    start_ms = solo.now_ms
    acked(solo, start_ms, 2, 3)
    solo.promises_ms = {2: -math.inf, 3: 300.0}
    solo.now_ms = start_ms + 300 - LEASES.lease_drift_ms - 0.1
    assert answered(solo)
    solo.now_ms = start_ms + 300 - LEASES.lease_drift_ms
    assert not answered(solo)
    solo.promises_ms[3] = -math.inf
    acked(solo, solo.now_ms, 2, 3)
    assert not answered(solo)


def test_lease_is_looked_at_again_on_a_later_clock() -> None:
    """Design section 3: whoever computes the answer may have been stopped since it was admitted."""
    solo = leader()
    acked(solo, solo.now_ms, 2)
    assert answered(solo)
    over_ms = solo.now_ms + TIMEOUT_MS - LEASES.lease_drift_ms
    assert solo.core.lease_holds(over_ms - 0.1)
    assert not solo.core.lease_holds(over_ms)
    solo.receive(3, vote_reply(7, False))
    assert not solo.core.lease_holds(solo.now_ms), "a follower has none"


def test_clock_that_jumps_ahead_ends_a_lease_and_never_stretches_it() -> None:
    """Reference trap 37: time is one monotonic clock's, and the longest step between two looks only makes a lease shorter."""
    solo = leader()
    acked(solo, solo.now_ms, 2, 3)
    assert answered(solo)
    solo.now_ms += 60_000
    assert not answered(solo)


def test_read_without_a_lease_takes_a_round() -> None:
    solo = leader()
    effects = solo.step(Read(1))
    assert effects.round_needed
    assert not effects.reads_ready


def test_lease_ends_when_a_transfer_starts() -> None:
    """Reference trap 38: soon the successor may be elected at any time."""
    solo = leader()
    solo.propose(b"a")
    solo.persist()
    acked(solo, solo.now_ms, 2, 3)
    solo.step(Transfer(ReplicaId(2)))
    assert not answered(solo), "although replica 2 lacks an entry and was not told yet"
    assert timeout_now(1, 2) in to(solo.receive(2, accept(1, 2)), 2)
    assert not answered(solo)


def test_lease_comes_back_when_a_transfer_is_given_up_before_anybody_was_told() -> None:
    """Nobody can campaign for it, ever."""
    solo = leader()
    solo.propose(b"a")
    solo.step(Transfer(ReplicaId(2)))
    solo.persist()
    solo.receive(3, accept(1, 2))
    while solo.core.transferring_to is not None:
        assert not answered(solo)
        acked(solo, solo.core.deadline_ms, 2, 3)
        solo.at_deadline()
    assert answered(solo)


def test_lease_does_not_come_back_with_an_aborted_transfer_until_timeout_now_is_stale() -> None:
    """Reference trap 38 (tikv 1593): the message may still arrive. Once its log has moved on, the successor refuses it."""
    solo = leader()
    solo.step(Transfer(ReplicaId(2)))
    while solo.core.transferring_to is not None:
        acked(solo, solo.core.deadline_ms, 2, 3)
        solo.at_deadline()
    assert solo.core.role is Role.LEADER
    assert not answered(solo)
    solo.propose(b"a")
    solo.persist()
    solo.receive(3, accept(1, 2))
    assert not answered(solo), "committed, but not known to be at replica 2"
    solo.receive(2, accept(1, 2))
    assert answered(solo)


@pytest.mark.parametrize("pre", [True, False])
def test_voter_keeps_its_promise_after_leader_lost(pre: bool) -> None:
    """Reference trap 39: evidence of a broken connection is no evidence that the leader stopped answering reads."""
    solo = follower()
    solo.step(LeaderLost())
    solo.now_ms += TIMEOUT_MS - 1
    assert solo.core.role is Role.FOLLOWER
    assert not grants(solo, pre=pre)
    solo.now_ms += 1
    assert grants(solo, pre=pre)
    without = follower(config=TEST_CONFIG)
    without.step(LeaderLost())
    assert without.core.leader is None, "with leases off there is nothing to wait for"


def test_voter_that_lost_its_leader_campaigns_in_its_turn_once_the_promise_is_over() -> None:
    """Design: leases, when on, are waited out; the random timeout is not."""
    solo = follower()
    solo.step(LeaderLost())
    promised_ms = solo.now_ms + TIMEOUT_MS
    assert promised_ms <= solo.core.deadline_ms <= promised_ms + 2 * LEASES.stagger_ms
    solo.at_deadline()
    assert solo.core.leader is None
    assert solo.core.role is Role.PRE_CANDIDATE


@pytest.mark.parametrize("pre", [True, False])
def test_restarted_voter_keeps_the_promise_that_it_has_forgotten(pre: bool) -> None:
    """Its process is new, the lease that rests on the old one is not."""
    solo = Solo(term=1, log=[1], config=LEASES)
    assert not grants(solo, pre=pre)
    solo.now_ms += TIMEOUT_MS
    assert grants(solo, pre=pre)


def test_restarted_voter_that_is_in_the_candidates_term_keeps_it_too() -> None:
    """The promise may be one to the leader of an earlier term, of which only hearsay took it away."""
    solo = Solo(term=5, log=[1], config=LEASES)
    assert not grants(solo, pre=False)
    solo.now_ms += TIMEOUT_MS
    assert grants(solo, pre=False)


def test_voter_promises_to_a_leader_that_only_its_node_has_heard() -> None:
    """The node acknowledges rounds before this replica gets its first append of the term."""
    solo = Solo(term=1, log=[1], config=LEASES)
    solo.now_ms += TIMEOUT_MS
    solo.heard[2, 1] = solo.now_ms
    assert solo.core.leader is None
    assert not grants(solo, pre=False)


@pytest.mark.parametrize("pre", [True, False])
def test_voter_keeps_its_promise_to_a_leader_that_liveness_hears_no_more(pre: bool) -> None:
    """Reference trap 39: a refused connection or a list that got lost takes back what liveness believes, not what was said."""
    solo = follower()
    solo.promised = solo.heard
    solo.heard = {}
    solo.now_ms += TIMEOUT_MS - 1
    assert not grants(solo, pre=pre)
    solo.now_ms += 1
    assert grants(solo, pre=pre)


@pytest.mark.parametrize("heard", [4, 5])
def test_hearsay_of_a_higher_term_does_not_end_a_promise(heard: int) -> None:
    """Reference trap 39: not even of the very term that the candidate, of term 5, is in."""
    solo = follower()
    solo.receive(3, vote_reply(heard, False))
    assert solo.core.term == heard
    assert solo.core.leader is None
    assert not grants(solo, pre=False)
    solo.now_ms += TIMEOUT_MS
    assert grants(solo, pre=False)


@pytest.mark.parametrize("config", [LEASES, TEST_CONFIG])
def test_voter_that_gave_its_leader_up_follows_it_again_although_that_sleeps(config: RaftConfig) -> None:
    """Its node acknowledges the leader's and promises with that, so it may not campaign; and a leader whose followers have
    everything says nothing. Both would have gone on for ever, and nobody could have used the group from here.
    """
    solo = follower(config=config)
    solo.at_deadline()
    while solo.core.leader is not None:
        solo.at_deadline()  # the leader's node is silent: it gives the leader up
    solo.receive(3, vote_reply(1, False, pre=True))
    for _ in range(3):
        solo.heard[2, 1] = solo.core.deadline_ms
        solo.at_deadline()
    assert solo.core.role is Role.FOLLOWER
    assert solo.core.leader == 2


def test_campaign_of_an_operator_waits_for_the_promise() -> None:
    """A candidate's own vote is a vote."""
    solo = follower()
    assert solo.step(Campaign()).send_now == []
    assert solo.core.leader == 2
    solo.at_deadline()
    assert solo.core.role is Role.PRE_CANDIDATE


def test_candidate_that_hears_a_leader_during_its_pre_vote_gives_up() -> None:
    """The vote that counts is the one after the pre-vote."""
    solo = Solo(term=1, log=[1], config=LEASES)
    solo.now_ms += 2 * TIMEOUT_MS
    solo.step(Campaign())
    solo.heard[2, 1] = solo.now_ms
    solo.receive(3, vote_reply(2, True, pre=True))
    assert solo.core.role is Role.FOLLOWER
    assert solo.core.term == 1


def test_successor_of_the_leaders_choice_need_not_wait() -> None:
    """The leader ended its own lease (reference trap 38)."""
    solo = follower()
    assert to(solo.receive(3, vote_request(2, (1, 1), transfer=True)), 3) == [vote_reply(2, True)]
    other = follower()
    other.receive(2, timeout_now(1, 1))
    assert other.core.role is Role.CANDIDATE


@pytest.mark.parametrize("drift_ms", [-1.0, 1_000.0])
def test_drift_bound_that_leaves_no_lease_is_refused(drift_ms: float) -> None:
    with pytest.raises(ConfigurationInvalid):
        RaftConfig(lease_reads=True, lease_drift_ms=drift_ms)


def elect(cluster: Cluster, replica: int) -> None:
    cluster.run_ms(TIMEOUT_MS)
    if cluster.leader is None:
        cluster.elect(replica)
    cluster.run_until(cluster.converged)


@pytest.mark.parametrize("lost", [(1,), (1, 2)])
def test_old_leader_stops_answering_before_the_next_is_elected(lost: Sequence[int]) -> None:
    """The one thing that a lease must never get wrong (thesis 6.4.1): cut off, with LeaderLost told to everybody at once."""
    cluster = Cluster(5, seed=3, config=LEASES)
    elect(cluster, 1)
    old = cluster.leader
    assert old is not None
    cluster.run_ms(500)
    cluster.isolate(*(replica for replica in (old.replica, old.replica % 5 + 1)[: len(lost)]))
    answers = 0
    for _ in range(10_000):
        for node in cluster.nodes.values():
            if node is not old:
                node.step(LeaderLost())
        context = cluster.read(old.replica)
        if context in old.read_results:
            answers += 1
            assert all(node is old or node.core.role is not Role.LEADER for node in cluster.nodes.values())
        if any(node is not old and node.core.role is Role.LEADER for node in cluster.nodes.values()):
            break
        cluster.run_ms(1)
    assert answers > TIMEOUT_MS // 2, "it did answer from its lease"
    assert cluster.leader is not None
    assert cluster.leader is not old
    assert Term(cluster.leader.core.term) > Term(1)
