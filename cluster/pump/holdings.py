"""Which replicas this node holds: born by invitation, ended by notice, both written before they matter.

Birth. A leader sends its new replica entries like any other. The node answers that it holds no such replica, the leader
invites it once its configuration is committed, and an empty replica begins: it knows no configuration, can not campaign, and
takes log or snapshot from whoever leads.

Death. Whoever has a committed configuration without a replica says so to it, at once or when it next speaks. It and all it
stored are erased, what it was is remembered, and clients are sent on. A replica that misses that asks, once a later shard map
does not name it.

Invariant: a replica id never comes back (reference trap 12): per shard the highest id that this node ever held is durable, and
no invitation at or below it is taken. One replica a shard: an invitation beyond the present one's id proves its removal. What
a node knew of terms outlives its replica, so that it never vouches for a leader whose successor removed it (reference trap 53).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from cluster.errors import InvalidRequest
from cluster.ids import LogIndex, NodeId, ReplicaId, ShardId, Term
from cluster.pump import facts
from cluster.pump.changes import Changes
from cluster.pump.facts import Held, HeldShards
from cluster.pump.liveness import NodeLiveness
from cluster.pump.losses import Losses
from cluster.pump.outbox import Outbox
from cluster.pump.schedule import Schedule
from cluster.pump.transfers import Transfers
from cluster.raft.messages import Append, Configuration, SnapshotOffer
from cluster.router.router import Router
from cluster.shard.replica import ShardReplica
from cluster.shard.snapshot import erase_stored
from cluster.shard.turn import AbsentItem, InquiryItem, InviteItem, RaftItem, RemovedItem, Turn

NO_REPLICA = ReplicaId(0)
STRAYS_MAX = 64
"""Questions kept for replicas that are not here yet; the oldest goes, and is asked again."""
NOTHING = Configuration(())
"""What an invited replica knows of its shard."""


class Holder(Protocol):
    """The pump, as far as a replica's beginning and end concern it."""

    node: NodeId
    replicas: dict[ShardId, ShardReplica]
    router: Router
    liveness: NodeLiveness

    def look_at(self, replica: ShardReplica, now_ms: float) -> None: ...


class Holdings:
    """held: what is durable of each shard that this node holds or has held. begin: opens a replica from what is on disk.
    losses: the replicas that lost their logs here, and those of others that are replaced from here. blank: see there.
    """

    def __init__(
        self,
        holder: Holder,
        held: HeldShards,
        begin: Callable[[Held, float], ShardReplica],
        schedule: Schedule,
        transfers: Transfers,
        outbox: Outbox,
        turn: Turn,
        changes: Changes,
        *,
        blank: bool,
    ) -> None:
        self._node = holder.node
        self._holder = holder
        self._held = held
        self._begin = begin
        self._router = holder.router
        self._liveness = holder.liveness
        self._schedule = schedule
        self._transfers = transfers
        self._outbox = outbox
        self._turn = turn
        self._erased_at: dict[ShardId, int] = {}
        """The newest batch when a replica was erased: before a later one is handed out its data are still there."""
        self.absent: dict[ShardId, dict[ReplicaId, NodeId]] = {}
        """New replicas of shards that are led here, and not there yet; invited once their configuration is committed."""
        self._strays: dict[ShardId, tuple[NodeId, RaftItem]] = {}
        """What last came for a replica that is not here, without its entries: answered when it begins, so that its leader need
        not wait to ask again."""
        self._unnamed: dict[ShardId, None] = {}
        """Held here, and not named by the map: perhaps removed."""
        for shard, what in held.items():
            self._liveness.floor_term(shard, what.term)
        self.losses = Losses(holder, held, blank, self._remember, self._take_down, self._erase, changes, turn)
        self.map_changed()

    # -- birth -------------------------------------------------------------------------------------------------------

    def on_stray(self, node: NodeId, item: RaftItem) -> None:
        """Something came for a replica that is not here. One that never was may begin; one that was is gone for good."""
        held = self._held.get(item.shard)
        if held is not None and item.receiver <= held.highest:
            return
        if not self.losses.knows(item.shard):
            return
        self._turn.send_now(node, AbsentItem(item.shard, item.receiver))
        message = item.message
        if isinstance(message, Append):
            message = Append(message.term, message.previous_index, message.previous_term, LogIndex(0), [])
        if isinstance(message, Append | SnapshotOffer):
            self._strays.pop(item.shard, None)
            if len(self._strays) >= STRAYS_MAX:
                del self._strays[next(iter(self._strays))]
            self._strays[item.shard] = (node, RaftItem(item.shard, item.sender, item.receiver, message))

    def on_absent(self, node: NodeId, item: AbsentItem) -> None:
        replica = self._holder.replicas.get(item.shard)
        if replica is not None and replica.leads and replica.members.node_of(item.replica) == node:
            self.absent.setdefault(item.shard, {})[item.replica] = node
            self.invite(replica)

    def invite(self, replica: ShardReplica) -> None:
        """Invite who is absent. Only a committed configuration does: what is rolled back never began, and its ids were never
        used.
        """
        absent = self.absent.pop(replica.id, {})
        if not replica.leads:
            return
        shard = msgspec.structs.replace(replica.shard, replicas=())
        places = replica.raft.committed_configuration.places
        for one, node in absent.items():
            if (one, node) in places:
                self._turn.send_now(node, InviteItem(shard, one, replica.raft.term))
            elif replica.members.node_of(one) == node:
                self.absent.setdefault(replica.id, {})[one] = node

    def on_invite(self, item: InviteItem, now_ms: float) -> None:
        """Begin an empty replica. An older one here is removed first, and the next invitation finds its place free."""
        shard = item.shard.shard
        held = self._held.get(shard)
        if (held is not None and item.replica <= held.highest) or not self.losses.knows(shard):
            return
        if held is not None and held.lost and shard not in self._holder.replicas and shard not in self._erased_at:
            self._erase(shard)
        if shard in self._holder.replicas:
            self._end(shard, item.term, NodeId(""))
            return
        if self._erased_at.pop(shard, -1) == self._outbox.written:
            self._erased_at[shard] = self._outbox.written
            return
        floor = max(item.term, held.term) if held is not None else item.term
        lost, why = (held.lost, held.why) if held is not None else (NO_REPLICA, "")
        held = Held(item.shard, item.replica, item.replica, NOTHING, floor, lost, why)
        replica = self._begin(held, now_ms)
        self._remember(held)
        self._liveness.floor_term(shard, floor)
        self._holder.replicas[shard] = replica
        self._check_named(shard)
        node, stray = self._strays.pop(shard, (self._node, None))
        if stray is not None and stray.receiver == replica.replica:
            replica.receive(stray.sender, node, stray.message)
            self._schedule.ready[shard] = None
        self._holder.look_at(replica, now_ms)

    # -- death -------------------------------------------------------------------------------------------------------

    def on_removed(self, item: RemovedItem) -> None:
        """A replica of this node was removed from its shard. Raises InvalidRequest when that can not be true: it is a member of
        the very configuration that is named, or of a later one.
        """
        replica = self._holder.replicas.get(item.shard)
        if replica is None or replica.replica != item.replica:
            return
        raft = replica.raft
        known = (item.replica, self._node) in raft.committed_configuration.places
        if known and item.index <= raft.committed_configured_index:
            raise InvalidRequest(f"replica {item.replica} of shard {item.shard} is a member since after entry {item.index}")
        self._end(item.shard, item.term, item.leader)

    def _end(self, shard: ShardId, term: Term, leader: NodeId) -> None:
        replica, held = self._holder.replicas[shard], self._held[shard]
        floor = max(held.term, term, replica.raft.term)
        self._take_down(shard)
        self._erase(shard)
        self._remember(msgspec.structs.replace(held, replica=NO_REPLICA, first=NOTHING, term=floor))
        self._liveness.floor_term(shard, floor)
        if leader and leader != self._node:
            self._router.hint(shard, leader)

    def _take_down(self, shard: ShardId) -> None:
        """The replica says and does nothing any more; what it stored stays."""
        self._holder.replicas.pop(shard).stop(self._turn)
        self._unnamed.pop(shard, None)
        self._liveness.delist(shard)
        self._schedule.forget(shard)
        self._transfers.forget(shard)
        self._outbox.forget(shard)

    def _erase(self, shard: ShardId) -> None:
        """Nothing stays of what this node stored of a shard."""
        erase_stored(shard, self._turn.batch)
        self._erased_at[shard] = self._outbox.written

    def on_inquiry(self, node: NodeId, item: InquiryItem) -> None:
        replica = self._holder.replicas.get(item.shard)
        removal = replica.removal_of(item.replica, node) if replica is not None else None
        if removal is not None:
            self._turn.send_now(node, removal)

    def map_changed(self) -> None:
        """Look again which replicas of this node the map does not name."""
        self._unnamed.clear()
        for shard, replica in self._holder.replicas.items():
            known = self._router.map.get(shard)
            if known is not None and known == replica.shard:
                replica.shard = known  # there are thousands: one object each, and not two that are equal
            self._check_named(shard)

    def _check_named(self, shard: ShardId) -> None:
        known = self._router.map.get(shard)
        if known is not None and known.replica_on(self._node) != self._holder.replicas[shard].replica:
            self._unnamed[shard] = None

    def inquire(self, connected: set[NodeId]) -> None:
        """Ask those whom the map names about replicas that it does not name; at every housekeeping."""
        for shard in self._unnamed:
            known, replica = self._router.map.get(shard), self._holder.replicas[shard]
            for place in known.replicas if known is not None else ():
                if place.node in connected:
                    self._turn.send_now(place.node, InquiryItem(shard, replica.replica))

    def _remember(self, held: Held) -> None:
        self._held[held.shard.shard] = held
        self.losses.note(held)
        facts.remember_held(self._turn.batch, held)
