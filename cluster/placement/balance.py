"""About as many replicas at every node that may hold some.

A replica moves from a node to one that holds at least two fewer, and only if its shard stands no more crowded for it. Each such
move lowers the sum of the squares of the counts, so there is an end, and there no two nodes that could exchange something
differ by more than one.

Invariant: nothing moves for balance from a shard that is not whole, or while anything is unknown: counts that leave shards out
would make nodes look empty.
"""

from __future__ import annotations

from cluster.ids import SYSTEM_SHARD, NodeId, ShardId
from cluster.placement.draft import Draft
from cluster.placement.plan import Cause
from cluster.placement.spread import exchanged
from cluster.placement.view import ShardReport


def balance(draft: Draft, shards: list[ShardId]) -> None:
    """Order what brings counts closer together, as far as there is room."""
    nodes = draft.targets
    if len(nodes) < 2 or max(map(draft.replicas.__getitem__, nodes)) - min(map(draft.replicas.__getitem__, nodes)) < 2:
        return
    held: dict[NodeId, list[ShardId]] = {node: [] for node in nodes}
    for shard in shards:
        if shard != SYSTEM_SHARD and shard not in draft.orders:
            for voter in draft.known[shard].voters():
                if voter in held:
                    held[voter].append(shard)
    while _one(draft, held):
        pass


def _one(draft: Draft, held: dict[NodeId, list[ShardId]]) -> bool:
    """Order one move; says whether there was any."""
    counts = draft.replicas
    for leaving in sorted(held, key=lambda node: (-counts[node], node)):
        for joining in sorted(held, key=lambda node: (counts[node], node)):
            if counts[leaving] - counts[joining] < 2:
                break
            if not draft.room_at(joining):
                continue
            shard = _movable(draft, held[leaving], leaving, joining)
            if shard is not None:
                why = f"{leaving} holds {counts[leaving]} replicas, {joining} {counts[joining]}"
                draft.move(shard, leaving, joining, Cause.REPLICAS, why)
                return True
    return False


def _movable(draft: Draft, shards: list[ShardId], leaving: NodeId, joining: NodeId) -> ShardId | None:
    """A shard whose replica may go from one node to the other; rather one that is not led where it leaves."""
    led = None
    for shard in shards:
        report = draft.known[shard]
        leader = report.status.leader
        assert leader is not None
        if shard in draft.orders or report.status.on(joining) is not None or not draft.room_to_send(leader):
            continue
        if not no_more_crowded(draft, report, leaving, joining):
            continue
        if leader != leaving:
            return shard
        led = led if led is not None else shard
    return led


def no_more_crowded(draft: Draft, report: ShardReport, leaving: NodeId, joining: NodeId) -> bool:
    """Whether a move leaves the voters of a shard as far apart as they are."""
    voters = report.voters()
    return draft.crowding(exchanged(voters, leaving, joining)) <= draft.crowding(voters)


def justifies(draft: Draft, report: ShardReport, learner: NodeId) -> NodeId | None:
    """Which voter a learner that somebody began should replace for balance; None when none."""
    able = [
        voter
        for voter in report.voters()
        if voter in draft.targets
        and draft.replicas[voter] - draft.replicas[learner] >= 2
        and no_more_crowded(draft, report, voter, learner)
    ]
    return min(able, key=lambda node: (node == report.status.leader, -draft.replicas[node], node), default=None)
