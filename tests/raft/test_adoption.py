"""A configuration lives and dies with its entry: rollback, restart, compaction, snapshots (thesis 4.1)."""

from __future__ import annotations

import random

import msgspec
import pytest

from cluster.errors import StorageDamaged
from cluster.ids import LogIndex, ReplicaId, ShardId, Term
from cluster.raft.configuration import decode
from cluster.raft.core import Raft
from cluster.raft.events import Compact, Receive, SnapshotInstalled
from cluster.raft.messages import Configuration, HardState, SnapshotMeta, VoteRequest
from cluster.storage.engine import Batch
from cluster.storage.log import ShardLog
from cluster.storage.memory import MemoryEngine
from tests.raft.network import TEST_CONFIG
from tests.raft.node import SHARD
from tests.raft.solo import Solo, append, configured, entry, ids, run, vote_request


def restarted(solo: Solo, replica: int = 1) -> Raft:
    """A new core over what the disk holds."""
    return Raft(
        replica=ReplicaId(replica),
        configuration=solo.disk.visible.snapshot.configuration,
        hard_state=solo.disk.visible.hard_state,
        log=solo.disk,
        liveness=solo,
        random=random.Random(0),
        config=TEST_CONFIG,
        applied=solo.disk.visible.snapshot.index,
        shard=SHARD,
        now_ms=solo.now_ms,
    )


def test_configuration_goes_with_its_truncated_entry() -> None:
    """Thesis 4.1, reference trap 42: an uncommitted configuration that loses its entry never was."""
    solo = Solo(term=1, log=[1])
    solo.receive(2, append(1, (1, 1), run(2, 1, entry([1, 2, 3], [4]), b"x", entry([1, 2, 3], [4, 5]))))
    assert configured(solo.core) == ([1, 2, 3], [4, 5], [])
    effects = solo.receive(3, append(2, (3, 1), run(4, 2, b"other")))
    assert effects.configuration is not None
    assert configured(solo.core) == ([1, 2, 3], [4], [])
    assert effects.persist is not None
    assert effects.persist.hard_state == HardState(Term(2), ReplicaId(0), (LogIndex(2),))
    solo.receive(3, append(2, (1, 1), run(2, 2, b"other")))
    assert configured(solo.core) == ([1, 2, 3], [], [])
    assert solo.disk.visible.hard_state.configured == ()
    assert restarted(solo).configuration == solo.configuration


def test_restart_reads_the_newest_configuration_from_the_log() -> None:
    """Reference trap 42: not from the snapshot, and whether or not it was committed."""
    solo = Solo(term=1, log=[1])
    solo.receive(2, append(1, (1, 1), run(2, 1, entry([1, 2, 3], [4]), b"x", entry([1, 2, 4], [3], [1, 2, 3]))))
    again = restarted(solo)
    assert again.commit_index == 0
    assert again.configuration == solo.core.configuration
    assert [again.configuration_at(LogIndex(index)).learners for index in range(5)] == [(), (), ids(4), ids(4), ids(3)]


def test_restart_with_a_configuration_missing_from_its_place_is_damage() -> None:
    solo = Solo(term=1, log=[1, 1])
    solo.disk.visible.hard_state = HardState(Term(1), ReplicaId(0), (LogIndex(2),))
    with pytest.raises(StorageDamaged):
        restarted(solo)


def test_compaction_keeps_the_configuration_of_its_index_and_not_a_newer_one() -> None:
    """Reference trap 47: a snapshot's membership is neither missing nor newer than its index."""
    solo = Solo(term=1, log=[1])
    solo.receive(2, append(1, (1, 1), run(2, 1, entry([1, 2, 3], [4]), b"x", entry([1, 2, 3], [4, 5])), commit=4))
    solo.persist()
    solo.core.applied_to(LogIndex(4))
    effects = solo.step(Compact(LogIndex(3)))
    assert effects.persist is not None
    assert effects.persist.snapshot == SnapshotMeta(LogIndex(3), Term(1), Configuration(ids(1, 2, 3), ids(4)), LogIndex(2))
    assert restarted(solo).configuration == solo.core.configuration == Configuration(ids(1, 2, 3), ids(4, 5))
    solo.step(Compact(LogIndex(4)))
    assert restarted(solo).configuration == Configuration(ids(1, 2, 3), ids(4, 5))
    assert solo.core.configured_index == restarted(solo).configured_index == 4, "the entry is gone, its index is not"


def test_installed_snapshot_brings_its_configuration_and_ends_those_of_the_old_log() -> None:
    """Reference traps 42 and 47: index 3 of the old log was a configuration, index 3 after the snapshot is not."""
    solo = Solo(term=1, log=[1, 1])
    solo.receive(2, append(1, (2, 1), run(3, 1, entry([1, 2, 3], [9]))))
    meta = SnapshotMeta(LogIndex(2), Term(2), Configuration(ids(1, 2), ids(3)))
    solo.receive(3, append(2, (9, 2)))
    solo.disk.visible.snapshot, solo.disk.visible.entries = meta, []
    assert restarted(solo).configuration == meta.configuration, "a crash right after the switch"
    effects = solo.step(SnapshotInstalled(ReplicaId(3), meta))
    assert effects.configuration == meta.configuration
    solo.receive(3, append(2, (2, 2), run(3, 2, b"no configuration")))
    assert solo.disk.visible.hard_state.configured == ()
    assert restarted(solo).configuration == meta.configuration


def test_index_left_over_by_a_replaced_log_is_forgotten_before_it_can_mean_another_entry() -> None:
    solo = Solo(term=1, log=[1, 1])
    solo.disk.visible.hard_state = HardState(Term(1), ReplicaId(0), (LogIndex(3),))
    solo.core = restarted(solo)
    solo.receive(2, append(1, (2, 1), run(3, 1, b"plain")))
    assert restarted(solo).configuration == solo.configuration


def test_owner_sees_a_configuration_as_an_entry_without_content() -> None:
    """State machines need not know that configurations exist."""
    solo = Solo()
    solo.receive(2, append(1, (0, 0), run(1, 1, b"a", entry([1, 2, 3], [4]), b"b"), commit=3))
    assert solo.core.entries(LogIndex(1), LogIndex(3), 1 << 20) == [run(1, 1, b"a", b"", b"b")]
    assert decode(solo.disk.visible.entries[1][1]).learners == ids(4), "the log has all of it"


def test_what_was_stored_before_configurations_could_change_is_still_read() -> None:
    """Hard state, configurations and snapshot positions have only grown at their ends."""
    encode = msgspec.msgpack.encode
    assert msgspec.msgpack.decode(encode([3, 2]), type=HardState) == HardState(Term(3), ReplicaId(2))
    old = encode([7, 3, [[1, 2, 3], [4]]])
    assert msgspec.msgpack.decode(old, type=SnapshotMeta) == SnapshotMeta(
        LogIndex(7), Term(3), Configuration(ids(1, 2, 3), ids(4))
    )
    assert msgspec.msgpack.decode(encode([1, 5, 9, 4, False]), type=VoteRequest) == vote_request(5, (9, 4))


def test_stored_log_of_a_node_gives_the_configurations_back() -> None:
    """The same through the log that nodes use: what `HardState.configured` names is found again after a restart."""
    engine, shard, config = MemoryEngine(), ShardId(5), TEST_CONFIG

    def core() -> tuple[Raft, ShardLog]:
        log = ShardLog.open(engine, shard)
        raft = Raft(
            replica=ReplicaId(1),
            configuration=Configuration(ids(1, 2, 3)),
            hard_state=log.hard_state,
            log=log,
            liveness=Solo(),
            random=random.Random(0),
            config=config,
            applied=log.snapshot.index,
            shard=shard,
            now_ms=0.0,
        )
        return raft, log

    raft, log = core()
    appended = run(1, 1, b"a", entry([1, 2, 3], [4]), b"b", entry([1, 2, 4], [3], [1, 2, 3]))
    for message in (append(1, (0, 0), appended), append(2, (3, 1), run(4, 2, b"instead"))):
        effects = raft.step(Receive(ReplicaId(2), message), 0.0)
        assert effects.persist is not None
        batch = Batch()
        log.persist(batch, effects.persist)
        engine.write(batch)
        assert core()[0].configuration == raft.configuration
    assert raft.configuration == Configuration(ids(1, 2, 3), ids(4))
