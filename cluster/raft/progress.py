"""One follower as its leader sees it: what it has, what was sent, and when to stop waiting for an answer.

    PROBE      the leader does not know where the logs part: one append at a time until one is accepted
    REPLICATE  appends are sent ahead of their acknowledgements, inside a window of messages and bytes
    SNAPSHOT   the next entry is compacted away: nothing is sent until the follower acknowledges what connects to the log

Invariant: 0 <= match < next. `match` only rises, within one leadership. Whatever awaits an answer has a finite `retry_at_ms`,
so a lost message or a full window never blocks a follower for ever (reference trap 30).
"""

from __future__ import annotations

import enum
import math

from cluster.empty import NO_ITEMS
from cluster.ids import LogIndex
from cluster.raft.events import NEVER


class Pace(enum.Enum):
    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


class Progress:
    """Volatile, one per other replica, made at each election.

    match: every entry up to here is durably the leader's. next: the first entry not yet sent.
    pending_snapshot: in SNAPSHOT, the index that was offered; the leader keeps its log from there.
    commit: what the follower is known to have learned. notified: what it was told.
    heard_ms: when it last answered in this term. sent_ms: newest message that awaits an answer.
    awaiting: in PROBE, one append is unanswered. retries: unanswered ones in a row.
    """

    __slots__ = (
        "awaiting",
        "commit",
        "heard_ms",
        "inflight",
        "inflight_bytes",
        "match",
        "next",
        "notified",
        "pace",
        "pending_snapshot",
        "retries",
        "retry_at_ms",
        "sent_ms",
    )

    def __init__(self, next_index: LogIndex, now_ms: float) -> None:
        self.match = LogIndex(0)
        self.next = next_index
        self.pace = Pace.PROBE
        self.pending_snapshot = LogIndex(0)
        self.commit = LogIndex(0)
        self.notified = LogIndex(0)
        self.heard_ms = now_ms
        self.sent_ms = NEVER
        self.awaiting = False
        self.retries = 0
        self.retry_at_ms = math.inf
        self.inflight: list[tuple[LogIndex, int]] = NO_ITEMS  # (last index, bytes) of each append, in order sent
        self.inflight_bytes = 0

    def sent(self, last: LogIndex, size: int) -> None:
        """An append that ends at `last` is on its way."""
        if not self.inflight:
            self.inflight = []
        self.inflight.append((last, size))
        self.inflight_bytes += size
        self.next = LogIndex(last + 1)

    def accepted(self, index: LogIndex) -> bool:
        """The follower verified its log up to `index`. True when that is news (reference trap 29)."""
        while self.inflight and self.inflight[0][0] <= index:
            self.inflight_bytes -= self.inflight.pop(0)[1]
        if index <= self.match:
            return False
        self.match = index
        self.next = max(self.next, LogIndex(index + 1))
        return True

    def probe(self, next_index: LogIndex) -> None:
        """Go back to one append at a time, from `next_index` or the first entry that is not matched."""
        self._restart(Pace.PROBE)
        self.next = max(next_index, LogIndex(self.match + 1))

    def replicate(self) -> None:
        """The logs are known to agree up to `match`: send ahead from there."""
        self._restart(Pace.REPLICATE)
        self.next = LogIndex(self.match + 1)

    def wait_for_snapshot(self, index: LogIndex) -> None:
        """Nothing can be sent until the follower has a snapshot of `index` or anything else that connects."""
        self._restart(Pace.SNAPSHOT)
        self.pending_snapshot = index

    def _restart(self, pace: Pace) -> None:
        self.pace = pace
        self.awaiting = False
        self.pending_snapshot = LogIndex(0)
        self.inflight = NO_ITEMS
        self.inflight_bytes = 0

    def invariants(self) -> None:
        assert 0 <= self.match < self.next, "match lies before next"
        assert self.inflight_bytes == sum(size for _, size in self.inflight), "bytes in flight are those of the appends"
        assert self.pace is Pace.REPLICATE or not self.inflight, "only replication sends ahead"
        assert (self.pace is Pace.SNAPSHOT) == (self.pending_snapshot > 0), "a snapshot is pending exactly in SNAPSHOT"
        if self.awaiting or self.inflight or self.pace is Pace.SNAPSHOT:
            assert self.retry_at_ms < math.inf, "what awaits an answer has a time to stop waiting (reference trap 30)"
