"""The numbers of a Raft group. All groups of a node share one RaftConfig.

Nothing here may change what a group decides, only when and in how many pieces: replicas with different numbers agree.
"""

from __future__ import annotations

from dataclasses import dataclass

from cluster.errors import ConfigurationInvalid

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True)
class RaftConfig:
    """Raises ConfigurationInvalid when a number is out of its range.

    election_timeout_ms_min, election_timeout_ms_max: a follower that has not heard its leader for a random time in this
        interval asks for votes; a leader without a quorum for the minimum steps down; a voter that heard its leader within
        the minimum refuses votes. Above any ordinary pause (fsync, garbage collection: 50 to 200 ms) and at least ten
        heartbeats, or healthy leaders fall; speed of failover comes from `LeaderLost`, not from here. 10 <= min < max.
    stagger_ms: distance between the candidates after `LeaderLost`. More than a vote round trip with its fsync, or
        candidates collide. > 0.
    resend_timeout_ms: an append, probe or offer without an answer for so long is followed by an empty probe. A few round
        trips plus an fsync; below the election timeout, or a lost message costs a leader. 1 <= resend < election min.
    snapshot_retry_ms: pause before a follower whose snapshot transfer failed is probed again. > 0.
    append_bytes_max: entries in one append. Larger amortises better, smaller keeps other groups' messages waiting less.
    window_appends: appends in flight to one follower. Shallow on purpose: what waits behind a full window gathers into
        larger batches, and every batch costs the follower one fsync. 1..64.
    window_bytes_max: with so many bytes in flight to one follower no further append begins, so at most this and one append
        are. >= append_bytes_max.
    inflight_bytes_max: the same for all followers together, so that many of them can not fill the node's queues; one with
        nothing in flight may always have one append. >= append_bytes_max.
    uncommitted_bytes_max: proposals beyond this are refused as Overloaded; the first is always admitted. > 0.
    overloaded_retry_ms: what an Overloaded refusal tells the caller to wait. > 0.
    tail_bytes_max: recent entries kept in memory to serve followers and apply; older ones are read from the log. What is
        not yet durable or not yet applied is kept beyond this.
    promotion_lag_entries: a learner that lacks more entries than this is not made a voter. What it lacks then must cross the
        network before the new configuration can commit anything. >= 0.
    reads_pending_max: read contexts that wait for a quorum; more are refused. > 0.
    lease_reads: promise leaders not to help elect others (see `cluster.raft.lease`), and answer reads from a lease while there
        is one. A leader has no lease without promises from a quorum, so a group whose replicas differ in this reads by rounds.
    lease_drift_ms: how far two clocks may drift apart within a minimum election timeout; a lease is shorter by as much.
        0 <= drift < election min.
    invariants_checked: also run the expensive assertions after every step (tests and simulation).
    """

    election_timeout_ms_min: float = 1_000.0
    election_timeout_ms_max: float = 2_000.0
    stagger_ms: float = 50.0
    resend_timeout_ms: float = 200.0
    snapshot_retry_ms: float = 1_000.0
    append_bytes_max: int = MIB
    window_appends: int = 4
    window_bytes_max: int = 4 * MIB
    inflight_bytes_max: int = 32 * MIB
    uncommitted_bytes_max: int = 32 * MIB
    overloaded_retry_ms: int = 50
    tail_bytes_max: int = 4 * MIB
    promotion_lag_entries: int = 256
    reads_pending_max: int = 1_024
    lease_reads: bool = False
    lease_drift_ms: float = 100.0
    invariants_checked: bool = False

    def __post_init__(self) -> None:
        _check(10 <= self.election_timeout_ms_min < self.election_timeout_ms_max, "10 <= election_timeout_ms_min < _max")
        _check(self.stagger_ms > 0, "stagger_ms > 0")
        _check(1 <= self.resend_timeout_ms < self.election_timeout_ms_min, "1 <= resend_timeout_ms < election_timeout_ms_min")
        _check(self.snapshot_retry_ms > 0, "snapshot_retry_ms > 0")
        _check(self.append_bytes_max > 0, "append_bytes_max > 0")
        _check(1 <= self.window_appends <= 64, "1 <= window_appends <= 64")
        _check(self.window_bytes_max >= self.append_bytes_max, "window_bytes_max >= append_bytes_max")
        _check(self.inflight_bytes_max >= self.append_bytes_max, "inflight_bytes_max >= append_bytes_max")
        _check(self.uncommitted_bytes_max > 0, "uncommitted_bytes_max > 0")
        _check(self.overloaded_retry_ms > 0, "overloaded_retry_ms > 0")
        _check(self.tail_bytes_max >= 0, "tail_bytes_max >= 0")
        _check(self.promotion_lag_entries >= 0, "promotion_lag_entries >= 0")
        if self.lease_reads:
            _check(0 <= self.lease_drift_ms < self.election_timeout_ms_min, "0 <= lease_drift_ms < election_timeout_ms_min")
        _check(self.reads_pending_max > 0, "reads_pending_max > 0")


def _check(holds: bool, rule: str) -> None:
    if not holds:
        raise ConfigurationInvalid(f"raft configuration: {rule} does not hold")
