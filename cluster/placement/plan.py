"""What the controller wants done now, and why; and why it does not want what somebody may expect of it.

Orders say what is to be going on, not what comes next: giving the same plan again changes nothing, and an order that is missing
from the next plan is over.

Invariant: a plan has at most one order for a shard, and every shard without an explanation is as it should be.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from cluster.ids import NodeId, ShardId, Term

NEVER = float("inf")


class Cause(enum.IntEnum):
    """Why something is to change. Lower comes first. Stable numbers: on the wire."""

    UNSAFE = 1
    """One more loss would cost the shard its quorum, or it has fewer voters than it should."""
    DEAD = 2
    SPREAD = 3
    """Two voters share a zone or a host without need."""
    LEAVING = 4
    """Its node is draining, decommissioned, suspect or under maintenance."""
    LEADERS = 5
    REPLICAS = 6
    LEFT_OVER = 7
    """A learner that no move needs."""


class State(enum.Enum):
    """Of a shard that is not, or may not be, as it should be."""

    MOVING = "moving"
    WAITING = "waiting"
    """Something is to happen first, and will by itself."""
    BLOCKED = "blocked"
    """Nothing will happen until somebody does something."""
    FROZEN = "frozen"
    """People told it to stand still."""
    UNKNOWN = "unknown"
    """Its leader has not reported."""


@dataclass(frozen=True, slots=True)
class Move:
    """The replica at `leaving` goes to `joining`. Without `joining` the shard shrinks, without `leaving` it grows."""

    shard: ShardId
    leaving: NodeId | None
    joining: NodeId | None
    cause: Cause
    why: str


@dataclass(frozen=True, slots=True)
class Transfer:
    """`to` shall lead."""

    shard: ShardId
    to: NodeId
    cause: Cause
    why: str


Order = Move | Transfer


@dataclass(frozen=True, slots=True)
class Explanation:
    """For people, about one shard."""

    state: State
    why: str


@dataclass(frozen=True, slots=True)
class NodeNote:
    """What stands on a node, as far as leaders have reported, and what that means for it.

    replicas: voters and learners. leads: how many shards. why: for people, empty when there is nothing to say.
    """

    replicas: int
    leads: int
    why: str


@dataclass(frozen=True, slots=True)
class Plan:
    """term: of the system shard; orders of an older one are void. standstill: why nothing at all is ordered, empty when nothing
    stands in the way. again_ms: when to look again although nothing was heard.
    """

    term: Term
    orders: tuple[Order, ...]
    standstill: str
    shards: Mapping[ShardId, Explanation] = field(default_factory=dict)
    nodes: Mapping[NodeId, NodeNote] = field(default_factory=dict)
    again_ms: float = NEVER

    @property
    def settled(self) -> bool:
        """Whether every replica is known to be where it should be."""
        return not self.orders and not self.standstill and not self.shards
