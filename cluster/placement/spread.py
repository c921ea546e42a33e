"""How far apart the replicas of a shard stand: what a zone or a machine takes with it when it goes.

Crowding counts the pairs of voters that share a zone, and then the pairs that share a host. Fewer is better, and none is
possible where there are enough of both. Because it is a count and not a rule about numbers of zones, it also says what is
best where there are too few: three voters in two zones stand two and one, never three.

A node without a label shares nothing with anybody.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from cluster.ids import NodeId
from cluster.placement.view import NodeView

Crowding = tuple[int, int]
"""(pairs in one zone, pairs on one host)."""
APART: Crowding = (0, 0)


def crowding(nodes: Mapping[NodeId, NodeView], voters: Iterable[NodeId]) -> Crowding:
    """Of the voters of one shard. A node that is not known shares nothing."""
    zones: Counter[str] = Counter()
    hosts: Counter[tuple[str, str]] = Counter()
    for voter in voters:
        view = nodes.get(voter)
        if view is None:
            continue
        if view.zone:
            zones[view.zone] += 1
        if view.host:
            hosts[(view.zone, view.host)] += 1
    return _pairs(zones.values()), _pairs(hosts.values())


def _pairs(counts: Iterable[int]) -> int:
    return sum(count * (count - 1) // 2 for count in counts)


def exchanged(voters: Iterable[NodeId], leaving: NodeId | None, joining: NodeId | None) -> tuple[NodeId, ...]:
    """The voters after one of them was replaced, removed or added."""
    rest = [voter for voter in voters if voter != leaving]
    return (*rest, joining) if joining is not None else tuple(rest)
