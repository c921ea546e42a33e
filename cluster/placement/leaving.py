"""What stands in the way of a node that is to lead nothing, or to leave: shard by shard, with the reason.

Asked before a standing is set, and again to say what is left; moving is the controller's work. It errs on the side of refusing:
a decommission that can not end leaves a node in limbo, which people then end by force.

Invariant: without a blocker every shard of the node can keep its quorum and get as many voters as it should have, with the
nodes that answer now.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from cluster.ids import NodeId, ShardId
from cluster.shardmap.map import Shard


class Lack(enum.Enum):
    """What a shard would lack."""

    QUORUM = "below quorum"
    REPLICAS = "below its replication factor"
    LEADER = "without a leader"


@dataclass(frozen=True, slots=True)
class Blocker:
    """Why a node can not go from a shard. why: for people."""

    shard: ShardId
    lack: Lack
    why: str


@dataclass(frozen=True, slots=True)
class Others:
    """The cluster without the node. alive: who answers. able: those of them that may lead and get replicas. replication_factor:
    voters that each shard should have.
    """

    alive: frozenset[NodeId]
    able: frozenset[NodeId]
    replication_factor: int


def blocks_drain(node: NodeId, shards: Iterable[Shard], others: Others) -> list[Blocker]:
    """Shards that nobody else could lead."""
    found = []
    for shard, stay in _held(node, shards):
        if not stay & others.able:
            found.append(Blocker(shard.shard, Lack.LEADER, f"{_names(stay)} can not lead it: dead, or drained too"))
    return found


def blocks_decommission(node: NodeId, shards: Iterable[Shard], others: Others, *, answers: bool) -> list[Blocker]:
    """Shards that would be short of a quorum or of voters. answers: whether the node itself still does."""
    found = []
    for shard, stay in _held(node, shards):
        voters = len(stay) + 1
        living = len(stay & others.alive) + (1 if answers else 0)
        wanted = min(others.replication_factor, voters)
        spare = others.able - stay
        if living < voters // 2 + 1:
            why = f"{living} of its {voters} voters answer, and a change of them takes {voters // 2 + 1}"
            found.append(Blocker(shard.shard, Lack.QUORUM, why))
        elif len(stay & others.alive) + min(len(spare), max(0, wanted - len(stay))) < wanted // 2 + 1:
            why = f"of the voters that stay only {_names(stay & others.alive)} answer"
            found.append(Blocker(shard.shard, Lack.QUORUM, why))
        elif len(stay) + len(spare) < wanted:
            why = f"it should have {wanted} voters; {_names(stay)} stay, and no other node takes a replica"
            found.append(Blocker(shard.shard, Lack.REPLICAS, why))
    return found


def _held(node: NodeId, shards: Iterable[Shard]) -> list[tuple[Shard, frozenset[NodeId]]]:
    """The shards that the node votes in, each with its other voters."""
    return [
        (shard, frozenset(place.node for place in shard.replicas if place.node != node))
        for shard in shards
        if shard.replica_on(node) is not None
    ]


def _names(nodes: Iterable[NodeId]) -> str:
    return ", ".join(sorted(nodes)) or "nobody"
