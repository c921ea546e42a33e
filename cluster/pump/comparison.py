"""What a leader knows while it compares its replicas, shard by shard; forgotten with its term.

One comparison and one examined document a shard at a time; everything else waits for its turn.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cluster.ids import LogIndex, ReplicaId, Term
from cluster.shard.digest import AppliedDigest, difference
from cluster.shard.divergence import AppliedItem, EvidenceReply, Name
from cluster.shard.replica import ShardReplica
from cluster.shard.turn import Turn


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

    def since(self, item: AppliedItem) -> LogIndex:
        """Where the range begins that a follower's word is new for."""
        told = self.told.get(item.sender)
        return told.index if told is not None and told.origin == item.origin else item.origin

    def differs_since(self, item: AppliedItem, digest: AppliedDigest) -> LogIndex | None:
        """Note what a follower told. Returns the entry behind which its sum differs from the own, None where it does not."""
        told = self.told.get(item.sender)
        if told is None or told.origin != item.origin:
            told = self.told[item.sender] = Told(item.origin, item.origin, 0)
        if item.index <= told.index:
            return None
        since, before = told.index, told.total
        told.index, told.total = item.index, item.total
        earlier, later = digest.through(since), digest.through(item.index)
        if earlier is None or later is None:
            return None  # not known here entry by entry: documents that differ tell when they are touched again
        return since if difference(later, earlier) != difference(item.total, before) else None

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


def ask_to_recount(replica: ShardReplica, watch: Watch, item: AppliedItem, turn: Turn) -> bool:
    """As a leader: whether a follower's word spans the place where the sums here begin. It is told where that is and begins to
    count there, too; else what it applied behind that place would go uncompared, and might be the last to touch a document.
    """
    first, node = replica.digest.first, replica.members.node_of(item.sender)
    if node is None or not watch.since(item) < first < item.index:
        return False
    turn.send_now(node, AppliedItem(replica.id, replica.replica, item.sender, first, first, 0))
    return True


def recount(replica: ShardReplica, item: AppliedItem, turn: Turn) -> None:
    """As a follower: the leader can not compare what was applied up to a place. Tell it what was applied behind that."""
    leader, node = replica.raft.leader, replica.leader_node
    if leader is not None and node is not None and item.sender == leader and replica.digest.begin_behind(item.index):
        turn.send_now(node, replica.tell_applied(leader))
