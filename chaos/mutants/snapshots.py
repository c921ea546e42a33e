"""Planted bugs in cutting the log, in carrying a shard's state to another replica, and in installing it."""

from __future__ import annotations

from typing import Any

import msgspec

from chaos.mutants.mutant import Patch, collector
from cluster.raft import following
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
