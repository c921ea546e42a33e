"""Planted bugs in apply, records, sessions, compaction and snapshots."""

from __future__ import annotations

from typing import Any

import msgspec

from chaos.mutants.mutant import Patch, collector
from cluster.session.table import SessionTable, StoredTable, Verdict
from cluster.shard import apply
from cluster.shard.cache import DocumentCache
from cluster.shard.commands import Entry
from cluster.shard.document import LiveDocument, decode_record
from cluster.shard.snapshot import StoredShard
from cluster.shard.turn import Turn

MUTANTS, mutant = collector()


def _replay_through(patch: Patch, change: Any) -> None:
    def load(document: Any, body: bytes, program: Any) -> LiveDocument:
        live: LiveDocument = original.__func__(LiveDocument, document, body, program)
        live.replay_through = change(live.replay_through)
        return live

    original = patch.set(LiveDocument, "load", staticmethod(load))


@mutant("replay runs commands again that the record has already")
def replay_not_skipped(patch: Patch) -> None:
    _replay_through(patch, lambda index: 0)


@mutant("replay runs the last entry of a record a second time")
def replay_off_by_one(patch: Patch) -> None:
    _replay_through(patch, lambda index: index - 1)


@mutant("replay leaves out the entry behind the record")
def replay_skips_one_more(patch: Patch) -> None:
    _replay_through(patch, lambda index: index + 1)


@mutant("records do not hold the session table")
def record_without_sessions(patch: Patch) -> None:
    def record(live: LiveDocument) -> bytes:
        kept = live.sessions
        live.sessions = SessionTable()
        try:
            return bytes(original(live))
        finally:
            live.sessions = kept

    original = patch.set(LiveDocument, "record", record)


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


@mutant("the log is cut behind records that were not saved")
def log_cut_past_unsaved_records(patch: Patch) -> None:
    patch.set(DocumentCache, "save_older_than", lambda cache, index, batch: None)
    patch.set(DocumentCache, "oldest_unsaved", lambda cache: None)


@mutant("a document that leaves memory is not saved first")
def evicted_without_saving(patch: Patch) -> None:
    def forget(cache: DocumentCache, live: LiveDocument, batch: Any) -> None:
        cache.unsaved.pop((live.id.space, live.id.key), None)

    def evict(cache: DocumentCache, batch: Any, pinned: Any) -> None:
        inner = Patch()
        inner.set(DocumentCache, "save", forget)
        try:
            original(cache, batch, pinned)
        finally:
            inner.undo()

    original = patch.set(DocumentCache, "_evict", evict)


@mutant("a handler's time is read when it is applied")
def time_read_at_apply(patch: Patch) -> None:
    ticks = [0]

    def decode(payload: bytes) -> Entry:
        entry = original(payload)
        ticks[0] += 1
        return Entry(entry.semantics, entry.now_ms + ticks[0] * 1_000, entry.seed, entry.commands)

    original = patch.set(apply, "decode_entry", decode)


@mutant("a handler's randomness is made when it is applied")
def seed_made_at_apply(patch: Patch) -> None:
    ticks = [0]

    def seed(entry_seed: bytes, offset: int) -> bytes:
        ticks[0] += 1
        return bytes(original(entry_seed, offset + ticks[0]))

    original = patch.set(apply, "command_seed", seed)


@mutant("an idempotency key that was used runs again")
def key_not_remembered(patch: Patch) -> None:
    def judge(table: SessionTable, session: bytes, sequence: int, digest: bytes) -> Any:
        found = original(table, session, sequence, digest)
        return (Verdict.RUN, None, 0) if sequence == 0 and found[0] is Verdict.REPEAT else found

    original = patch.set(SessionTable, "judge", judge)


@mutant("a sequence that skips others runs")
def gap_runs(patch: Patch) -> None:
    def judge(table: SessionTable, session: bytes, sequence: int, digest: bytes) -> Any:
        found = original(table, session, sequence, digest)
        return (Verdict.RUN, None, 0) if found[0] is Verdict.GAP else found

    def record(table: SessionTable, session: bytes, acked: int, answer: Any, window: int, most: int) -> None:
        known = table._sessions.get(session)
        if known is not None and answer.sequence:
            known.last = answer.sequence - 1
        elif answer.sequence > 1:
            kept.append(session)
            return
        remember(table, session, acked, answer, window, most)

    kept: list[bytes] = []
    original = patch.set(SessionTable, "judge", judge)
    remember = patch.set(SessionTable, "record", record)


@mutant("a command that was refused leaves its answer out of the session table")
def refusal_not_remembered(patch: Patch) -> None:
    def record(table: SessionTable, session: bytes, acked: int, answer: Any, window: int, most: int) -> None:
        if answer.code == 0:
            remember(table, session, acked, answer, window, most)

    remember = patch.set(SessionTable, "record", record)


@mutant("an installed snapshot keeps the old documents in memory")
def install_keeps_memory(patch: Patch) -> None:
    def switch(cache: DocumentCache, generation: int) -> None:
        cache.generation = generation

    patch.set(DocumentCache, "switch_generation", switch)


@mutant("an installed snapshot does not reset the log")
def install_keeps_the_log(patch: Patch) -> None:
    def switch(stored: StoredShard, generation: int, meta: Any, metadata: Any, *, resets_log: bool, turn: Turn) -> None:
        original(stored, generation, meta, metadata, resets_log=False, turn=turn)

    original = patch.set(StoredShard, "switch", switch)
