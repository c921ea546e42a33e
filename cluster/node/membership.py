"""A node among the others: it follows the registry of the cluster.

The registry says who belongs to the cluster and where each is reached; gossip says who seems to be there. The one decides, the
other is shown beside it. Until the system document is made, the first nodes of the configured list stand in for the registry.

Invariant: after `follow` this node dials exactly the nodes that belong to the cluster, at the addresses that are registered.
"""

from __future__ import annotations

from collections.abc import Callable

from cluster.config import InitialNode
from cluster.gossip.messages import Address, Alive, State, Tags
from cluster.node.views import NodeView
from cluster.pump.pump import Pump
from cluster.shardmap.nodes import RegisteredNode, Standing
from cluster.transport.gossip import GossipTransport
from cluster.transport.peer import PeerTransport


def first_node(listed: InitialNode) -> RegisteredNode:
    """A node of the list that a cluster begins with, before it is registered."""
    return RegisteredNode(
        listed.node_id, Standing.ACTIVE, b"", listed.host, listed.peer_port, listed.gossip_port, listed.client_port
    )


def as_listed(node: RegisteredNode) -> dict[str, object]:
    """As the system document is told of it."""
    return {
        "do": "register",
        "node": node.node,
        "directory": node.directory.hex(),
        "host": node.host,
        "peer_port": node.peer_port,
        "gossip_port": node.gossip_port,
        "client_port": node.client_port,
        "host_label": node.host_label,
        "zone": node.zone,
    }


class Membership:
    """first: who is there until the registry is known. own: what gossip says of this node itself."""

    def __init__(
        self,
        pump: Pump,
        first: tuple[RegisteredNode, ...],
        transport: PeerTransport,
        gossip: Callable[[], GossipTransport],
    ) -> None:
        self._pump = pump
        self._first = first
        self._transport = transport
        self._gossip = gossip

    @property
    def nodes(self) -> tuple[RegisteredNode, ...]:
        """Every node that ever was of the cluster, as far as this one knows."""
        return self._pump.directory.decisions.nodes or self._first

    def views(self) -> list[NodeView]:
        """Every node of the cluster as this one sees it: gossip's opinion, or silence about one that was never met."""
        core = self._gossip().core
        registered = {each.node: each for each in self.nodes}
        rows = [self._own(core.own, registered.get(self._pump.node))]
        met = {view.node for view in core.members()}
        rows += [
            NodeView(each.node, _address(each), Tags(each.host_label, each.zone), State.DEAD, 0, each)
            for each in registered.values()
            if each.node not in met and each.node != self._pump.node and each.belongs
        ]
        for view in core.members():
            known = registered.get(view.node)
            if known is None or known.belongs:
                rows.append(NodeView(view.node, view.address, view.tags, view.state, view.generation, known))
        return sorted(rows, key=lambda row: row.node)

    def _own(self, own: Alive, registered: RegisteredNode | None) -> NodeView:
        return NodeView(self._pump.node, own.address, own.tags, State.ALIVE, own.generation, registered)


def _address(node: RegisteredNode) -> Address:
    return Address(node.host, node.gossip_port, node.peer_port, node.client_port)
