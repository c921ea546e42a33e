"""The budget of the running command: steps, call depth, and what may not be swallowed.

One meter serves the process, because documents run one command at a time in one thread; `begin` arms it and `end` disarms it:
work outside is not counted. Statements that the instrumentation inserts into the author's code write `METER.left` in place;
everything whose cost follows its input calls `charge` before the work is done. A step is about one statement, one call or one
element of a display.

Invariant: once a limit is reached, `limit` is set and every later step raises again until `end`, so a handler that swallows
the exception still can not go on, and its command is rolled back. The numbers depend on the author's source and the values
alone, never on the interpreter, the clock or the machine.

It does not measure time or memory: it bounds them, because a step pays for at most `ITEMS_PER_STEP` copied items.
"""

from __future__ import annotations

import contextlib
import decimal
from collections.abc import Iterator
from typing import Any, Final, NoReturn

ITEMS_PER_STEP: Final = 8
"""How many characters or elements are copied for one step."""

PRINTED_CHARACTERS_MAX: Final = 16 * 1024
"""What `print` may leave in the document's log, for one command."""

FIXED_DECIMALS: Final = decimal.Context(prec=34, rounding=decimal.ROUND_HALF_EVEN, Emin=-6143, Emax=6144, capitals=1, clamp=0)
"""The one context of all decimal arithmetic in documents: decimal128's precision and range, half even."""

_NEVER_AGAIN: Final = -(1 << 62)
_UNMETERED: Final = 1 << 62


class Exhausted(BaseException):
    """A limit was reached. Not an Exception, so that authors' `except Exception` lets it pass.

    limit: steps, depth, state, answer or events.
    """

    def __init__(self, limit: str) -> None:
        super().__init__(limit)
        self.limit = limit


class Fault(BaseException):
    """Something that is no answer of the author's code (memory, interpreter recursion) on its way to ApplyHalted."""


class Meter:
    """The counters. `left` and `depth` fall; below zero they are used up.

    refusal: the first refusal that the command raised: it stands even if the handler catches it.
    fault: the first fault seen while the command ran: it halts apply even if the handler catches it.
    printed: what the command printed. emitted: what it emitted (see emitting.py), until its end takes it or lets it go.
    """

    __slots__ = (
        "allowed",
        "decimals_outside",
        "depth",
        "emitted",
        "fault",
        "left",
        "limit",
        "printed",
        "printed_room",
        "refusal",
        "used",
    )

    def __init__(self) -> None:
        self.left = _UNMETERED
        self.depth = _UNMETERED
        self.allowed = _UNMETERED
        self.limit = ""
        self.used = 0
        self.decimals_outside = decimal.getcontext()
        self.refusal: Exception | None = None
        self.fault: BaseException | None = None
        self.printed: list[str] = []
        self.printed_room = 0
        self.emitted: list[Any] = []

    def begin(self, steps: int, depth: int) -> None:
        """Arm for one command or one read, and put decimal arithmetic under the fixed context."""
        self.decimals_outside = outside = decimal.getcontext()
        if outside is not FIXED_DECIMALS:
            decimal.setcontext(FIXED_DECIMALS)
        self.left = self.allowed = steps
        self.depth = depth
        self.limit = ""
        self.refusal = None
        self.fault = None
        self.printed_room = PRINTED_CHARACTERS_MAX
        if self.printed:
            self.printed = []

    def end(self) -> int:
        """Disarm and return the steps used. A second call has no effect."""
        if self.allowed == _UNMETERED:
            return 0
        if self.decimals_outside is not FIXED_DECIMALS:
            decimal.setcontext(self.decimals_outside)
        used = self.used if self.limit else self.allowed - self.left
        self.allowed = self.left = self.depth = _UNMETERED
        self.limit = ""
        return used

    def exhausted(self) -> NoReturn:
        """Raise for whichever counter is below zero, and keep raising from now on."""
        self.exhaust("depth" if self.depth < 0 <= self.left else "steps")

    def exhaust(self, limit: str) -> NoReturn:
        """Give up the command because of `limit`, for good."""
        if not self.limit:
            self.limit = limit
            self.used = self.allowed if limit == "steps" else self.allowed - max(self.left, 0)
        self.left = _NEVER_AGAIN
        raise Exhausted(self.limit)


METER: Final = Meter()


@contextlib.contextmanager
def fixed_decimals() -> Iterator[None]:
    """Decimal arithmetic under the fixed context for many commands: changing it for each costs more than some handlers."""
    outside = decimal.getcontext()
    decimal.setcontext(FIXED_DECIMALS)
    try:
        yield
    finally:
        decimal.setcontext(outside)


def charge(steps: int) -> None:
    """Pay `steps` before doing work of that cost. Raises Exhausted."""
    METER.left = left = METER.left - steps
    if left < 0:
        METER.exhausted()


def charge_items(count: int) -> None:
    """Pay for copying `count` characters or elements."""
    METER.left = left = METER.left - (count // ITEMS_PER_STEP)
    if left < 0:
        METER.exhausted()


def enter() -> None:
    """Note that author code is called through code of ours which the instrumentation can not see."""
    METER.depth = depth = METER.depth - 1
    if depth < 0:
        METER.exhausted()


def leave() -> None:
    """The end of `enter`."""
    METER.depth += 1
