"""What waits for its next attempt, by when: a heap with the pauses' lengths."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Pauses(Generic[T]):
    """Pauses double with each failure, within their bounds and with jitter, and are never shorter than the server's hint.

    jitter: uniform in [0, 1). min_ms, max_ms: of a pause before jitter, which makes it half to one and a half times as long.
    """

    __slots__ = ("_count", "_heap", "_jitter", "_max_ms", "_min_ms")

    def __init__(self, min_ms: int, max_ms: int, jitter: Callable[[], float]) -> None:
        self._min_ms = min_ms
        self._max_ms = max_ms
        self._jitter = jitter
        self._heap: list[tuple[float, int, T]] = []
        self._count = 0

    @property
    def next_ms(self) -> float | None:
        """When the next pause is over."""
        return self._heap[0][0] if self._heap else None

    def length_ms(self, failures: int, hint_ms: int) -> float:
        """How long to wait after so many failures in a row."""
        doublings = min(max(failures - 1, 0), 16)
        return max(hint_ms, min(self._min_ms << doublings, self._max_ms) * (0.5 + self._jitter()))

    def add(self, until_ms: float, what: T) -> None:
        """Let `what` wait until then."""
        self._count += 1
        heapq.heappush(self._heap, (until_ms, self._count, what))

    def over(self, now_ms: float) -> Iterator[T]:
        """Take out everything whose pause is over, in order."""
        while self._heap and self._heap[0][0] <= now_ms:
            yield heapq.heappop(self._heap)[2]
