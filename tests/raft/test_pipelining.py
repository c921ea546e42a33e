"""Windows, probes, retries, hints, and the memory of recent entries."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.ids import LogIndex, ReplicaId, Term
from cluster.raft.events import PeerUnreachable
from cluster.raft.messages import Append, AppendReply
from tests.raft.network import TEST_CONFIG, Cluster
from tests.raft.solo import Solo, accept, append, appends, reject, run, to

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
    """Paper figure 2, leaders: nextIndex begins behind the leader's last entry."""
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


def test_bytes_in_flight_to_all_followers_together_are_bounded() -> None:
    """Reference trap 30 and R14: the bound is shared, and whoever has nothing in flight may always have one append."""
    config = replace(TEST_CONFIG, append_bytes_max=300, window_bytes_max=900, window_appends=10, inflight_bytes_max=1_000)
    solo = Solo(voters=5, config=config)
    solo.lead()
    sent = []
    for _ in range(20):
        sent += [peer for peer, message in solo.propose(b"x" * 200).send_now if isinstance(message, Append)]
        solo.persist()
    assert solo.core.inflight_bytes < 1_000 + 4 * 300
    assert set(sent) == {2, 3, 4, 5}
    assert len(sent) < 10, "without the bound, four windows of more than three each"
    for _ in range(60):
        for peer in (2, 3, 4, 5):
            solo.receive(peer, accept(1, solo.core.progress[ReplicaId(peer)] + 1))
    assert set(solo.core.progress.values()) == {21}, "it drains, and nobody starves"
    assert solo.core.inflight_bytes == 0


def test_follower_with_nothing_in_flight_is_never_starved_by_the_others() -> None:
    config = replace(TEST_CONFIG, append_bytes_max=300, window_bytes_max=900, window_appends=10, inflight_bytes_max=300)
    solo = Solo(voters=5, config=config)
    solo.lead()
    effects = solo.propose(b"x" * 284)
    assert [len(appends(effects, peer)) for peer in (2, 3, 4, 5)] == [1, 1, 1, 1]
    effects = solo.propose(b"x" * 284)
    assert [len(appends(effects, peer)) for peer in (2, 3, 4, 5)] == [0, 0, 0, 0]


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
    """Paper 5.3: the leader goes on asking. It may be gone: one empty probe about every election timeout, no matter how much
    waits for it."""
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
    """Performance, reference trap 51: when everybody has everything and is known to know it, nothing waits for an answer."""
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
    (message,) = appends(leader.lead(match=False), 2)
    leader.persist()
    trips = 0
    while leader.core.progress[ReplicaId(2)] < leader.core.last_index:
        trips += 1
        assert trips < 6
        (reply,) = to(follower.receive(1, message), 1)
        replies = appends(leader.receive(2, reply), 2)
        if replies:
            message = replies[0]
    assert follower.terms == leader.terms


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
    """Paper figure 2, leaders; paper 5.3, figure 7 (a) to (f): the leader's log wins, whatever the follower has."""
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
