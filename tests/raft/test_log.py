"""The log against a plain list of (term, payload), under random operations, with and without memory of old entries."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cluster.errors import InvalidRequest
from cluster.ids import LogIndex, ReplicaId, Term
from cluster.raft.effects import Persist
from cluster.raft.log import Log, check_append, runs_after, size_of
from cluster.raft.messages import Configuration, Run, SnapshotMeta
from tests.raft.disk import Disk, Write
from tests.raft.solo import append, run

CONFIGURATION = Configuration((ReplicaId(1),))
payload_lists = st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=5)


def flat(runs: list[Run]) -> list[tuple[int, int, bytes]]:
    return [(piece.first_index + place, piece.term, payload) for piece in runs for place, payload in enumerate(piece.payloads)]


class LogMachine(RuleBasedStateMachine):
    """The model is `entries`: index i+1+base is entries[i]."""

    @initialize()
    def start(self) -> None:
        self.disk = Disk(CONFIGURATION)
        self.log = Log(self.disk)
        self.base = 0
        self.base_term = 0
        self.entries: list[tuple[int, bytes]] = []
        self.sequence = 0

    @property
    def last(self) -> int:
        return self.base + len(self.entries)

    def written(self, persist: Persist) -> None:
        self.disk.write(Write(persist=persist))

    @rule(payloads=payload_lists, rise=st.integers(0, 2))
    def append(self, payloads: list[bytes], rise: int) -> None:
        term = Term((self.entries[-1][0] if self.entries else self.base_term) + rise)
        new = Run(LogIndex(self.last + 1), term, payloads)
        self.log.append(new, size_of(payloads))
        self.written(Persist(term, 0, runs=[new]))
        self.entries += [(term, payload) for payload in payloads]

    @precondition(lambda self: self.entries)
    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        index = LogIndex(data.draw(st.integers(self.base + 1, self.last)))
        self.log.truncate_from(index)
        self.written(Persist(Term(0), 0, truncate_from=index))
        del self.entries[index - self.base - 1 :]

    @rule()
    def persist(self) -> None:
        self.log.persisted = self.log.last_index

    @rule(data=st.data(), bytes_max=st.integers(0, 60))
    def trim(self, data: st.DataObject, bytes_max: int) -> None:
        floor = data.draw(st.integers(self.base, self.last))
        self.log.trim(LogIndex(floor), bytes_max)

    @precondition(lambda self: self.log.persisted > self.base)
    @rule(data=st.data())
    def compact(self, data: st.DataObject) -> None:
        index = LogIndex(data.draw(st.integers(self.base + 1, self.log.persisted)))
        meta = SnapshotMeta(index, self.log.term_of(index), CONFIGURATION)
        self.log.compact_to(meta)
        self.written(Persist(Term(0), 0, snapshot=meta))
        self.base_term = self.entries[index - self.base - 1][0]
        del self.entries[: index - self.base]
        self.base = index

    @rule(ahead=st.integers(1, 5))
    def reset(self, ahead: int) -> None:
        meta = SnapshotMeta(LogIndex(self.last + ahead), Term((self.log.last_term) + 1), CONFIGURATION)
        self.log.reset_to(meta)
        self.disk.write(Write(install=meta))
        self.base, self.base_term, self.entries = meta.index, meta.term, []

    @precondition(lambda self: self.entries)
    @rule(data=st.data(), bytes_max=st.integers(0, 200))
    def slice(self, data: st.DataObject, bytes_max: int) -> None:
        first = data.draw(st.integers(self.base + 1, self.last))
        last = data.draw(st.integers(first, self.last))
        runs, size = self.log.slice(LogIndex(first), LogIndex(last), bytes_max)
        assert size == sum(size_of(piece.payloads) for piece in runs)
        found = flat(runs)
        expected = [(self.base + 1 + place, *entry) for place, entry in enumerate(self.entries)]
        assert found == expected[first - self.base - 1 : first - self.base - 1 + len(found)]
        assert 1 <= len(found) <= last - first + 1
        if first >= self.log.tail_first:
            sizes = [size_of([payload]) for _, _, payload in found]
            assert len(found) == 1 or sum(sizes) <= bytes_max
            cut = first - self.base - 1 + len(found)
            more = found[-1][0] < last and sum(sizes) + size_of([self.entries[cut][1]]) <= bytes_max
            assert not more, "what fits is sent"

    @precondition(lambda self: self.entries)
    @rule(data=st.data(), count=st.integers(1, 8), term=st.integers(0, 12))
    def conflict(self, data: st.DataObject, count: int, term: int) -> None:
        first = data.draw(st.integers(self.base + 1, self.last))
        previous_term = self.log.term_of(LogIndex(first - 1))
        other = run(first, max(term, previous_term), *[b"x"] * count)
        own = [(index, self.entries[index - self.base - 1][0]) for index in range(first, min(first + count - 1, self.last) + 1)]
        # Log matching: where the terms agree, so does everything before.
        assume(not any(index > first and of == other.term != own[0][1] for index, of in own))
        brute = next((index for index, of in own if of != other.term), None)
        assert self.log.first_conflict(other) == brute

    @rule(data=st.data(), term=st.integers(0, 12))
    def newest(self, data: st.DataObject, term: int) -> None:
        index = data.draw(st.integers(self.base, self.last))
        fitting = [place for place in range(self.base + 1, index + 1) if self.entries[place - self.base - 1][0] <= term]
        assert self.log.newest_at_most(LogIndex(index), Term(term)) == max(fitting, default=self.base)

    @invariant()
    def same_as_model(self) -> None:
        self.log.invariants()
        assert self.log.last_index == self.last
        assert self.log.snapshot.index == self.base
        terms = [self.log.term_of(LogIndex(index)) for index in range(self.base, self.last + 1)]
        assert terms == [self.base_term, *(term for term, _ in self.entries)]
        for outside in (self.base - 1, self.last + 1):
            assert not self.log.matches(LogIndex(outside), Term(0))
            with pytest.raises(KeyError):
                self.log.term_of(LogIndex(outside))


LogMachine.TestCase.settings = settings(max_examples=120, stateful_step_count=25)
TestLog = LogMachine.TestCase


@given(st.lists(payload_lists, max_size=4), st.integers(0, 25))
def test_runs_after_keeps_exactly_the_entries_behind_an_index(batches: list[list[bytes]], index: int) -> None:
    runs, first = [], 3
    for term, payloads in enumerate(batches):
        runs.append(Run(LogIndex(first), Term(term), payloads))
        first += len(payloads)
    assert flat(runs_after(runs, LogIndex(index))) == [entry for entry in flat(runs) if entry[0] > index]


@pytest.mark.parametrize(
    "message",
    [
        append(3, (5, 2), run(7, 3, b"gap")),
        append(3, (5, 2), run(5, 3, b"overlap")),
        append(3, (5, 2), run(6, 1, b"older than the entry before")),
        append(3, (5, 2), run(6, 4, b"newer than its leader")),
        append(3, (5, 2), run(6, 3, b"a", b"b"), run(7, 3, b"overlap inside")),
        append(3, (5, 2), Run(LogIndex(6), Term(3), [])),
    ],
)
def test_append_whose_runs_do_not_follow_each_other_is_refused(message: object) -> None:
    with pytest.raises(InvalidRequest):
        check_append(message)  # type: ignore[arg-type]


def test_append_of_several_terms_is_accepted_when_terms_rise() -> None:
    check_append(append(3, (5, 1), run(6, 1, b"a", b"b"), run(8, 3, b"c")))


def test_run_in_memory_is_shared_and_not_copied() -> None:
    """Performance: the same payloads go to the disk, to followers and to apply."""
    log = Log(Disk(CONFIGURATION))
    whole = run(1, 1, b"a", b"b")
    log.append(whole, size_of(whole.payloads))
    (shared,), _ = log.slice(LogIndex(1), LogIndex(2), 1_000)
    assert shared is whole
