"""Whether what clients saw of one document can be explained by one order of their calls: the search of Wing and Gong (1993),
with Lowe's memory of what was tried (2017).

Positions decide almost everything without a search (`answers`). This is the second opinion: it looks at times and contents only
and believes no position.

A call takes effect at one moment between its begin and its end. One whose fate nobody knows may take effect at any moment
after its begin, or never. Documents do not touch each other, so each is searched alone (P-compositionality).

Limit: what overlaps decides the cost, not the length. Beyond OPERATIONS_MAX calls of a document, UNKNOWN_MAX of unknown fate,
or STEPS_MAX steps the search gives up and says UNDECIDED, which is neither a failure nor a proof.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

OPERATIONS_MAX = 2_000
UNKNOWN_MAX = 40
STEPS_MAX = 100_000

State = TypeVar("State", bound=Hashable)


class Verdict(enum.Enum):
    """What a search found."""

    LINEARIZABLE = "linearizable"
    NOT_LINEARIZABLE = "not linearizable"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Interval(Generic[State]):
    """One call as the search sees it.

    step: the state after it, or None when its answer does not fit the state before. ended_ms: infinite when nobody knows
    whether it took effect.
    """

    began_ms: float
    ended_ms: float
    step: Callable[[State], State | None]
    told: str = ""

    @property
    def known(self) -> bool:
        return self.ended_ms != math.inf


@dataclass(frozen=True, slots=True)
class Found:
    """verdict, and the calls in the longest order that could be explained."""

    verdict: Verdict
    longest: tuple[int, ...]
    steps: int


class _Search(Generic[State]):
    """One search. `taken` and `order` are the calls placed so far, as bits and in their order."""

    def __init__(self, calls: Sequence[Interval[State]], initial: State) -> None:
        order = sorted(range(len(calls)), key=lambda number: calls[number].began_ms)
        self.calls = calls
        self._known = [number for number in order if calls[number].known]
        self._unknown = [number for number in order if not calls[number].known]
        self._goal = sum(1 << number for number in self._known)
        self._state = initial
        self._taken = 0
        self._order: list[int] = []

    def run(self, steps_max: int) -> Found:
        tried: set[tuple[int, State]] = set()
        stack: list[tuple[State, list[int]]] = [(self._state, self._candidates(0))]
        longest: tuple[int, ...] = ()
        steps = 0
        while self._taken & self._goal != self._goal:
            before, candidates = stack[-1]
            if not candidates:
                stack.pop()
                if not stack:
                    return Found(Verdict.NOT_LINEARIZABLE, longest, steps)
                self._taken ^= 1 << self._order.pop()
                continue
            steps += 1
            if steps > steps_max:
                return Found(Verdict.UNDECIDED, longest, steps)
            number = candidates.pop()
            state = self.calls[number].step(before)
            taken = self._taken | 1 << number
            if state is None or (taken, state) in tried:
                continue
            tried.add((taken, state))
            self._taken = taken
            self._order.append(number)
            if len(self._order) > len(longest):
                longest = tuple(self._order)
            stack.append((state, self._candidates(taken)))
        return Found(Verdict.LINEARIZABLE, tuple(self._order), steps)

    def _candidates(self, taken: int) -> list[int]:
        """Calls that may come next, best last: those that began before any that is left has ended."""
        first_end_ms = math.inf
        found: list[int] = []
        for number in self._known:
            if taken >> number & 1:
                continue
            call = self.calls[number]
            if call.began_ms > first_end_ms:
                break
            found.append(number)
            first_end_ms = min(first_end_ms, call.ended_ms)
        calls = self.calls
        known = [number for number in found if calls[number].began_ms <= first_end_ms]
        known.sort(key=lambda number: -calls[number].ended_ms)
        unknown = [n for n in self._unknown if not taken >> n & 1 and calls[n].began_ms <= first_end_ms]
        return unknown + known


def search(calls: Sequence[Interval[State]], initial: State, steps_max: int = STEPS_MAX) -> Found:
    """Look for one order of the calls that explains all answers. See the limits in the module."""
    unknown = sum(not call.known for call in calls)
    if len(calls) > OPERATIONS_MAX or unknown > UNKNOWN_MAX:
        return Found(Verdict.UNDECIDED, (), 0)
    return _Search(calls, initial).run(steps_max)
