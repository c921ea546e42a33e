"""What a core can be told. `step(event, now_ms)` is the only way in; nothing else changes a core.

Times are milliseconds of one monotonic clock, as float; the core never reads a clock itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Protocol

from cluster.ids import LogIndex, ReplicaId, Term
from cluster.raft.messages import Message, Places, Run, SnapshotMeta

NEVER: Final = -math.inf
"""Before any time. One object: each negation makes another, and a node has thousands of groups."""


@dataclass(slots=True, frozen=True)
class Deadline:
    """The time that `core.deadline_ms` named has come (or passed)."""


@dataclass(slots=True, frozen=True)
class Receive:
    """A message from another replica of this group."""

    sender: ReplicaId
    message: Message


@dataclass(slots=True, frozen=True)
class Propose:
    """Append these payloads as entries, one each, in order; none is empty. Answered by ticket or refusal."""

    payloads: list[bytes]


@dataclass(slots=True, frozen=True)
class Read:
    """ReadIndex for everything that waits now. `context` is the owner's name for the batch; it comes back in effects.
    `by_lease`: a lease may stand for the round; the owner is ready to throw its answers away."""

    context: int
    by_lease: bool = True


@dataclass(slots=True, frozen=True)
class PeerAcked:
    """A liveness round was acknowledged: `peer`'s node answered a round sent at `sent_at_ms` that listed this group at
    `term` as led here, and named no exception for it. Told only to groups that have reads waiting."""

    peer: ReplicaId
    term: Term
    sent_at_ms: float


@dataclass(slots=True, frozen=True)
class LeaderLost:
    """The owner's own evidence ends belief in the leader now (connection refused, newer boot generation of its node).
    Starts an election after the stagger of this replica's rank instead of a whole timeout. Ignored by leaders."""


@dataclass(slots=True, frozen=True)
class LivenessChanged:
    """What this replica relies on while it sleeps may no longer hold, or what it waits for may be there: look at liveness as at
    a deadline. Due when, for an election timeout, the node of the leader has not been heard or the node of a follower has not
    acknowledged; when a leader's node no longer lists the group, or a follower's node makes an exception for it; when the node
    of a member was restarted, or is heard again. Told to sleepers, and of a leader's silence to all its followers: who is awake
    would find out without it, after a random time."""


@dataclass(slots=True, frozen=True)
class PeerUnreachable:
    """Messages to `peer` may have been lost, or its node has a new boot generation: go back to probing it."""

    peer: ReplicaId


@dataclass(slots=True, frozen=True)
class Persisted:
    """The write named (term, sequence), and all before it, are durable. A stale one is ignored (trap 6)."""

    term: Term
    sequence: int


@dataclass(slots=True, frozen=True)
class Compact:
    """Entries up to and including `index` are no longer needed here. Requires index <= applied."""

    index: LogIndex


@dataclass(slots=True, frozen=True)
class SnapshotInstalled:
    """The owner has switched to this snapshot's state in one durable atomic write that also reset the log to it.

    Only after `needs_snapshot(meta)` of the same turn; when that says no, the transfer ends as SnapshotFailed instead."""

    leader: ReplicaId
    meta: SnapshotMeta


@dataclass(slots=True, frozen=True)
class SnapshotFailed:
    """The transfer to `peer` ended without success; probe it again after a pause."""

    peer: ReplicaId


@dataclass(slots=True, frozen=True)
class Campaign:
    """Start an election now (bootstrap, tests, operators)."""


@dataclass(slots=True, frozen=True)
class Transfer:
    """Hand leadership to the voter `to` (thesis 3.10). Answered by a refusal, or by nothing: then proposals are refused as
    Transferring until `to` leads or a minimum election timeout has passed, which aborts."""

    to: ReplicaId


@dataclass(slots=True, frozen=True)
class ChangeConfiguration:
    """Make these the voters and learners, both sorted (paper section 6). Answered by the ticket of the first entry it takes,
    or by a refusal. It is done when a configuration equal to the goal, with nobody outgoing, is at or below the commit index.

    New replicas start as learners, learners that are close become voters, voters become learners before they go. `places` says
    where the new ones run.
    """

    voters: tuple[ReplicaId, ...]
    learners: tuple[ReplicaId, ...] = ()
    places: Places = ()


Event = (
    Deadline
    | Receive
    | Propose
    | Read
    | PeerAcked
    | LeaderLost
    | LivenessChanged
    | PeerUnreachable
    | Persisted
    | Compact
    | SnapshotInstalled
    | SnapshotFailed
    | Campaign
    | Transfer
    | ChangeConfiguration
)


class Liveness(Protocol):
    """Node-pair liveness as one group sees it. Pulled by the core at its deadlines, so an idle group costs nothing."""

    def leader_heard_ms(self, leader: ReplicaId, term: Term) -> float:
        """When the leader's current boot generation last listed this group at `term`; minus infinity if never."""
        ...

    def acked_sent_ms(self, peer: ReplicaId, term: Term) -> float:
        """Send time of the newest round listing this group at `term` that `peer`'s node acknowledged without exception;
        minus infinity if never."""
        ...

    def promised_until_ms(self, peer: ReplicaId, term: Term) -> float:
        """Leader, for leases: until when `peer`'s node has promised, acknowledging that round, to help elect nobody else.
        Counted from the round's send time; minus infinity if it promised nothing, as a node without leases does."""
        ...

    def promised_at_ms(self, leader: ReplicaId, term: Term) -> float:
        """Voter, for leases: when this node last acknowledged a round of the leader's current boot generation that listed this
        group at `term`, whatever it heard or lost since; minus infinity if never."""
        ...

    def heard_ms(self, peer: ReplicaId) -> float:
        """When `peer`'s node was last heard at all, whatever it said; minus infinity if never."""
        ...


class LogStorage(Protocol):
    """The stable log as the core reads it. Synchronous; an entry is visible here as soon as the owner has written it,
    durable or not. The core keeps its own tail of recent entries and asks here only for older ones.

    Invariant: first_index is 1 + snapshot index; indexes are contiguous; terms never fall.
    """

    @property
    def snapshot(self) -> SnapshotMeta: ...

    @property
    def last_index(self) -> LogIndex: ...

    def term(self, index: LogIndex) -> Term:
        """Term of a retained entry, or of the snapshot index. Raises KeyError outside."""
        ...

    def runs(self, first: LogIndex, last: LogIndex, bytes_max: int) -> list[Run]:
        """Runs covering first.. up to `last`, stopping after `bytes_max` but never before one entry."""
        ...
