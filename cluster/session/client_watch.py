"""The watches of one client: where each viewer is, and what to ask for when a delta does not fit.

Invariant: what the application is shown of a watch is a whole view, then patches that each start where the last one ended;
after a gap, a rewind or a reconnect it goes on from the last position or starts again with a whole view, and never goes back.
"""

from __future__ import annotations

import enum

from cluster.errors import HistoryTrimmed, OutcomeUnknown, PositionRewound
from cluster.session.client_writes import DocumentWrites
from cluster.session.operations import Delta, Failure

DELTA_OVERHEAD_BYTES = 32
"""What the server charges a watch's credit for a delta beside its body."""

_START_OVER = frozenset((PositionRewound.reason, HistoryTrimmed.reason))


class Fit(enum.Enum):
    """Whether a delta can be shown."""

    SHOW = "show"
    DUPLICATE = "duplicate"
    STALE = "stale"
    GAP = "gap"


class After(enum.Enum):
    """What to do when a watch was ended by the server."""

    RESUME = "resume"
    START_OVER = "start over"
    END = "end"


class WatchState:
    """One watch. wire_id: of the subscription that is open, 0 if none is. outstanding: bytes shown and not consumed yet."""

    __slots__ = ("credit_max", "document", "epoch", "failures", "granted_late", "index", "outstanding", "watch", "wire_id")

    def __init__(self, watch: int, document: DocumentWrites, epoch: int, index: int, credit_max: int) -> None:
        self.watch = watch
        self.document = document
        self.epoch = epoch
        self.index = index
        self.credit_max = credit_max
        self.wire_id = 0
        self.outstanding = 0
        self.granted_late = 0
        self.failures = 0

    def open(self, wire_id: int) -> int:
        """A subscription is asked for. Returns its credit in bytes: what is not consumed yet stays charged."""
        self.wire_id = wire_id
        self.granted_late = 0
        return max(1, self.credit_max - self.outstanding)

    def fit(self, delta: Delta) -> Fit:
        """Whether the delta continues what has been shown; advances if so."""
        here = (self.epoch, self.index)
        there = (delta.epoch, delta.index)
        if delta.reset:
            if self.index >= 0 and there < here:
                return Fit.STALE
        elif (delta.from_epoch, delta.from_index) != here:
            return Fit.DUPLICATE if self.index >= 0 and there <= here else Fit.GAP
        self.epoch, self.index = there
        self.failures = 0
        self.outstanding += len(delta.body) + DELTA_OVERHEAD_BYTES
        return Fit.SHOW

    def consumed(self, size: int) -> int:
        """The application took that many bytes. Returns what to grant now: half the credit at a time, to save frames."""
        size = min(size, self.outstanding)
        self.outstanding -= size
        return self.grant(size)

    def grant(self, size: int) -> int:
        """Collect credit to give back; returns what is due now."""
        self.granted_late += size
        if not self.wire_id or 2 * self.granted_late < self.credit_max:
            return 0
        due, self.granted_late = self.granted_late, 0
        return due

    def after(self, failure: Failure) -> After:
        """What the server's ending of the subscription means."""
        if failure.reason in _START_OVER:
            return After.START_OVER
        return After.RESUME if failure.retryable or failure.reason == OutcomeUnknown.reason else After.END

    def start_over(self) -> None:
        """Ask for a whole view next."""
        self.epoch, self.index = 0, -1
