"""The log of one replica: a tail of recent runs in memory in front of the stable log.

Indexes are contiguous and terms never fall, so searches by term are binary and two logs that agree on (index, term) agree on
everything before it (paper 5.3, log matching).

Invariant: snapshot.index <= persisted <= last_index, and everything after `persisted` is in the tail, so the stable log is
never asked for an entry that its owner may not have written yet. Runs are shared, never changed: the same payload objects
go to the disk, to followers and to apply.

Does not decide what is committed, and never truncates without being told.
"""

from __future__ import annotations

from bisect import bisect_right

from cluster.empty import NO_ITEMS
from cluster.errors import InvalidRequest
from cluster.ids import LogIndex, Term
from cluster.raft.configuration import entries_in
from cluster.raft.events import LogStorage
from cluster.raft.messages import Append, Run, SnapshotMeta

ENTRY_OVERHEAD_BYTES = 16
"""What an entry is charged beside its payload, so that a flood of tiny entries is bounded too."""


def size_of(payloads: list[bytes]) -> int:
    """Bytes that these entries count for in every bound of this layer."""
    return sum(map(len, payloads)) + ENTRY_OVERHEAD_BYTES * len(payloads)


def check_append(message: Append) -> None:
    """Raise InvalidRequest, nothing changed, unless the runs follow (previous_index, previous_term) and each other, and every
    configuration among them is sound."""
    last, last_term = message.previous_index, message.previous_term
    for run in message.runs:
        if run.first_index != last + 1 or not run.payloads or not last_term <= run.term <= message.term:
            raise InvalidRequest(f"run at {run.first_index} of term {run.term} does not follow {last} of term {last_term}")
        entries_in(run)
        last, last_term = run.last_index, run.term


def runs_after(runs: list[Run], index: LogIndex) -> list[Run]:
    """The part of contiguous runs behind `index`."""
    kept: list[Run] = []
    for run in runs:
        if run.first_index > index:
            kept.append(run)
        elif run.last_index > index:
            kept.append(Run(LogIndex(index + 1), run.term, run.payloads[index + 1 - run.first_index :]))
    return kept


def _head(run: Run, first: LogIndex, last: LogIndex, bytes_max: int) -> Run:
    """Entries first..last of `run` up to `bytes_max`, at least one."""
    payloads = run.payloads[first - run.first_index : last + 1 - run.first_index]
    count = size = 0
    for payload in payloads:
        size += len(payload) + ENTRY_OVERHEAD_BYTES
        if size > bytes_max and count:
            break
        count += 1
    return Run(first, run.term, payloads[:count])


class Log:
    """One replica's log.

    snapshot: the log starts after it. last_index, last_term: of the newest entry, or of the snapshot.
    persisted: every entry up to here is known to be durable.
    """

    __slots__ = ("_firsts", "_runs", "_sizes", "_storage", "last_index", "last_term", "persisted", "snapshot", "tail_bytes")

    def __init__(self, storage: LogStorage) -> None:
        self._storage = storage
        self._firsts: list[int] = NO_ITEMS
        self._runs: list[Run] = NO_ITEMS
        self._sizes: list[int] = NO_ITEMS
        self.tail_bytes = 0
        self.snapshot: SnapshotMeta = storage.snapshot
        self.last_index: LogIndex = storage.last_index
        self.last_term: Term = storage.term(self.last_index)
        self.persisted: LogIndex = self.last_index

    @property
    def tail_first(self) -> int:
        """Entries from here on are in memory."""
        return self._firsts[0] if self._firsts else self.last_index + 1

    def term_of(self, index: LogIndex) -> Term:
        """Term of a retained entry or of the snapshot index. Raises KeyError outside."""
        if index == self.last_index:
            return self.last_term
        if index == self.snapshot.index:
            return self.snapshot.term
        if not self.snapshot.index < index < self.last_index:
            raise KeyError(index)
        if index >= self.tail_first:
            return self._runs[bisect_right(self._firsts, index) - 1].term
        return self._storage.term(index)

    def matches(self, index: LogIndex, term: Term) -> bool:
        """Whether the entry at `index` is here and of `term`."""
        return self.snapshot.index <= index <= self.last_index and self.term_of(index) == term

    def append(self, run: Run, size: int) -> None:
        """Put `run`, of `size` bytes as `size_of` counts, behind the last entry."""
        assert run.first_index == self.last_index + 1, "a run must follow the log without a gap"
        assert run.term >= self.last_term, "terms never fall along a log"
        if not self._runs:
            self._firsts, self._runs, self._sizes = [], [], []
        self._firsts.append(run.first_index)
        self._runs.append(run)
        self._sizes.append(size)
        self.tail_bytes += size
        self.last_index = run.last_index
        self.last_term = run.term

    def truncate_from(self, index: LogIndex) -> None:
        """Forget the entries at `index` and behind it."""
        assert self.snapshot.index < index <= self.last_index, "only retained entries can be truncated"
        last_term = self.term_of(LogIndex(index - 1))
        keep = bisect_right(self._firsts, index - 1)
        self.tail_bytes -= sum(self._sizes[keep:])
        del self._firsts[keep:], self._runs[keep:], self._sizes[keep:]
        if keep and self._runs[-1].last_index >= index:
            run = self._runs[-1]
            cut = Run(run.first_index, run.term, run.payloads[: index - run.first_index])
            size = size_of(cut.payloads)
            self.tail_bytes += size - self._sizes[-1]
            self._runs[-1], self._sizes[-1] = cut, size
        self.last_index, self.last_term = LogIndex(index - 1), last_term
        self.persisted = min(self.persisted, self.last_index)

    def slice(self, first: LogIndex, last: LogIndex, bytes_max: int) -> tuple[list[Run], int]:
        """Entries from `first` towards `last`: at least one, at most `bytes_max` beyond that; and their size. May end early
        where memory meets the stable log; go on behind the last entry. Raises KeyError when `first` is not retained."""
        if not self.snapshot.index < first <= last <= self.last_index:
            raise KeyError(first)
        tail_first = self.tail_first
        if first < tail_first:
            runs = self._storage.runs(first, LogIndex(min(last, tail_first - 1)), bytes_max)
            return runs, sum([size_of(run.payloads) for run in runs])
        position = bisect_right(self._firsts, first) - 1
        result: list[Run] = []
        total = 0
        while first <= last:
            run, size = self._runs[position], self._sizes[position]
            piece = run
            if first != run.first_index or run.last_index > last or total + size > bytes_max:
                piece = _head(run, first, last, bytes_max - total)
                size = size_of(piece.payloads)
                if total + size > bytes_max and result:
                    break
            result.append(piece)
            total += size
            if piece.last_index < run.last_index or total >= bytes_max:
                break
            first = LogIndex(piece.last_index + 1)
            position += 1
        return result, total

    def first_conflict(self, run: Run) -> LogIndex | None:
        """Where this log holds an entry that `run` contradicts, None if nowhere. The entry before `run` must match.

        Terms never fall, so the entries equal to the run's are a prefix of the overlap and one probe at its end usually
        settles it (paper 5.3: delete from the first conflict only, reference trap 25).
        """
        end = min(run.last_index, self.last_index)
        if run.first_index > end or self.term_of(LogIndex(end)) == run.term:
            return None
        if self.term_of(run.first_index) != run.term:
            return run.first_index
        low, high = run.first_index, LogIndex(end)  # low agrees, high does not
        while high - low > 1:
            middle = LogIndex((low + high) // 2)
            if self.term_of(middle) == run.term:
                low = middle
            else:
                high = middle
        return high

    def newest_at_most(self, index: LogIndex, term: Term) -> LogIndex:
        """The newest entry up to `index` whose term is at most `term`: no later one can match an entry of `term` there.
        The snapshot's index when there is none, for what a snapshot covers is committed and matches."""
        low, high = self.snapshot.index, min(index, self.last_index)
        if high <= low:
            return low
        if self.term_of(high) <= term:
            return high
        while high - low > 1:  # high is above the term, low is the answer or below it
            middle = LogIndex((low + high) // 2)
            if self.term_of(middle) <= term:
                low = middle
            else:
                high = middle
        return low

    def compact_to(self, meta: SnapshotMeta) -> None:
        """The log now starts behind `meta`, an entry that it holds; what is in memory up to there goes."""
        assert self.matches(meta.index, meta.term), "a log is compacted at one of its own entries"
        self._drop_through(meta.index, 0)
        self.snapshot = meta

    def reset_to(self, meta: SnapshotMeta) -> None:
        """The log is now exactly the snapshot, and durable."""
        self._firsts = self._runs = self._sizes = NO_ITEMS
        self.tail_bytes = 0
        self.snapshot = meta
        self.last_index = self.persisted = meta.index
        self.last_term = meta.term

    def trim(self, floor: LogIndex, bytes_max: int) -> None:
        """Forget memory of durable entries up to `floor`, oldest first, until at most `bytes_max` is held."""
        if self.tail_bytes > bytes_max:
            # Three quarters: so that the next appends do not each trim again.
            self._drop_through(min(floor, self.persisted), bytes_max * 3 // 4)

    def _drop_through(self, floor: LogIndex, bytes_max: int) -> None:
        drop, held = 0, self.tail_bytes
        while drop < len(self._runs) and held > bytes_max and self._runs[drop].last_index <= floor:
            held -= self._sizes[drop]
            drop += 1
        if drop:
            self.tail_bytes = held
            if drop == len(self._runs):
                self._firsts = self._runs = self._sizes = NO_ITEMS
            else:
                del self._firsts[:drop], self._runs[:drop], self._sizes[:drop]

    def invariants(self) -> None:
        """Assert what the module docstring promises; cost grows with the tail."""
        assert self.snapshot.index <= self.persisted <= self.last_index, "persisted lies between snapshot and last"
        assert self.tail_first <= self.persisted + 1, "what is not durable is in memory"
        expected, term, total = self.tail_first, Term(0), 0
        for first, run, size in zip(self._firsts, self._runs, self._sizes, strict=True):
            assert first == run.first_index == expected, "tail runs are contiguous"
            assert run.payloads, "runs are never empty"
            assert run.term >= term, "terms never fall along the tail"
            assert size == size_of(run.payloads), "a run's size is known"
            expected, term, total = run.last_index + 1, run.term, total + size
        assert expected == self.last_index + 1, "the tail ends at the last entry"
        assert total == self.tail_bytes, "the tail knows its size"
        assert not self._runs or term == self.last_term, "last_term is of the last entry"
