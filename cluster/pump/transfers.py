"""Moving a whole shard's state to a replica that lacks it, while the shard goes on serving.

A snapshot is not a copy at one instant. The sender first writes every unsaved record: its stored shard then stands at its
applied index S. Records are then read in key order and may meanwhile be rewritten with later entries; the receiver replays
the log from S + 1 and skips, for each document, what its record has already. So nothing is frozen, copied or locked.

The receiver writes chunks into a new key generation, invisible until one small batch switches to it and resets the log to S. A
transfer that breaks leaves an unused generation, which the next one overwrites. History follows behind the switch: the
replica is useful before it knows the past.

One chunk is in flight a transfer: a lagging replica is served at the pace of its disk and never crowds out the log.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
from msgspec import Struct

from cluster.errors import InvalidName, InvalidRequest, StorageDamaged
from cluster.ids import NodeId, ReplicaId, ShardId
from cluster.raft import configuration
from cluster.raft.events import SnapshotInstalled
from cluster.raft.messages import SnapshotMeta
from cluster.shard.replica import ShardReplica
from cluster.shard.snapshot import Piece, ShardMetadata
from cluster.shard.turn import SnapshotAck, SnapshotChunk, SnapshotRequest, Turn

CHUNK_BYTES = 1024 * 1024
CHUNK_TIMEOUT_MS = 10_000.0
TRANSFERS_MAX = 2
"""Transfers a node sends at a time; further replicas wait for their turn."""


class SnapshotEnd(Struct, frozen=True, array_like=True):
    """What the last chunk brings beside records: where the snapshot stands, and the shard's time there."""

    meta: SnapshotMeta
    now_ms: int


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
    return end if end.meta.index > 0 and end.meta.term > 0 and end.now_ms >= 0 else None


@dataclass(slots=True)
class _Outgoing:
    replica: ShardReplica
    peer: ReplicaId
    number: int
    end: SnapshotEnd
    generation: int
    after: bytes | None = None
    sequence: int = 0
    waiting_since_ms: float | None = None
    begun: bool = False
    switched: bool = False
    last: bool = False


@dataclass(slots=True)
class _Incoming:
    sender: ReplicaId
    number: int
    generation: int
    next_sequence: int = 0
    heard_ms: float = 0.0
    switched: bool = False


class Transfers:
    """All snapshot transfers of one node, in both directions."""

    def __init__(self) -> None:
        self._outgoing: dict[tuple[ShardId, ReplicaId], _Outgoing] = {}
        self._incoming: dict[ShardId, _Incoming] = {}
        self._queue: list[tuple[ShardReplica, ReplicaId]] = []
        self._number = 0
        self.installed = 0

    @property
    def deadline_ms(self) -> float:
        """When `tick` has something to do: at once while a chunk can be sent, or when one is overdue."""
        due = float("inf")
        for transfer in self._outgoing.values():
            if transfer.waiting_since_ms is None:
                return 0.0
            due = min(due, transfer.waiting_since_ms + CHUNK_TIMEOUT_MS)
        return due

    # -- sending -----------------------------------------------------------------------------------------------------

    def start(self, replica: ShardReplica, now_ms: float, turn: Turn) -> None:
        """Begin the transfers that a leader's Raft core asked for."""
        wanted, replica.snapshots_wanted = replica.snapshots_wanted, []
        for peer in wanted:
            self._begin(replica, peer, turn)

    def requested(self, replica: ShardReplica, peer: ReplicaId, now_ms: float, turn: Turn) -> None:
        """A replica with damaged state asks for all of it; only a leader in good health gives."""
        if replica.serves:
            self._begin(replica, peer, turn)

    def _begin(self, replica: ShardReplica, peer: ReplicaId, turn: Turn) -> None:
        key = (replica.id, peer)
        if key in self._outgoing or not replica.serves:
            return
        if len(self._outgoing) >= TRANSFERS_MAX:
            if (replica, peer) not in self._queue:
                self._queue.append((replica, peer))
            return
        replica.save_all(turn)
        meta = replica.raft.snapshot_at(replica.applied)
        self._number += 1
        replica.held_for_snapshots[peer] = replica.applied
        end = SnapshotEnd(meta, replica.time_ms)
        self._outgoing[key] = _Outgoing(replica, peer, self._number, end, replica.cache.generation)

    def tick(self, now_ms: float, turn: Turn) -> None:
        """Send what can be sent; end what is overdue."""
        for key, transfer in list(self._outgoing.items()):
            if not transfer.begun:
                # the records saved for it are in this turn's batch: they can be read from the next turn on.
                transfer.begun = True
            elif transfer.waiting_since_ms is None:
                try:
                    sent = transfer.replica.serves and self._send_chunk(transfer, now_ms, turn)
                except StorageDamaged as error:
                    transfer.replica.found_unreadable(error.message, turn)
                    sent = False
                if not sent:
                    self._end(key, now_ms, turn, failed=True)
            elif now_ms - transfer.waiting_since_ms > CHUNK_TIMEOUT_MS:
                self._end(key, now_ms, turn, failed=True)

    def _send_chunk(self, transfer: _Outgoing, now_ms: float, turn: Turn) -> bool:
        """Raises StorageDamaged when a record of ours can not be read; damaged history only ends the transfer (False)."""
        replica = transfer.replica
        records: list[Piece] = []
        history: list[Piece] = []
        end = b""
        if transfer.switched:
            try:
                history = replica.stored.read_history(transfer.after, CHUNK_BYTES)
            except StorageDamaged:
                return False
            transfer.last = not history
        else:
            records = replica.stored.read(transfer.generation, transfer.after, CHUNK_BYTES)
            if not records:
                transfer.switched = True
                end = msgspec.msgpack.encode(transfer.end)
        pieces = records or history
        transfer.after = pieces[-1][0] if pieces else None
        transfer.waiting_since_ms = now_ms
        node = replica.members.node_of(transfer.peer)
        if node is None or not replica.members.has(transfer.peer):
            return False  # it was removed meanwhile
        head = (replica.id, replica.replica, transfer.peer, replica.raft.term, transfer.number, transfer.sequence)
        turn.send_bulk(node, SnapshotChunk(*head, end, records, history, transfer.last))
        return True

    def on_ack(self, replica: ShardReplica, ack: SnapshotAck, now_ms: float, turn: Turn) -> None:
        """The receiver has a chunk, or refuses the transfer."""
        key = (replica.id, ack.sender)
        transfer = self._outgoing.get(key)
        if transfer is None or transfer.number != ack.transfer:
            return
        if ack.sequence < 0:
            self._end(key, now_ms, turn, failed=True)
        elif ack.sequence == transfer.sequence:
            if transfer.switched:
                replica.held_for_snapshots.pop(transfer.peer, None)
            if transfer.last:
                self._end(key, now_ms, turn, failed=False)
            else:
                transfer.sequence += 1
                transfer.waiting_since_ms = None

    def _end(self, key: tuple[ShardId, ReplicaId], now_ms: float, turn: Turn, *, failed: bool) -> None:
        transfer = self._outgoing.pop(key)
        transfer.replica.held_for_snapshots.pop(transfer.peer, None)
        if failed:
            transfer.replica.snapshot_failed(transfer.peer, now_ms, turn)
        while self._queue and len(self._outgoing) < TRANSFERS_MAX:
            self._begin(*self._queue.pop(0), turn)

    def node_lost(self, node: NodeId, now_ms: float, turn: Turn) -> None:
        """Transfers to that node start again when it is back."""
        for key, transfer in list(self._outgoing.items()):
            if key in self._outgoing and transfer.replica.members.node_of(transfer.peer) == node:
                self._end(key, now_ms, turn, failed=True)

    def sender_lost(self, replica: ShardReplica, node: NodeId) -> None:
        """What that node was sending does not go on."""
        incoming = self._incoming.get(replica.id)
        if incoming is not None and replica.members.node_of(incoming.sender) == node:
            del self._incoming[replica.id]

    def forget(self, shard: ShardId) -> None:
        """This node's replica is gone, and with it what it was sending or receiving."""
        self._incoming.pop(shard, None)
        self._queue = [(replica, peer) for replica, peer in self._queue if replica.id != shard]
        for key in [key for key in self._outgoing if key[0] == shard]:
            del self._outgoing[key]

    # -- receiving ---------------------------------------------------------------------------------------------------

    def on_chunk(self, replica: ShardReplica, chunk: SnapshotChunk, now_ms: float, turn: Turn) -> None:
        """Store a chunk; the last one switches to the new generation."""
        if replica.leads or chunk.term < replica.raft.term or chunk.receiver != replica.replica:
            self._ack(replica, chunk, -1, turn)
            return
        incoming = self._incoming.get(replica.id)
        if chunk.sequence == 0:
            incoming = _Incoming(chunk.sender, chunk.transfer, replica.cache.generation + 1, heard_ms=now_ms)
            self._incoming[replica.id] = incoming
            replica.stored.begin(incoming.generation, turn)
        if incoming is None or (incoming.sender, incoming.number) != (chunk.sender, chunk.transfer):
            self._ack(replica, chunk, -1, turn)
            return
        if chunk.sequence != incoming.next_sequence:
            return
        incoming.next_sequence += 1
        incoming.heard_ms = now_ms
        if not self._store(replica, chunk, incoming, now_ms, turn):
            del self._incoming[replica.id]
            self._ack(replica, chunk, -1, turn)
            return
        if chunk.last:
            del self._incoming[replica.id]
        self._ack(replica, chunk, chunk.sequence, turn)

    def _store(self, replica: ShardReplica, chunk: SnapshotChunk, incoming: _Incoming, now_ms: float, turn: Turn) -> bool:
        """Take what a chunk brings; False when it is not what it should be."""
        if incoming.switched and (chunk.records or chunk.end):
            return False
        try:
            replica.stored.write_history(chunk.history, turn)
            if chunk.records:
                replica.stored.write(incoming.generation, chunk.records, turn)
        except InvalidName:
            return False
        if chunk.end:
            incoming.switched = True
            return self._install(replica, chunk, incoming.generation, now_ms, turn)
        return True

    def _install(self, replica: ShardReplica, chunk: SnapshotChunk, generation: int, now_ms: float, turn: Turn) -> bool:
        """Switch to what was received. False when it can not be this replica's state now; nothing changed then.

        Where the log need not be reset, its own entries go on behind the snapshot, so that must lie at or after what is
        applied (the state machine does not go back) and be known as committed.
        """
        end = decode_end(chunk.end)
        if end is None:
            return False
        resets = replica.raft.needs_snapshot(end.meta)
        if not resets and not replica.damaged:
            return True
        if not resets and not replica.applied <= end.meta.index <= replica.raft.commit_index:
            return False
        replica.install(generation, end.meta, ShardMetadata(end.now_ms), resets_log=resets, turn=turn)
        replica.handle(SnapshotInstalled(chunk.sender, end.meta), now_ms, turn)
        self.installed += 1
        return True

    def _ack(self, replica: ShardReplica, chunk: SnapshotChunk, sequence: int, turn: Turn) -> None:
        node = replica.members.node_of(chunk.sender)
        if node is not None:
            turn.send_bulk(node, SnapshotAck(replica.id, replica.replica, chunk.sender, chunk.transfer, sequence))

    def repair(self, replica: ShardReplica, now_ms: float, turn: Turn) -> None:
        """Ask the leader for the state of a damaged replica; called at every housekeeping while it is damaged."""
        leader = replica.leader_node
        incoming = self._incoming.get(replica.id)
        if incoming is not None and now_ms - incoming.heard_ms > CHUNK_TIMEOUT_MS:
            del self._incoming[replica.id]
            incoming = None
        if leader is not None and not replica.leads and incoming is None:
            turn.send_bulk(leader, SnapshotRequest(replica.id, replica.replica))
