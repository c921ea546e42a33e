"""A disk that forgets what was not synced: atomic writes, a visible and a durable image, and crashes between them."""

from __future__ import annotations

from dataclasses import dataclass, field

from cluster.ids import LogIndex, ReplicaId, Term
from cluster.raft.effects import Persist
from cluster.raft.messages import Configuration, HardState, Run, SnapshotMeta


@dataclass(slots=True)
class Image:
    """What one disk holds: (term, vote), the snapshot with its machine, and the entries behind it."""

    hard_state: HardState
    snapshot: SnapshotMeta
    machine: list[tuple[Term, bytes]] = field(default_factory=list)
    entries: list[tuple[Term, bytes]] = field(default_factory=list)

    @property
    def last_index(self) -> LogIndex:
        return LogIndex(self.snapshot.index + len(self.entries))

    def copy(self) -> Image:
        return Image(self.hard_state, self.snapshot, list(self.machine), list(self.entries))

    def holds(self, index: LogIndex, term: Term) -> bool:
        if index <= self.snapshot.index:
            return True  # snapshots hold committed entries only
        return index <= self.last_index and self.entries[index - self.snapshot.index - 1][0] == term

    def apply(self, write: Write) -> None:
        if write.install is not None:
            self.snapshot, self.machine, self.entries = write.install, list(write.machine), []
            return
        persist = write.persist
        assert persist is not None
        if persist.truncate_from is not None:
            del self.entries[persist.truncate_from - self.snapshot.index - 1 :]
        for run in persist.runs:
            assert run.first_index == self.last_index + 1, "the core persists entries without a gap"
            self.entries.extend((run.term, payload) for payload in run.payloads)
        if persist.hard_state is not None:
            self.hard_state = persist.hard_state
        if persist.snapshot is not None:
            assert persist.snapshot.index <= self.last_index
            del self.entries[: persist.snapshot.index - self.snapshot.index]
            self.snapshot, self.machine = persist.snapshot, list(write.machine)


@dataclass(slots=True)
class Write:
    """One atomic batch: a Persist, or the installation of a snapshot."""

    persist: Persist | None = None
    install: SnapshotMeta | None = None
    machine: list[tuple[Term, bytes]] = field(default_factory=list)


class Disk:
    """Implements LogStorage. `visible` is what reads see; `durable` is what a crash leaves at least."""

    def __init__(self, configuration: Configuration) -> None:
        empty = SnapshotMeta(LogIndex(0), Term(0), configuration)
        self.visible = Image(HardState(Term(0), ReplicaId(0)), empty)
        self.durable = self.visible.copy()
        self.unsynced: list[Write] = []

    @property
    def snapshot(self) -> SnapshotMeta:
        return self.visible.snapshot

    @property
    def last_index(self) -> LogIndex:
        return self.visible.last_index

    def term(self, index: LogIndex) -> Term:
        if index == self.visible.snapshot.index:
            return self.visible.snapshot.term
        if not self.visible.snapshot.index < index <= self.last_index:
            raise KeyError(index)
        return self.visible.entries[index - self.visible.snapshot.index - 1][0]

    def runs(self, first: LogIndex, last: LogIndex, bytes_max: int) -> list[Run]:
        if not self.visible.snapshot.index < first <= last <= self.last_index:
            raise KeyError(first)
        result: list[Run] = []
        for index in range(first, last + 1):
            term, payload = self.visible.entries[index - self.visible.snapshot.index - 1]
            bytes_max -= len(payload)
            if bytes_max < 0 and result:
                break
            if result and result[-1].term == term:
                result[-1].payloads.append(payload)
            else:
                result.append(Run(LogIndex(index), term, [payload]))
        return result

    def write(self, write: Write) -> None:
        self.visible.apply(write)
        self.unsynced.append(write)

    def sync(self, count: int) -> None:
        for write in self.unsynced[:count]:
            self.durable.apply(write)
        del self.unsynced[:count]

    def crash(self, kept: int) -> None:
        """Power is lost after `kept` of the unsynced writes happened to reach the platter."""
        self.sync(kept)
        self.unsynced.clear()
        self.visible = self.durable.copy()
