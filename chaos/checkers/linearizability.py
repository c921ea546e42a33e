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
    whether it took effect. told: whatever says what it was, if somebody asks.
    """

    began_ms: float
    ended_ms: float
    step: Callable[[State], State | None]
    told: object = ""

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
    """One search. `taken`, `placed` and `order` are the calls placed so far, as bits, as bytes and in their order."""

    def __init__(self, calls: Sequence[Interval[State]], initial: State) -> None:
        order = sorted(range(len(calls)), key=lambda number: calls[number].began_ms)
        self._known = [number for number in order if calls[number].known]
        self._unknown = [number for number in order if not calls[number].known]
        self._began_ms = [call.began_ms for call in calls]
        self._ended_ms = [call.ended_ms for call in calls]
        self._latest_first = [-call.ended_ms for call in calls]
        self._state = initial
        self._steps = [call.step for call in calls]
        self._taken = 0
        self._placed = bytearray(len(calls))
        self._order: list[int] = []

    def run(self, steps_max: int) -> Found:
        tried: set[tuple[int, State]] = set()
        stack: list[tuple[State, list[int], int]] = [(self._state, *self._candidates(0))]
        longest: tuple[int, ...] = ()
        steps, left = 0, len(self._known)
        while left:
            before, candidates, passed = stack[-1]
            if not candidates:
                if len(self._order) > len(longest):
                    longest = tuple(self._order)
                stack.pop()
                if not stack:
                    return Found(Verdict.NOT_LINEARIZABLE, longest, steps)
                undone = self._order.pop()
                self._taken ^= 1 << undone
                self._placed[undone] = 0
                left += self._ended_ms[undone] != math.inf
                continue
            steps += 1
            if steps > steps_max:
                return Found(Verdict.UNDECIDED, max(longest, tuple(self._order), key=len), steps)
            number = candidates.pop()
            state = self._steps[number](before)
            if state is None:
                continue
            taken = self._taken | 1 << number
            known = len(tried)
            tried.add((taken, state))
            if len(tried) == known:
                continue
            self._taken = taken
            self._placed[number] = 1
            left -= self._ended_ms[number] != math.inf
            self._order.append(number)
            stack.append((state, *self._candidates(passed)))
        return Found(Verdict.LINEARIZABLE, tuple(self._order), steps)

    def _candidates(self, passed: int) -> tuple[list[int], int]:
        """Calls that may come next, best last: those that began before any that is left has ended. passed: of how many known
        calls, from the first on, it is known that they are taken; returned anew.
        """
        known, placed, began_ms, ended_ms = self._known, self._placed, self._began_ms, self._ended_ms
        while passed < len(known) and placed[known[passed]]:
            passed += 1
        first_end_ms = math.inf
        found: list[int] = []
        for place in range(passed, len(known)):
            number = known[place]
            if placed[number]:
                continue
            if began_ms[number] > first_end_ms:
                break
            found.append(number)
            if ended_ms[number] < first_end_ms:
                first_end_ms = ended_ms[number]
        candidates = [number for number in found if began_ms[number] <= first_end_ms]
        if len(candidates) > 1:
            candidates.sort(key=self._latest_first.__getitem__)
        if self._unknown:
            unknown = [number for number in self._unknown if not placed[number] and began_ms[number] <= first_end_ms]
            candidates = unknown + candidates
        return candidates, passed


def search(calls: Sequence[Interval[State]], initial: State, steps_max: int = STEPS_MAX) -> Found:
    """Look for one order of the calls that explains all answers. See the limits in the module."""
    unknown = sum(not call.known for call in calls)
    if len(calls) > OPERATIONS_MAX or unknown > UNKNOWN_MAX:
        return Found(Verdict.UNDECIDED, (), 0)
    return _Search(calls, initial).run(steps_max)
