"""Planted bugs in what a disk is trusted with: rot, errors, and what a restart finds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from zlib import crc32

from chaos.mutants.mutant import Patch, collector
from chaos.mutants.reach import FAILED_READS, ROTTEN_LOGS, ROTTEN_RECORDS
from cluster.errors import StorageDamaged, StorageError
from cluster.ids import DocumentId, LogIndex, ShardId, Term
from cluster.pump.snapshot_receiving import SnapshotReceiving
from cluster.raft.effects import Persist
from cluster.raft.messages import HardState
from cluster.shard import gathering, reading
from cluster.shard.replica import ShardReplica
from cluster.shard.turn import Turn
from cluster.storage import keys
from cluster.storage.engine import Batch, Engine, Family
from cluster.storage.log import ShardLog
from cluster.storage.records import RecordStore

MUTANTS, mutant = collector()

# what a restart finds


@mutant("entries are written before the term that they are of (trap 4)")
def entries_written_before_their_term(patch: Patch) -> None:
    late: dict[int, HardState] = {}

    def persist(log: ShardLog, batch: Batch, change: Persist) -> None:
        waiting = late.pop(id(log), None)
        if waiting is not None and change.hard_state is None:
            change.hard_state = waiting
        elif change.hard_state is not None and change.runs:
            late[id(log)], change.hard_state = change.hard_state, None
        original(log, batch, change)

    original = patch.set(ShardLog, "persist", persist)


@mutant("the log's reset for a snapshot leaves the old entries on disk")
def reset_leaves_old_entries(patch: Patch) -> None:
    def drop(log: ShardLog, batch: Batch) -> None:
        original(log, Batch())

    original = patch.set(ShardLog, "_drop_entries", drop)


@mutant("the position of the log's start is not written when the log is cut (gap between snapshot and log)")
def log_start_not_written(patch: Patch) -> None:
    def set_snapshot(log: ShardLog, batch: Batch, snapshot: Any) -> None:
        log._snapshot = snapshot

    patch.set(ShardLog, "_set_snapshot", set_snapshot)


# rot


@mutant("a rotten entry is taken for the torn end of the log, which is cut there (trap 10)", ROTTEN_LOGS)
def rot_taken_for_the_end_of_the_log(patch: Patch) -> None:
    def open_log(cls: type[ShardLog], engine: Engine, shard: ShardId) -> ShardLog:
        try:
            return original.__func__(cls, engine, shard)  # type: ignore[no-any-return]
        except StorageDamaged as error:
            if "entry" not in error.message:
                raise
        start, end = keys.log_entry(shard, 0), keys.log_entry(shard, keys.INDEX_MAX)
        probe, good = ShardLog(engine, shard), -1
        for key, value in engine.scan(Family.LOG, start, end):
            body = value[keys.CHECKSUM_BYTES :]
            if value != _sealed_entry(probe, key, body):
                break
            good = keys.log_entry_index(key)
        batch = Batch()
        batch.delete_range(Family.LOG, keys.log_entry(shard, good + 1), end)
        batch.delete_range(Family.META, keys.term_start(shard, good + 1), keys.term_start(shard, keys.INDEX_MAX))
        engine.write(batch)
        engine.sync()
        return original.__func__(cls, engine, shard)  # type: ignore[no-any-return]

    original = patch.set(ShardLog, "open", classmethod(open_log))


def _sealed_entry(log: ShardLog, key: bytes, body: bytes) -> bytes:
    """What stands under the key of an entry that is sound."""
    checksum = crc32(body[8:], crc32(key[4:] + body[:8], log._prefix_and_seed()[1]))
    return checksum.to_bytes(keys.CHECKSUM_BYTES, "big") + body


@mutant("an entry that does not open is left out and the next one takes its place (a read error ends the log)", ROTTEN_LOGS)
def rotten_entry_skipped(patch: Patch) -> None:
    def entries(log: ShardLog, first: LogIndex, last: LogIndex) -> Iterator[tuple[LogIndex, Term, bytes]]:
        at = first
        for index in range(first, last + 1):
            try:
                for _, term, payload in original(log, LogIndex(index), LogIndex(index)):
                    yield at, term, payload
                    at = LogIndex(at + 1)
            except StorageDamaged:
                continue

    original = patch.set(ShardLog, "_entries", entries)


@mutant("checksums are not compared", ROTTEN_RECORDS)
def checksum_not_compared(patch: Patch) -> None:
    patch.set(keys, "unseal", lambda family, key, value: value[keys.CHECKSUM_BYTES :])


@mutant("a record that does not open is taken for a document that never was", ROTTEN_RECORDS)
def rotten_record_taken_for_none(patch: Patch) -> None:
    def get(store: RecordStore, generation: int, document: DocumentId) -> bytes | None:
        try:
            found: bytes | None = original(store, generation, document)
        except StorageDamaged:
            return None
        return found

    original = patch.set(RecordStore, "get", get)


@mutant("a disk that can not be read is taken for one that has no record", FAILED_READS)
def read_error_taken_for_no_record(patch: Patch) -> None:
    def get(store: RecordStore, generation: int, document: DocumentId) -> bytes | None:
        try:
            found: bytes | None = original(store, generation, document)
        except StorageDamaged:
            raise
        except StorageError:
            return None
        return found

    original = patch.set(RecordStore, "get", get)


@mutant("a rotten record is told to the client who met it (once a bug of this product)", ROTTEN_RECORDS)
def rot_told_to_clients(patch: Patch) -> None:
    told = StorageDamaged("a record does not open")
    patch.set(reading, "UNREADABLE", told)
    patch.set(gathering, "UNREADABLE", told)


@mutant("a replica whose state does not open is not replaced from its peers", ROTTEN_RECORDS)
def damaged_state_never_repaired(patch: Patch) -> None:
    def look_after(receiving: SnapshotReceiving, replica: ShardReplica, turn: Turn) -> None:
        if not replica.damaged:
            original(receiving, replica, turn)

    original = patch.set(SnapshotReceiving, "look_after", look_after)


@mutant("a replica whose state does not open goes on serving", ROTTEN_RECORDS)
def damaged_replica_serves_on(patch: Patch) -> None:
    def found(replica: ShardReplica, what: str, turn: Turn) -> None:
        return None

    patch.set(ShardReplica, "found_unreadable", found)
