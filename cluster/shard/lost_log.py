"""A replica whose log ends below what it acknowledged has lost synced entries (reference traps 11, 14). It can not know by
itself: the leader, whose match exceeds what is there, tells it; it checks the claim against its own log. A log that can not
be read is as good as lost, and that it finds out alone. What follows is `cluster.pump.losses`.

A claim can not be stale: within one term what a replica acknowledged to that term's leader is never truncated.
"""

from __future__ import annotations

from cluster.errors import StorageDamaged
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
    """Why this replica must not go on, if what the leader says holds here; else nothing."""
    if item.term != raft.term or raft.last_index >= item.acknowledged:
        return ""
    return (
        f"replica {raft.replica} of shard {item.shard} acknowledged entry {item.acknowledged} but its log ends at "
        f"{raft.last_index}: its disk lost what was synced"
    )


def lies_on_disk(error: StorageDamaged) -> bool:
    """Whether something that was stored does not open any more; else a message contradicts what is stored. Storage says where
    (family, key, shard or file)."""
    return bool(error.details)
