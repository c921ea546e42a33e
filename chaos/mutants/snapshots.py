"""Planted bugs in cutting the log, in carrying a shard's state to another replica, and in installing it."""

from __future__ import annotations

from typing import Any

import msgspec

from chaos.mutants.mutant import Patch, collector
from cluster.ids import LogIndex, ReplicaId
from cluster.pump import snapshot_sending
from cluster.pump.snapshot_receiving import SnapshotReceiving
from cluster.pump.snapshot_sending import SnapshotSending
from cluster.raft import following, replication
from cluster.raft.progress import Pace, Progress
from cluster.raft.state import State
from cluster.session.table import StoredTable
from cluster.shard.cache import DocumentCache
from cluster.shard.document import decode_record
from cluster.shard.replica import ShardReplica
from cluster.shard.snapshot import StoredShard
from cluster.storage.records import RecordStore

MUTANTS, mutant = collector()


@mutant("the log is cut behind records that were not saved")
def log_cut_past_unsaved_records(patch: Patch) -> None:
    patch.set(DocumentCache, "save_older_than", lambda cache, index, batch: None)
    patch.set(DocumentCache, "oldest_unsaved", lambda cache: None)


@mutant("an installed snapshot throws away the entries behind it, which were acknowledged (trap 48)")
def snapshot_over_acknowledged_entries(patch: Patch) -> None:
    patch.set(following, "needs_snapshot", lambda state, meta: meta.term <= state.term)


@mutant("snapshots do not carry the session tables")
def snapshot_without_sessions(patch: Patch) -> None:
    def read(stored: StoredShard, generation: int, after: Any, bytes_max: int) -> list[tuple[bytes, bytes]]:
        pieces = original(stored, generation, after, bytes_max)
        bare = []
        for name, body in pieces:
            fields = list(msgspec.structs.astuple(decode_record(body)))
            fields[8] = StoredTable()
            bare.append((name, msgspec.msgpack.encode(fields)))
        return bare

    original = patch.set(StoredShard, "read", read)


@mutant("a snapshot says that it stands further than its records do")
def snapshot_of_unsaved_records(patch: Patch) -> None:
    patch.set(ShardReplica, "save_all", lambda replica, turn: None)


@mutant("a snapshot leaves out the records that were written while it was read")
def snapshot_misses_what_is_written_meanwhile(patch: Patch) -> None:
    def send_opening(transfer: Any, node: Any, turn: Any) -> None:
        transfer.point = LogIndex(max(transfer.point, transfer.replica.raft.commit_index))
        original(transfer, node, turn)

    original = patch.set(snapshot_sending, "_send_opening", send_opening)


@mutant("an installed snapshot keeps the old documents in memory")
def install_keeps_memory(patch: Patch) -> None:
    def switch(cache: DocumentCache, generation: int) -> None:
        cache.generation = generation

    patch.set(DocumentCache, "switch_generation", switch)


@mutant("an installed snapshot does not reset the log (gap between snapshot and log)")
def install_keeps_the_log(patch: Patch) -> None:
    def switch(stored: StoredShard, meta: Any, metadata: Any, *, applied: Any, resets_log: bool, turn: Any) -> None:
        original(stored, meta, metadata, applied=applied, resets_log=False, turn=turn)

    original = patch.set(StoredShard, "switch", switch)


@mutant("which generation is the live one is not written with the switch to it")
def switch_not_written(patch: Patch) -> None:
    def set_generation(store: RecordStore, batch: Any, generation: int) -> None:
        store._generation = generation

    patch.set(RecordStore, "set_generation", set_generation)


@mutant("a snapshot is switched to before all of it has come")
def switched_to_half_a_snapshot(patch: Patch) -> None:
    def read(stored: StoredShard, generation: int, after: Any, bytes_max: int) -> list[tuple[bytes, bytes]]:
        found: list[tuple[bytes, bytes]] = original(stored, generation, after, 1)
        return [] if after else found

    original = patch.set(StoredShard, "read", read)


@mutant("a transfer that got stuck is never given up")
def stuck_transfer_never_given_up(patch: Patch) -> None:
    def tick(sending: SnapshotSending, now_ms: float, turn: Any) -> None:
        for transfer in sending._outgoing.values():
            transfer.heard_ms = now_ms
        original(sending, now_ms, turn)

    patch.set(SnapshotReceiving, "tick", lambda receiving, now_ms, turn: None)
    original = patch.set(SnapshotSending, "tick", tick)


@mutant("a replica that was offered a snapshot and got none is not offered it again")
def failed_snapshot_not_offered_again(patch: Patch) -> None:
    def ask_again(state: State, peer: ReplicaId, progress: Progress, now_ms: float) -> None:
        if progress.pace is Pace.SNAPSHOT:
            progress.retry_at_ms = now_ms + state.config.election_timeout_ms_min
        else:
            original(state, peer, progress, now_ms)

    patch.set(ShardReplica, "snapshot_failed", lambda replica, peer, now_ms, turn: None)
    original = patch.set(replication, "_ask_again", ask_again)
