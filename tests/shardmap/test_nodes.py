"""The registry of nodes: who may join under which name, and what a removal is."""

from __future__ import annotations

import pytest

from cluster.errors import IdentityFenced, InvalidRequest, NodeRemoved, UnknownNode
from cluster.ids import NodeId
from cluster.shardmap import nodes as registry
from cluster.shardmap.nodes import NODES_MAX, Nodes, RegisteredNode, Standing


def node(name: str, number: int, port: int = 7000, since_ms: int = 0) -> RegisteredNode:
    return RegisteredNode(
        NodeId(name), Standing.ACTIVE, bytes([number]) * 16, "127.0.0.1", port, port + 1, port + 2, since_ms=since_ms
    )


def cluster(*names: str) -> Nodes:
    nodes: Nodes = ()
    for number, name in enumerate(names, 1):
        nodes = registry.registered(nodes, node(name, number))
    return nodes


def test_registering_again_from_the_same_directory_changes_nothing() -> None:
    nodes = cluster("n1", "n2")
    assert registry.registered(nodes, node("n2", 2)) is nodes


def test_nodes_are_kept_by_name() -> None:
    assert [each.node for each in cluster("n3", "n1", "n2")] == ["n1", "n2", "n3"]


def test_another_address_is_taken_from_the_directory_that_was_registered_and_keeps_the_standing() -> None:
    nodes = registry.with_standing(cluster("n1", "n2"), "n2", Standing.DRAINING, 7)
    moved = registry.get(registry.registered(nodes, node("n2", 2, port=9000, since_ms=50)), "n2")
    assert (moved.peer_port, moved.standing, moved.since_ms) == (9000, Standing.DRAINING, 7)


def test_a_wiped_disk_is_refused_under_the_old_name() -> None:
    """The most reported accident of Raft systems; nats-server#2792."""
    with pytest.raises(IdentityFenced, match="moot node decommission n2"):
        registry.registered(cluster("n1", "n2"), node("n2", 9))


def test_one_directory_is_never_two_nodes() -> None:
    with pytest.raises(IdentityFenced, match="n2"):
        registry.registered(cluster("n1", "n2"), node("n3", 2))


def test_a_first_node_tells_its_directory_once() -> None:
    unknown = RegisteredNode(NodeId("n1"), Standing.ACTIVE, b"", "127.0.0.1", 7000, 7001, 7002)
    told = registry.registered((unknown,), node("n1", 1))
    assert registry.get(told, "n1").directory == bytes([1]) * 16
    with pytest.raises(IdentityFenced):
        registry.registered(told, node("n1", 2))


def test_neither_name_nor_directory_of_a_removed_node_comes_back() -> None:
    """Trap 27; nats-server#6403 counted such ids twice."""
    nodes = registry.with_standing(cluster("n1", "n2"), "n2", Standing.DECOMMISSIONING, 1)
    nodes = registry.with_standing(nodes, "n2", Standing.REMOVED, 2)
    for newcomer in (node("n2", 2), node("n2", 9), node("n9", 2)):
        with pytest.raises(NodeRemoved):
            registry.registered(nodes, newcomer)
    for standing in (Standing.ACTIVE, Standing.DRAINING, Standing.DECOMMISSIONING):
        with pytest.raises(NodeRemoved):
            registry.with_standing(nodes, "n2", standing, 3)


def test_a_removal_is_announced_first() -> None:
    with pytest.raises(InvalidRequest, match="moot node decommission n2"):
        registry.with_standing(cluster("n1", "n2"), "n2", Standing.REMOVED, 1)


def test_the_same_standing_again_changes_nothing() -> None:
    nodes = registry.with_standing(cluster("n1"), "n1", Standing.DRAINING, 5)
    assert registry.with_standing(nodes, "n1", Standing.DRAINING, 9) is nodes
    assert registry.get(nodes, "n1").since_ms == 5


def test_an_unknown_node_is_told_who_there_is() -> None:
    with pytest.raises(UnknownNode, match="n1, n2"):
        registry.with_standing(cluster("n1", "n2"), "n7", Standing.DRAINING, 1)


def test_the_registry_is_bounded() -> None:
    full = tuple(
        RegisteredNode(NodeId(f"n{number:05}"), Standing.ACTIVE, number.to_bytes(16, "big"), "h", 1, 2, 3)
        for number in range(1, NODES_MAX + 1)
    )
    with pytest.raises(InvalidRequest, match=str(NODES_MAX)):
        registry.registered(full, node("z", 255))
