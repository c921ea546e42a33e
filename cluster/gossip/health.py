"""How much this node trusts itself (Lifeguard, local health): who is slow must not accuse others of it."""

from __future__ import annotations

from typing import Final

SCORE_MAX: Final = 8


class LocalHealth:
    """A score from 0 (healthy) to SCORE_MAX. Probe period and timeout are multiplied by score + 1."""

    __slots__ = ("score",)

    def __init__(self) -> None:
        self.score = 0

    def adjust(self, delta: int) -> None:
        self.score = min(SCORE_MAX, max(0, self.score + delta))

    def scale(self, duration_ms: int) -> int:
        return duration_ms * (self.score + 1)
