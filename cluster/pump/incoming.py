"""Frames from peers: unpacked, checked, and put where the turn finds them.

Peers run this code too, but a frame is judged as if they did not: whatever does not fit (garbage, another shard's document, a
number that can not be one) is counted or refused and never ends the node.
"""

from __future__ import annotations

from typing import Protocol

from cluster.config import SHARDS_MAX
from cluster.errors import ClusterError, InvalidRequest, RejectedError, StaleRoute
from cluster.ids import SYSTEM_SHARD, NodeId, ShardId, check_key, check_space
from cluster.pump import frames
from cluster.pump.bundles import BundleFetch
from cluster.pump.compiling import Compiling
from cluster.pump.control import Control
from cluster.pump.divergence import Divergences
from cluster.pump.holdings import Holdings
from cluster.pump.lanes import Lane
from cluster.pump.learning import Learning
from cluster.pump.liveness import NodeLiveness
from cluster.pump.schedule import Schedule
from cluster.pump.steering import Steering
from cluster.pump.streams import Streams
from cluster.pump.transfers import NUMBER_MAX, Transfers
from cluster.raft.messages import Append, AppendReply, Message, TimeoutNow, VoteReply, VoteRequest
from cluster.router.router import Router
from cluster.session.failures import failure_of
from cluster.session.operations import Kind, Operation, Reply
from cluster.shard import lost_log
from cluster.shard.directory import Directory
from cluster.shard.divergence import (
    AppliedItem,
    CompareRequest,
    DivergenceItem,
    EvidenceRequest,
    HealedItem,
    VerdictItem,
)
from cluster.shard.evidence import DOCUMENTS_COMPARED_MAX
from cluster.shard.replica import ShardReplica
from cluster.shard.steering import OrderItem, ReportItem, SteeringItem
from cluster.shard.turn import (
    AbsentItem,
    AnswerItem,
    BulkLaneItem,
    BundleReply,
    BundleRequest,
    CloseItem,
    CompiledItem,
    CompileRequest,
    DecisionsReply,
    DecisionsRequest,
    ForwardItem,
    GrantItem,
    HistoryPull,
    InviteItem,
    LogShortItem,
    LossItem,
    LostItem,
    MemberItem,
    PullItem,
    RaftItem,
    RaftLaneItem,
    RemovedItem,
    ResetItem,
    SnapshotPull,
    StreamKey,
    TransferItem,
    Turn,
)
from cluster.shardmap.hashing import HASH_SPACE
from cluster.shardmap.map import Shard, ShardMap

EPOCH_MAX = (1 << 32) - 1

_KINDS = frozenset(Kind)


class Holder(Protocol):
    """Who holds this node's replicas, as far as frames concern it."""

    node: NodeId
    peers: list[NodeId]
    connected: set[NodeId]
    directory: Directory
    liveness: NodeLiveness
    replicas: dict[ShardId, ShardReplica]

    def look_at(self, replica: ShardReplica, now_ms: float) -> None: ...

    def new_decisions(self, shard_map: ShardMap | None) -> None: ...

    def submit_to_replica(self, shard: ShardId, stream: StreamKey, operations: list[Operation]) -> None: ...


class Incoming:
    """Raft and bulk frames of all peers."""

    def __init__(
        self,
        *,
        holder: Holder,
        schedule: Schedule,
        streams: Streams,
        router: Router,
        bundles: BundleFetch,
        transfers: Transfers,
        holdings: Holdings,
        divergences: Divergences,
        steering: Steering,
        turn: Turn,
    ) -> None:
        self._holder = holder
        self._schedule = schedule
        self._streams = streams
        self._router = router
        self._bundles = bundles
        self._transfers = transfers
        self._holdings = holdings
        self._divergences = divergences
        self._steering = steering
        self.compiling = Compiling(holder, schedule, turn)
        self.learning = Learning(holder, turn)
        self.control = Control(turn)
        self._turn = turn
        self.met: set[NodeId] = set()
        """Peers whose liveness has named the directory that this node knows, since their connection last broke. Until then
        their Raft messages are dropped, which Raft repairs: a wiped node must not vote before it is fenced (trap 11).
        """

    def disconnected(self, node: NodeId) -> None:
        """What a peer said about itself counts until its connection breaks."""
        self.met.discard(node)
        self.compiling.disconnected(node)

    def on_frame(self, node: NodeId, lane: Lane, frame: bytes, now_ms: float) -> int:
        """Take a RAFT or BULK frame; says how many of its items were garbage."""
        garbage = 0
        if lane is Lane.RAFT:
            for item in frames.unpack_raft(frame):
                try:
                    self._on_raft_item(node, item, now_ms)
                except RejectedError:
                    garbage += 1
        else:
            for bulk in frames.unpack_bulk(frame):
                try:
                    self._on_bulk_item(node, bulk, now_ms)
                except RejectedError:
                    garbage += 1
        return garbage

    def _on_raft_item(self, node: NodeId, item: RaftLaneItem, now_ms: float) -> None:
        if isinstance(item, RaftItem):
            if node in self.met:
                self._on_message(node, item)
        elif isinstance(item, AppliedItem | HealedItem):
            self._on_told(node, item, now_ms)
        elif isinstance(item, LogShortItem):
            replica = self._holder.replicas.get(item.shard)
            if replica is None or replica.replica != item.receiver or item.sender != replica.raft.leader:
                return
            if node in self.met and node == replica.leader_node:
                replica.lost = replica.lost or lost_log.loss(replica.raft, item)
                self._holder.look_at(replica, now_ms)
        elif isinstance(item, SnapshotPull | HistoryPull):
            self._on_transfer_item(node, item, now_ms)
        elif isinstance(item, AnswerItem):
            self._streams.answered(item.stream, node, item.deltas, item.replies, now_ms)
        elif isinstance(item, ForwardItem):
            self._on_forwarded(node, item)
        elif isinstance(item, GrantItem):
            replica = self._holder.replicas.get(item.shard)
            if replica is not None:
                replica.feed.grant((node, item.stream), item.watch, item.credit_bytes, self._turn)
        elif isinstance(item, CloseItem):
            self._schedule.close_stream(self._holder.replicas, (node, item.stream))
        elif isinstance(item, ResetItem):
            self._on_reset(node, now_ms)
        elif isinstance(item, CompileRequest):
            self.compiling.on_request(node, item.code_hash)
        elif isinstance(item, CompiledItem):
            self.compiling.on_compiled(node, item.code_hash)
        elif isinstance(item, ReportItem | OrderItem):
            if node in self.met:
                check_steering(item)
                self._steering.on_item(node, item, now_ms)
        elif node in self.met:
            self._on_member_item(node, item, now_ms)

    def _on_message(self, node: NodeId, item: RaftItem) -> None:
        check_message(item.message)
        replica = self._holder.replicas.get(item.shard)
        if replica is None or replica.replica != item.receiver:
            self._holdings.on_stray(node, item)
            return
        if not replica.members.has(item.sender) or not replica.members.admits(item.sender, node):
            removal = replica.removal_of(item.sender, node)
            if removal is not None:
                self._turn.send_now(node, removal)
                return
            if not replica.members.admits(item.sender, node):
                return
        replica.receive(item.sender, node, item.message)
        self._schedule.ready[replica.id] = None

    def _on_told(self, node: NodeId, item: AppliedItem | HealedItem | DivergenceItem, now_ms: float) -> None:
        """What another replica says about its documents."""
        replica = self._holder.replicas.get(item.shard)
        if replica is None or node not in self.met or not replica.members.has(item.sender):
            return
        if item.receiver != replica.replica or not replica.members.admits(item.sender, node):
            return
        if isinstance(item, AppliedItem):
            self._divergences.on_applied(replica, item, now_ms, self._turn)
            return
        check_divergence(item, self._router)
        if isinstance(item, HealedItem):
            self._divergences.on_healed(replica, item, self._turn)
        else:
            self._divergences.on_item(replica, item, now_ms, self._turn)
        self._schedule.moved[replica.id] = None
        self._holder.look_at(replica, now_ms)

    def _on_member_item(self, node: NodeId, item: MemberItem, now_ms: float) -> None:
        check_member_item(item)
        if isinstance(item, AbsentItem):
            self._holdings.on_absent(node, item)
        elif isinstance(item, InviteItem):
            self._holdings.on_invite(item, now_ms)
        elif isinstance(item, RemovedItem):
            self._holdings.on_removed(item)
        elif isinstance(item, LossItem):
            self._holdings.losses.on_loss(node, item, now_ms)
        elif isinstance(item, LostItem):
            self._holdings.losses.on_lost(item)
        else:
            self._holdings.on_inquiry(node, item)

    def _on_forwarded(self, node: NodeId, item: ForwardItem) -> None:
        stream = (node, item.stream)
        sound = []
        for operation in item.operations:
            try:
                check_forwarded(operation, item.shard, self._router)
            except ClusterError as error:
                self._turn.reply(stream, Reply(operation.id, 0, 0, b"", failure_of(error)))
            else:
                if operation.kind != Kind.WATCH or node in self._holder.connected:
                    sound.append(operation)  # a watch that could not be answered is opened when that node is reached again
        if sound and sound[0].kind == Kind.CONTROL:
            sound = self.control.arrived(stream, sound)
        if sound:
            self._holder.submit_to_replica(item.shard, stream, sound)

    def _on_reset(self, node: NodeId, now_ms: float) -> None:
        """What that node had for our streams may be lost, and it has given up what it had here."""
        self._streams.node_lost(node, now_ms)
        self._schedule.close_node(self._holder.replicas, node)

    def _on_bulk_item(self, node: NodeId, item: BulkLaneItem, now_ms: float) -> None:
        if isinstance(item, BundleRequest):
            self._turn.send_bulk(node, BundleReply(item.code_hash, self._bundles.get(item.code_hash) or b""))
        elif isinstance(item, BundleReply):
            if self._bundles.receive(item.code_hash, item.bundle, self._turn.batch):
                for replica in self._holder.replicas.values():
                    if replica.stalled:
                        replica.stalled = ""
                        self._schedule.ready[replica.id] = None
        elif isinstance(item, DivergenceItem):
            self._on_told(node, item, now_ms)
        elif isinstance(item, DecisionsRequest):
            self.learning.on_request(node, item)
        elif isinstance(item, DecisionsReply):
            if node in self.met:
                self.learning.on_reply(item)
        else:
            self._on_transfer_item(node, item, now_ms)

    def _on_transfer_item(self, node: NodeId, item: TransferItem | PullItem, now_ms: float) -> None:
        replica = self._holder.replicas.get(item.shard)
        if replica is None or not replica.members.admits(item.sender, node):
            return
        replica.members.heard(item.sender, node)
        self._transfers.on_item(replica, item, now_ms, self._turn)
        self._schedule.moved[replica.id] = None
        self._holder.look_at(replica, now_ms)


def check_message(message: Message) -> None:
    """Raise InvalidRequest unless every number can be what it says it is. What the numbers mean is Raft's business."""
    if isinstance(message, Append):
        numbers = [message.term, message.previous_index, message.previous_term, message.commit]
        numbers += [number for run in message.runs for number in (run.first_index, run.term)]
    elif isinstance(message, AppendReply):
        numbers = [message.term, message.index, message.hint_index, message.hint_term]
    elif isinstance(message, VoteRequest):
        numbers = [message.term, message.last_index, message.last_term]
    elif isinstance(message, VoteReply):
        numbers = [message.term]
    elif isinstance(message, TimeoutNow):
        numbers = [message.term, message.last_index]
    else:
        numbers = [message.term, message.meta.index, message.meta.term]
        if message.meta.term > message.term:
            raise InvalidRequest("a snapshot is of its leader's term or an earlier one")
    if min(numbers) < 0 or max(numbers) > NUMBER_MAX:
        raise InvalidRequest(f"numbers of a message are 0 to {NUMBER_MAX}")


def check_steering(item: SteeringItem) -> None:
    """Raise InvalidRequest unless every number can be what it says it is."""
    if isinstance(item, OrderItem):
        numbers: list[int] = [item.term, item.version, *(order.shard for order in item.orders)]
    else:
        numbers = [item.base, item.version, *item.lost, *(for_ms for _, for_ms in item.unheard)]
        for state in item.led:
            numbers += [state.shard, state.term, state.index, state.highest, state.last_index, *state.lags]
            if len(state.lags) != len(state.places):
                raise InvalidRequest("each member of a shard lacks a number of entries")
    if not all(0 <= number <= NUMBER_MAX for number in numbers):
        raise InvalidRequest(f"numbers of a message are 0 to {NUMBER_MAX}")


def check_member_item(item: MemberItem) -> None:
    """Raise InvalidRequest unless this can be about a replica of a shard."""
    if isinstance(item, LossItem):
        return  # only compared with what is here
    numbers: list[int] = [item.replica]
    if isinstance(item, RemovedItem):
        numbers += [item.index, item.term]
    elif isinstance(item, InviteItem | LostItem):
        shard = item.shard
        if not _could_be(shard):
            raise InvalidRequest(f"there is no shard like {shard}")
        numbers += [shard.epoch, shard.configured, item.term]
    if item.replica < 1 or min(numbers) < 0 or max(numbers) > NUMBER_MAX:
        raise InvalidRequest(f"numbers of a replica are at most {NUMBER_MAX}")


def _could_be(shard: Shard) -> bool:
    """Whether a shard that names no replicas can be one. The system shard owns no interval."""
    if shard.shard == SYSTEM_SHARD:
        return shard.start == shard.end == 0 and not shard.replicas
    return 0 < shard.shard <= SHARDS_MAX and 0 <= shard.start < shard.end <= HASH_SPACE and not shard.replicas


def check_forwarded(operation: Operation, shard: int, router: Router) -> None:
    """Raise InvalidName, InvalidRequest or StaleRoute unless a gateway of this cluster could have sent this to `shard`."""
    if operation.kind not in _KINDS:
        raise InvalidRequest(f"there is no operation of kind {operation.kind}")
    check_space(operation.space)
    if max(operation.sequence, operation.acked_through, operation.epoch, operation.index) > NUMBER_MAX:
        raise InvalidRequest(f"numbers of an operation are at most {NUMBER_MAX}")
    if operation.kind in (Kind.LIST, Kind.CONTROL, Kind.WORK):
        return  # of a shard, not of a document
    check_key(operation.key)
    if router.shard_of(operation.space, operation.key) != shard:
        raise StaleRoute(f"{operation.space}/{operation.key} is not of shard {shard}", shard_map_version=router.map.version)


def check_divergence(item: DivergenceItem | HealedItem, router: Router) -> None:
    """Raise InvalidName or InvalidRequest unless every document is of the shard and every number can be what it says it is."""
    names: list[tuple[str, str]] = []
    numbers: list[int] = []
    epochs: list[int] = []
    if isinstance(item, CompareRequest):
        names = [(mark.space, mark.key) for mark in item.marks]
        numbers, epochs = [item.applied, *(mark.index for mark in item.marks)], [mark.epoch for mark in item.marks]
        if len(names) > DOCUMENTS_COMPARED_MAX:
            raise InvalidRequest(f"at most {DOCUMENTS_COMPARED_MAX} documents are compared at a time")
    elif isinstance(item, EvidenceRequest):
        names, numbers, epochs = [(item.space, item.key)], [item.settled, item.first], [item.epoch]
    elif isinstance(item, VerdictItem):
        report = item.divergence
        names, epochs = [report.name], [report.epoch]
        numbers = [item.term, report.index, report.log_index, report.found_ms]
        numbers += [number for first, count, _ in item.history for number in (first, count - 1)]
        if report.shard != item.shard:
            raise InvalidRequest("a report is on a document of its shard")
    elif isinstance(item, HealedItem):
        names = [(item.space, item.key)]
    for space, key in names:
        check_space(space)
        check_key(key)
        if router.shard_of(space, key) != item.shard:
            raise InvalidRequest(f"{space}/{key} is not of shard {item.shard}")
    if not all(0 <= number <= NUMBER_MAX for number in numbers) or not all(0 <= epoch <= EPOCH_MAX for epoch in epochs):
        raise InvalidRequest(f"numbers of a message are 0 to {NUMBER_MAX}, epochs to {EPOCH_MAX}")
