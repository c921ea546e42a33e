"""Handing over what this node leads, before it stops or while it is drained, so that nobody has to wait for an election.

A few shards at a time, each to the voter that lacks least: everybody stepping down at once is an outage of its own (reference
section 4, recommendation 10). What can not be handed over stays until it can: that is never a reason to lose a shard's leader.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from cluster.errors import ClusterError
from cluster.ids import NodeId, ShardId
from cluster.node.loop import NodeLoop, monotonic_ms
from cluster.placement.move import ConfigurationStatus
from cluster.pump.pump import Pump

AT_ONCE_MAX = 8
POLL_MS = 5
STOPPING_MS_MAX = 2_000.0
"""A node that stops gives up handing over after this."""
DRAINING_EVERY_S = 0.5
_log = logging.getLogger(__name__)


def led(pump: Pump) -> list[ShardId]:
    """The shards that this node leads."""
    return [shard for shard, replica in pump.replicas.items() if replica.leads]


def successor(pump: Pump, status: ConfigurationStatus, avoided: frozenset[NodeId]) -> NodeId | None:
    """The best other voter of those that are connected, None if there is none to hand over to."""
    there = [
        member
        for member in status.members
        if member.replica in status.voters
        and member.node != pump.node
        and member.node in pump.connected
        and member.node not in pump.liveness.silent
        and member.node not in avoided
    ]
    return max(there, key=lambda member: (member.match, -member.replica)).node if there else None


def begin(pump: Pump, avoided: frozenset[NodeId]) -> int:
    """Begin to hand over a few of the shards that this node leads; says how many are on their way."""
    under_way = 0
    for shard in led(pump):
        status = pump.configuration(shard)
        if under_way >= AT_ONCE_MAX or status is None:
            break
        if status.transferring_to is not None:
            under_way += 1
            continue
        to = successor(pump, status, avoided)
        if to is not None:
            with contextlib.suppress(ClusterError):  # it changes hands, or its replicas, at this moment
                pump.transfer(shard, to, monotonic_ms())
                under_way += 1
    return under_way


async def hand_over_all(loop: NodeLoop, avoided: frozenset[NodeId], within_ms: float = STOPPING_MS_MAX) -> None:
    """Until this node leads nothing that anybody else could, `within_ms` at most."""
    began_ms, before = monotonic_ms(), len(led(loop.pump))
    while monotonic_ms() - began_ms < within_ms and begin(loop.pump, avoided):
        loop.wake()
        await asyncio.sleep(POLL_MS / 1000)
    if before:
        left = len(led(loop.pump))
        _log.info("handed over %d of %d shards in %.0f ms", before - left, before, monotonic_ms() - began_ms)


async def keep_drained(loop: NodeLoop, drained: Callable[[], bool], avoided: Callable[[], frozenset[NodeId]]) -> None:
    """As long as the node is drained, whatever it comes to lead it hands over. drained: whether it is; avoided: who else is."""
    while True:
        await asyncio.sleep(DRAINING_EVERY_S)
        if drained() and begin(loop.pump, avoided()):
            loop.wake()
