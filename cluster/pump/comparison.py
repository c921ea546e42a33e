"""What a leader knows while it compares its replicas, shard by shard; forgotten with its term.

One comparison and one examined document a shard at a time; everything else waits for its turn. Plain data.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cluster.ids import LogIndex, ReplicaId, Term
from cluster.shard.divergence import AppliedItem, EvidenceReply, Name


@dataclass(slots=True)
class Told:
    """What a follower has told of its apply so far."""

    origin: LogIndex
    index: LogIndex
    total: int


@dataclass(slots=True)
class Comparison:
    """Entries (since, through] are being compared."""

    number: int
    since: LogIndex
    through: LogIndex
    waits_for: set[ReplicaId]
    until_ms: float


@dataclass(slots=True)
class Examination:
    """One document, held at this leader.

    settled: entries behind this one do not touch it. asked: the requests are out. healing: who has been sent the majority's
        record.
    """

    number: int
    name: Name
    settled: LogIndex
    began_ms: float
    until_ms: float
    asked: set[ReplicaId] = field(default_factory=set)
    answers: dict[ReplicaId, EvidenceReply] = field(default_factory=dict)
    healing: dict[ReplicaId, bytes] = field(default_factory=dict)
    first: int = 0


@dataclass(slots=True)
class Watch:
    """What a leader knows about one shard, for one term.

    waiting: documents that stay held because a voter is missing that would decide, and since when. looked: how often those
        with an open report were looked at again, and when that is due next.
    """

    term: Term
    told: dict[ReplicaId, Told] = field(default_factory=dict)
    ahead: dict[ReplicaId, AppliedItem] = field(default_factory=dict)
    comparison: Comparison | None = None
    postponed: tuple[LogIndex, LogIndex] | None = None
    unanswered: int = 0
    suspected: dict[Name, None] = field(default_factory=dict)
    waiting: dict[Name, float] = field(default_factory=dict)
    looked: dict[Name, tuple[int, float]] = field(default_factory=dict)
    examined: Examination | None = None

    def postpone(self, since: LogIndex, through: LogIndex) -> None:
        """Compare this range, and what waits already, next."""
        first, last = self.postponed or (since, through)
        self.postponed = min(first, since), max(last, through)

    def look_soon(self) -> None:
        """Somebody who was missed is back: no document with an open report waits longer for its next look."""
        self.looked.clear()

    @property
    def busy(self) -> bool:
        return bool(self.comparison or self.postponed or self.examined or self.suspected)
