"""Writes to the shard map where the replicas of led shards are.

A shard's own log decides who belongs to it; the map tells those who hold none of it, and is where a replica that was removed
and missed it looks. So whoever leads a shard compares the two, now and then and at the end of a move, and has the map
corrected. Nothing waits for it: a map that lags costs a hop, not an answer.
"""

from __future__ import annotations

import asyncio
import logging

from cluster.errors import ClusterError
from cluster.ids import SYSTEM_SHARD, NodeId, ReplicaId, ShardId
from cluster.node.decisions import Decisions
from cluster.pump.pump import Pump
from cluster.shardmap.map import Placement

LOOK_EVERY_MS = 5_000
_log = logging.getLogger(__name__)


class MapKeeper:
    """One node's part: the shards that it leads."""

    def __init__(self, pump: Pump, decisions: Decisions) -> None:
        self._pump = pump
        self._decisions = decisions

    async def run(self) -> None:
        """For ever, now and then."""
        while True:
            await asyncio.sleep(LOOK_EVERY_MS / 1000)
            for shard in [shard for shard, replica in self._pump.replicas.items() if replica.leads]:
                try:
                    if await self.record(shard):
                        _log.info("shard %d: its new place is on the map", shard)
                except ClusterError as error:
                    _log.warning("shard %d: its new place is not on the map yet: %s", shard, error.message)

    async def record(self, shard: ShardId) -> bool:
        """Have the map say what the shard's committed configuration says, if this node leads it. Returns whether it did not.

        Raises ClusterError when the system shard does not answer, or when somebody else has changed the map meanwhile.
        """
        wanted, known = self._wanted(shard), self._pump.router.map.get(shard)
        if wanted is None or known is None or wanted == known.replicas or self._pump.directory.decisions.version == 0:
            return False
        places = [[place.replica, place.node] for place in wanted]
        answer = await self._decisions.decide("place", {"shard": shard, "epoch": known.epoch, "replicas": places})
        await self._decisions.learned(answer["version"])
        return bool(answer["changed"])

    def _wanted(self, shard: ShardId) -> tuple[Placement, ...] | None:
        """The voters of a settled configuration; None while it is in motion, or somebody else's."""
        status = self._pump.configuration(shard)
        if shard == SYSTEM_SHARD or status is None or not status.leads or not status.committed or status.outgoing:
            return None
        nodes: dict[ReplicaId, NodeId] = {member.replica: member.node for member in status.members}
        return tuple(Placement(voter, nodes[voter]) for voter in status.voters)
