"""The nodes of a cluster as it has decided them: who belongs to it, where each is reached, and whether it takes replicas.

Gossip has opinions about who is there; this is who may be. It is part of the system document, so every change is a command
in the log of shard 0, and every node follows it: whom it connects to, whom it believes, who may get replicas.

Invariant: a node that was removed stays in the registry for ever, as REMOVED: neither its name nor the identity of its data
directory is taken again (reference trap 27, and nats-server#6403: ids that come back are counted twice). A node's name never
changes its directory: a wiped disk is another node.
"""

from __future__ import annotations

import enum

import msgspec
from msgspec import Struct

from cluster.config import REPLICATION_FACTOR_DEFAULT
from cluster.errors import IdentityFenced, InvalidRequest, NodeRemoved, UnknownNode
from cluster.ids import NodeId, ShardId

NODES_MAX = 1_024
"""Nodes that a cluster ever had, the removed ones included."""
DIRECTORY_BYTES = 16
"""Length of the identity of a data directory."""


class Standing(enum.IntEnum):
    """What the cluster wants of a node."""

    ACTIVE = 1
    DRAINING = 2
    """It leads nothing, keeps its replicas and gets no new ones."""
    DECOMMISSIONING = 3
    """Its replicas go elsewhere too."""
    REMOVED = 4
    """For ever."""


class RegisteredNode(Struct, frozen=True, array_like=True):
    """One node. directory: the identity of its data directory; empty until a first node has told it. since_ms: when its
    standing last changed, Unix milliseconds.
    """

    node: NodeId
    standing: Standing
    directory: bytes
    host: str
    peer_port: int
    gossip_port: int
    client_port: int
    host_label: str = ""
    zone: str = ""
    since_ms: int = 0

    @property
    def belongs(self) -> bool:
        """Whether it is a node of the cluster."""
        return self.standing is not Standing.REMOVED

    @property
    def place(self) -> tuple[str, int, int, int, str, str]:
        """Where it is reached and where it stands."""
        return self.host, self.peer_port, self.gossip_port, self.client_port, self.host_label, self.zone


class PlacementSettings(Struct, frozen=True, array_like=True):
    """What people told the placement of replicas.

    frozen: no replica and no leader moves by itself. frozen_shards: those of these shards do not. replication_factor: voters
    that each shard should have. maintenance: the one node that is under maintenance, empty for none; until
    `maintenance_until_ms` (Unix milliseconds) nothing is rebuilt for its sake.
    """

    frozen: bool = False
    frozen_shards: tuple[ShardId, ...] = ()
    replication_factor: int = REPLICATION_FACTOR_DEFAULT
    maintenance: str = ""
    maintenance_until_ms: int = 0


Nodes = tuple[RegisteredNode, ...]
"""By name."""


def find(nodes: Nodes, node: str) -> RegisteredNode | None:
    """The node of that name, the removed ones included."""
    return next((each for each in nodes if each.node == node), None)


def get(nodes: Nodes, node: str) -> RegisteredNode:
    """The node of that name. Raises UnknownNode."""
    found = find(nodes, node)
    if found is None:
        names = ", ".join(each.node for each in nodes if each.belongs) or "none"
        raise UnknownNode(f"there is no node {node!r}; there are {names}")
    return found


def registered(nodes: Nodes, newcomer: RegisteredNode) -> Nodes:
    """The registry with a node that is new, or that says where it is now; the same registry when that changes nothing.

    Raises NodeRemoved when its name or its directory was removed, IdentityFenced when another directory has its name or it has
    had another name, InvalidRequest when there are too many nodes.
    """
    assert len(newcomer.directory) == DIRECTORY_BYTES, "whoever registers has a directory"
    before = find(nodes, newcomer.node)
    same = next((each for each in nodes if each.directory == newcomer.directory), None)
    if same is not None and not same.belongs:
        raise NodeRemoved(
            f"this data directory was node {same.node}, which was removed from the cluster for good; "
            "start with an empty data directory, under a new name",
            node=same.node,
        )
    if before is not None and not before.belongs:
        raise NodeRemoved(
            f"node {before.node} was removed from the cluster for good; start under a name that it never had", node=before.node
        )
    if same is not None and same.node != newcomer.node:
        raise IdentityFenced(
            f"this data directory is node {same.node} of the cluster: start it under that name, or with an empty directory",
            node=same.node,
        )
    if before is None:
        if len(nodes) >= NODES_MAX:
            raise InvalidRequest(f"a cluster has at most {NODES_MAX} nodes, the removed ones included")
        return _with(nodes, newcomer)
    if before.directory not in (b"", newcomer.directory):
        raise IdentityFenced(
            f"another data directory is node {before.node} of the cluster: an empty disk is a new node; start it under a new "
            f"name, and take the old one away with `moot node decommission {before.node}`",
            node=before.node,
        )
    if (before.directory, before.place) == (newcomer.directory, newcomer.place):
        return nodes
    return _with(nodes, msgspec.structs.replace(newcomer, standing=before.standing, since_ms=before.since_ms))


def with_standing(nodes: Nodes, node: str, standing: Standing, now_ms: int) -> Nodes:
    """The registry with another standing of a node; the same registry when it has it. What is left on the node is for the
    caller to look at. Raises UnknownNode, NodeRemoved, or InvalidRequest for a removal that was not announced.
    """
    before = get(nodes, node)
    if before.standing is standing:
        return nodes
    if not before.belongs:
        raise NodeRemoved(f"node {node} was removed from the cluster for good", node=node)
    if standing is Standing.REMOVED and before.standing is not Standing.DECOMMISSIONING:
        raise InvalidRequest(f"node {node} is decommissioned first: moot node decommission {node}")
    return _with(nodes, msgspec.structs.replace(before, standing=standing, since_ms=now_ms))


def _with(nodes: Nodes, one: RegisteredNode) -> Nodes:
    known = {each.node: each for each in nodes} | {one.node: one}
    return tuple(known[name] for name in sorted(known))
