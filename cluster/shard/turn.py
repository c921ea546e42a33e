"""What one pump turn of a node wants done, gathered from all its shards. Plain data: making it does nothing.

One write batch and one sync serve all shards of the node (votes included); one frame goes to each peer and lane; one list of
replies and deltas goes to each client stream.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from msgspec import Struct

from cluster.ids import LogIndex, NodeId, ReplicaId, ShardId, Term
from cluster.raft.messages import Message
from cluster.session.operations import Delta, Operation, Reply
from cluster.shard.divergence import AppliedItem, DivergenceItem, HealedItem
from cluster.shard.steering import SteeringItem
from cluster.shardmap.map import Shard
from cluster.storage.engine import Batch

StreamKey = tuple[NodeId, int]
"""A client stream, wherever it ends: the node whose gateway holds it, and its number there."""

NOBODY: StreamKey = (NodeId(""), 0)
"""Who waits for a command that a shard's leader made. What is replied to nobody is dropped when the turn is emitted."""


class RaftItem(Struct, frozen=True, array_like=True, tag=1):
    """A Raft message on its way to one replica."""

    shard: ShardId
    sender: ReplicaId
    receiver: ReplicaId
    message: Message


class LogShortItem(Struct, frozen=True, array_like=True, tag=12):
    """A leader tells a replica what it acknowledged in this term, because its log now ends below that."""

    shard: ShardId
    sender: ReplicaId
    receiver: ReplicaId
    term: Term
    acknowledged: LogIndex


class AbsentItem(Struct, frozen=True, array_like=True, tag=13):
    """A node was sent something for a replica that it does not hold and never held: whoever leads may invite it to."""

    shard: ShardId
    replica: ReplicaId


class InviteItem(Struct, frozen=True, array_like=True, tag=14):
    """The leader of `term` asks a node to begin the replica that its committed configuration places there. `shard` names no
    replicas.
    """

    shard: Shard
    replica: ReplicaId
    term: Term


class RemovedItem(Struct, frozen=True, array_like=True, tag=15):
    """Whoever knows a committed configuration without `replica` at the receiver tells it so; this can not become untrue.

    index: of the entry that made the configuration. term: of whoever says so; the one who removed it led no later term.
    leader: where the shard is led now, as far as is known; else empty.
    """

    shard: ShardId
    replica: ReplicaId
    index: LogIndex
    term: Term
    leader: NodeId


class InquiryItem(Struct, frozen=True, array_like=True, tag=16):
    """A replica that the shard map does not name asks whether it was removed. Answered by RemovedItem, or not at all."""

    shard: ShardId
    replica: ReplicaId


class LossItem(Struct, frozen=True, array_like=True, tag=22):
    """A node says which replicas it lost, again and again until others stand in their places.

    lost: shard and replica of each. blank: the whole store was lost, so the node does not know what else it had; `holds` is all
    that it has.
    """

    lost: list[tuple[ShardId, ReplicaId]]
    blank: bool
    holds: list[tuple[ShardId, ReplicaId]]


class LostItem(Struct, frozen=True, array_like=True, tag=23):
    """A leader tells a blank node that it had `replica` of this shard; or, when `over`, that it will not be replaced.

    `shard` names no replicas. term: the leader's.
    """

    shard: Shard
    replica: ReplicaId
    term: Term
    over: bool


class ForwardItem(Struct, frozen=True, array_like=True, tag=2):
    """Operations of one client stream for one shard, sent by the gateway's node to the shard's leader."""

    shard: ShardId
    stream: int
    operations: list[Operation]


class AnswerItem(Struct, frozen=True, array_like=True, tag=3):
    """What the leader's node sends back for one client stream; deltas come first (see `Turn.deltas`)."""

    stream: int
    deltas: list[Delta]
    replies: list[Reply]


class GrantItem(Struct, frozen=True, array_like=True, tag=4):
    """More credit for a watch of a remote client stream."""

    shard: ShardId
    stream: int
    watch: int
    credit_bytes: int


class CloseItem(Struct, frozen=True, array_like=True, tag=5):
    """A client stream ended at its gateway; its watches are to be forgotten."""

    stream: int


class ResetItem(Struct, frozen=True, array_like=True, tag=11):
    """First on a new connection: what the sender owed the receiver's streams before may be lost."""


class CompileRequest(Struct, frozen=True, array_like=True, tag=24):
    """A shard's leader asks whether the receiver could run this code. Answered by CompiledItem, or not at all."""

    code_hash: bytes


class CompiledItem(Struct, frozen=True, array_like=True, tag=25):
    """The sender has compiled this code."""

    code_hash: bytes


class BundleRequest(Struct, frozen=True, array_like=True, tag=6):
    """Asks a peer for a bundle by content hash."""

    code_hash: bytes


class BundleReply(Struct, frozen=True, array_like=True, tag=7):
    """A bundle, or nothing (empty) when the peer has none. The receiver checks the hash."""

    code_hash: bytes
    bundle: bytes


class DecisionsRequest(Struct, frozen=True, array_like=True, tag=40):
    """Asks a peer for all decisions of the system shard if it knows a newer version of them."""

    version: int


class DecisionsReply(Struct, frozen=True, array_like=True, tag=41):
    """All that the sender knows of what the system shard decided."""

    decisions: bytes


class SnapshotRequest(Struct, frozen=True, array_like=True, tag=8):
    """A replica whose state is damaged asks its leader for all of it."""

    shard: ShardId
    sender: ReplicaId


class SnapshotOpening(Struct, frozen=True, array_like=True, tag=9):
    """A leader is ready to send its state. See `cluster.pump.transfers`.

    transfer: number of this transfer, rising per sender. point: the sender's records stand at this entry or later.
    floor: its log reaches back to the entry behind this one.
    """

    shard: ShardId
    sender: ReplicaId
    receiver: ReplicaId
    term: Term
    transfer: int
    point: LogIndex
    floor: LogIndex


class SnapshotPull(Struct, frozen=True, array_like=True, tag=10):
    """The receiver has stored everything up to the name `after`, durably, and asks for what follows. point: the entry behind
    which it will replay, at most the opening's; the sender keeps its log from there.
    """

    shard: ShardId
    sender: ReplicaId
    receiver: ReplicaId
    transfer: int
    point: LogIndex
    after: bytes


class SnapshotChunk(Struct, frozen=True, array_like=True, tag=19):
    """Records behind the name `after`, in order of their names.

    records: (stored name, record body). through: no record holds entries above this one. end: encoded SnapshotEnd when there
    are no more records, else empty: the receiver switches.
    """

    shard: ShardId
    sender: ReplicaId
    receiver: ReplicaId
    term: Term
    transfer: int
    after: bytes
    through: LogIndex
    records: list[tuple[bytes, bytes]]
    end: bytes


class SnapshotClose(Struct, frozen=True, array_like=True, tag=20):
    """Either side ends a transfer. done: the receiver needs nothing more; else it goes on later, from where it stopped."""

    shard: ShardId
    sender: ReplicaId
    receiver: ReplicaId
    transfer: int
    done: bool


class HistoryPull(Struct, frozen=True, array_like=True, tag=18):
    """A replica lacks the history of the entries first < index <= last, and has all of it up to the name `after`."""

    shard: ShardId
    sender: ReplicaId
    receiver: ReplicaId
    first: LogIndex
    last: LogIndex
    after: bytes


class HistoryChunk(Struct, frozen=True, array_like=True, tag=21):
    """History of the entries that a pull named, behind the name `after`.

    rows: (stored name, history row). through: the last name looked at. ended: there is nothing behind it. refused: the sender
    does not have that history itself; ask somebody else.
    """

    shard: ShardId
    sender: ReplicaId
    receiver: ReplicaId
    after: bytes
    rows: list[tuple[bytes, bytes]]
    through: bytes
    ended: bool
    refused: bool


MemberItem = AbsentItem | InviteItem | RemovedItem | InquiryItem | LossItem | LostItem
PullItem = SnapshotPull | HistoryPull
"""Asking for more acknowledges what came before, so these leave after the sync, with Raft's acknowledgements."""
TransferItem = SnapshotRequest | SnapshotOpening | SnapshotChunk | SnapshotClose | HistoryChunk
StreamItem = ForwardItem | AnswerItem | GrantItem | CloseItem | ResetItem
CodeItem = CompileRequest | CompiledItem
RaftLaneItem = RaftItem | AppliedItem | HealedItem | LogShortItem | StreamItem | MemberItem | PullItem | CodeItem | SteeringItem
BulkLaneItem = BundleRequest | BundleReply | DecisionsRequest | DecisionsReply | TransferItem | DivergenceItem


@dataclass(slots=True)
class Turn:
    """Effects of one turn.

    batch: becomes visible at once with one write. persisted: (shard, term, sequence) of what becomes durable with it.
    raft_now: messages that may leave before the sync. raft_after_sync: only after everything written so far is durable.
    forwards, bulk: per peer node. replies, deltas: per client stream; a stream's deltas are delivered before its replies, so a
        delta that contains position p never comes after the answer at p.
    round_needed: a liveness round should start at once (a read waits for it).
    """

    batch: Batch = field(default_factory=Batch)
    persisted: list[tuple[ShardId, Term, int]] = field(default_factory=list)
    raft_now: dict[NodeId, list[RaftLaneItem]] = field(default_factory=dict)
    raft_after_sync: dict[NodeId, list[RaftLaneItem]] = field(default_factory=dict)
    bulk: dict[NodeId, list[BulkLaneItem]] = field(default_factory=dict)
    replies: dict[StreamKey, list[Reply]] = field(default_factory=dict)
    deltas: dict[StreamKey, list[Delta]] = field(default_factory=dict)
    round_needed: bool = False

    def take(self) -> Turn:
        """Everything gathered so far; this turn is empty afterwards, and whoever holds it goes on gathering."""
        taken = Turn(
            self.batch,
            self.persisted,
            self.raft_now,
            self.raft_after_sync,
            self.bulk,
            self.replies,
            self.deltas,
            self.round_needed,
        )
        self.batch, self.persisted = Batch(), []
        self.raft_now, self.raft_after_sync, self.bulk, self.replies, self.deltas = {}, {}, {}, {}, {}
        self.round_needed = False
        return taken

    @property
    def empty(self) -> bool:
        return not (
            self.batch.operations
            or self.persisted
            or self.raft_now
            or self.raft_after_sync
            or self.bulk
            or self.replies
            or self.deltas
            or self.round_needed
        )

    def reply(self, stream: StreamKey, reply: Reply) -> None:
        replies = self.replies.get(stream)
        if replies is None:
            self.replies[stream] = [reply]
        else:
            replies.append(reply)

    def delta(self, stream: StreamKey, delta: Delta) -> None:
        self.deltas.setdefault(stream, []).append(delta)

    def send_now(self, node: NodeId, item: RaftLaneItem) -> None:
        self.raft_now.setdefault(node, []).append(item)

    def send_after_sync(self, node: NodeId, item: RaftLaneItem) -> None:
        self.raft_after_sync.setdefault(node, []).append(item)

    def send_bulk(self, node: NodeId, item: BulkLaneItem) -> None:
        self.bulk.setdefault(node, []).append(item)
