"""Which replicas of a node have something to do, so that a turn never looks at the others.

Invariant: a replica that can move is in `ready` or `to_apply`, or a timer not later than its deadline stands for it.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping

from cluster.ids import NodeId, ShardId
from cluster.raft.effects import Role
from cluster.shard.replica import ShardReplica
from cluster.shard.turn import StreamKey, Turn

_NEVER = float("inf")
_STANDING = (Role.PRE_CANDIDATE, Role.CANDIDATE)
"""Who asks for votes, and will go on to while there is a deadline."""
STANDING_MAX = 64
"""Elections under way at a time for groups that have no leader. After a start, or when a node has died, all groups want one at
about the same time, and who asks everybody for all of them at once is answered too late by everybody, and asks again.
"""


RING_PAUSE_MS = 10.0
"""Between two looks at what is due in one shard: a shard with a backlog leaves room for everybody else."""


class Schedule:
    """ready: replicas with news. to_apply: those with committed entries or answers. reading: those whose reads wait for an
    acknowledged liveness round. moved: those whose documents did anything since the last housekeeping, or wait for it. watched:
    those that had viewers, or might get some, when they were last looked at. standing: candidates.

    ahead_ms: how far the time that a leader would stamp is ahead of this node's wall clock.
    """

    def __init__(self, ahead_ms: Callable[[ShardReplica], float] = lambda replica: 0.0) -> None:
        self._ahead_ms = ahead_ms
        self.ready: dict[ShardId, None] = {}
        self.to_apply: dict[ShardId, None] = {}
        self.reading: dict[ShardId, None] = {}
        self.moved: dict[ShardId, None] = {}
        self.watched: dict[ShardId, None] = {}
        self.standing: set[ShardId] = set()
        self._leaderless: dict[ShardId, None] = {}
        """Those whose deadline has come and who wait for room to stand, in that order."""
        self._timers: list[tuple[float, ShardId]] = []
        self._armed: dict[ShardId, float] = {}
        self._due: list[tuple[float, ShardId]] = []
        """When documents of a shard have something to do, by the wall clock, which may be set: so it is compared each turn."""
        self._due_at: dict[ShardId, float] = {}
        self._due_entry: dict[ShardId, float] = {}
        self._rung: dict[ShardId, float] = {}
        """When the shards rang whose pauses may not be over, and the last of all."""
        self._rung_ms = 0.0

    @property
    def busy(self) -> bool:
        if self.ready or self.to_apply:
            return True
        return bool(self._leaderless and self.room_to_stand)

    @property
    def room_to_stand(self) -> int:
        """How many more elections may begin now."""
        return max(0, STANDING_MAX - len(self.standing))

    @property
    def deadline_ms(self) -> float:
        """The earliest timer."""
        return self._timers[0][0] if self._timers else _NEVER

    @property
    def due_ms(self) -> float:
        """The earliest time by the wall clock, Unix milliseconds, at which documents have something to do."""
        return self._due[0][0] if self._due else _NEVER

    def look_at(self, replica: ShardReplica) -> None:
        """A replica moved: see what it waits for now."""
        shard = replica.id
        if replica.incomplete:
            self.moved[shard] = None
        deadline_ms = replica.deadline_ms
        self._arm(shard, min(deadline_ms, replica.intake.deadline_ms))
        due_ms = replica.due_ms
        if due_ms < _NEVER:
            due_ms -= self._ahead_ms(replica)
        if due_ms != self._due_at.get(shard, _NEVER):
            self._set_due(shard, due_ms)
        if replica.apply_waits or replica.answers_wait:
            self.to_apply[shard] = None
        if replica.reads_confirmable:
            self.reading[shard] = None
        elif self.reading:
            self.reading.pop(shard, None)
        if replica.raft.role in _STANDING and deadline_ms < _NEVER:
            self.standing.add(shard)
        else:
            self.standing.discard(shard)
        if replica.intake.watched:
            self.watched[shard] = None
        elif self.watched:
            self.watched.pop(shard, None)

    def close_stream(self, replicas: Mapping[ShardId, ShardReplica], stream: StreamKey) -> None:
        """A client stream ended."""
        self._close(replicas, stream.__eq__, lost=False)

    def close_node(self, replicas: Mapping[ShardId, ShardReplica], node: NodeId, before: float = math.inf) -> None:
        """What a node's gateway was served ended here, in streams of numbers below `before`; it may come back."""
        self._close(replicas, lambda stream: stream[0] == node and stream[1] < before, lost=True)

    def node_silent(self, replicas: Mapping[ShardId, ShardReplica], node: NodeId, turn: Turn) -> None:
        """Nothing is heard of a gateway's node: documents that are told who watches them are not left in error."""
        for shard in self.watched:
            replicas[shard].intake.node_silent(node, turn)
            if replicas[shard].intake.tells:
                self.ready[shard] = None

    def _close(self, replicas: Mapping[ShardId, ShardReplica], ended: Callable[[StreamKey], bool], *, lost: bool) -> None:
        """Viewers left: every replica that may have watches is told; what others should see of that is served in this turn."""
        for shard in self.watched | self.ready:
            replica = replicas[shard]
            replica.intake.close_streams(ended, lost=lost)
            if replica.feed.unserved:
                self.to_apply[shard] = None
            if replica.intake.tells:
                self.ready[shard] = None

    def forget(self, shard: ShardId) -> None:
        """This node's replica is gone."""
        for listing in (self.ready, self.to_apply, self.reading, self.moved, self.watched):
            listing.pop(shard, None)
        self._armed.pop(shard, None)
        self._due_at.pop(shard, None)
        self._due_entry.pop(shard, None)
        self._rung.pop(shard, None)
        self._leaderless.pop(shard, None)
        self.standing.discard(shard)

    def _arm(self, shard: ShardId, deadline_ms: float) -> None:
        """A deadline mostly moves back, with every message; its timer stays where it is and is set again when it is due."""
        if deadline_ms < self._armed.get(shard, _NEVER):
            self._armed[shard] = deadline_ms
            heapq.heappush(self._timers, (deadline_ms, shard))

    def _set_due(self, shard: ShardId, due_ms: float) -> None:
        """As with deadlines: an entry that comes too early stays, and is set again when its time has come."""
        if due_ms == _NEVER:
            del self._due_at[shard]
            return
        self._due_at[shard] = due_ms
        if due_ms < self._due_entry.get(shard, _NEVER):
            self._push_due(shard, due_ms)

    def _push_due(self, shard: ShardId, at_ms: float) -> None:
        self._due_entry[shard] = at_ms
        heapq.heappush(self._due, (at_ms, shard))

    def _ring_due(self, wall_ms: float) -> None:
        """Make those ready in which documents have something to do by now."""
        if not self._rung_ms <= wall_ms < self._rung_ms + RING_PAUSE_MS:  # all pauses are over, or the clock was set
            self._rung.clear()
        while self._due and self._due[0][0] <= wall_ms:
            at_ms, shard = heapq.heappop(self._due)
            if self._due_entry.get(shard) != at_ms:
                continue
            del self._due_entry[shard]
            due_ms = self._due_at.get(shard, _NEVER)
            if due_ms <= wall_ms and shard in self._rung:
                due_ms = max(due_ms, self._rung[shard] + RING_PAUSE_MS)
            if due_ms <= wall_ms:
                self._rung[shard] = self._rung_ms = wall_ms
                self._due_at.pop(shard)
                self.ready[shard] = None
            elif due_ms < _NEVER:
                self._push_due(shard, due_ms)

    def ring(self, replicas: dict[ShardId, ShardReplica], now_ms: float, wall_ms: int) -> None:
        """Make those ready whose deadline has come, the oldest first; to elect a leader, no more than there is room for. To
        Raft a deadline that is met late is a lost message.
        """
        if self._due:
            self._ring_due(wall_ms)
        timers = self._timers
        while timers and timers[0][0] <= now_ms:
            at_ms, shard = heapq.heappop(timers)
            if self._armed.get(shard) != at_ms:
                continue
            del self._armed[shard]
            replica = replicas[shard]
            deadline_ms = min(replica.deadline_ms, replica.intake.deadline_ms)
            if deadline_ms > now_ms:
                self._arm(shard, deadline_ms)
            elif replica.raft.leader is None and replica.raft.role is Role.FOLLOWER:
                self._leaderless[shard] = None
            else:
                self.ready[shard] = None
        if not timers:
            self._armed.clear()  # empty as it is, it keeps the size that it had when all groups had a timer
        while self._leaderless and self.room_to_stand:
            shard = next(iter(self._leaderless))
            del self._leaderless[shard]
            deadline_ms = replicas[shard].deadline_ms
            if deadline_ms <= now_ms:
                self.ready[shard] = None
                self.standing.add(shard)
            else:
                self._arm(shard, deadline_ms)

    def take_ready(self) -> dict[ShardId, None]:
        ready, self.ready = self.ready, {}
        return ready

    def put_back(self, listing: dict[ShardId, None], shards: list[ShardId]) -> None:
        """There was no time for these: they are the first in the next turn."""
        later = list(listing)
        listing.clear()
        listing.update(dict.fromkeys(shards))
        listing.update(dict.fromkeys(later))

    def take_to_apply(self) -> dict[ShardId, None]:
        waiting, self.to_apply = self.to_apply, {}
        return waiting

    def take_moved(self) -> dict[ShardId, None]:
        moved, self.moved = self.moved, {}
        return moved
