"""What the nodes of a cluster tell the controller of placement, and what it tells them. Plain data on its way between nodes.

A report carries what changed since the one before it was taken, so that ten thousand shards in which nothing happens cost
nothing; whoever lacks the base of a report asks for everything. Orders are the whole list each time.
"""

from __future__ import annotations

from msgspec import Struct

from cluster.ids import LogIndex, NodeId, ReplicaId, ShardId, Term
from cluster.raft.messages import Places


class ShardState(Struct, frozen=True, array_like=True, gc=False):
    """A shard as its leader sees it: see `cluster.placement.move.ConfigurationStatus`. lags: of the members, in the order of
    `places`. held: why nobody else should change its replicas now, empty when somebody may.
    """

    shard: ShardId
    term: Term
    index: LogIndex
    committed: bool
    voters: tuple[ReplicaId, ...]
    learners: tuple[ReplicaId, ...]
    outgoing: tuple[ReplicaId, ...]
    highest: ReplicaId
    places: Places
    lags: tuple[int, ...]
    last_index: LogIndex
    held: str


class ReportItem(Struct, frozen=True, array_like=True, tag=26):
    """What a node leads, where that changed between its own versions `base` and `version`; all of it when `base` is 0.

    lost: shards that it leads no more. unheard: nodes that acknowledge nothing to this one, and for how many ms.
    """

    base: int
    version: int
    led: list[ShardState]
    lost: list[ShardId]
    unheard: list[tuple[NodeId, int]]


class OrderedMove(Struct, frozen=True, array_like=True, gc=False, tag=1):
    """See `cluster.placement.plan.Move`. Empty names are none."""

    shard: ShardId
    leaving: NodeId
    joining: NodeId


class OrderedTransfer(Struct, frozen=True, array_like=True, gc=False, tag=2):
    """See `cluster.placement.plan.Transfer`."""

    shard: ShardId
    to: NodeId


class OrderItem(Struct, frozen=True, array_like=True, tag=27):
    """Everything that a node shall have going on, decided in `term` of the system shard. version: up to where its reports were
    taken; 0 asks for everything.
    """

    term: Term
    version: int
    orders: list[OrderedMove | OrderedTransfer]


SteeringItem = ReportItem | OrderItem
