"""Compaction, and followers whose next entry is gone (paper 7)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.errors import StorageDamaged
from cluster.ids import LogIndex, ReplicaId, Term
from cluster.raft.effects import Effects
from cluster.raft.events import Compact, SnapshotFailed, SnapshotInstalled
from cluster.raft.messages import Append, Configuration, SnapshotMeta, SnapshotOffer
from tests.raft.disk import Write
from tests.raft.network import TEST_CONFIG, Cluster
from tests.raft.solo import Solo, accept, append, reject, run, to


def compacted_leader() -> Solo:
    """A leader of term 1 with entries 1 to 11, compacted to 6; follower 3 has only entry 1."""
    solo = Solo()
    solo.lead()
    solo.propose(*[b"x"] * 10)
    solo.persist()
    solo.receive(2, accept(1, 11))
    solo.core.applied_to(LogIndex(11))
    solo.step(Compact(LogIndex(6)))
    solo.persist()
    return solo


def offered(solo: Solo) -> Effects:
    """The step in which the leader finds that follower 3 needs a snapshot."""
    solo.acked = {(3, 1): solo.core.deadline_ms}
    solo.at_deadline()
    effects = solo.receive(3, reject(1, 11, (1, 1)))
    assert effects.snapshot_to == [3]
    return effects


def test_compaction_is_persisted_with_the_configuration_of_its_index() -> None:
    """Paper 7: last included index and term, and the configuration. Reference trap 47."""
    solo = Solo(term=1, log=[1, 1, 1], applied=2, learners=1)
    effects = solo.step(Compact(LogIndex(2)))
    assert effects.persist is not None
    assert effects.persist.snapshot == SnapshotMeta(LogIndex(2), Term(1), solo.configuration)
    assert solo.core.snapshot == effects.persist.snapshot
    assert solo.step(Compact(LogIndex(1))).persist is None
    with pytest.raises(KeyError):
        solo.core.term_of(LogIndex(1))


def test_follower_behind_the_log_is_offered_a_snapshot_once() -> None:
    """Paper 7: the leader has discarded the next entry that it needs."""
    solo = compacted_leader()
    effects = offered(solo)
    assert to(effects, 3) == [SnapshotOffer(Term(1), solo.core.snapshot)]
    again = solo.propose(b"more")
    assert again.snapshot_to == []
    assert not to(again, 3), "paused until the transfer ends"


def test_only_who_was_heard_to_lack_what_is_compacted_is_known_to_need_a_snapshot() -> None:
    """Who was not heard in this term may have everything: a document in doubt waits for its word, and not for the other's."""
    solo = compacted_leader()
    assert not any(solo.core.only_snapshot_helps(ReplicaId(peer)) for peer in (1, 2, 3))
    offered(solo)
    assert [peer for peer in (1, 2, 3) if solo.core.only_snapshot_helps(ReplicaId(peer))] == [3]
    solo.receive(3, accept(1, 6, 6))
    assert not solo.core.only_snapshot_helps(ReplicaId(3))


@pytest.mark.parametrize("index", [6, 9, 11])
def test_any_acknowledgement_that_connects_ends_the_wait(index: int) -> None:
    """Reference trap 31: the snapshot that arrived need not be the one that was offered."""
    solo = compacted_leader()
    offered(solo)
    messages = to(solo.receive(3, accept(1, index, index)), 3)
    assert all(isinstance(message, Append) for message in messages)
    sent = [piece.first_index for message in messages if isinstance(message, Append) for piece in message.runs]
    assert sent == ([] if index == 11 else [index + 1])


def test_acknowledgement_that_does_not_connect_leaves_the_follower_waiting() -> None:
    solo = compacted_leader()
    offered(solo)
    assert not to(solo.receive(3, accept(1, 4)), 3)
    assert not to(solo.receive(3, reject(1, 0, (0, 0))), 3)


def test_failed_transfer_is_tried_again_after_a_pause() -> None:
    solo = compacted_leader()
    offered(solo)
    effects = solo.step(SnapshotFailed(ReplicaId(3)))
    assert not to(effects, 3)
    began_ms = solo.now_ms
    while not effects.snapshot_to:
        solo.acked = {(3, 1): solo.core.deadline_ms, (2, 1): solo.core.deadline_ms}
        effects = solo.at_deadline()
    assert solo.now_ms - began_ms >= TEST_CONFIG.snapshot_retry_ms
    assert effects.snapshot_to == [3]


def test_lost_offer_or_acknowledgement_is_asked_for_again() -> None:
    solo = compacted_leader()
    offered(solo)
    solo.acked = {(3, 1): solo.core.deadline_ms}
    effects = solo.at_deadline()
    assert to(effects, 3) == [SnapshotOffer(Term(1), solo.core.snapshot)]
    assert effects.snapshot_to == [], "the transfer itself is under way"


def test_transfer_that_never_began_is_asked_for_again() -> None:
    """Whatever became of it, the follower is not left in the waiting state for ever (reference trap 31)."""
    solo = compacted_leader()
    offered(solo)
    began_ms, wanted = solo.now_ms, 0
    while solo.now_ms < began_ms + 10_000:
        solo.acked = {(peer, 1): solo.core.deadline_ms for peer in (2, 3)}
        wanted += solo.at_deadline().snapshot_to == [3]
    assert 5 <= wanted <= 11


def test_log_is_kept_from_the_snapshot_in_flight_on() -> None:
    """Reference trap 49."""
    solo = compacted_leader()
    offered(solo)
    solo.step(Compact(LogIndex(11)))
    assert solo.core.snapshot.index == 6
    solo.receive(3, accept(1, 11))
    solo.step(Compact(LogIndex(11)))
    assert solo.core.snapshot.index == 11


def test_entries_that_are_not_durable_here_are_not_compacted() -> None:
    """A majority of others may commit, and apply may run, before the own disk has them."""
    solo = Solo()
    solo.lead()
    solo.propose(b"a")
    for peer in (2, 3):
        solo.receive(peer, accept(1, 2))
    solo.core.applied_to(LogIndex(2))
    solo.step(Compact(LogIndex(2)))
    assert solo.core.snapshot.index == 1


def test_offer_of_what_is_here_is_acknowledged_and_commits() -> None:
    solo = Solo(term=1, log=[1, 1, 1])
    meta = SnapshotMeta(LogIndex(2), Term(1), solo.configuration)
    effects = solo.receive(2, SnapshotOffer(Term(1), meta))
    assert effects.send_after_persist == [(2, accept(1, 2, 2))]
    assert effects.committed == 2
    assert solo.core.last_index == 3


def test_offer_of_what_is_missing_is_left_to_the_owner() -> None:
    solo = Solo(term=1, log=[1])
    effects = solo.receive(2, SnapshotOffer(Term(1), SnapshotMeta(LogIndex(5), Term(1), solo.configuration)))
    assert not effects.send_now + effects.send_after_persist
    assert solo.core.leader == 2


def test_installed_snapshot_replaces_the_log_and_is_acknowledged() -> None:
    """Paper 7: discard the entire log; restore state and configuration from the snapshot."""
    solo = Solo(term=2, log=[1, 1, 1], voters=3)
    newer = SnapshotMeta(LogIndex(9), Term(2), Configuration(solo.configuration.voters, (ReplicaId(8),)))
    assert solo.core.needs_snapshot(newer)
    solo.disk.write(Write(install=newer))
    effects = solo.step(SnapshotInstalled(ReplicaId(2), newer))
    assert effects.send_after_persist == [(2, accept(2, 9, 9))]
    core = solo.core
    assert (core.snapshot, core.last_index, core.commit_index, core.applied_index) == (newer, 9, 9, 9)
    assert core.configuration.learners == (8,)
    solo.receive(2, append(2, (9, 2), run(10, 2, b"next"), commit=10))
    assert core.commit_index == 10


@pytest.mark.parametrize("replica", [3, 4])
def test_replica_that_knows_its_leader_only_from_a_snapshot_finds_it_by_liveness(replica: int) -> None:
    """The offer was lost and the group is idle: nobody would ever name the leader to a learner."""
    solo = Solo(replica=replica, learners=1, term=1)
    meta = SnapshotMeta(LogIndex(9), Term(1), solo.configuration)
    solo.disk.write(Write(install=meta))
    solo.step(SnapshotInstalled(ReplicaId(2), meta))
    assert solo.core.leader is None
    solo.heard = {(2, 1): solo.now_ms + 100}
    solo.at_deadline()
    assert solo.core.leader == 2


def test_snapshot_whose_last_entry_is_here_is_not_needed() -> None:
    """Paper 7, reference trap 48: installing it would drop acknowledged entries behind it."""
    solo = Solo(term=1, log=[1, 1, 1, 1])
    assert not solo.core.needs_snapshot(SnapshotMeta(LogIndex(2), Term(1), solo.configuration))
    assert not solo.core.needs_snapshot(SnapshotMeta(LogIndex(9), Term(2), solo.configuration)), "term not entered yet"
    assert solo.core.needs_snapshot(SnapshotMeta(LogIndex(9), Term(1), solo.configuration))


def test_stale_installation_is_only_acknowledged() -> None:
    """Reference trap 48: index at or below commit is ignored."""
    solo = Solo()
    solo.receive(2, append(1, (0, 0), run(1, 1, b"a", b"b", b"c"), commit=3))
    stale = SnapshotMeta(LogIndex(2), Term(1), solo.configuration)
    effects = solo.step(SnapshotInstalled(ReplicaId(2), stale))
    assert effects.send_after_persist == [(2, accept(1, 3, 3))]
    assert solo.core.snapshot.index == 0


def test_leader_that_would_need_a_snapshot_is_reported_as_damage() -> None:
    """Leader completeness (paper 5.4.3): a leader has every committed entry."""
    solo = Solo()
    solo.lead()
    with pytest.raises(StorageDamaged):
        solo.step(SnapshotInstalled(ReplicaId(2), SnapshotMeta(LogIndex(9), Term(1), solo.configuration)))


def test_append_that_begins_inside_the_snapshot_is_taken_from_behind_it() -> None:
    """What the snapshot covers is committed and needs no comparing."""
    solo = Solo(term=2, snapshot=(5, 2), log=[2], applied=5)
    effects = solo.receive(2, append(2, (3, 1), run(4, 1, b"4"), run(5, 2, b"5", b"old 0", b"7"), commit=7))
    assert solo.terms == [2, 2]
    assert effects.committed == 7
    assert to(effects, 2) == [accept(2, 7, 7)]
    late = solo.receive(2, append(2, (1, 1), run(2, 1, b"2")))
    assert to(late, 2) == [accept(2, 5, 7)]


def test_append_that_contradicts_the_snapshots_last_entry_is_reported_as_damage() -> None:
    """Reference trap 25: what a snapshot covers is committed. Its last term is the only one that is still known."""
    solo = Solo(term=3, snapshot=(4, 2), log=[2], applied=4)
    with pytest.raises(StorageDamaged, match="entry 4 of term 1"):
        solo.receive(2, append(3, (2, 1), run(3, 1, b"a", b"b", b"c")))


def test_hint_inside_what_is_compacted_leads_to_a_snapshot() -> None:
    """The follower has an entry at the snapshot's index, but of an older term: the logs part below."""
    cluster = Cluster(seed=11)
    cluster.elect(1)
    cluster.isolate(1)
    cluster.propose(*[b"never committed"] * 5)
    cluster.run_until(lambda: cluster.leader is not None and cluster.leader.replica != 1)
    leader = cluster.leader
    assert leader is not None
    cluster.propose(b"a", b"b")
    cluster.run_until(lambda: leader.core.applied_index >= 4)
    cluster.compact(leader.replica, 4)
    cluster.heal()
    cluster.settle()
    assert cluster.messages(SnapshotOffer, receiver=1)
    assert cluster.node(1).machine == leader.machine


def test_cluster_carries_a_follower_across_compaction_by_snapshot() -> None:
    cluster = Cluster(seed=10, config=replace(TEST_CONFIG, snapshot_retry_ms=100))
    cluster.elect(1)
    cluster.isolate(3)
    for number in range(10):
        cluster.propose(b"%d" % number)
        cluster.run_ms(20)
    cluster.compact(1, cluster.node(1).core.applied_index)
    cluster.heal()
    cluster.settle()
    assert cluster.node(3).machine == cluster.node(1).machine
    assert cluster.node(3).core.snapshot.index > 0
