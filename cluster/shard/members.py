"""Where the replicas of one shard run, as its own log tells.

Raft speaks of replicas, the pump of nodes; this stands between. The newest configuration of the log counts, committed or not,
as in Raft; one that is rolled back takes its places with it. The shard map's places are only a hint beside this.

A replica that is behind, or new, is spoken to by replicas that its configuration does not name yet (a later leader, a later
candidate). It answers where they spoke from: these are strangers, and few are remembered.

Invariant: a known replica is where its configuration says and nowhere else: what comes from elsewhere in its name is refused.
"""

from __future__ import annotations

from cluster.empty import NO_ENTRIES
from cluster.ids import NodeId, ReplicaId
from cluster.raft.configuration import MEMBERS_MAX
from cluster.raft.messages import Configuration, Places

STRANGERS_MAX = MEMBERS_MAX
"""Senders remembered beside the configuration; the oldest goes."""


class Members:
    """Replicas and nodes of one shard, as one of its replicas knows them.

    They are few, and looked up in the configuration's own places: a node has thousands of these.
    """

    __slots__ = ("_places", "_strangers")

    def __init__(self, configuration: Configuration) -> None:
        self._places: Places = configuration.places
        self._strangers: dict[ReplicaId, NodeId] = NO_ENTRIES

    def adopt(self, configuration: Configuration) -> dict[ReplicaId, NodeId]:
        """Another configuration counts now. Returns who was a member and is none any more."""
        before, self._places = self._places, configuration.places
        if before == self._places:
            return NO_ENTRIES
        known = {replica for replica, _ in self._places}
        left = {replica: node for replica, node in before if replica not in known}
        for replica in known:
            self._strangers.pop(replica, None)
        for replica, node in left.items():
            self.heard(replica, node)  # it may still be owed an answer
        return left

    def admits(self, replica: ReplicaId, node: NodeId) -> bool:
        """Whether what `node` says in the name of `replica` can come from it."""
        place = self._place(replica)
        return place is None or place == node

    def heard(self, replica: ReplicaId, node: NodeId) -> None:
        """`replica` spoke from `node`; it is remembered if the configuration does not name it."""
        if self.has(replica) or self._strangers.get(replica) == node:
            return
        if not self._strangers:
            self._strangers = {}
        self._strangers.pop(replica, None)
        if len(self._strangers) >= STRANGERS_MAX:
            del self._strangers[next(iter(self._strangers))]
        self._strangers[replica] = node

    def node_of(self, replica: ReplicaId) -> NodeId | None:
        """Where to reach a replica; None when nothing is known of it."""
        return self._place(replica) or self._strangers.get(replica)

    def replica_on(self, node: NodeId) -> ReplicaId | None:
        """The member that `node` holds."""
        return next((replica for replica, where in self._places if where == node), None)

    def has(self, replica: ReplicaId) -> bool:
        return self._place(replica) is not None

    def _place(self, replica: ReplicaId) -> NodeId | None:
        for known, node in self._places:
            if known == replica:
                return node
        return None
