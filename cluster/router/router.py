"""From a document to the node that (probably) leads its shard.

Everything here is a hint that the shard itself corrects: a node that does not lead answers NotLeader with who does. Any
node serves any key in at most one hop.
"""

from __future__ import annotations

from cluster.ids import NodeId, ShardId
from cluster.shardmap.map import ShardMap


class Router:
    """One node's view of who leads what.

    map: this node's cached shard map; replaced by a newer one.
    """

    def __init__(self, node: NodeId, shard_map: ShardMap) -> None:
        self.node = node
        self.map = shard_map
        self._hints: dict[ShardId, NodeId] = {}
        self._tried: dict[ShardId, int] = {}

    def shard_of(self, space: str, key: str) -> ShardId:
        return self.map.shard_of(space, key)

    def hint(self, shard: ShardId, leader: NodeId | None) -> None:
        """Somebody said who leads; None when they no longer know."""
        if leader is None or leader == "":
            self._hints.pop(shard, None)
        else:
            self._hints[shard] = leader

    def hinted(self, shard: ShardId) -> NodeId | None:
        return self._hints.get(shard)

    def node_for(
        self, shard: ShardId, local_leader: NodeId | None, connected: frozenset[NodeId] | set[NodeId]
    ) -> NodeId | None:
        """Where to send from a node that holds a replica: to the leader that it knows, else to the hint; None when neither is
        reachable. `connected` are the peers that can be sent to."""
        for candidate in (local_leader, self._hints.get(shard)):
            if candidate is not None and (candidate == self.node or candidate in connected):
                return candidate
        return None

    def elsewhere(self, shard: ShardId, connected: frozenset[NodeId] | set[NodeId]) -> NodeId | None:
        """Where to send from a node that holds no replica: to the hint, else to those whom the map names, in turn."""
        hinted = self._hints.get(shard)
        if hinted is not None and hinted in connected:
            return hinted
        known = self.map.get(shard)
        holders = [place.node for place in known.replicas if place.node in connected] if known is not None else []
        if not holders:
            return None
        turn = self._tried.get(shard, 0)
        self._tried[shard] = turn + 1
        return holders[turn % len(holders)]

    def forget_node(self, node: NodeId) -> None:
        """A peer is gone: hints to it are worthless."""
        for shard in [shard for shard, hinted in self._hints.items() if hinted == node]:
            del self._hints[shard]
