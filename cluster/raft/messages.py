"""What Raft replicas say to each other, and what they make durable.

All are msgspec structs encoded as arrays: one C call packs a whole frame of them and one C call unpacks and type-checks
it, so no code here runs per entry. A message does not name its sender or its shard: the frame that carries it does.

A `Run` is consecutive entries of one term. Payloads are opaque bytes, encoded once by the leader; the same bytes go to the
log, the wire and the follower's log. An empty payload is the no-op that a leader appends at the start of its term, one that
begins with the byte 0xC1 a configuration; owners see both as empty.
"""

from __future__ import annotations

from msgspec import Struct

from cluster.ids import LogIndex, NodeId, ReplicaId, Term

Places = tuple[tuple[ReplicaId, NodeId], ...]
"""Where replicas run, sorted by replica."""


class Run(Struct, frozen=True, array_like=True, gc=False):
    """Entries `first_index .. first_index + len(payloads) - 1`, all of `term`. Never empty."""

    first_index: LogIndex
    term: Term
    payloads: list[bytes]

    @property
    def last_index(self) -> LogIndex:
        return LogIndex(self.first_index + len(self.payloads) - 1)


class HardState(Struct, frozen=True, array_like=True, gc=False):
    """The one durable value (term, vote). `vote` is 0 for none. Invariant: written before the reply leaves.

    configured: indexes of the configuration entries in the log, rising, written with them; those that a snapshot covers may
        still be there. So a restart finds them without reading the log.
    """

    term: Term
    vote: ReplicaId
    configured: tuple[LogIndex, ...] = ()


class Configuration(Struct, frozen=True, array_like=True):
    """Who votes and who only listens, each sorted. Replica ids are never reused.

    outgoing: in a joint configuration (thesis 4.3) the voters before; whatever needs a majority needs one of these too.
        Empty otherwise. One that is to be a learner afterwards is in `learners` already.
    highest: no id up to this one may become a member again (reference trap 12). See `cluster.raft.configuration`.
    places: the node of every member, at most one member a node. Nothing here asks what a node is; it is kept here so that the
        group's own log, and every snapshot of it, says where the group is. Empty for a group whose owner knows otherwise.
    """

    voters: tuple[ReplicaId, ...]
    learners: tuple[ReplicaId, ...] = ()
    outgoing: tuple[ReplicaId, ...] = ()
    highest: ReplicaId = ReplicaId(0)
    places: Places = ()


class SnapshotMeta(Struct, frozen=True, array_like=True):
    """The last entry that a snapshot stands for, and the configuration at it. Index 0 means no snapshot.

    configured: the entry that made this configuration; 0 when it is the group's first.
    """

    index: LogIndex
    term: Term
    configuration: Configuration
    configured: LogIndex = LogIndex(0)


class VoteRequest(Struct, frozen=True, array_like=True, gc=False, tag=1):
    """Paper 5.2 and 5.4.1; `pre` is the PreVote of thesis 9.6, asked in the term the candidate would enter. `transfer`: the
    leader itself asked for this campaign, so that it is no reason to refuse (thesis 3.10, 4.2.3)."""

    term: Term
    last_index: LogIndex
    last_term: Term
    pre: bool
    transfer: bool = False


class VoteReply(Struct, frozen=True, array_like=True, gc=False, tag=2):
    """`term`: the request's term when granted, the voter's own when refused (trap 17). `pre` echoes the request."""

    term: Term
    granted: bool
    pre: bool


class Append(Struct, frozen=True, array_like=True, tag=3):
    """Paper 5.3. `runs` follow `previous_index` without a gap. Empty runs are a probe (commit 0, always answered) or a commit
    notice (answered only when it is refused or taught nothing)."""

    term: Term
    previous_index: LogIndex
    previous_term: Term
    commit: LogIndex
    runs: list[Run]


class AppendReply(Struct, frozen=True, array_like=True, gc=False, tag=5):
    """Answer to Append.

    index: when accepted, the last index that this message verified; when rejected, the refused previous_index.
    hint_index, hint_term: on rejection, the newest entry of the follower that may match (term-skipping hint); on
        acceptance, hint_index is the follower's commit index and hint_term its term.
    """

    term: Term
    index: LogIndex
    rejected: bool
    hint_index: LogIndex
    hint_term: Term


class SnapshotOffer(Struct, frozen=True, array_like=True, tag=6):
    """Leader to follower: your next entry is compacted away; chunks of this snapshot will follow on the bulk path.

    The follower's core only checks term and index and answers AppendReply when it already has that index;
    the transfer itself belongs to the shard.
    """

    term: Term
    meta: SnapshotMeta


class TimeoutNow(Struct, frozen=True, array_like=True, gc=False, tag=7):
    """Leader to the replica that shall lead next: campaign at once (thesis 3.10). Stale unless the receiver is in `term` and
    its log ends at `last_index` (reference trap 38)."""

    term: Term
    last_index: LogIndex


Message = VoteRequest | VoteReply | Append | AppendReply | SnapshotOffer | TimeoutNow
