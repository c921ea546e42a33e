"""Draining and decommissioning nodes: what AdminService is asked about standings, and the end of a decommission.

A standing is only set here; leaders and replicas go where they go by the node's own hand-over and by the placement of replicas.
Any node answers, and what it says of shards is from the map, which follows every change within about a second.

Invariant: a node is removed only when it was to leave and the map names it in no shard; the system document checks both again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from cluster.errors import ClusterError, InvalidRequest, NodeRemoved
from cluster.gossip.messages import State
from cluster.ids import SYSTEM_SHARD, NodeId
from cluster.node.decisions import Decisions
from cluster.node.views import NodeView
from cluster.placement.leaving import Blocker, Others, blocks_decommission, blocks_drain
from cluster.pump.pump import Pump
from cluster.shardmap import nodes as registry
from cluster.shardmap.nodes import RegisteredNode, Standing

SETTLED_LOOKS = 3
"""A node is removed after it was found empty so many times: a replica may be on its way to the map."""
LOOK_EVERY_S = 1.0
_log = logging.getLogger(__name__)
Row = dict[str, Any]
_STANDINGS = {f"NODE_STANDING_{each.name}": each for each in Standing}


class StandingAdministration:
    """One node's answers. nodes: every node of the cluster as this one sees it."""

    def __init__(self, pump: Pump, nodes: Callable[[], list[NodeView]], decisions: Decisions) -> None:
        self._pump = pump
        self._nodes = nodes
        self._decisions = decisions

    async def change(self, request: Row) -> Row:
        """Set a node's standing unless that is blocked; say what is left on it. Raises ClusterError."""
        name, standing = request["node_id"], _STANDINGS.get(request["standing"])
        known = self._pump.directory.decisions
        node = registry.get(known.nodes, name)
        gone = not node.belongs and standing is Standing.DECOMMISSIONING
        if standing is None or gone:  # asked again after the end, it is done
            return self._row(node, [], changed=False)
        if not node.belongs:
            raise NodeRemoved(f"node {name} was removed from the cluster for good", node=name)
        if standing is Standing.REMOVED and not request["dry_run"]:
            raise InvalidRequest(f"a node is removed when nothing is left on it: moot node decommission {name}")
        blockers = self._blockers(node, standing)
        if blockers or request["dry_run"]:
            return self._row(node, blockers, changed=False)
        message = {"do": "standing", "node": name, "standing": standing, "expected": known.members_epoch}
        answer = await self._decisions.decide("node", message)
        await self._decisions.learned(answer["version"])
        return self._row(registry.get(self._pump.directory.decisions.nodes, name), [], changed=answer["changed"])

    def _blockers(self, node: RegisteredNode, standing: Standing) -> list[Blocker]:
        if standing is Standing.ACTIVE or standing <= node.standing:
            return []
        shards = self._pump.router.map.shards
        alive = {view.node for view in self._nodes() if view.state in (State.ALIVE, State.SUSPECT)}
        able = {each.node for each in self._pump.directory.decisions.nodes if each.standing is Standing.ACTIVE} & alive
        factor = self._pump.directory.decisions.placement.replication_factor
        others = Others(frozenset(alive - {node.node}), frozenset(able - {node.node}), factor)
        if standing is Standing.DRAINING:
            return blocks_drain(node.node, shards, others)
        return blocks_decommission(node.node, shards, others, answers=node.node in alive)

    def _row(self, node: RegisteredNode, blockers: list[Blocker], *, changed: bool) -> Row:
        """In the shape of admin.proto."""
        held = [shard.shard for shard in self._pump.router.map.shards if shard.replica_on(node.node) is not None]
        led = [shard.shard for shard in self._pump.router.map.shards if self._pump.routes.leader(shard.shard) == node.node]
        return {
            "node_id": node.node,
            "standing": f"NODE_STANDING_{node.standing.name}",
            "standing_since_ms": node.since_ms,
            "changed": changed,
            "blockers": [
                {"shard_id": each.shard, "lack": f"SHARD_LACK_{each.lack.name}", "why": each.why} for each in blockers
            ],
            "shards_held": held,
            "shards_led": led,
        }

    async def remove_the_empty(self) -> None:
        """For as long as this runs: where this node leads the system shard, nodes that were to leave and hold nothing are
        removed.
        """
        empty: dict[NodeId, int] = {}
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            leads = self._pump.routes.leader(SYSTEM_SHARD) == self._pump.node
            empty = {node: empty.get(node, 0) + 1 for node in self._empty()} if leads else {}
            for node in [node for node, looks in empty.items() if looks >= SETTLED_LOOKS]:
                try:
                    await self._decisions.decide("node", {"do": "standing", "node": node, "standing": Standing.REMOVED})
                    _log.info("node %s holds nothing any more and is removed from the cluster", node)
                except ClusterError as error:
                    _log.info("node %s is not removed yet: %s", node, error.message)

    def _empty(self) -> list[NodeId]:
        """Nodes that are to leave and hold nothing, as far as the map and the shards led here say."""
        leaving = [each.node for each in self._pump.directory.decisions.nodes if each.standing is Standing.DECOMMISSIONING]
        if not leaving:
            return []
        named = {place.node for shard in self._pump.router.map.shards for place in shard.replicas}
        for replica in self._pump.replicas.values():
            if replica.leads:
                named |= {node for _, node in replica.raft.configuration.places}
        return [node for node in leaving if node not in named]
