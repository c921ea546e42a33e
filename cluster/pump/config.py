"""The numbers of a pump."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.placement.rules import PlacementRules
from cluster.pump.snapshot_sending import CHUNK_BYTES

HEARTBEATS_MIN_PATIENT = 6
"""With acknowledgements that wait for a round, what a leader knows of a follower is up to two rounds and two messages old."""


@dataclass(frozen=True, slots=True)
class PumpConfig:
    """heartbeat_ms: between liveness rounds. election_timeout_ms: a disk write older than this loses leadership.
    step_slice_ms, apply_slice_ms: Raft and apply pause after this long, so that liveness and new messages get their turn.
    snapshot_bytes_per_second: at most so much of snapshots and history is sent to all peers together, snapshot_chunk_bytes at
    a time. placement: how replicas are placed, None for by hand alone."""

    heartbeat_ms: float = 100.0
    election_timeout_ms: float = 1_000.0
    step_slice_ms: float = 20.0
    apply_slice_ms: float = 5.0
    snapshot_bytes_per_second: int = 64 * 1024 * 1024
    snapshot_chunk_bytes: int = CHUNK_BYTES
    placement: PlacementRules | None = None

    @property
    def hasty(self) -> bool:
        """Whether every heartbeat is acknowledged at once: the election timeout has no room for answers that wait for the
        answerer's own next round."""
        return self.election_timeout_ms < HEARTBEATS_MIN_PATIENT * self.heartbeat_ms

    def beat_due_ms(self, due_ms: float, now_ms: float) -> float:
        """When a round due at `due_ms` should leave, now that a peer's heartbeat has woken this node: at once if it is due
        soon, for nodes that beat together wake each other less often. Soon is half an interval: of two nodes one always hears
        the other within that, so they fall into step with their first rounds."""
        return now_ms if due_ms - now_ms <= self.heartbeat_ms / 2 else due_ms
