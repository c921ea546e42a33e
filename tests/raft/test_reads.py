"""ReadIndex: linearizable reads without log entries (thesis 6.4)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.ids import LogIndex, ReplicaId, Term
from cluster.raft.effects import Effects, Role
from cluster.raft.events import PeerAcked, Read
from tests.raft.network import TEST_CONFIG, Cluster
from tests.raft.solo import Solo, accept, append, run


def acked(solo: Solo, peer: int, sent_at_ms: float, term: int = 1) -> Effects:
    return solo.step(PeerAcked(ReplicaId(peer), Term(term), sent_at_ms))


def test_read_waits_for_a_quorum_of_a_round_begun_after_it_was_asked() -> None:
    """Thesis 6.4: a majority must have answered a round that began after the read was asked."""
    solo = Solo(voters=5)
    solo.lead()
    effects = solo.step(Read(7))
    assert effects.round_needed
    assert not effects.reads_ready
    asked_ms = solo.now_ms
    assert not acked(solo, 2, asked_ms).reads_ready
    assert not acked(solo, 3, asked_ms - 1).reads_ready
    assert acked(solo, 4, asked_ms).reads_ready == [(7, 1)]


def test_one_round_answers_all_reads_asked_before_it_and_none_after() -> None:
    """Thesis 6.4; reference R13 and trap 35: acknowledgements are cumulative by send time, whatever the contexts are called."""
    solo = Solo()
    solo.lead()
    start_ms = solo.now_ms
    for context in (5, 5, 6):
        solo.step(Read(context))
        solo.now_ms += 10
    assert acked(solo, 2, start_ms + 10).reads_ready == [(5, 1), (5, 1)]
    assert acked(solo, 2, start_ms + 5).reads_ready == []
    assert acked(solo, 3, start_ms + 20).reads_ready == [(6, 1)]


def test_delayed_acknowledgement_does_not_confirm_a_later_read() -> None:
    """Reference trap 35."""
    solo = Solo()
    solo.lead()
    solo.step(Read(1))
    sent_ms = solo.now_ms
    solo.now_ms += 50
    solo.step(Read(2))
    assert acked(solo, 2, sent_ms).reads_ready == [(1, 1)]
    assert not acked(solo, 3, sent_ms + 49).reads_ready
    assert acked(solo, 3, sent_ms + 50).reads_ready == [(2, 1)]


def test_read_before_the_no_op_commits_waits_for_its_index() -> None:
    """Thesis 6.4; reference trap 34: the new leader does not know what its predecessors committed; its no-op comes after all of
    it."""
    solo = Solo(term=4, log=[1, 4, 4])
    solo.lead(match=False)
    assert solo.core.commit_index == 0
    solo.step(Read(1))
    assert acked(solo, 2, solo.now_ms, term=5).reads_ready == [(1, 4)]


def test_read_is_at_the_commit_index_when_that_is_later() -> None:
    solo = Solo()
    solo.lead()
    solo.propose(b"a")
    solo.persist()
    solo.receive(2, accept(1, 2))
    solo.step(Read(1))
    assert acked(solo, 3, solo.now_ms).reads_ready == [(1, 2)]


def test_acknowledgements_of_learners_strangers_and_other_terms_do_not_count() -> None:
    """Reference trap 36: the quorum of reads is that of commits."""
    solo = Solo(learners=2)
    solo.lead()
    solo.step(Read(1))
    for peer, term in [(4, 1), (5, 1), (9, 1), (2, 0), (2, 2)]:
        assert not acked(solo, peer, solo.now_ms, term=term).reads_ready
    assert acked(solo, 2, solo.now_ms).reads_ready == [(1, 1)]


def test_lone_voter_answers_at_once() -> None:
    solo = Solo(voters=1)
    solo.lead()
    effects = solo.step(Read(3))
    assert effects.reads_ready == [(3, 1)]
    assert not effects.round_needed


@pytest.mark.parametrize("leading", [False, True])
def test_reads_are_refused_by_followers_and_when_leadership_ends(leading: bool) -> None:
    solo = Solo()
    if leading:
        solo.lead()
        assert solo.step(Read(1)).reads_refused == []
        solo.step(Read(2))
        assert solo.receive(2, append(2, (1, 1), run(2, 2, b""))).reads_refused == [1, 2]
    assert solo.step(Read(3)).reads_refused == [3]


def test_reads_beyond_the_bound_are_refused_and_not_queued() -> None:
    solo = Solo(config=replace(TEST_CONFIG, reads_pending_max=2))
    solo.lead()
    assert [solo.step(Read(context)).reads_refused for context in (1, 2, 3)] == [[], [], [3]]
    assert acked(solo, 2, solo.now_ms).reads_ready == [(1, 1), (2, 1)]


def test_deposed_leader_on_the_minority_side_answers_no_read() -> None:
    """Linearizability: the other side may have written since."""
    cluster = Cluster(5, seed=6)
    cluster.elect(1)
    cluster.isolate(1, 2)
    context = cluster.read(1)
    cluster.run_until(lambda: cluster.leader is not None and cluster.leader.replica not in (1, 2))
    cluster.propose(b"newer")
    cluster.run_ms(3_000)
    assert context not in cluster.node(1).read_results
    assert context in cluster.node(1).refused
    assert cluster.node(1).core.role is not Role.LEADER


def test_read_sees_every_write_that_was_committed_before_it_was_asked() -> None:
    cluster = Cluster(seed=7)
    cluster.elect(1)
    for number in range(5):
        ticket = cluster.propose(b"%d" % number).ticket
        assert ticket is not None
        cluster.run_until(lambda last=ticket.last: cluster.node(1).core.commit_index >= last)  # type: ignore[misc]
        context = cluster.read(1)
        cluster.run_until(lambda context=context: context in cluster.node(1).read_results)  # type: ignore[misc]
        assert cluster.node(1).read_results[context] >= ticket.last
    assert cluster.node(1).core.applied_index == LogIndex(6)
