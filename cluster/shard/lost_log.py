"""A replica whose log ends below what it acknowledged has lost synced entries (reference traps 11, 14). It can not know by
itself: the leader, whose match exceeds what is there, tells it; it checks the claim against its own log and stops.

A claim can not be stale: within one term what a replica acknowledged to that term's leader is never truncated.
"""

from __future__ import annotations

from cluster.ids import LogIndex, ReplicaId, ShardId
from cluster.raft.core import Raft
from cluster.raft.effects import Role
from cluster.raft.messages import AppendReply
from cluster.shard.turn import LogShortItem


def short_log_of(raft: Raft, shard: ShardId, sender: ReplicaId, reply: AppendReply) -> LogShortItem | None:
    """What to tell a follower whose rejection shows that it lacks what it acknowledged in this term."""
    if raft.role is not Role.LEADER or reply.term != raft.term:
        return None
    acknowledged = raft.progress.get(sender, LogIndex(0))
    if reply.hint_index >= acknowledged:
        return None
    return LogShortItem(shard, raft.replica, sender, reply.term, acknowledged)


def loss(raft: Raft, item: LogShortItem) -> str:
    """Why this replica must stop, if what the leader says holds here; else nothing."""
    if item.term != raft.term or raft.last_index >= item.acknowledged:
        return ""
    return (
        f"replica {raft.replica} of shard {item.shard} acknowledged entry {item.acknowledged} but its log ends at "
        f"{raft.last_index}: its disk lost what was synced. It must not vote again under this identity; start an empty "
        "directory under a new node name"
    )
