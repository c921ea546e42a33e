"""Appending, conflicts, windows, hints, commit: by paper section and reference trap."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.errors import InvalidRequest, NotLeader, Overloaded
from cluster.ids import LogIndex, ReplicaId, Term
from cluster.raft.effects import Effects, Role, Ticket
from cluster.raft.events import PeerUnreachable, Persisted
from cluster.raft.messages import Append, AppendReply
from tests.raft.network import TEST_CONFIG, Cluster
from tests.raft.solo import Solo, accept, append, reject, run, to, vote_reply


def appends(effects: Effects, peer: int) -> list[Append]:
    return [message for message in to(effects, peer) if isinstance(message, Append)]


# Proposing


def test_proposal_is_one_run_sent_before_the_fsync() -> None:
    """Thesis 10.2.1: the leader writes to its disk in parallel with replicating."""
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
    """Reference trap 5."""
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
    """Paper 5.3, consistency check."""
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
    """Paper 5.3, figure 7: delete the existing entry and all that follow it."""
    solo = Solo(term=2, log=log)
    effects = solo.receive(2, Append(Term(3), LogIndex(previous[0]), Term(previous[1]), LogIndex(0), runs))  # type: ignore[arg-type]
    assert solo.terms == terms
    assert effects.persist is not None
    assert effects.persist.truncate_from == truncated


def test_late_short_append_deletes_nothing() -> None:
    """Reference trap 25: entries go only from the first conflict on."""
    solo = Solo(term=1, log=[1, 1, 1, 1])
    effects = solo.receive(2, append(1, (0, 0), run(1, 1, b"old 0", b"old 1")))
    assert effects.persist is None
    assert solo.core.last_index == 4
    assert to(effects, 2) == [accept(1, 2)]


def test_commit_index_rises_no_further_than_what_the_message_verified() -> None:
    """Reference traps 26, 27: the own tail may be another leader's."""
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
    """Paper 5.4.2, figure 8; reference trap 24: they commit with the first entry of its own term."""
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
    """With appends in flight nobody gets a notice."""
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


# Pipelining


def test_leader_sends_ahead_up_to_its_window_and_gathers_what_does_not_fit() -> None:
    """Reference R5: shallow pipeline, deep batch."""
    solo = Solo(config=replace(TEST_CONFIG, window_appends=2))
    solo.lead()
    sent = [len(appends(solo.propose(b"p%d" % number), 2)) for number in range(6)]
    assert sent == [1, 1, 0, 0, 0, 0]
    (gathered,) = appends(solo.receive(2, accept(1, 2)), 2)
    assert [piece.first_index for piece in gathered.runs] == [4, 5, 6, 7]


def test_window_is_bounded_in_bytes_and_appends_are_too() -> None:
    config = replace(TEST_CONFIG, append_bytes_max=300, window_bytes_max=300, window_appends=10)
    solo = Solo(config=config)
    solo.lead()
    first, second = appends(solo.propose(*[b"x" * 100] * 8), 2)
    assert [(piece.first_index, len(piece.payloads)) for piece in first.runs] == [(2, 2)]
    assert [(piece.first_index, len(piece.payloads)) for piece in second.runs] == [(4, 2)]
    (third,) = appends(solo.receive(2, accept(1, 3)), 2)
    assert [piece.first_index for piece in third.runs] == [6]


def test_entry_larger_than_an_append_is_sent_alone() -> None:
    solo = Solo(config=replace(TEST_CONFIG, append_bytes_max=10, window_bytes_max=10))
    solo.lead()
    (only,) = appends(solo.propose(b"x" * 1_000, b"y"), 2)
    assert only.runs == [run(2, 1, b"x" * 1_000)]


def test_new_leader_probes_with_one_append_at_a_time() -> None:
    solo = Solo(term=1, log=[1, 1])
    effects = solo.lead(match=False)
    assert appends(effects, 2) == [append(2, (2, 1), run(3, 2, b""))]
    assert not appends(solo.propose(b"a"), 2)
    assert appends(solo.receive(2, accept(2, 3)), 2) == [append(2, (3, 2), run(4, 2, b"a"))]


def test_late_acknowledgement_does_not_end_a_probe_that_asks_for_more() -> None:
    solo = Solo()
    solo.lead()
    solo.propose(b"a")
    solo.propose(b"b")
    solo.step(PeerUnreachable(ReplicaId(2)))
    assert not solo.receive(2, accept(1, 2)).send_now
    assert solo.core.progress[ReplicaId(2)] == 2
    assert appends(solo.receive(2, accept(1, 3, 1)), 2) == []
    assert appends(solo.propose(b"c"), 2) == [append(1, (3, 1), run(4, 1, b"c"), commit=1)]


def test_unreachable_peer_gets_nothing_until_it_answers_liveness_again() -> None:
    solo = Solo()
    solo.lead()
    solo.step(PeerUnreachable(ReplicaId(2)))
    assert not to(solo.propose(b"a"), 2)
    solo.acked = {(2, 1): solo.core.deadline_ms - 1}
    assert to(solo.at_deadline(), 2) == [append(1, (1, 1))]
    assert appends(solo.receive(2, accept(1, 1, 1)), 2) == [append(1, (1, 1), run(2, 1, b"a"), commit=1)]


def test_full_window_of_lost_appends_never_blocks_for_ever() -> None:
    """Reference trap 30: after a round trip timeout an empty probe at the end of what was sent asks how much arrived."""
    solo = Solo(config=replace(TEST_CONFIG, window_appends=2))
    solo.lead()
    solo.propose(b"a")
    solo.propose(b"b")
    assert not to(solo.propose(b"c"), 2)
    assert solo.core.deadline_ms <= solo.now_ms + TEST_CONFIG.resend_timeout_ms
    solo.acked = {(2, 1): solo.core.deadline_ms}
    assert to(solo.at_deadline(), 2) == [append(1, (3, 1))]
    (again,) = appends(solo.receive(2, reject(1, 3, (1, 1))), 2)
    assert [piece.first_index for piece in again.runs] == [2, 3, 4]


def test_silent_peer_is_asked_again_rarely_and_without_payload() -> None:
    """It may be gone: one empty probe about every election timeout, no matter how much waits for it."""
    solo = Solo()
    solo.lead()
    solo.propose(b"x" * 100)
    solo.persist()
    began_ms, probes = solo.now_ms, 0
    while solo.now_ms < began_ms + 10_000:
        solo.acked = {(3, 1): solo.core.deadline_ms}
        effects = solo.at_deadline()
        solo.receive(3, accept(1, solo.core.last_index, solo.core.commit_index))
        for message in appends(effects, 2):
            probes += 1
            assert not message.runs
    assert 8 <= probes <= 12


def test_idle_leader_has_no_deadline_but_check_quorum() -> None:
    """Performance: when everybody has everything, nothing waits for an answer."""
    solo = Solo()
    solo.lead()
    steps = 0
    began_ms = solo.now_ms
    while solo.now_ms < began_ms + 10_000:
        solo.acked = {(peer, 1): solo.core.deadline_ms for peer in (2, 3)}
        assert not solo.at_deadline().send_now
        steps += 1
    assert steps <= 15


# Hints


def test_probing_skips_whole_terms_on_both_sides() -> None:
    """Paper 5.3, end; reference trap 32: long divergent tails meet in a few round trips."""
    leader = Solo(term=7, log=[1] + [4] * 50 + [6] * 50)
    follower = Solo(replica=2, term=7, log=[1] + [2] * 200 + [3] * 200)
    leader.lead(match=False)
    leader.persist()
    (message,) = appends(leader.core.step(_nothing(), leader.now_ms), 2) or [append(8, (101, 6), run(102, 8, b""))]
    trips = 0
    while leader.core.progress[ReplicaId(2)] < leader.core.last_index:
        trips += 1
        assert trips < 6
        (reply,) = to(follower.receive(1, message), 1)
        replies = appends(leader.receive(2, reply), 2)
        if replies:
            message = replies[0]
    assert follower.terms == leader.terms


def _nothing() -> PeerUnreachable:
    return PeerUnreachable(ReplicaId(99))


@pytest.mark.parametrize(
    "follower_log",
    [
        [1, 1, 1, 4, 4, 5, 5, 6, 6],
        [1, 1, 1, 4],
        [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
        [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
        [1, 1, 1, 4, 4, 4, 4],
        [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
        [],
    ],
)
def test_leader_repairs_every_follower_of_figure_7(follower_log: list[int]) -> None:
    """Paper 5.3, figure 7 (a) to (f): the leader's log wins, whatever the follower has."""
    leader = Solo(term=7, log=[1, 1, 1, 4, 4, 5, 5, 6, 6, 6])
    follower = Solo(replica=2, term=7, log=follower_log)
    effects = leader.lead(match=False)
    messages = to(effects, 2)
    for _ in range(12):
        replies = [reply for message in messages for reply in to(follower.receive(1, message), 1)]
        messages = [message for reply in replies for message in to(leader.receive(2, reply), 2)]
    assert follower.terms == leader.terms == [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 8]


def test_rejection_without_hint_of_a_matching_entry_goes_back_to_the_start() -> None:
    solo = Solo(term=2, log=[2, 2])
    solo.lead(match=False)
    (message,) = appends(solo.receive(2, reject(3, 2, (0, 0))), 2)
    assert message.previous_index == 0
    assert message.runs[0].first_index == 1


def test_stale_rejection_in_replication_is_ignored() -> None:
    solo = Solo()
    solo.lead()
    solo.propose(b"a")
    solo.receive(2, accept(1, 2))
    assert not to(solo.receive(2, reject(1, 1, (0, 0))), 2)
    assert appends(solo.propose(b"b"), 2) == [append(1, (2, 1), run(3, 1, b"b"), commit=1)]


def test_replica_that_lost_its_log_is_never_counted_again_for_what_it_acknowledged() -> None:
    """Reference trap 11: its rejections lie below its match, so the leader neither lowers that nor sends entries again; the
    replica has to come back under a new id."""
    solo = Solo()
    solo.lead()
    solo.propose(b"a")
    solo.persist()
    solo.receive(2, accept(1, 2, 2))
    solo.receive(3, accept(1, 2, 2))
    wiped = Solo(replica=2)
    solo.step(PeerUnreachable(ReplicaId(2)))
    for _ in range(5):
        solo.acked = {(peer, 1): solo.core.deadline_ms for peer in (2, 3)}
        for question in to(solo.at_deadline(), 2):
            (reply,) = to(wiped.receive(1, question), 1)
            assert not to(solo.receive(2, reply), 2)
    assert wiped.core.last_index == 0
    assert solo.core.progress[ReplicaId(2)] == 2


def test_reordered_appends_recover_by_one_rejection() -> None:
    """Pipelining over a network that reorders: the early one is rejected, then both are there."""
    leader, follower = Solo(), Solo(replica=2)
    (first,) = to(leader.lead(match=False), 2)
    for reply in to(follower.receive(1, first), 1):
        leader.receive(2, reply)
    (early,) = to(leader.propose(b"a"), 2)
    (late,) = to(leader.propose(b"b"), 2)
    replies = to(follower.receive(1, late), 1) + to(follower.receive(1, early), 1)
    messages = [message for reply in replies for message in to(leader.receive(2, reply), 2)]
    while messages:
        replies = [reply for message in messages for reply in to(follower.receive(1, message), 1)]
        messages = [message for reply in replies for message in to(leader.receive(2, reply), 2)]
    assert follower.terms == [1, 1, 1]
    assert leader.core.progress[ReplicaId(2)] == 3


# The whole


def test_leader_gives_old_entries_to_a_follower_from_the_stable_log() -> None:
    """The memory of recent entries is bounded; what is older is read back."""
    cluster = Cluster(config=replace(TEST_CONFIG, tail_bytes_max=200), seed=8)
    cluster.elect(1)
    cluster.isolate(3)
    for number in range(40):
        cluster.propose(b"payload %d" % number)
        cluster.run_ms(10)
    assert cluster.node(1).core.tail_bytes <= 1_000
    cluster.heal()
    cluster.settle()
    assert cluster.node(3).machine == cluster.node(1).machine


def test_trim_gives_back_memory_of_what_is_durable_and_applied() -> None:
    cluster = Cluster(seed=9)
    cluster.elect(1)
    cluster.propose(*[b"x" * 100] * 10)
    cluster.settle()
    core = cluster.node(1).core
    assert core.tail_bytes > 1_000
    core.trim(0)
    assert core.tail_bytes == 0
    assert [len(piece.payloads) for piece in core.entries(LogIndex(2), LogIndex(11), 10_000)] == [10]


def test_what_is_not_applied_or_not_durable_stays_in_memory() -> None:
    solo = Solo()
    solo.lead()
    solo.core.applied_to(LogIndex(1))
    solo.propose(b"a")
    solo.core.trim(0)
    assert solo.core.entries(LogIndex(2), LogIndex(2), 100) == [run(2, 1, b"a")]


def test_reply_tells_the_followers_commit_index() -> None:
    reply = to(Solo(term=1, log=[1, 1]).receive(2, append(1, (0, 0), run(1, 1, b"old 0"), commit=1)), 2)
    assert reply == [AppendReply(Term(1), LogIndex(1), False, LogIndex(1), Term(1))]
