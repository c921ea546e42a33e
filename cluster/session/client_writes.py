"""The writes of one document, as its client sees them: numbering, the window, and what an answer means for the rest.

Numbers are given when a write is first sent. Whether a refused write has used up its number is the server's to say: if it has
not, the next number is a gap, the gap names the expected one, and everything unanswered is numbered anew from there. What is
never done is to give a number again that is known to be used.

A document whose server has forgotten the session (tables are bounded) goes on under a new one. Writes that may have run under
the forgotten session are then answered OUTCOME_UNKNOWN; the others run under the new session, still once and in order.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable

from cluster.errors import (
    BudgetExceeded,
    ClusterError,
    HandlerFailed,
    HandlerRefused,
    KeyReused,
    OutcomeUnknown,
    Overloaded,
    PermissionDenied,
    Poisoned,
    SequenceGap,
    StorageFull,
    TooLarge,
    Unavailable,
)
from cluster.session.client_events import Intent
from cluster.session.failures import failure_of
from cluster.session.operations import Failure, Kind, Operation

_CONSUMING = frozenset(error.reason for error in (HandlerRefused, HandlerFailed, BudgetExceeded, Poisoned))
_BOUNDS = frozenset(error.reason for error in (Overloaded, StorageFull))


class Pending:
    """An intent on its way.

    wire_id: of the attempt under way, 0 between attempts. ambiguous: an attempt may have run without our knowing.
    settled: the application has its answer. After a timeout the write may still be on its way, to keep the order of the rest.
    """

    __slots__ = (
        "ambiguous",
        "attempts",
        "deadline_ms",
        "document",
        "intent",
        "renumbered",
        "sent_ms",
        "sequence",
        "settled",
        "wire_id",
    )

    def __init__(self, intent: Intent, document: DocumentWrites, deadline_ms: float) -> None:
        self.intent = intent
        self.document = document
        self.deadline_ms = deadline_ms
        self.sequence = 0
        self.attempts = 0
        self.wire_id = 0
        self.sent_ms = 0.0
        self.ambiguous = False
        self.renumbered = False
        self.settled = False


class Verdict(enum.Enum):
    """What an answer means for the write that it answers."""

    FINAL = "final"
    RESEND = "resend"
    RESEND_LATER = "resend later"


class DocumentWrites:
    """One document's numbering.

    sent: numbered and unanswered, in order. waiting: not numbered yet. blocked: nothing is sent until every attempt under way
    has been answered and the pause is over, then all of `sent` goes again in order (only its first, when probing).
    tainted: a write was refused of which an earlier copy may still run, so a number believed free may yet be used.
    refusal: the bound that has kept the document's writes out since the last one that was judged.
    """

    __slots__ = (
        "blocked",
        "consumed_through",
        "expected",
        "failures",
        "forgotten",
        "in_flight",
        "key",
        "next_sequence",
        "pausing",
        "position",
        "probing",
        "refusal",
        "resend_at_ms",
        "reused",
        "sent",
        "session",
        "space",
        "tainted",
        "waiting",
        "watches",
    )

    def __init__(self, space: str, key: str, session: bytes) -> None:
        self.space = space
        self.key = key
        self.session = session
        self.next_sequence = 1
        self.consumed_through = 0
        self.sent: deque[Pending] = deque()
        self.waiting: deque[Pending] = deque()
        self.in_flight = 0
        self.blocked = False
        self.resend_at_ms = 0.0
        self.failures = 0
        self.expected: int | None = None
        self.forgotten = False
        self.reused = False
        self.tainted = False
        self.probing = False
        self.refusal: Failure | None = None
        self.pausing = False
        self.position: tuple[int, int] | None = None
        self.watches = 0

    @property
    def idle(self) -> bool:
        """Whether nothing of this document is wanted at the moment."""
        return not (self.sent or self.waiting or self.in_flight or self.watches)

    def saw(self, epoch: int, index: int) -> None:
        """Remember the latest position that the application has been shown."""
        if self.position is None or (epoch, index) > self.position:
            self.position = (epoch, index)

    def interrupted(self, now_ms: float) -> None:
        """The stream is gone: all that was not answered is sent again."""
        self.in_flight = 0
        self.blocked = True
        self.resend_at_ms = now_ms
        self.expected = None

    def judge(self, pending: Pending, failure: Failure | None) -> Verdict:
        """What the answer to an attempt means; keeps the books on which numbers are used."""
        if failure is None or failure.reason != SequenceGap.reason:  # a gap only follows what kept the writes before it out
            self.refusal = failure if failure is not None and failure.reason in _BOUNDS else None
        if failure is None or failure.reason in _CONSUMING:
            self._consumed(pending.sequence)
            return Verdict.FINAL
        reason = failure.reason
        if reason == PermissionDenied.reason and failure.details.get("consumed") == "yes":
            self._consumed(pending.sequence)
            return Verdict.FINAL
        expected = _number(failure.details.get("expected"))
        if reason == SequenceGap.reason:
            return self._resend_from(expected)
        if reason == KeyReused.reason and pending.renumbered and expected is not None:
            # a late copy of a write that we had given up took the number; ours has not run.
            self.reused = True
            return self._resend_from(expected)
        if reason == OutcomeUnknown.reason and expected is not None:
            if expected > 0:
                self._consumed(pending.sequence)  # the document knows the session and has dropped this answer
                return Verdict.FINAL
            self.forgotten = True
            return self._again()
        if failure.applied != "no":
            pending.ambiguous = True
        if failure.retryable or reason == OutcomeUnknown.reason:
            return Verdict.RESEND_LATER  # lost on the way, not judged by the document: repeating it finds out
        self.tainted = self.tainted or pending.ambiguous
        return Verdict.FINAL

    def _consumed(self, sequence: int) -> None:
        self.consumed_through = max(self.consumed_through, sequence)

    def _resend_from(self, expected: int | None) -> Verdict:
        if expected is None:
            return Verdict.RESEND_LATER
        if expected <= self.consumed_through:
            self.forgotten = True  # it has no memory of what it told us: this is another table
        self.expected = expected
        return self._again()

    def _again(self) -> Verdict:
        """At once the first times; a server that keeps saying the same is given pauses."""
        return Verdict.RESEND if self.failures < 2 else Verdict.RESEND_LATER

    def renumber(self, make_session: Callable[[], bytes]) -> list[Pending]:
        """Number what is unanswered for sending it again; returns what can not be, because it may have run or run yet.

        Called with nothing in flight. A write of which a copy may still be on its way never gets another number in its session:
        the copy could run under the old one as well. It moves to a fresh session, if nothing can ever fill the gap that keeps
        its copies from running, and is given up otherwise. After a change of numbers only the first write goes, and the rest
        when it is answered: should a late copy have taken its number, none may overtake it.
        """
        assert self.in_flight == 0
        given_up: list[Pending] = []
        moves = self.expected is not None and bool(self.sent) and (self.reused or self.expected < self.sent[0].sequence)
        leaves = self.forgotten or (moves and any(pending.ambiguous for pending in self.sent))
        if leaves:
            if self.forgotten or self.tainted:
                given_up = [pending for pending in self.sent if pending.ambiguous]
                self.sent = deque(pending for pending in self.sent if not pending.ambiguous)
            for pending in self.sent:
                pending.ambiguous = False
            self.session = make_session()
            self.consumed_through = 0
            self.tainted = False
            self._number_from(1)
        elif moves:
            assert self.expected is not None
            self._number_from(self.expected)
        self.forgotten = False
        self.reused = False
        self.expected = None
        return given_up

    def _number_from(self, sequence: int) -> None:
        self.probing = True
        for pending in self.sent:
            pending.renumbered = True
            pending.sequence = sequence
            sequence += 1
        self.next_sequence = sequence


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdecimal() else None


def refusal(intent: Intent, queued: int, queued_max: int, payload_bytes_max: int) -> ClusterError | None:
    """Why an intent is not taken, if so; nothing was sent."""
    if queued >= queued_max:
        return Overloaded(f"{queued_max} operations wait for an answer", limit="queued_max", retry_after_ms=100)
    if len(intent.payload) > payload_bytes_max:
        return TooLarge(f"a payload has at most {payload_bytes_max} bytes", limit="payload_bytes_max")
    return None


def read_operation(pending: Pending) -> Operation:
    """A read that reaches at least what has been seen of its document."""
    intent = pending.intent
    operation = Operation(0, intent.kind, intent.space, intent.key, "", intent.channel, intent.payload)
    operation.consistency = intent.consistency
    seen = pending.document.position
    if intent.index >= 0 and (seen is None or (intent.epoch, intent.index) > seen):
        seen = (intent.epoch, intent.index)
    if seen is not None:
        operation.epoch, operation.index = seen
    return operation


def write_operation(pending: Pending, acked_through: int) -> Operation:
    """A write under its number."""
    intent = pending.intent
    names = (0, intent.kind, intent.space, intent.key, "", intent.channel, intent.payload)
    return Operation(*names, b"", pending.sequence, acked_through)


def out_of_time(pending: Pending) -> Failure:
    """What is known of an intent whose time is up."""
    if pending.intent.kind != Kind.READ and (pending.wire_id or pending.ambiguous):
        return failure_of(OutcomeUnknown("no answer within the operation's time; it was sent and may have run or run yet"))
    said = None if pending.intent.kind == Kind.READ else pending.document.refusal
    return said or failure_of(Unavailable("no answer within the operation's time; nothing was changed"))
