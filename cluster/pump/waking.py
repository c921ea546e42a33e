"""What the loss and return of peers means to this node's groups. Those in use hear of it at once, sleepers in turn.

A sleeper has no timer (`cluster.raft.sleeping`): it relies on what its node's liveness said when it fell asleep. Whatever may
end that is news of `NodeLiveness`, about a node or about single groups, and everybody whom it concerns waits here to be woken.
When a node dies or comes back that can be thousands of groups, each of which may elect a leader: they wake a few each turn, so
that groups in use, which are awake, are served in between. Who is used meanwhile goes first.

Invariant: between a piece of news and the waking of everybody it concerns, all of them are in here; whether a sleeper has
anything to do is for its Raft core to find out.
"""

from __future__ import annotations

import math
from typing import Protocol

from cluster.ids import NodeId, ShardId
from cluster.pump.liveness import NodeLiveness
from cluster.pump.routes import first_stream
from cluster.pump.schedule import Schedule
from cluster.pump.streams import Streams
from cluster.pump.transfers import Transfers
from cluster.raft.events import LivenessChanged
from cluster.shard.replica import ShardReplica
from cluster.shard.turn import Turn

WAKES_PER_TURN = 32
"""An election costs a turn of three nodes about a millisecond each, so that a turn with so many stays far below a heartbeat."""


class Holder(Protocol):
    """The pump, as far as its peers' ups and downs concern it."""

    replicas: dict[ShardId, ShardReplica]
    liveness: NodeLiveness
    streams: Streams

    def look_at(self, replica: ShardReplica, now_ms: float) -> None: ...


class Waking:
    """silence_ms: without a heartbeat or an acknowledgement for so long a peer is not there.

    Who waits to be woken is kept by shard, with the nodes whose process is another one now: followers there have forgotten what
    they did not have to make durable, and must be asked.
    """

    def __init__(self, holder: Holder, schedule: Schedule, transfers: Transfers, turn: Turn, silence_ms: float) -> None:
        self._holder = holder
        self._schedule = schedule
        self._transfers = transfers
        self._turn = turn
        self._silence_ms = silence_ms
        self._first: dict[ShardId, set[NodeId]] = {}
        self._waiting: dict[ShardId, set[NodeId]] = {}

    # -- peers -------------------------------------------------------------------------------------------------------

    def messages_lost(self, node: NodeId, now_ms: float) -> None:
        """To or from a peer, on the lane of log and operations. A sleeper had none under way."""
        holder = self._holder
        holder.streams.node_lost(node, now_ms)
        self._close_watches(node)
        for replica in holder.replicas.values():
            if not replica.raft.asleep:
                replica.peer_unreachable(node, now_ms, self._turn)
                holder.look_at(replica, now_ms)

    def process_gone(self, node: NodeId, now_ms: float, successor: int = 0) -> None:
        """A peer's process ended. successor: the boot generation of the one that has taken its place, 0 for none. Its liveness
        may come later than what its clients say: their streams are new, and stay.
        """
        holder = self._holder
        holder.streams.node_lost(node, now_ms)
        self._close_watches(node, first_stream(successor) if successor else math.inf)
        for replica in holder.replicas.values():
            if replica.leader_node == node and not replica.raft.asleep:
                replica.leader_lost(now_ms, self._turn)
                holder.look_at(replica, now_ms)

    def _leader_silent(self, node: NodeId, now_ms: float) -> None:
        """Groups in use take turns to replace a leader that is not heard, instead of waiting for the first random timeout."""
        for replica in self._holder.replicas.values():
            if replica.leader_node == node and not replica.raft.asleep:
                replica.handle(LivenessChanged(), now_ms, self._turn)
                self._holder.look_at(replica, now_ms)

    def _close_watches(self, node: NodeId, before: float = math.inf) -> None:
        """What the peer's gateway was served in streams of numbers below `before`, and what the peer was sending to a replica
        here, does not go on.
        """
        self._schedule.close_node(self._holder.replicas, node, before)
        self._transfers.sender_lost(node, self._holder.replicas)

    # -- sleepers ----------------------------------------------------------------------------------------------------

    @property
    def pending(self) -> int:
        """How many wait to be woken."""
        return len(self._first) + len(self._waiting)

    @property
    def busy(self) -> bool:
        """Whether the next turn wakes anybody."""
        return bool(self._first or (self._waiting and self._schedule.room_to_stand))

    def tick(self, now_ms: float) -> None:
        """Wake some of those who rely on what liveness has changed its mind about.

        Silence is noticed when it is due and not with the next beat: nodes that heard the same last heartbeat then notice
        together, and the ranks of their replicas hold.
        """
        holder = self._holder
        if now_ms >= holder.liveness.silence_due_ms:
            for node in holder.liveness.look_out(now_ms, self._silence_ms):
                holder.streams.node_lost(node, now_ms)
                self._schedule.node_silent(holder.replicas, node, self._turn)
                self._leader_silent(node, now_ms)
        if holder.liveness.has_news:
            self._hear()
        if self._first or self._waiting:
            for shard, restarted in self._take().items():
                replica = holder.replicas.get(shard)
                if replica is not None:
                    for node in sorted(restarted):
                        replica.peer_unreachable(node, now_ms, self._turn)
                    if replica.raft.asleep:
                        replica.handle(LivenessChanged(), now_ms, self._turn)
                    holder.look_at(replica, now_ms)

    def hasten(self, shard: ShardId) -> None:
        """Somebody uses this group: if it is to be woken, then before those that nobody uses."""
        if shard in self._waiting:
            self._first[shard] = self._waiting.pop(shard)

    def _hear(self) -> None:
        """Enlist every sleeper that there is news for, and everybody who must ask a restarted peer what it still has."""
        news, replicas = self._holder.liveness.take_news(), self._holder.replicas
        for shard in sorted(news.shards):
            replica = replicas.get(shard)
            if replica is not None and replica.raft.asleep:
                self._enlist(shard)
        for node in sorted(news.nodes):
            restarted = {node} & news.restarted
            for shard, replica in replicas.items():
                # One that is awake now may have slept when the connection to the process before was lost.
                if (replica.raft.asleep or restarted) and _concerns(replica, node):
                    self._enlist(shard).update(restarted)

    def _enlist(self, shard: ShardId) -> set[NodeId]:
        first = self._first.get(shard)
        return first if first is not None else self._waiting.setdefault(shard, set())

    def _take(self) -> dict[ShardId, set[NodeId]]:
        """Those whose turn it is. While as many elections are under way as there may be, only who is used."""
        taken: dict[ShardId, set[NodeId]] = {}
        for queue, limit in ((self._first, WAKES_PER_TURN), (self._waiting, min(WAKES_PER_TURN, self._schedule.room_to_stand))):
            while queue and len(taken) < limit:
                shard = next(iter(queue))
                taken[shard] = queue.pop(shard)
        return taken


def _concerns(replica: ShardReplica, node: NodeId) -> bool:
    """Whether this sleeper relies on what was known of `node`, or waits for it."""
    if replica.leads or replica.raft.leader is None:
        return replica.members.replica_on(node) is not None
    return replica.leader_node == node
