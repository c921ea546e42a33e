"""What a node knows of the others, as `admin.py` and its siblings show it."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.gossip.messages import Address, State, Tags
from cluster.ids import NodeId
from cluster.shardmap.nodes import RegisteredNode


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node as gossip sees it, and as the cluster has registered it; None while it is not registered."""

    node: NodeId
    address: Address
    tags: Tags
    state: State
    generation: int
    registered: RegisteredNode | None = None
