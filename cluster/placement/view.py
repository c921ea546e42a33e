"""What the placement of replicas is decided from: who is there, what people want of each node, and what every shard's leader
says.

All of it is as old as the last report. Nothing here is a decision, and what nobody has reported is unknown:
`ClusterView.shards` has None for it, never an empty shard.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from cluster.ids import NodeId, ShardId, Term
from cluster.placement.move import ConfigurationStatus
from cluster.shardmap.nodes import PlacementSettings, Standing


class Liveness(enum.IntEnum):
    """What observers believe of a node. Stable numbers: on the wire and in --json."""

    ALIVE = 1
    SUSPECT = 2
    DEAD = 3
    LEFT = 4
    """It said goodbye."""
    UNKNOWN = 5
    """Nobody has heard of it yet."""

    @property
    def away(self) -> bool:
        """Whether it is believed to be gone."""
        return self in (Liveness.DEAD, Liveness.LEFT)


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node. since_ms: since when its liveness is what it is. zone, host: labels, empty when it has none."""

    node: NodeId
    standing: Standing
    liveness: Liveness
    since_ms: float
    zone: str = ""
    host: str = ""


@dataclass(frozen=True, slots=True)
class ShardReport:
    """What the leader of a shard said of it last. held: why somebody else is changing its replicas at the moment, empty when
    nobody is. snapshot_bytes: what a new replica would have to receive, None when not known.
    """

    status: ConfigurationStatus
    reported_ms: float
    held: str = ""
    snapshot_bytes: int | None = None

    def voters(self) -> tuple[NodeId, ...]:
        """The nodes of the voters."""
        status = self.status
        if not status.learners and not status.outgoing:  # thousands of shards are so, whenever one looks
            return tuple([member.node for member in status.members])
        return tuple([member.node for member in status.members if member.replica in status.voters])

    def learners(self) -> tuple[NodeId, ...]:
        """The nodes of the learners."""
        return tuple([member.node for member in self.status.members if member.replica in self.status.learners])


@dataclass(frozen=True, slots=True)
class ClusterView:
    """Everything that one step of the controller may look at.

    term: in which the system shard is led by whoever looks. led_since_ms: since when. wall_ms: Unix milliseconds, which
    maintenance is limited by. nodes: every one that belongs to the cluster. shards: all of the map, None where nothing was
    reported. unheard: per observer, the nodes of which it hears nothing, and since when; an observer that is not named says
    nothing about anybody.
    """

    term: Term
    led_since_ms: float
    wall_ms: int
    nodes: Mapping[NodeId, NodeView]
    shards: Mapping[ShardId, ShardReport | None]
    unheard: Mapping[NodeId, Mapping[NodeId, float]]
    settings: PlacementSettings
