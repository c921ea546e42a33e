"""The receiving side of snapshots: pull chunk after chunk into a new key generation, then switch to it.

What has arrived is noted with it (`StoredShard.partial`), so a transfer that broke off goes on from there, with the same leader
or another: every record stands at the noted point or later whoever sent it, and replay from that point skips what a record has
already. All that a sender must fulfil is that its log reaches back to the point.

Invariant: chunks are taken in the order of their names, each once; asking for the next one waits for the sync of the last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cluster.errors import InvalidName
from cluster.ids import NodeId, ReplicaId, ShardId
from cluster.pump.pacing import Patience
from cluster.pump.snapshot_sending import TRANSFERS_MAX, decode_end
from cluster.raft.events import SnapshotInstalled
from cluster.shard.replica import ShardReplica
from cluster.shard.snapshot import ShardMetadata
from cluster.shard.turn import SnapshotChunk, SnapshotClose, SnapshotOpening, SnapshotPull, SnapshotRequest, Turn

_NEVER = float("inf")
REPEATS_MAX = 6
"""Unanswered questions in a row after which a transfer counts as broken off; it is resumed when its leader offers it again."""
PATIENCES_MAX = 4
"""The longest pause between two questions, in patiences."""


@dataclass(slots=True)
class _Incoming:
    replica: ShardReplica
    sender: ReplicaId
    number: int
    patience: Patience


class SnapshotReceiving:
    """Everything this node is being sent. installed: how many snapshots it has switched to. patience_ms: about an election
    timeout; what a lost chunk costs.
    """

    def __init__(self, patience_ms: float) -> None:
        self._patience_ms = patience_ms
        self._incoming: dict[ShardId, _Incoming] = {}
        self.installed = 0

    @property
    def deadline_ms(self) -> float:
        """When `tick` has something to do."""
        if not self._incoming:
            return _NEVER
        return min([incoming.patience.ends_ms for incoming in self._incoming.values()])

    def on_opening(self, replica: ShardReplica, opening: SnapshotOpening, now_ms: float, turn: Turn) -> None:
        """A leader offers its state: go on where an earlier transfer stopped if its log reaches back to there, else anew."""
        under_way = self._incoming.get(replica.id)
        if under_way is not None and (under_way.sender, under_way.number) == (opening.sender, opening.transfer):
            return
        if opening.receiver != replica.replica or opening.term < replica.raft.term or replica.leads:
            _close(replica, opening.sender, opening.transfer, False, turn)
            return
        if not replica.damaged and opening.point <= replica.raft.commit_index:
            replica.stored.give_up(turn)
            self._incoming.pop(replica.id, None)  # an earlier leader's, which came for nothing with what it brought
            _close(replica, opening.sender, opening.transfer, True, turn)
            return
        full = under_way is None and len(self._incoming) >= TRANSFERS_MAX
        if full or not self._make_ready(replica, opening, turn):
            _close(replica, opening.sender, opening.transfer, False, turn)
            return
        patience = Patience(self._patience_ms, self._patience_ms * PATIENCES_MAX)
        incoming = self._incoming[replica.id] = _Incoming(replica, opening.sender, opening.transfer, patience)
        self._pull(incoming, now_ms, turn)

    def _make_ready(self, replica: ShardReplica, opening: SnapshotOpening, turn: Turn) -> bool:
        """Have a generation to receive into. False when the offer is of no use now: a state machine does not go back."""
        least = replica.applied if replica.damaged else 0
        if not 0 <= opening.floor <= opening.point or opening.point < max(least, 1):
            return False
        partial = replica.stored.partial
        if partial is not None:
            point = min(partial.point, opening.point)
            if max(least, opening.floor) <= point:
                replica.stored.lower(point, turn)
                return True
        replica.stored.begin(opening.point, turn)
        return True

    def _pull(self, incoming: _Incoming, now_ms: float, turn: Turn, *, again: bool = False) -> None:
        replica = incoming.replica
        partial, node = replica.stored.partial, replica.members.node_of(incoming.sender)
        incoming.patience.asked(now_ms, again=again)
        if node is not None:
            assert partial is not None, "a generation was begun"
            head = (replica.id, replica.replica, incoming.sender, incoming.number)
            turn.send_after_sync(node, SnapshotPull(*head, partial.point, partial.after))

    def on_chunk(self, replica: ShardReplica, chunk: SnapshotChunk, now_ms: float, turn: Turn) -> None:
        """Store a chunk; the last one switches to the new generation."""
        incoming = self._incoming.get(replica.id)
        if incoming is None or (incoming.sender, incoming.number) != (chunk.sender, chunk.transfer):
            _close(replica, chunk.sender, chunk.transfer, False, turn)
            return
        partial = replica.stored.partial
        assert partial is not None, "a generation was begun"
        if chunk.after != partial.after:
            return  # it came twice
        incoming.patience.answered(now_ms)
        if replica.leads or chunk.term < replica.raft.term:
            self._finish(replica, chunk, False, turn)
            return
        try:
            replica.stored.write(chunk.records, chunk.through, turn)
        except InvalidName:
            self._finish(replica, chunk, False, turn)
            return
        if chunk.end:
            done = self._install(replica, chunk, now_ms, turn)
            if not done:
                replica.stored.give_up(turn)
            self._finish(replica, chunk, done, turn)
        elif chunk.records:
            self._pull(incoming, now_ms, turn)
        else:
            self._finish(replica, chunk, False, turn)  # no records and no end: not what a chunk is

    def _install(self, replica: ShardReplica, chunk: SnapshotChunk, now_ms: float, turn: Turn) -> bool:
        """Switch to what was received. False when it can not be this replica's state now; nothing changed then.

        Where the log need not be reset, its own entries go on behind the snapshot, so that must lie at or after what is
        applied (the state machine does not go back) and be known as committed.
        """
        end, partial = decode_end(chunk.end), replica.stored.partial
        assert partial is not None, "a generation was begun"
        if end is None or end.meta.index != partial.point:
            return False
        resets = replica.raft.needs_snapshot(end.meta)
        if not resets and not replica.damaged:
            replica.stored.give_up(turn)
            return True
        if not resets and not replica.applied <= end.meta.index <= replica.raft.commit_index:
            return False
        replica.install(end.meta, ShardMetadata(end.now_ms), resets_log=resets, turn=turn)
        if end.doubted:
            replica.cache.copied_through = max(replica.cache.copied_through, chunk.through)
        replica.handle(SnapshotInstalled(chunk.sender, end.meta), now_ms, turn)
        self.installed += 1
        return True

    def _finish(self, replica: ShardReplica, chunk: SnapshotChunk, done: bool, turn: Turn) -> None:
        del self._incoming[replica.id]
        _close(replica, chunk.sender, chunk.transfer, done, turn)

    def on_close(self, replica: ShardReplica, close: SnapshotClose) -> None:
        """The sender can not go on; what has arrived stays."""
        incoming = self._incoming.get(replica.id)
        if incoming is not None and (incoming.sender, incoming.number) == (close.sender, close.transfer):
            del self._incoming[replica.id]

    def sender_lost(self, node: NodeId, replicas: Mapping[ShardId, ShardReplica]) -> None:
        """That node's transfers do not go on; what has arrived stays."""
        for shard, incoming in list(self._incoming.items()):
            if replicas[shard].members.node_of(incoming.sender) == node:
                del self._incoming[shard]

    def forget(self, shard: ShardId) -> None:
        """This node's replica is gone."""
        self._incoming.pop(shard, None)

    def tick(self, now_ms: float, turn: Turn) -> None:
        """Ask again for what is overdue."""
        if not self._incoming:
            return
        for shard, incoming in list(self._incoming.items()):
            if incoming.patience.ends_ms <= now_ms:
                if incoming.patience.repeats >= REPEATS_MAX:
                    del self._incoming[shard]
                else:
                    self._pull(incoming, now_ms, turn, again=True)

    def look_after(self, replica: ShardReplica, turn: Turn) -> None:
        """At every housekeeping: ask the leader for the state of a damaged replica; erase what came for nothing."""
        if replica.id in self._incoming:
            return
        partial, leader = replica.stored.partial, replica.leader_node
        if replica.damaged:
            if leader is not None and not replica.leads:
                turn.send_bulk(leader, SnapshotRequest(replica.id, replica.replica))
        elif partial is not None and partial.point <= replica.raft.commit_index:
            replica.stored.give_up(turn)  # the log has brought it by now


def _close(replica: ShardReplica, sender: ReplicaId, number: int, done: bool, turn: Turn) -> None:
    node = replica.members.node_of(sender)
    if node is not None:
        turn.send_bulk(node, SnapshotClose(replica.id, replica.replica, sender, number, done))
