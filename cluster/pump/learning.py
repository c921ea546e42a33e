"""How decisions of the system shard reach a node, and what the node does with them.

A node with a replica of shard 0 applies them; if nothing comes, its replica may have been removed while it was away, which only
the newer decisions tell, and it asks like the others. Every other node hears from its peers' heartbeats which version they
know, and asks whoever knows a newer one for all of it: decisions are few and small, and a newer version replaces an older one
whole. Nothing is sent while nothing is decided, and nobody needs to reach shard 0 itself to learn of it.

Invariant: only what was committed is handed on, and a version is never replaced by an older one. What a peer sends is judged
before anything of it counts (reference trap 25: one bad value must not end every node that it reaches).
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from cluster.errors import ClusterError, InvalidRequest
from cluster.ids import SYSTEM_SHARD, NodeId, ShardId, check_node
from cluster.pump import facts
from cluster.pump.liveness import NodeLiveness
from cluster.shard.directory import Decisions, Directory
from cluster.shard.replica import ShardReplica
from cluster.shard.turn import DecisionsReply, DecisionsRequest, Turn
from cluster.shardmap.map import ShardMap
from cluster.shardmap.nodes import NODES_MAX, Nodes

ASK_AGAIN_MS = 500.0
"""An answer that has not come by then is asked for again, of whoever knows it."""
OWN_LOG_MS = 3_000.0
"""So long a node with a replica of shard 0 waits for its own log before it asks others."""


class Holder(Protocol):
    """The pump, as far as decisions concern it."""

    node: NodeId
    peers: list[NodeId]
    directory: Directory
    liveness: NodeLiveness
    replicas: dict[ShardId, ShardReplica]

    def new_decisions(self, shard_map: ShardMap | None) -> None: ...


class Learning:
    """One node's part."""

    def __init__(self, holder: Holder, turn: Turn) -> None:
        self._holder = holder
        self._turn = turn
        self._asked_ms = float("-inf")
        self._behind_ms: float | None = None
        """Since when this node has heard of newer decisions than its own replica brings it."""
        self.tell()

    def tell(self) -> None:
        """Say with every heartbeat what is known here, and count those as peers that belong to the cluster."""
        self._behind_ms = None
        decisions = self._holder.directory.decisions
        self._holder.liveness.decided = decisions.version
        if decisions.nodes:
            self._holder.peers[:] = peers_of(decisions.nodes, self._holder.node)

    def take(self, decisions: Decisions) -> bool:
        """Newer decisions count from now on, durably with this turn's batch. Says whether they were newer."""
        directory, peers = self._holder.directory, list(self._holder.peers)
        if not directory.absorb(decisions):
            return False
        encoded = directory.encode()
        facts.remember_directory(self._turn.batch, encoded)
        self.tell()
        for node in set(peers).difference(self._holder.peers):
            self._turn.send_bulk(node, DecisionsReply(encoded))  # the last that a node hears which was removed
        self._holder.new_decisions(ShardMap(decisions.shard_map) if decisions.shard_map is not None else None)
        return True

    def heard(self, node: NodeId, version: int, now_ms: float) -> None:
        """A peer says which version it knows. Who applies decisions itself waits for its own log, but not for ever."""
        if version <= self._holder.directory.decisions.version:
            return
        if SYSTEM_SHARD in self._holder.replicas:
            if self._behind_ms is None:
                self._behind_ms = now_ms
            if now_ms - self._behind_ms < OWN_LOG_MS:
                return
        if now_ms - self._asked_ms >= ASK_AGAIN_MS:
            self._asked_ms = now_ms
            self._turn.send_bulk(node, DecisionsRequest(self._holder.directory.decisions.version))

    def on_request(self, node: NodeId, item: DecisionsRequest) -> None:
        """Give what is newer."""
        if self._holder.directory.decisions.version > item.version:
            self._turn.send_bulk(node, DecisionsReply(self._holder.directory.encode()))

    def on_reply(self, item: DecisionsReply) -> None:
        """Take what is newer. Raises InvalidRequest for what can not be decisions of a cluster; nothing changed then."""
        self.take(read_decisions(item.decisions))
        self._asked_ms = float("-inf")


def peers_of(nodes: Nodes, node: NodeId) -> list[NodeId]:
    """Those of the cluster's nodes that are not this one."""
    return [each.node for each in nodes if each.belongs and each.node != node]


def read_decisions(encoded: bytes) -> Decisions:
    """Decisions as another node sent them. Raises InvalidRequest for what can not be decisions of a cluster."""
    try:
        decisions = msgspec.msgpack.decode(encoded, type=Decisions)
        if decisions.shard_map is not None:
            ShardMap(decisions.shard_map)
        for each in decisions.nodes:
            check_node(each.node)
        if len(decisions.nodes) > NODES_MAX or decisions.version < 0:
            raise InvalidRequest("numbers of decisions are out of their range")
    except (msgspec.DecodeError, AssertionError, IndexError, ClusterError) as error:
        raise InvalidRequest(f"that can not be decisions of a cluster: {error}") from error
    return decisions
