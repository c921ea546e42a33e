"""Proposing, following and committing, by paper section and reference trap."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.errors import InvalidRequest, NotLeader, Overloaded
from cluster.ids import LogIndex, ReplicaId, Term
from cluster.raft.effects import Role, Ticket
from cluster.raft.events import Persisted
from cluster.raft.messages import Append
from tests.raft.network import TEST_CONFIG, Cluster
from tests.raft.solo import Solo, accept, append, appends, reject, run, to, vote_reply

# Proposing


def test_proposal_is_one_run_sent_before_the_fsync() -> None:
    """Paper 5.3; thesis 10.2.1: the leader writes to its disk in parallel with replicating."""
    solo = Solo()
    solo.lead()
    effects = solo.propose(b"a", b"b")
    assert effects.ticket == Ticket(Term(1), LogIndex(2), LogIndex(3))
    assert effects.refusal is None
    assert effects.persist is not None
    assert effects.persist.runs == [run(2, 1, b"a", b"b")]
    assert effects.send_now == [
        (2, append(1, (1, 1), run(2, 1, b"a", b"b"), commit=1)),
        (3, append(1, (1, 1), run(2, 1, b"a", b"b"), commit=1)),
    ]


def test_followers_at_the_same_place_share_one_append() -> None:
    """Performance: the transport may encode it once."""
    solo = Solo()
    solo.lead()
    effects = solo.propose(b"a")
    assert to(effects, 2)[0] is to(effects, 3)[0]


@pytest.mark.parametrize("role", [Role.FOLLOWER, Role.PRE_CANDIDATE, Role.CANDIDATE])
def test_proposal_to_anybody_but_the_leader_is_refused_with_a_hint(role: Role) -> None:
    """Paper 8: followers redirect to the most recent leader they have heard from."""
    solo = Solo()
    if role is Role.FOLLOWER:
        solo.receive(2, append(1, (0, 0)))
    else:
        solo.at_deadline()
        if role is Role.CANDIDATE:
            solo.receive(2, vote_reply(1, True, pre=True))
    assert solo.core.role is role
    effects = solo.propose(b"a")
    assert isinstance(effects.refusal, NotLeader)
    assert effects.refusal.details == {"leader": "2" if role is Role.FOLLOWER else ""}
    assert effects.ticket is None
    assert effects.persist is None


@pytest.mark.parametrize("payloads", [[], [b"a", b""]])
def test_empty_proposal_or_payload_is_refused(payloads: list[bytes]) -> None:
    """An empty payload is the no-op's, so nobody else's."""
    solo = Solo()
    solo.lead()
    effects = solo.propose(*payloads)
    assert isinstance(effects.refusal, InvalidRequest)
    assert solo.core.last_index == 1


def test_proposals_beyond_the_uncommitted_bound_are_refused_until_some_commit() -> None:
    solo = Solo(config=replace(TEST_CONFIG, uncommitted_bytes_max=200))
    solo.lead()
    assert solo.propose(b"x" * 100).ticket is not None
    refusal = solo.propose(b"x" * 100).refusal
    assert isinstance(refusal, Overloaded)
    assert refusal.retry_after_ms > 0
    assert solo.core.last_index == 2
    solo.persist()
    solo.receive(2, accept(1, 2))
    assert solo.core.uncommitted_bytes == 0
    assert solo.propose(b"x" * 100).ticket is not None


def test_first_proposal_is_admitted_however_large_and_inherited_entries_are_not_charged() -> None:
    """Reference trap 33: neither the no-op, nor one big entry, nor what an earlier leader left may wedge the group."""
    solo = Solo(term=1, log=[1] * 50, config=replace(TEST_CONFIG, uncommitted_bytes_max=10))
    solo.lead(match=False)
    assert solo.core.commit_index == 0
    assert solo.core.uncommitted_bytes == 0
    assert solo.propose(b"x" * 1_000).ticket is not None
    assert isinstance(solo.propose(b"x").refusal, Overloaded)


# The follower


def test_follower_acknowledges_only_after_its_entries_are_durable() -> None:
    """Paper figure 2, persistent state; reference trap 5."""
    solo = Solo()
    effects = solo.receive(2, append(1, (0, 0), run(1, 1, b"a")))
    assert not effects.send_now
    assert effects.send_after_persist == [(2, accept(1, 1))]


def test_repeated_append_is_acknowledged_behind_the_writes_it_depends_on() -> None:
    """Reference trap 5: nothing new to write, but the first write may still be in flight."""
    solo = Solo()
    solo.receive(2, append(1, (0, 0), run(1, 1, b"a")))
    effects = solo.receive(2, append(1, (0, 0), run(1, 1, b"a")))
    assert effects.persist is None
    assert not effects.send_now
    assert effects.send_after_persist == [(2, accept(1, 1))]


def test_term_is_persisted_with_the_first_entries_of_it() -> None:
    """Reference trap 4: one write, so no crash can separate them."""
    effects = Solo().receive(2, append(3, (0, 0), run(1, 3, b"a")))
    assert effects.persist is not None
    assert effects.persist.hard_state is not None
    assert effects.persist.hard_state.term == 3
    assert effects.persist.runs == [run(1, 3, b"a")]


def test_follower_rejects_append_when_previous_entry_differs() -> None:
    """Paper figure 2, AppendEntries 2; paper 5.3, consistency check."""
    solo = Solo(term=2, log=[1, 1, 2])
    effects = solo.receive(2, append(3, (5, 3), run(6, 3, b"a")))
    assert effects.send_now == [(2, reject(3, 5, (3, 2)))]
    assert solo.core.last_index == 3


@pytest.mark.parametrize(
    ("log", "previous", "runs", "terms", "truncated"),
    [
        ([1, 1], (2, 1), [run(3, 2, b"x")], [1, 1, 2], None),
        ([1, 1, 1], (1, 1), [run(2, 2, b"x")], [1, 2], 2),
        ([1, 1, 1], (0, 0), [run(1, 2, b"x")], [2], 1),
        ([1, 1, 1, 1], (0, 0), [run(1, 1, b"a", b"b"), run(3, 2, b"x")], [1, 1, 2], 3),
        ([1, 1, 2, 2], (1, 1), [run(2, 1, b"a"), run(3, 3, b"x", b"y", b"z")], [1, 1, 3, 3, 3], 3),
    ],
)
def test_follower_replaces_what_the_leader_contradicts(
    log: list[int], previous: tuple[int, int], runs: list[object], terms: list[int], truncated: int | None
) -> None:
    """Paper figure 2, AppendEntries 3; paper 5.3, figure 7: delete the existing entry and all that follow it."""
    solo = Solo(term=2, log=log)
    effects = solo.receive(2, Append(Term(3), LogIndex(previous[0]), Term(previous[1]), LogIndex(0), runs))  # type: ignore[arg-type]
    assert solo.terms == terms
    assert effects.persist is not None
    assert effects.persist.truncate_from == truncated


def test_late_short_append_deletes_nothing() -> None:
    """Paper figure 2, AppendEntries 4; reference trap 25: entries go only from the first conflict on."""
    solo = Solo(term=1, log=[1, 1, 1, 1])
    effects = solo.receive(2, append(1, (0, 0), run(1, 1, b"old 0", b"old 1")))
    assert effects.persist is None
    assert solo.core.last_index == 4
    assert to(effects, 2) == [accept(1, 2)]


def test_commit_index_rises_no_further_than_what_the_message_verified() -> None:
    """Paper figure 2, AppendEntries 5; reference traps 26, 27: the own tail may be another leader's."""
    solo = Solo(term=2, log=[1, 2, 2, 2])
    effects = solo.receive(2, append(3, (1, 1), commit=4))
    assert solo.core.commit_index == 1
    assert effects.committed == 1
    solo.receive(2, append(3, (1, 1), run(2, 3, b"x"), commit=4))
    assert solo.core.commit_index == 2


def test_commit_notice_is_not_answered_but_a_probe_and_a_vain_notice_are() -> None:
    """At one write in flight a notice costs no second round trip; a lost one is still found out."""
    solo = Solo()
    solo.receive(2, append(1, (0, 0), run(1, 1, b"a")))
    notice = append(1, (1, 1), commit=1)
    assert not to(solo.receive(2, notice), 2)
    assert to(solo.receive(2, notice), 2) == [accept(1, 1, 1)]
    assert to(solo.receive(2, append(1, (1, 1))), 2) == [accept(1, 1, 1)]


def test_completion_of_a_write_does_not_vouch_for_what_replaced_it() -> None:
    """Reference trap 6, the ABA case: write 1 completes while the write that overwrote its entries is in flight."""
    solo = Solo()
    solo.receive(2, append(1, (0, 0), run(1, 1, b"a", b"b", b"c")))
    first = solo.write
    solo.receive(3, append(2, (1, 1), run(2, 2, b"B", b"C")))
    solo.step(Persisted(*first))
    assert solo.core.persisted_index == 1
    solo.persist()
    assert solo.core.persisted_index == 3


def test_writes_are_numbered_one_by_one_whatever_the_term() -> None:
    solo = Solo()
    numbers = []
    for term in (1, 1, 4, 9):
        effects = solo.receive(2, append(term, (0, 0), run(1, term, b"x")))
        if effects.persist is not None:
            numbers.append((effects.persist.term, effects.persist.sequence))
    assert numbers == [(1, 1), (4, 2), (9, 3)]


# Commit


def test_leader_counts_itself_only_after_its_own_fsync() -> None:
    """Reference trap 7."""
    solo = Solo(voters=4)
    solo.lead()
    solo.propose(b"a")
    solo.receive(2, accept(1, 2))
    assert solo.receive(3, accept(1, 2)).committed is None
    assert solo.persist().committed == 2


def test_majority_of_others_commits_before_the_leaders_own_fsync() -> None:
    """Thesis 10.2.1: committed on a majority of followers even before the leader's disk has it."""
    solo = Solo()
    solo.lead()
    solo.propose(b"a")
    solo.receive(2, accept(1, 2))
    assert solo.receive(3, accept(1, 2)).committed == 2


def test_leader_does_not_commit_entries_of_earlier_terms_by_counting() -> None:
    """Paper figure 2, leaders; paper 5.4.2, figure 8; reference trap 24: they commit with the first entry of its own term."""
    solo = Solo(term=2, log=[1, 2])
    solo.lead(match=False)
    solo.persist()
    assert solo.receive(2, accept(3, 2)).committed is None
    assert solo.receive(3, accept(3, 2)).committed is None
    assert solo.receive(2, accept(3, 3)).committed == 3


def test_learners_acknowledgements_do_not_commit() -> None:
    solo = Solo(voters=3, learners=2)
    solo.lead()
    solo.propose(b"a")
    solo.persist()
    for learner in (4, 5):
        assert solo.receive(learner, accept(1, 2)).committed is None
    assert solo.core.progress == {1: 2, 2: 1, 3: 1, 4: 2, 5: 2}
    assert solo.receive(2, accept(1, 2)).committed == 2


def test_acknowledgement_of_another_term_is_dropped() -> None:
    """Reference trap 28: of an earlier leadership of this very replica, say."""
    solo = Solo()
    solo.lead()
    solo.receive(2, append(2, (1, 1), run(2, 2, b"theirs"), commit=1))
    solo.persist()
    solo.now_ms += 60_000
    solo.lead()
    solo.propose(b"mine")
    last = solo.core.last_index
    for peer in (2, 3):
        solo.receive(peer, accept(1, last))
    assert solo.core.commit_index == last - 1


def test_unbelievable_acknowledgements_are_ignored() -> None:
    """Reference trap 29: beyond the log, falling, or from nobody."""
    solo = Solo()
    solo.lead()
    solo.propose(b"a", b"b")
    solo.receive(2, accept(1, 3))
    for peer, index in [(2, 9), (3, 9), (2, 1), (9, 3)]:
        solo.receive(peer, accept(1, index))
    assert solo.core.progress[ReplicaId(2)] == 3
    assert solo.core.progress[ReplicaId(3)] == 1
    solo.receive(2, reject(1, 2, (0, 0)))
    assert solo.core.progress[ReplicaId(2)] == 3
    assert appends(solo.propose(b"c"), 2) == [append(1, (3, 1), run(4, 1, b"c"), commit=1)]


def test_commit_notice_leaves_at_once_when_nothing_else_does() -> None:
    """One empty append for each follower that has nothing in flight, at most one a step."""
    solo = Solo()
    solo.lead()
    solo.propose(b"a")
    solo.persist()
    effects = solo.receive(2, accept(1, 2, 1))
    assert effects.send_now == [(2, append(1, (2, 1), commit=2))]
    effects = solo.receive(3, accept(1, 2, 1))
    assert effects.send_now == [(3, append(1, (2, 1), commit=2))]


def test_commit_index_rides_on_appends_under_load() -> None:
    """Paper 5.3: later messages tell what is committed. With appends in flight nobody gets a notice."""
    solo = Solo()
    solo.lead()
    solo.propose(b"a")
    solo.propose(b"b")
    solo.persist()
    assert not solo.receive(2, accept(1, 2, 1)).send_now
    assert solo.core.commit_index == 2
    for peer in (2, 3):
        assert appends(solo.propose(b"c"), peer)[-1].commit == 2


def test_lost_commit_notice_is_repeated() -> None:
    cluster = Cluster(seed=1)
    cluster.elect(1)
    lost: list[object] = []

    def dropped(sender: ReplicaId, receiver: ReplicaId, message: object) -> bool:
        notice = isinstance(message, Append) and not message.runs and not lost
        if notice:
            lost.append(message)
        return notice

    cluster.dropped = dropped
    cluster.propose(b"a")
    cluster.settle()
    assert lost
