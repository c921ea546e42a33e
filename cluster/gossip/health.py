"""How much this node trusts itself (Lifeguard, local health): who is slow must not accuse others of it."""

from __future__ import annotations

from typing import Final

SCORE_MAX: Final = 8
STALL_MS_MIN: Final = 100
"""A process that stood still for less is not sick."""


class LocalHealth:
    """A score from 0 (healthy) to SCORE_MAX. Probe period and timeout are multiplied by score + 1.

    Fed by answered probes (-1), failed ones without anybody to vouch for this node (+1), helpers that are silent (+1 each),
    refutations (+1), and stalls of this process (+1).
    """

    __slots__ = ("_counted_ms", "score", "stalled_ms", "stalls")

    def __init__(self) -> None:
        self.score = 0
        self.stalls = 0
        self.stalled_ms = 0
        """Of all stalls since start."""
        self._counted_ms = 0

    def adjust(self, delta: int) -> None:
        self.score = min(SCORE_MAX, max(0, self.score + delta))

    def scale(self, duration_ms: int) -> int:
        return duration_ms * (self.score + 1)

    def stalled(self, since_ms: int, now_ms: int) -> int:
        """This process did not run from `since_ms` to `now_ms`. Returns the part that was not known of, 0 if that is short.

        A late timer and the event loop's own watch report the same stall.
        """
        stalled_ms = now_ms - max(since_ms, self._counted_ms)
        if stalled_ms < STALL_MS_MIN:
            return 0
        self._counted_ms = now_ms
        self.stalls += 1
        self.stalled_ms += stalled_ms
        self.adjust(1)
        return stalled_ms
