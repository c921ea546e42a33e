"""A node as the system document is told of it."""

from __future__ import annotations

from cluster.config import InitialNode
from cluster.shardmap.nodes import RegisteredNode, Standing


def first_node(listed: InitialNode) -> RegisteredNode:
    """A node of the list that a cluster begins with, before it is registered."""
    return RegisteredNode(
        listed.node_id, Standing.ACTIVE, b"", listed.host, listed.peer_port, listed.gossip_port, listed.client_port
    )


def as_listed(node: RegisteredNode) -> dict[str, object]:
    """The message that registers it."""
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
