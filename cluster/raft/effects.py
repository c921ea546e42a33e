"""What a step asks the world to do. Two lists of messages, so that an unsafe order cannot be written by accident.

`send_now` may leave at once. `send_after_persist` may leave only when everything that this core has asked to persist, up
to and including this step's `persist`, is durable. The owner reports durability with the `Persisted` event, in order.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from cluster.errors import ClusterError
from cluster.ids import LogIndex, ReplicaId, Term
from cluster.raft.messages import Configuration, HardState, Message, Run, SnapshotMeta


class Role(enum.Enum):
    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre_candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


LEADER = Role.LEADER
"""Looked up at every step of every group; through its class that takes ten times as long."""


@dataclass(slots=True)
class Persist:
    """One numbered durable change of one group, applied atomically in this order: truncate, runs, hard state.

    sequence: rises by one per Persist within a term and never falls; with `term` it names the write for `Persisted`.
    truncate_from: delete entries with index >= this before appending `runs`.
    snapshot: the log now starts after this (install or compaction); entries at or below it may be deleted.
    """

    term: Term
    sequence: int
    hard_state: HardState | None = None
    truncate_from: LogIndex | None = None
    runs: list[Run] = field(default_factory=list)
    snapshot: SnapshotMeta | None = None


@dataclass(slots=True, frozen=True)
class Ticket:
    """Where accepted proposals will stand if this leader commits them: entries first..last of `term`."""

    term: Term
    first: LogIndex
    last: LogIndex


@dataclass(slots=True)
class Effects:
    """Everything one step asks for. Empty lists and None mean nothing to do.

    committed: the commit index after the step, when it rose.
    ticket, refusal: the answer to a proposal: exactly one is set after Propose. A Transfer that can not be sets `refusal`;
        ChangeConfiguration is answered like a proposal.
    configuration: the configuration that counts here from now on, when it changed: map replicas to nodes by it.
    reads_ready: (context, index) pairs: answer these reads once `applied >= index`.
    reads_leased: the same, answered by a lease and not by a quorum: compute the answers once `applied >= index`, then read the
        clock, and let them go only if `Raft.lease_holds` at that time. Otherwise ask again.
    reads_refused: contexts that can no longer be answered by this replica.
    round_needed: a read waits for a liveness round begun from now on; start one at once.
    snapshot_to: followers that need a snapshot (the core pauses them until SnapshotInstalled's ack or SnapshotFailed). Named
        again about every election timeout while that does not come: a transfer under way is not begun a second time.
    role_changed: role, term or known leader differ from before the step.
    """

    persist: Persist | None = None
    send_now: list[tuple[ReplicaId, Message]] = field(default_factory=list)
    send_after_persist: list[tuple[ReplicaId, Message]] = field(default_factory=list)
    committed: LogIndex | None = None
    ticket: Ticket | None = None
    refusal: ClusterError | None = None
    configuration: Configuration | None = None
    reads_ready: list[tuple[int, LogIndex]] = field(default_factory=list)
    reads_leased: list[tuple[int, LogIndex]] = field(default_factory=list)
    reads_refused: list[int] = field(default_factory=list)
    round_needed: bool = False
    snapshot_to: list[ReplicaId] = field(default_factory=list)
    role_changed: bool = False
