"""When leaders are killed: once in the first third of the messages, once in the last, at random moments of a given seed.

The phase within a batch matters more than the message: a kill can fall between append and fsync, fsync and acknowledgement, or
acknowledgement and delta. So a random time is waited behind the message, up to several round trips.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

DELAY_MS_MAX: Final = 8.0
MESSAGES_PER_MS: Final = 40
"""More than are ever acknowledged in a millisecond: with it a delay never outlasts the third that it belongs to."""
RESTART_AFTER_MS: Final = (100.0, 600.0)


@dataclass(frozen=True, slots=True)
class Kill:
    """The leader is killed `delay_ms` after message number `message` was acknowledged, and started again after `down_ms`.

    hold_at: sending waits before this message until the previous victim takes part again, so that one failure is one failure.
    """

    message: int
    delay_ms: float
    down_ms: float
    hold_at: int


def schedule(messages: int, seed: int) -> list[Kill]:
    """Two kills for a recording of so many messages; none when it is too short to have thirds."""
    source = random.Random(seed)
    if messages < 9:
        return []
    kills = []
    for begin, end in ((0, messages // 3), (2 * messages // 3, messages)):
        third = end - begin
        # not at the edges: something must be acknowledged before and after, else there is no gap to measure.
        message = begin + 1 + third // 8 + source.randrange(max(1, third // 2))
        delay_ms_max = min(DELAY_MS_MAX, (end - message) / MESSAGES_PER_MS / 2)
        kills.append(Kill(message, source.uniform(0, delay_ms_max), source.uniform(*RESTART_AFTER_MS), begin))
    return kills
