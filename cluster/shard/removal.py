"""Telling a replica that it is none of its shard's any more.

Invariant: only a committed configuration is a proof. Ids up to the highest that it has given out are members of it or will
never be again (reference trap 12), so the proof can not become untrue, and anybody may give it.
"""

from __future__ import annotations

from cluster.ids import NodeId, ReplicaId, ShardId
from cluster.raft.configuration import highest_of
from cluster.raft.core import Raft
from cluster.raft.effects import Role
from cluster.shard.turn import RemovedItem, Turn


def removal_of(raft: Raft, shard: ShardId, leader: NodeId | None, replica: ReplicaId, node: NodeId) -> RemovedItem | None:
    """What to tell `node` about its `replica` if what is committed here shows that it was removed."""
    committed = raft.committed_configuration
    if replica > highest_of(committed) or (replica, node) in committed.places:
        return None
    return RemovedItem(shard, replica, raft.committed_configured_index, raft.term, leader or NodeId(""))


def take_leave(raft: Raft, shard: ShardId, leader: NodeId | None, departed: dict[ReplicaId, NodeId], turn: Turn) -> None:
    """Once the newest configuration is committed its leader tells those whom it leaves out, and everybody forgets them. Whoever
    misses that asks later.
    """
    if raft.committed_configured_index != raft.configured_index:
        return
    if raft.role is Role.LEADER:
        for replica, node in departed.items():
            removal = removal_of(raft, shard, leader, replica, node)
            if removal is not None and node != leader:  # one that lived here is gone already
                turn.send_now(node, removal)
    departed.clear()
