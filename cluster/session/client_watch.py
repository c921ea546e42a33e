"""The watches of one client: where each viewer is, and what to ask for when a delta does not fit.

Invariant: what the application is shown of a watch is a whole view, then patches that each start where the last one ended;
after a gap, a rewind or a reconnect it goes on from the last position or starts again with a whole view, and never goes back.
"""

from __future__ import annotations

import enum

from cluster.errors import HistoryTrimmed, OutcomeUnknown, PositionRewound
from cluster.session.client_events import Asked, Presented, Watched
from cluster.session.client_writes import DocumentWrites
from cluster.session.operations import Delta, Failure, Kind, Operation

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
    """One watch. wire_id: of the subscription that is open, 0 if none is. outstanding: bytes shown and not consumed yet.

    epoch, index: where the next patch must start; index -1 when a whole view is wanted. shown: the last position that the
    application was shown, which a whole view must not be before, whatever it is wanted for.
    arguments, version: what is asked of views and windows. shown_version: of what has been shown. taken: the arguments that the
    server has not refused, and their version. presence: what the connection shows others, JSON.
    """

    __slots__ = (
        "arguments",
        "credit_max",
        "document",
        "epoch",
        "failures",
        "granted_late",
        "index",
        "outstanding",
        "presence",
        "shown",
        "shown_version",
        "taken",
        "version",
        "watch",
        "wire_id",
    )

    def __init__(self, wanted: Watched, document: DocumentWrites, credit_max: int) -> None:
        self.arguments = wanted.arguments
        self.version = self.shown_version = 0
        self.presence = b""
        self.taken = (wanted.arguments, 0)
        self.watch = wanted.watch
        self.document = document
        self.epoch = wanted.epoch
        self.index = wanted.index
        self.shown = (0, -1)
        self.credit_max = credit_max
        self.wire_id = 0
        self.outstanding = 0
        self.granted_late = 0
        self.failures = 0

    def open(self, wire_id: int) -> Operation:
        """A subscription is asked for. What is not consumed yet stays charged to its credit."""
        self.wire_id = wire_id
        self.granted_late = 0
        if self.shown_version != self.version:  # what has been shown was made with other arguments
            self.start_over()
        operation = self._operation(wire_id, Kind.WATCH, credit=max(1, self.credit_max - self.outstanding))
        operation.epoch, operation.index = self.epoch, self.index
        operation.channel = self.presence.decode()
        return operation

    def ask(self, wanted: Asked | Presented, wire_id: int) -> Operation | None:
        """Other arguments from now on, or something else to show; returns what tells the open subscription, None when the next
        one will say it.
        """
        if isinstance(wanted, Presented):
            self.presence, kind = wanted.value, Kind.PRESENT
        else:
            self.arguments, self.version, kind = wanted.arguments, wanted.version, Kind.ARGUMENTS
        operation = self._operation(wire_id, kind, credit=self.wire_id)
        if kind is Kind.PRESENT:
            operation.payload, operation.sequence = self.presence, 0
        return operation if self.wire_id else None

    def wants(self, asked: Asked | Presented) -> bool:
        """Whether this is still the newest wish of its kind."""
        return asked.version == self.version if isinstance(asked, Asked) else asked.value == self.presence

    def refuse(self, version: int) -> None:
        """The server does not take the arguments of this version: those before stand. 0 is what was to be shown."""
        if not version:
            self.presence = b""
        elif self.version == version:
            self.arguments, self.version = self.taken

    def close(self) -> Operation:
        """The subscription is to be ended."""
        document = self.document
        operation = Operation(self.wire_id, Kind.UNWATCH.value, document.space, document.key, "")
        self.wire_id = 0
        return operation

    def _operation(self, wire_id: int, kind: Kind, credit: int) -> Operation:
        document = self.document
        operation = Operation(wire_id, kind.value, document.space, document.key, "", payload=self.arguments, credit=credit)
        operation.sequence = self.version
        return operation

    def fit(self, delta: Delta) -> Fit:
        """Whether the delta continues what has been shown; advances if so."""
        here = (self.epoch, self.index, self.shown_version)
        there = (delta.epoch, delta.index, delta.arguments)
        if delta.reset:
            if there[:2] < self.shown or (self.index >= 0 and there[:2] < here[:2]):
                return Fit.STALE
        elif (delta.from_epoch, delta.from_index, delta.from_arguments) != here:
            return Fit.DUPLICATE if self.index >= 0 and there <= here else Fit.GAP
        self.epoch, self.index, self.shown_version = there
        self.shown = there[:2]
        if delta.arguments == self.version:
            self.taken = (self.arguments, self.version)
        self.failures = 0
        self.outstanding += delta.credit_bytes
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
