"""A shard's Raft log on disk, with what an election must not forget: hard state and snapshot position.

One LOG value per entry. META holds, per shard, the hard state, the snapshot meta and one small value per change of term, so
`term` never reads the disk and opening reads only the log's ends. Nothing here writes by itself: every change goes into the
caller's batch, so one write and one sync serve all shards of a node.

Invariant: first_index is 1 + snapshot index, indexes are contiguous, terms never fall. An entry that is missing or does not
open is told as StorageDamaged by whoever reads it; it is never skipped. Everything read through `runs` is verified; `open`
verifies the ends (TAIL_VERIFIED_ENTRIES), `verify` the whole.

It does not know whether a log that is whole is also as long as it once was: the leader, whose match exceeds it, does.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from typing import TypeVar
from zlib import crc32

import msgspec

from cluster.errors import StorageDamaged
from cluster.ids import LogIndex, ReplicaId, ShardId, Term
from cluster.raft.effects import Persist
from cluster.raft.messages import Configuration, HardState, Run, SnapshotMeta
from cluster.storage import keys
from cluster.storage.engine import Batch, Engine, Family

TAIL_VERIFIED_ENTRIES = 64
"""How many of the newest entries `open` reads back and verifies."""
SCAN_ENTRIES = 512
"""Entries asked of the engine at once, so that a byte-bounded read does not touch far more than it returns."""

NO_SNAPSHOT = SnapshotMeta(LogIndex(0), Term(0), Configuration(()))
NO_HARD_STATE = HardState(Term(0), ReplicaId(0))

_LOG = Family.LOG
_META = Family.META
_HEADER_BYTES = keys.CHECKSUM_BYTES + 8
_HEADER = struct.Struct(">IQ")
_INDEX = struct.Struct(">Q")
_TERM = struct.Struct(">Q")

_encode = msgspec.msgpack.Encoder().encode
_decode_hard_state = msgspec.msgpack.Decoder(HardState).decode
_decode_snapshot = msgspec.msgpack.Decoder(SnapshotMeta).decode

_Stored = TypeVar("_Stored", HardState, SnapshotMeta)


class ShardLog:
    """LogStorage (cluster/raft/events.py) of one shard over an engine. Made by `open`.

    The bounds in memory move as soon as `persist` has filled a batch. The owner writes that batch before anything reads the
    log again; when the write is refused the owner drops this object and opens another.
    """

    __slots__ = (
        "_engine",
        "_hard_state",
        "_last_index",
        "_shard",
        "_snapshot",
        "_term_starts",
        "_terms",
    )

    def __init__(self, engine: Engine, shard: ShardId) -> None:
        """Internal: use `open`, which reads what is on disk."""
        assert 0 <= shard <= keys.SHARD_MAX
        self._engine = engine
        self._shard = shard
        self._hard_state = NO_HARD_STATE
        self._snapshot = NO_SNAPSHOT
        self._last_index = LogIndex(0)
        # Entry _term_starts[i] is the first of term _terms[i]; the first start may lie below first_index.
        # Tuples: they hardly ever change, and a node has thousands that are short.
        self._term_starts: tuple[LogIndex, ...] = ()
        self._terms: tuple[Term, ...] = ()

    @classmethod
    def open(cls, engine: Engine, shard: ShardId) -> ShardLog:
        """Read a shard's log; a shard never seen before is an empty one.

        Raises StorageDamaged, changing nothing, when META does not open, when the first entry is not the one after the
        snapshot, when entries are missing between the ends as far as they are read, or when one of the newest
        TAIL_VERIFIED_ENTRIES does not open. The cost does not depend on the log's length.
        """
        log = cls(engine, shard)
        log._hard_state = log._load(keys.SHARD_HARD_STATE, _decode_hard_state) or NO_HARD_STATE
        log._snapshot = log._load(keys.SHARD_SNAPSHOT, _decode_snapshot) or NO_SNAPSHOT
        log._load_term_starts()
        log._last_index = log._find_last_index()
        log._check_terms()
        tail = max(log.first_index, log._last_index - TAIL_VERIFIED_ENTRIES + 1)
        for _ in log._entries(LogIndex(tail), log._last_index):
            pass
        return log

    @property
    def hard_state(self) -> HardState:
        return self._hard_state

    @property
    def snapshot(self) -> SnapshotMeta:
        return self._snapshot

    @property
    def first_index(self) -> LogIndex:
        return LogIndex(self._snapshot.index + 1)

    @property
    def last_index(self) -> LogIndex:
        return self._last_index

    def term(self, index: LogIndex) -> Term:
        """See LogStorage.term. No disk access."""
        if index == self._snapshot.index:
            return self._snapshot.term
        if not self._snapshot.index < index <= self._last_index:
            raise KeyError(index)
        return self._terms[bisect_right(self._term_starts, index) - 1]

    def runs(self, first: LogIndex, last: LogIndex, bytes_max: int) -> list[Run]:
        """See LogStorage.runs. Raises KeyError outside of what is retained, StorageDamaged for an entry that is missing or
        does not open."""
        if not self._snapshot.index < first <= last <= self._last_index:
            raise KeyError((first, last))
        runs: list[Run] = []
        payloads: list[bytes] = []
        run_first, run_term, size = first, Term(-1), 0
        for index, term, payload in self._entries(first, last):
            size += len(payload)
            if size > bytes_max and index > first:
                break
            if term != run_term:
                payloads = []
                run_first, run_term = index, term
                runs.append(Run(run_first, run_term, payloads))
            payloads.append(payload)
        return runs

    def persist(self, batch: Batch, persist: Persist) -> None:
        """Add the change to `batch` and move the bounds at once.

        Requires what Raft guarantees and asserts it: runs are contiguous and follow the (truncated) log, terms never fall,
        nothing at or below the snapshot is truncated, the hard state's term never falls.
        """
        if persist.truncate_from is not None:
            self._truncate(batch, persist.truncate_from)
        snapshot_first = persist.snapshot is not None and (
            not persist.runs or persist.runs[0].first_index > persist.snapshot.index
        )
        if persist.snapshot is not None and snapshot_first:
            self._start_after(batch, persist.snapshot)
        for run in persist.runs:
            self._append(batch, run)
        if persist.snapshot is not None and not snapshot_first:
            self._start_after(batch, persist.snapshot)
        if persist.hard_state is not None:
            self._set_hard_state(batch, persist.hard_state)

    def reset(self, batch: Batch, snapshot: SnapshotMeta) -> None:
        """Drop every entry and start after `snapshot`: the log's part of installing it. The hard state stays."""
        self._drop_entries(batch)
        self._set_snapshot(batch, snapshot)
        self._last_index = snapshot.index

    def verify(self) -> None:
        """Read and verify every retained entry. Raises StorageDamaged. For audits; costs the whole log."""
        for _ in self._entries(self.first_index, self._last_index):
            pass

    def _truncate(self, batch: Batch, index: LogIndex) -> None:
        assert index > self._snapshot.index, "what a snapshot stands for is never truncated"
        if index > self._last_index:
            return
        batch.delete_range(_LOG, keys.log_entry(self._shard, index), keys.log_entry(self._shard, keys.INDEX_MAX))
        kept = bisect_left(self._term_starts, index)
        if kept < len(self._term_starts):
            batch.delete_range(_META, keys.term_start(self._shard, index), keys.term_start(self._shard, keys.INDEX_MAX))
            self._term_starts, self._terms = self._term_starts[:kept], self._terms[:kept]
        self._last_index = LogIndex(index - 1)

    def _append(self, batch: Batch, run: Run) -> None:
        payloads, term, index = run.payloads, run.term, run.first_index
        assert payloads, "a run is never empty"
        assert index == self._last_index + 1, f"run starts at {index}, log ends at {self._last_index}"
        last_term = self.term(self._last_index)
        assert term >= last_term, f"term falls from {last_term} to {term}"
        if not self._terms or term != self._terms[-1]:
            key = keys.term_start(self._shard, index)
            batch.put(_META, key, keys.seal(_META, key, _TERM.pack(term)))
            self._term_starts += (index,)
            self._terms += (term,)
        # One loop per entry, so it is kept to what an entry needs; Batch.put is inlined for the same reason.
        (prefix, seed), packed_term = self._prefix_and_seed(), _TERM.pack(term)
        pack_index, pack_header, append = _INDEX.pack, _HEADER.pack, batch.operations.append
        size = 0
        for payload in payloads:
            packed_index = pack_index(index)
            checksum = crc32(payload, crc32(packed_index + packed_term, seed))
            append((_LOG, prefix + packed_index, pack_header(checksum, term) + payload, None))
            size += len(payload)
            index = LogIndex(index + 1)
        batch.bytes += size + len(payloads) * (len(prefix) + 8 + _HEADER_BYTES)
        self._last_index = LogIndex(index - 1)

    def _prefix_and_seed(self) -> tuple[bytes, int]:
        """What all keys of this log begin with, and the checksum of that. Not kept: most logs of a node are not in use."""
        prefix = keys.log_entry(self._shard, 0)[:4]
        return prefix, crc32(prefix, keys.family_seed(_LOG))

    def _start_after(self, batch: Batch, snapshot: SnapshotMeta) -> None:
        """Paper 7: keep the entries behind the snapshot if the log has its last entry, else drop the whole log."""
        assert snapshot.index >= self._snapshot.index, "a snapshot position never goes back"
        if snapshot.index > self._last_index or self.term(snapshot.index) != snapshot.term:
            self.reset(batch, snapshot)
            return
        next_index = snapshot.index + 1
        start, end = keys.log_entry(self._shard, self.first_index), keys.log_entry(self._shard, next_index)
        batch.delete_range(_LOG, start, end)
        # The newest start at or below the first kept entry still says that entry's term.
        stale = max(0, bisect_right(self._term_starts, next_index) - 1)
        if snapshot.index == self._last_index:
            stale = len(self._term_starts)
        if stale:
            last_stale = self._term_starts[stale - 1]
            batch.delete_range(_META, keys.term_start(self._shard, 0), keys.term_start(self._shard, last_stale + 1))
            self._term_starts, self._terms = self._term_starts[stale:], self._terms[stale:]
        self._set_snapshot(batch, snapshot)

    def _set_snapshot(self, batch: Batch, snapshot: SnapshotMeta) -> None:
        key = keys.shard_meta(self._shard, keys.SHARD_SNAPSHOT)
        batch.put(_META, key, keys.seal(_META, key, _encode(snapshot)))
        self._snapshot = snapshot

    def _set_hard_state(self, batch: Batch, hard_state: HardState) -> None:
        before = self._hard_state
        assert hard_state.term >= before.term, "the term never falls"
        assert hard_state.term > before.term or before.vote in (0, hard_state.vote), "a vote is given once a term"
        key = keys.shard_meta(self._shard, keys.SHARD_HARD_STATE)
        batch.put(_META, key, keys.seal(_META, key, _encode(hard_state)))
        self._hard_state = hard_state

    def _drop_entries(self, batch: Batch) -> None:
        _drop_entries(self._shard, batch)
        self._term_starts, self._terms = (), ()

    def _load(self, kind: int, decode: Callable[[bytes], _Stored]) -> _Stored | None:
        key = keys.shard_meta(self._shard, kind)
        value = self._engine.get(_META, key)
        if value is None:
            return None
        body = keys.unseal(_META, key, value)
        try:
            return decode(body)
        except msgspec.DecodeError as error:
            raise self._damaged(f"stored value {kind} is not of its type: {error}") from error

    def _load_term_starts(self) -> None:
        start, end = keys.term_start(self._shard, 0), keys.term_start(self._shard, keys.INDEX_MAX)
        starts: list[LogIndex] = []
        terms: list[Term] = []
        for key, value in self._engine.scan(_META, start, end):
            body = keys.unseal(_META, key, value)
            term = Term(_TERM.unpack(body)[0])
            if terms and term <= terms[-1]:
                raise self._damaged(f"terms do not rise at {keys.term_start_index(key)}")
            starts.append(keys.term_start_index(key))
            terms.append(term)
        self._term_starts, self._terms = tuple(starts), tuple(terms)

    def _find_last_index(self) -> LogIndex:
        """Seeks from first_index on: a seek that started lower would walk over every entry that compaction has deleted."""
        start, end = keys.log_entry(self._shard, self.first_index), keys.log_entry(self._shard, keys.INDEX_MAX)
        for key, _ in self._engine.scan(_LOG, start, end, limit=1):
            if keys.log_entry_index(key) != self.first_index:
                raise self._damaged(f"first entry is {keys.log_entry_index(key)}, expected {self.first_index}")
            for last, _ in self._engine.scan(_LOG, start, end, limit=1, reverse=True):
                return keys.log_entry_index(last)
        return self._snapshot.index

    def _check_terms(self) -> None:
        """What META says of the terms must fit what is in LOG."""
        if self._term_starts and self._term_starts[-1] > self._last_index:
            raise self._damaged(f"log ends at {self._last_index}, but a term began at {self._term_starts[-1]}")
        if self._last_index == self._snapshot.index:
            return
        if not self._term_starts or self._term_starts[0] > self.first_index or self._terms[0] < self._snapshot.term:
            raise self._damaged(f"the term of entry {self.first_index} is not known")
        if self._hard_state.term < self._terms[-1]:
            raise self._damaged(f"an entry of term {self._terms[-1]}, but the hard state knows only {self._hard_state.term}")

    def _entries(self, first: LogIndex, last: LogIndex) -> Iterator[tuple[LogIndex, Term, bytes]]:
        """Verified entries first..last. Raises StorageDamaged in place of one that is missing, rotten or of another term."""
        (_, seed), unpack = self._prefix_and_seed(), _HEADER.unpack_from
        expected, end = first, keys.log_entry(self._shard, last + 1)
        while expected <= last:
            chunk = self._engine.scan(_LOG, keys.log_entry(self._shard, expected), end, limit=SCAN_ENTRIES)
            chunk_first = expected
            for key, value in chunk:
                if keys.log_entry_index(key) != expected:
                    break
                if len(value) < _HEADER_BYTES:
                    raise self._damaged(f"entry {expected} is cut short")
                checksum, term = unpack(value)
                payload = value[_HEADER_BYTES:]
                if checksum != crc32(payload, crc32(key[4:] + value[keys.CHECKSUM_BYTES : _HEADER_BYTES], seed)):
                    raise self._damaged(f"checksum mismatch in entry {expected}")
                if term != self.term(expected):
                    raise self._damaged(f"entry {expected} has term {term}, expected {self.term(expected)}")
                yield expected, Term(term), payload
                expected = LogIndex(expected + 1)
            if expected <= last and (expected - chunk_first) < SCAN_ENTRIES:
                raise self._damaged(f"entry {expected} is missing")

    def _damaged(self, what: str) -> StorageDamaged:
        return StorageDamaged(f"log of shard {self._shard}: {what}", shard=self._shard)


def erase_log(shard: ShardId, batch: Batch) -> None:
    """Remove all that is stored of a shard's log, readable or not: the replica is gone from this node, its id for ever."""
    _drop_entries(shard, batch)
    for kind in (keys.SHARD_HARD_STATE, keys.SHARD_SNAPSHOT):
        batch.delete(_META, keys.shard_meta(shard, kind))


def _drop_entries(shard: ShardId, batch: Batch) -> None:
    batch.delete_range(_LOG, keys.log_entry(shard, 0), keys.log_entry(shard, keys.INDEX_MAX))
    batch.delete_range(_META, keys.term_start(shard, 0), keys.term_start(shard, keys.INDEX_MAX))
