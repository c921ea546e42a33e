"""Telling the controller of placement what this node leads, and whom it does not hear.

A shard is looked at when its leader or its configuration may have changed, not because time passed; only shards that change by
themselves (a learner receives, a joint configuration is being left) are looked at again at every beat. What changed since the
version that the controller has taken is sent, in one frame, until it has taken it.

Invariant: a version that the controller confirmed is known to it whole; a controller that confirms none is told everything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from cluster.ids import SYSTEM_SHARD, NodeId, ShardId
from cluster.placement.move import CATCH_UP_ENTRIES
from cluster.pump.changes import Changes, status_of
from cluster.pump.liveness import NodeLiveness
from cluster.pump.routes import Routes
from cluster.shard.replica import ShardReplica
from cluster.shard.steering import ReportItem, ShardState

SLOW_BEAT_MS = 10_000.0
"""A node without news says after so long that it has none: whoever missed something asks."""
RESEND_MS = 2_000.0
"""What was not confirmed is sent again after so long."""


class Holder(Protocol):
    """The pump, as far as reports concern it."""

    node: NodeId
    peers: list[NodeId]
    replicas: dict[ShardId, ShardReplica]
    liveness: NodeLiveness
    routes: Routes


class Reporting:
    """send: how a report gets to the node that leads the system shard, which may be this one."""

    def __init__(self, holder: Holder, changes: Changes, send: Callable[[NodeId, ReportItem, float], None]) -> None:
        self._holder, self._changes, self._send = holder, changes, send
        self._dirty: dict[ShardId, None] = {}
        self._watching: dict[ShardId, None] = {}
        """Led here, and changing without anybody telling."""
        self._said: dict[ShardId, int] = {}
        """Of each shard that is led here: a digest of what was noted of it last."""
        self._pending: dict[ShardId, int] = {}
        """What the controller may not know yet, by the version that it has to take for that."""
        self._unheard: dict[NodeId, float] = {}
        self._told_unheard: frozenset[NodeId] = frozenset()
        self._controller: NodeId | None = None
        self._version = 1
        self._taken = 0
        self._sent = (0, float("-inf"))

    def look_at(self, shard: ShardId) -> None:
        """Something about a shard may be new."""
        self._dirty[shard] = None

    def watch(self, shard: ShardId) -> None:
        """A shard is about to change: look at it until nothing about it is under way."""
        self._watching[shard] = None

    def on_taken(self, controller: NodeId, version: int) -> None:
        """The controller knows everything up to a version; 0: it wants everything."""
        if controller != self._controller:
            return
        self._taken = version if version <= self._version else 0
        if self._taken:
            self._pending = {shard: at for shard, at in self._pending.items() if at > version}
        else:
            self._sent = (0, float("-inf"))

    def beat(self, now_ms: float) -> None:
        """Once a second or so: say what is new."""
        self._listen(now_ms)
        looked_at, self._dirty = {**self._dirty, **self._watching}, {}
        for shard in looked_at:
            self._note(shard, now_ms)
        controller = self._holder.routes.leader(SYSTEM_SHARD)
        if controller is None:
            return
        if controller != self._controller:
            self._controller, self._taken, self._sent = controller, 0, (0, float("-inf"))
        sent, sent_ms = self._sent
        unheard = frozenset(self._unheard)
        news = self._version > sent or unheard != self._told_unheard
        waits = self._taken < sent and now_ms - sent_ms >= RESEND_MS
        if news or waits or now_ms - sent_ms >= SLOW_BEAT_MS:
            self._told_unheard = unheard
            self._sent = (self._version, now_ms)
            self._send(controller, self._report(now_ms), now_ms)

    def _listen(self, now_ms: float) -> None:
        """Whom this node does not hear, and since when."""
        for node in self._holder.peers:
            if not self._holder.liveness.acknowledges(node):
                self._unheard.setdefault(node, now_ms)
            elif self._unheard.pop(node, None) is not None:
                # Those that stood still because it was away catch up now, of which nobody tells.
                for shard in self._said:
                    replica = self._holder.replicas.get(shard)
                    if replica is not None and replica.members.replica_on(node) is not None:
                        self._watching[shard] = None
        for node in self._unheard.keys() - self._holder.peers:
            del self._unheard[node]

    def _note(self, shard: ShardId, now_ms: float) -> None:
        replica = self._holder.replicas.get(shard)
        if replica is None or not replica.serves:
            self._watching.pop(shard, None)
            if self._said.pop(shard, None) is not None:
                self._version += 1
                self._pending[shard] = self._version
            return
        status = status_of(replica)
        held = self._changes.held(shard, now_ms)
        behind = tuple([
            (member.replica, member.lag if member.replica in status.learners else CATCH_UP_ENTRIES)
            for member in status.members
            if member.lag > (0 if member.replica in status.learners else CATCH_UP_ENTRIES)
        ])  # fmt: skip
        catches_up = any(member.lag and member.node not in self._unheard for member in status.members) and bool(behind)
        changing = bool(status.learners or status.outgoing or held or not status.committed or catches_up)
        if changing or status.transferring_to is not None:
            self._watching[shard] = None
        else:
            self._watching.pop(shard, None)
        digest = hash((replica.raft.term, status.index, status.committed, len(status.outgoing), held, behind))
        if self._said.get(shard) != digest:
            self._said[shard] = digest
            self._version += 1
            self._pending[shard] = self._version

    def _report(self, now_ms: float) -> ReportItem:
        shards = self._pending if self._taken else self._said
        replicas = self._holder.replicas
        led = [self._state(replicas[shard], now_ms) for shard in shards if shard in self._said and shard in replicas]
        lost = [shard for shard in shards if shard not in self._said]
        unheard = [(node, int(now_ms - since_ms)) for node, since_ms in self._unheard.items()]
        return ReportItem(self._taken, self._version, led, lost, unheard)

    def _state(self, replica: ShardReplica, now_ms: float) -> ShardState:
        status = status_of(replica)
        return ShardState(
            shard=replica.id,
            term=replica.raft.term,
            index=status.index,
            committed=status.committed,
            voters=status.voters,
            learners=status.learners,
            outgoing=status.outgoing,
            highest=status.highest,
            places=replica.raft.configuration.places,
            lags=tuple([member.lag for member in status.members]),
            last_index=status.last_index,
            held=self._changes.held(replica.id, now_ms),
        )
