"""The wall clocks of a node's peers beside its own, as answers to heartbeats tell, and what a leader makes of that.

A shard's time is its leader's clock. A clock that is wrong would be the time of all its documents: so what a leader stamps
stays within a bound of the median of its voters' clocks, and a leader that is further off hands over to a voter that is
nearer, if there is one. Most of all this is free: while all clocks that are known agree within the bound, nothing is
computed.

Invariant: clocks never decide anything about safety. A shard's time never falls, whoever leads.
"""

from __future__ import annotations

from statistics import median

from cluster.ids import NodeId, ReplicaId, ShardId
from cluster.raft.events import Transfer
from cluster.shard.replica import ShardReplica
from cluster.shard.turn import Turn

CLOCK_OFF_MS_MAX = 500.0
"""What a leader stamps is at most so far from the median of its voters' clocks."""

RESIGN_OFF_MS = 2_000.0
"""A leader whose clock is further off than this hands over to a voter whose clock is nearer."""

RESIGN_PAUSE_MS = 10_000.0
"""Between two attempts of one shard."""

JUMP_MS = 5.0
"""A smaller step of this node's own wall clock is not followed: the two clocks never agree to the millisecond."""

ROUND_TRIP_MS_MAX = 1_000.0
"""An answer that took longer says nothing useful about a clock."""


class Clocks:
    """off: whether any known clock differs from this node's by more than CLOCK_OFF_MS_MAX."""

    def __init__(self) -> None:
        self.off = False
        self._was_off = False
        self._offset_ms = 0.0
        """This node's wall clock minus its monotonic clock."""
        self._exact_ms = 0.0
        """The same, with every step of it."""
        self._offsets_ms: dict[NodeId, float] = {}
        """A peer's wall clock minus this node's monotonic clock."""
        self._tried_ms: dict[ShardId, float] = {}

    def note(self, now_ms: float, wall_ms: int) -> None:
        """Once a turn: this node's clocks. The wall clock may have been set."""
        offset_ms = self._exact_ms = wall_ms - now_ms
        if abs(offset_ms - self._offset_ms) > JUMP_MS:
            self._offset_ms = offset_ms
            self._look()

    def wall_ms(self, now_ms: float) -> int:
        """This node's wall clock at a moment of its monotonic one."""
        return max(0, round(now_ms + self._offset_ms))

    def at_ms(self, wall_ms: float) -> float:
        """What this node's monotonic clock will show when its wall clock shows `wall_ms`, as far as is known now."""
        return wall_ms - self._exact_ms

    def heard(self, node: NodeId, wall_ms: int, sent_ms: float, now_ms: float) -> None:
        """A peer's clock stood at `wall_ms` between our asking at `sent_ms` and now."""
        if wall_ms <= 0 or now_ms - sent_ms > ROUND_TRIP_MS_MAX:
            return
        self._offsets_ms[node] = wall_ms - (sent_ms + now_ms) / 2
        self._look()

    def forget(self, node: NodeId) -> None:
        """The connection broke; a peer that comes back may have another clock."""
        if self._offsets_ms.pop(node, None) is not None:
            self._look()

    def _look(self) -> None:
        self.off = any(abs(offset_ms - self._offset_ms) > CLOCK_OFF_MS_MAX for offset_ms in self._offsets_ms.values())

    def concern(self) -> bool:
        """Once a beat: whether clocks are off, or were at the beat before: whatever rests on them is looked at again then."""
        concerned, self._was_off = self.off or self._was_off, self.off
        return concerned

    def median_ms(self, replica: ShardReplica) -> float | None:
        """How far the median of a shard's voters' clocks is ahead of this node's; None while no majority of them is known."""
        ahead = self._voters(replica)
        if 2 * len(ahead) <= len(replica.raft.configuration.voters):
            return None
        return median(ahead.values())

    def _voters(self, replica: ShardReplica) -> dict[ReplicaId, float]:
        """How far the known clocks of the voters are ahead, this node's own included."""
        voters = replica.raft.configuration.voters
        places = {peer: node for peer, node in replica.raft.configuration.places if peer in voters}
        offsets_ms, own_ms = self._offsets_ms, self._offset_ms
        ahead = {peer: offsets_ms[node] - own_ms for peer, node in places.items() if node in offsets_ms}
        if replica.replica in voters:
            ahead[replica.replica] = 0.0
        return ahead

    def stamp(self, replica: ShardReplica, wall_ms: int) -> int:
        """The time that a leader's next entry gets at least: its clock, held near its voters' median."""
        if not self.off:
            return wall_ms
        ahead_ms = self.median_ms(replica)
        if ahead_ms is None:
            return wall_ms
        return round(min(max(wall_ms, wall_ms + ahead_ms - CLOCK_OFF_MS_MAX), wall_ms + ahead_ms + CLOCK_OFF_MS_MAX))

    def ahead_ms(self, replica: ShardReplica) -> float:
        """How far a leader's stamp is ahead of this node's wall clock."""
        if not self.off:
            return 0.0
        wall_ms = 1 << 50
        return float(self.stamp(replica, wall_ms) - wall_ms)

    def resign(self, replica: ShardReplica, now_ms: float, turn: Turn) -> None:
        """Hand over a shard for which this node's clock is too far off. The successor's is nearer to the median, so leadership
        does not wander.
        """
        if not self.off or not replica.serves or now_ms - self._tried_ms.get(replica.id, -RESIGN_PAUSE_MS) < RESIGN_PAUSE_MS:
            return
        ahead_ms = self.median_ms(replica)
        if ahead_ms is None or abs(ahead_ms) <= RESIGN_OFF_MS:
            return
        matches = replica.raft.progress
        distances = {peer: abs(ahead - ahead_ms) for peer, ahead in self._voters(replica).items() if peer in matches}
        nearer = [peer for peer, off_ms in distances.items() if peer != replica.replica and off_ms <= CLOCK_OFF_MS_MAX]
        if nearer:
            self._tried_ms[replica.id] = now_ms
            replica.handle(Transfer(max(nearer, key=lambda peer: (matches[peer], -peer))), now_ms, turn)
