"""Replicas that lost their logs, and how they are replaced.

A replica whose log ends below what it acknowledged, or can not be read, has promised what it no longer knows. It is taken down
for good: it never votes, acknowledges or leads again. Its node goes on, and says at every heartbeat what it lost; the shard's
leader then replaces it under a new id, from whatever point an earlier leader left (`cluster.placement.replacement`).

A node that lost its whole store (its directory says so: it is blank) does not know what it held. Leaders tell it, and it notes
that as lost. Until then it says nothing about, and takes no invitation to, a shard that it knows nothing of.

Invariant: while a lost replica is not replaced, its node excepts the shard in every liveness answer, so that no leader counts
the node for a read that the lost replica would have denied it; and the loss stays durable until a new voter stands there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from cluster.errors import ChangePending, InvalidRequest, LearnerBehind, NotLeader, Transferring
from cluster.ids import SYSTEM_SHARD, NodeId, ReplicaId, ShardId
from cluster.placement.move import Action
from cluster.placement.replacement import next_replacement
from cluster.pump.changes import Changes, status_of
from cluster.pump.facts import Held, HeldShards
from cluster.pump.liveness import NodeLiveness
from cluster.raft.messages import Configuration
from cluster.shard.replica import ShardReplica
from cluster.shard.turn import LossItem, LostItem, Turn

NO_REPLICA = ReplicaId(0)
_WHOLE_STORE = "the node's store was damaged and all of it is lost"


class Holder(Protocol):
    """The pump, as far as losses concern it."""

    replicas: dict[ShardId, ShardReplica]
    liveness: NodeLiveness


class Losses:
    """held: what is durable of each shard that this node holds or has held; `remember` changes it. blank: this node lost all
    that it had held before. end: takes a replica down without erasing anything. erase: removes what is stored of a shard.
    """

    def __init__(
        self,
        holder: Holder,
        held: HeldShards,
        blank: bool,
        remember: Callable[[Held], None],
        end: Callable[[ShardId], None],
        erase: Callable[[ShardId], None],
        changes: Changes,
        turn: Turn,
    ) -> None:
        self._holder = holder
        self._held = held
        self._blank = blank
        self._remember = remember
        self._end = end
        self._erase = erase
        self._changes = changes
        self._turn = turn
        holder.liveness.excepts_unknown = blank
        self.found: dict[ShardId, str] = {}
        """Replicas that are found to have lost their logs in this turn, and how; taken down at its end."""
        self.lost: dict[ShardId, Held] = {}
        """The shards of which this node lost its replica, and has no voter yet."""
        for held_one in held.values():
            self.note(held_one)
        for shard in self.lost:
            holder.liveness.refuse(shard)

    def note(self, held: Held) -> None:
        """What is held of a shard changed."""
        if held.lost:
            self.lost[held.shard.shard] = held
        else:
            self.lost.pop(held.shard.shard, None)

    # -- at the node that lost something -----------------------------------------------------------------------------

    def take_down(self) -> None:
        """At the end of each turn: replicas that can not be believed any more say nothing of what they were about to say."""
        while self.found:
            self._lose(*self.found.popitem())

    def _lose(self, shard: ShardId, why: str) -> None:
        replica = self._holder.replicas.get(shard)
        if replica is None:
            return
        held = self._held[shard]
        term = max(held.term, replica.raft.term)
        self._end(shard)
        self._remember(
            msgspec.structs.replace(held, replica=NO_REPLICA, first=Configuration(()), term=term, lost=replica.replica, why=why)
        )
        self._holder.liveness.refuse(shard)

    def announce(self, nodes: list[NodeId]) -> None:
        """At every heartbeat: say what is lost, and see what is replaced."""
        for shard, held in list(self.lost.items()):
            replica = self._holder.replicas.get(shard)
            if replica is not None and replica.replica in replica.raft.committed_configuration.voters:
                self._remember(msgspec.structs.replace(held, lost=NO_REPLICA, why=""))
                self._holder.liveness.accept(shard)
        lost = [(shard, held.lost) for shard, held in self.lost.items()]
        if lost or self._blank:
            holds = [(shard, replica.replica) for shard, replica in self._holder.replicas.items()] if self._blank else []
            item = LossItem(lost, self._blank, holds)
            for node in nodes:
                self._turn.send_now(node, item)

    def on_lost(self, item: LostItem) -> None:
        """A leader says what this blank node had, or that a lost replica is not to be replaced."""
        shard = item.shard.shard
        held = self._held.get(shard)
        if shard in self._holder.replicas:
            return
        if item.over:
            if held is not None and held.lost == item.replica:
                self._erase(shard)
                self._remember(msgspec.structs.replace(held, lost=NO_REPLICA, why=""))
        elif self._blank and (held is None or item.replica > held.highest):
            term = held.term if held is not None else item.term
            lost = Held(item.shard, NO_REPLICA, item.replica, Configuration(()), term, item.replica, _WHOLE_STORE)
            self._remember(lost)
            self._holder.liveness.refuse(shard)

    def knows(self, shard: ShardId) -> bool:
        """Whether a replica of the shard may begin here: not where one may have been that nobody remembers."""
        return not self._blank or shard in self._held

    # -- at the leader -----------------------------------------------------------------------------------------------

    def on_loss(self, node: NodeId, item: LossItem, now_ms: float) -> None:
        """A node says what it lost: replace what is led here."""
        told = {shard for shard, _ in item.lost}
        for shard, lost in item.lost:
            replica = self._holder.replicas.get(shard)
            if replica is not None and replica.serves:
                self._changes.replaces(shard, node, now_ms)
                self._replace(replica, lost, node, now_ms)
        if not item.blank:
            return
        holds = dict(item.holds)
        for shard, replica in self._holder.replicas.items():
            member = replica.members.replica_on(node) if replica.leads and shard not in told else None
            if member is not None and holds.get(shard) != member:
                self._tell(node, replica, member, over=False)

    def _replace(self, replica: ShardReplica, lost: ReplicaId, node: NodeId, now_ms: float) -> None:
        status = status_of(replica)
        # Replication factors are odd: an even number of voters is one short. Every node holds the system shard.
        wanted = replica.id == SYSTEM_SHARD or len(status.voters) % 2 == 0
        try:
            step = next_replacement(status, lost, node, wanted=wanted)
            if step.action is Action.CHANGE:
                self._changes.take_step(replica, status, step, now_ms)
            elif step.action is Action.DONE and status.on(node) is None:
                self._tell(node, replica, lost, over=True)
        except (NotLeader, ChangePending, LearnerBehind, Transferring, InvalidRequest):
            pass  # it is said again at the next heartbeat; a sleeper may find only now that it leads no more

    def _tell(self, node: NodeId, replica: ShardReplica, lost: ReplicaId, *, over: bool) -> None:
        shard = msgspec.structs.replace(replica.shard, replicas=())
        self._turn.send_now(node, LostItem(shard, lost, replica.raft.term, over))
