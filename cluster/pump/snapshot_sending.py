"""The giving side of snapshots and history: chunks leave when they are asked for and when the node's rate allows.

A transfer holds the sender's log from the point behind which its receiver will replay. One that breaks off still counts like a
lagging follower for a while, so that it can be resumed (see `cluster.shard.compaction`).

Invariant: one chunk per transfer is in flight, TRANSFERS_MAX transfers run at once, and of what others ask for only the newest
question of each replica is remembered.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
from msgspec import Struct

from cluster.errors import InvalidRequest, StorageDamaged
from cluster.ids import LogIndex, NodeId, ReplicaId, ShardId
from cluster.pump.pacing import TokenBucket
from cluster.raft import configuration
from cluster.raft.messages import SnapshotMeta
from cluster.shard.replica import ShardReplica
from cluster.shard.snapshot import Lacking
from cluster.shard.turn import (
    HistoryChunk,
    HistoryPull,
    SnapshotChunk,
    SnapshotClose,
    SnapshotOpening,
    SnapshotPull,
    Turn,
)

_NEVER = float("inf")
CHUNK_BYTES = 512 * 1024
"""Records or history in one chunk, so that none holds up the turn, or a lane, for long."""
TRANSFERS_MAX = 2
"""Snapshots a node sends at a time, and receives at a time; further replicas wait for their turn."""

SILENT_PATIENCES = 10
"""More than a receiver's longest pause between two questions (see `cluster.pump.snapshot_receiving`)."""

Place = tuple[ShardId, ReplicaId]


class SnapshotEnd(Struct, frozen=True, array_like=True):
    """What the last chunk brings beside records: where the snapshot stands, and the shard's time there. doubted: some of it
    may be wrong, so that whoever has copied it is no witness for it.
    """

    meta: SnapshotMeta
    now_ms: int
    doubted: bool = False


def decode_end(body: bytes) -> SnapshotEnd | None:
    """A peer's bytes as SnapshotEnd, None when they are not one."""
    try:
        end = msgspec.msgpack.decode(body, type=SnapshotEnd)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    try:
        configuration.check(end.meta.configuration)
    except InvalidRequest:
        return None
    meta = end.meta
    sound = 0 <= meta.configured <= meta.index and min(meta.index, meta.term) > 0 and end.now_ms >= 0
    return end if sound else None


@dataclass(slots=True)
class _Outgoing:
    """number: its name between the two. point: where the records stood at the beginning. pull: what the receiver asked for
    and has not got. heard_ms: when it last asked. doubted: whether it began while nobody knew whether all of this is right.
    """

    replica: ShardReplica
    peer: ReplicaId
    number: int
    point: LogIndex
    heard_ms: float
    doubted: bool
    pull: SnapshotPull | None = None


class SnapshotSending:
    """Everything this node gives.

    patience_ms: about an election timeout. A receiver that asks for nothing SILENT_PATIENCES times as long gives its place to
    another.
    """

    def __init__(self, bucket: TokenBucket, patience_ms: float, chunk_bytes: int = CHUNK_BYTES) -> None:
        self._bucket = bucket
        self._chunk_bytes = chunk_bytes
        self._patience_ms = patience_ms
        self._silence_ms = patience_ms * SILENT_PATIENCES
        self._outgoing: dict[Place, _Outgoing] = {}
        self._waiting: dict[Place, ShardReplica] = {}
        self._history: dict[Place, tuple[ShardReplica, HistoryPull]] = {}
        self._number = 0

    def deadline_ms(self, now_ms: float) -> float:
        """When `tick` has something to do."""
        if not (self._outgoing or self._history):
            return _NEVER
        due = min([transfer.heard_ms + self._silence_ms for transfer in self._outgoing.values()], default=_NEVER)
        if self._history or any(transfer.pull is not None for transfer in self._outgoing.values()):
            due = min(due, self._bucket.ready_at_ms(now_ms))
        return due

    # -- transfers ---------------------------------------------------------------------------------------------------

    def open(self, replica: ShardReplica, peer: ReplicaId, now_ms: float, turn: Turn) -> None:
        """Offer `peer` the state of a shard that is led here, or have it wait for its turn. What Raft or a damaged replica asks
        for comes again as long as it is needed, so a place that is lost is not lost for good.
        """
        place = (replica.id, peer)
        node = replica.members.node_of(peer)
        doubted = bool(replica.cache.doubted)
        if node is None or not replica.serves or replica.cache.withholds:  # what may be wrong is not spread
            return
        under_way = self._outgoing.get(place)
        if under_way is not None:
            if under_way.pull is None and now_ms - under_way.heard_ms >= self._patience_ms:
                _send_opening(under_way, node, turn)  # the receiver may have forgotten it
            return
        if len(self._outgoing) >= TRANSFERS_MAX:
            self._waiting[place] = replica
            return
        self._waiting.pop(place, None)
        # From the next turn on, which is when a pull can come at the earliest, the stored shard stands at the applied index.
        replica.save_all(turn)
        self._number += 1
        point = replica.applied
        transfer = self._outgoing[place] = _Outgoing(replica, peer, self._number, point, now_ms, doubted)
        broken = replica.broken_snapshots.pop(peer, point)
        replica.hold_for_snapshot(peer, max(replica.raft.snapshot.index, min(point, broken)))
        _send_opening(transfer, node, turn)

    def on_request(self, replica: ShardReplica, peer: ReplicaId, now_ms: float, turn: Turn) -> None:
        """A damaged replica asks for the state of a shard."""
        if replica.serves:
            replica.cache.withhold(peer)
        self.open(replica, peer, now_ms, turn)

    def on_pull(self, replica: ShardReplica, pull: SnapshotPull, now_ms: float, turn: Turn) -> None:
        """The receiver asks for the next chunk."""
        place = (replica.id, pull.sender)
        transfer = self._outgoing.get(place)
        if transfer is None or transfer.number != pull.transfer:
            _close(replica, pull.sender, pull.transfer, turn)
        elif not replica.raft.snapshot.index <= pull.point <= transfer.point:
            self._end(place, now_ms, turn, failed=True, told=True)
        else:
            transfer.heard_ms = now_ms
            transfer.pull = pull
            replica.hold_for_snapshot(pull.sender, pull.point)

    def on_close(self, replica: ShardReplica, close: SnapshotClose, now_ms: float, turn: Turn) -> None:
        """The receiver has what it needs, or can not take it now."""
        place = (replica.id, close.sender)
        transfer = self._outgoing.get(place)
        if transfer is not None and transfer.number == close.transfer:
            self._end(place, now_ms, turn, failed=not close.done)

    def node_lost(self, node: NodeId, now_ms: float, turn: Turn) -> None:
        """Transfers to that node go on when it is back, from where they stopped."""
        for place, transfer in list(self._outgoing.items()):
            if place in self._outgoing and transfer.replica.members.node_of(transfer.peer) == node:
                self._end(place, now_ms, turn, failed=True)
        for place, (replica, pull) in list(self._history.items()):
            if replica.members.node_of(pull.sender) == node:
                del self._history[place]

    def forget(self, shard: ShardId) -> None:
        """This node's replica is gone."""
        for places in (self._outgoing, self._waiting, self._history):
            for place in [place for place in places if place[0] == shard]:
                del places[place]

    def on_history_pull(self, replica: ShardReplica, pull: HistoryPull) -> None:
        """A replica, not necessarily led from here, asks for history."""
        self._history[(replica.id, pull.sender)] = (replica, pull)

    def tick(self, now_ms: float, turn: Turn) -> None:
        """Send what was asked for, as far as the rate allows; end transfers nobody asks about any more."""
        if not (self._outgoing or self._history):
            return
        for place, transfer in list(self._outgoing.items()):
            if place not in self._outgoing:
                continue
            if not transfer.replica.serves:
                self._end(place, now_ms, turn, failed=True, told=True)
            elif transfer.pull is not None:
                if self._bucket.ready_at_ms(now_ms) <= now_ms:
                    self._send_chunk(place, transfer, transfer.pull, now_ms, turn)
            elif now_ms - transfer.heard_ms >= self._silence_ms:
                self._end(place, now_ms, turn, failed=True)
        for place, (replica, pull) in list(self._history.items()):
            if self._bucket.ready_at_ms(now_ms) > now_ms:
                break
            del self._history[place]
            self._send_history(replica, pull, now_ms, turn)

    # -- chunks ------------------------------------------------------------------------------------------------------

    def _send_chunk(self, place: Place, transfer: _Outgoing, pull: SnapshotPull, now_ms: float, turn: Turn) -> None:
        replica = transfer.replica
        try:
            records = replica.stored.read(replica.cache.generation, pull.after, self._chunk_bytes)
        except StorageDamaged as error:
            self._end(place, now_ms, turn, failed=True, told=True)
            replica.found_unreadable(error.message, turn)
            return
        end = b""
        if not records:
            raft = replica.raft
            meta = raft.snapshot_at(pull.point)
            end = msgspec.msgpack.encode(SnapshotEnd(meta, replica.time_ms, transfer.doubted or bool(replica.cache.doubted)))
        transfer.pull = None
        self._bucket.charge(sum(len(name) + len(body) for name, body in records), now_ms)
        node = replica.members.node_of(transfer.peer)
        if node is not None:
            head = (replica.id, replica.replica, transfer.peer, replica.raft.term, transfer.number)
            turn.send_bulk(node, SnapshotChunk(*head, pull.after, replica.applied, records, end))

    def _send_history(self, replica: ShardReplica, pull: HistoryPull, now_ms: float, turn: Turn) -> None:
        node = replica.members.node_of(pull.sender)
        if node is None:
            return
        head = (replica.id, replica.replica, pull.sender, pull.after)
        wanted = Lacking(pull.first, pull.last, pull.after)
        try:
            if not _has_history(replica, wanted):
                turn.send_bulk(node, HistoryChunk(*head, [], b"", False, True))
                return
            rows, through, read_bytes = replica.stored.read_history(wanted, self._chunk_bytes)
        except StorageDamaged:
            turn.send_bulk(node, HistoryChunk(*head, [], b"", False, True))
            return
        self._bucket.charge(read_bytes, now_ms)
        turn.send_bulk(node, HistoryChunk(*head, rows, through, not through, False))

    def _end(self, place: Place, now_ms: float, turn: Turn, *, failed: bool, told: bool = False) -> None:
        transfer = self._outgoing.pop(place)
        replica, peer = transfer.replica, transfer.peer
        held = replica.held_for_snapshots.pop(peer, None)
        if told:
            _close(replica, peer, transfer.number, turn)
        if failed:
            if held is not None and replica.leads:
                replica.snapshot_broke(peer, held)
            replica.snapshot_failed(peer, now_ms, turn)
        while self._waiting and len(self._outgoing) < TRANSFERS_MAX:
            shard, waiting = next(iter(self._waiting))
            self.open(self._waiting.pop((shard, waiting)), waiting, now_ms, turn)


def _send_opening(transfer: _Outgoing, node: NodeId, turn: Turn) -> None:
    replica = transfer.replica
    head = (replica.id, replica.replica, transfer.peer, replica.raft.term, transfer.number)
    turn.send_bulk(node, SnapshotOpening(*head, transfer.point, replica.raft.snapshot.index))


def _close(replica: ShardReplica, peer: ReplicaId, number: int, turn: Turn) -> None:
    node = replica.members.node_of(peer)
    if node is not None:
        turn.send_bulk(node, SnapshotClose(replica.id, replica.replica, peer, number, False))


def _has_history(replica: ShardReplica, wanted: Lacking) -> bool:
    """Whether this replica has all of it that is kept anywhere: it has applied that far and lacks none of it itself."""
    own = replica.stored.lacking
    if replica.damaged or replica.applied < wanted.last:
        return False
    return own is None or own.last <= wanted.first or wanted.last <= own.first
