"""Places where a node does early, small or at an odd moment what it does anyway (FoundationDB's BUGGIFY).

Nothing here is a fault: a node may write records, cut its log or look after its house between any two turns. Each
run arms some of the sites and leaves the others alone; an armed one fires now and then, between two turns, until the world is
healed. The product does not know of them: what they do is what its owner may ask of it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from cluster.shard.replica import ShardReplica

if TYPE_CHECKING:
    from chaos.sim.node import SimulatedNode

ARMED = 0.4
"""How likely a run arms a site."""
FIRES = 0.03
"""How likely one of the armed sites fires before a turn."""

Site = Callable[["SimulatedNode", ShardReplica], None]


def early_checkpoint(node: SimulatedNode, replica: ShardReplica) -> None:
    """All unsaved records of a shard are written."""
    replica.save_all(node.pump._turn)


def early_compaction(node: SimulatedNode, replica: ShardReplica) -> None:
    """A shard looks whether its log can be cut, once Raft knows of everything that is applied."""
    if replica.raft._state.applied == replica.applied:
        replica.compact(node.clock_ms, node.pump._turn)


def early_housekeeping(node: SimulatedNode, replica: ShardReplica) -> None:
    """The node looks after its house in this turn."""
    node.pump._housekeeping_due_ms = node.clock_ms


SITES: dict[str, Site] = {site.__name__: site for site in (early_checkpoint, early_compaction, early_housekeeping)}


class Sites:
    """The sites of one run. `over` ends them."""

    def __init__(self, arming: random.Random, source: random.Random) -> None:
        self._armed = [name for name in SITES if arming.random() < ARMED]
        self._source = source

    def over(self) -> None:
        """From now on nothing fires."""
        self._armed.clear()

    def visit(self, node: SimulatedNode) -> str:
        """Before a turn of a node: perhaps one of them fires. Returns its name, or nothing."""
        if not self._armed or self._source.random() >= FIRES:
            return ""
        name = self._source.choice(self._armed)
        replicas = node.pump.replicas
        replica = replicas[self._source.choice(list(replicas))]
        if replica.unwell:
            return ""
        SITES[name](node, replica)
        node.pump.look_at(replica, node.clock_ms)
        return name
