"""When leaders are killed: once in the first third of the messages, once in the last, at random moments of a given seed.

The phase within a batch matters more than the message: a kill can fall between append and fsync, fsync and acknowledgement, or
acknowledgement and delta. So a random time is waited behind the message, up to several round trips.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

DELAY_MS_MAX: Final = 8.0
RESTART_AFTER_MS: Final = (100.0, 600.0)


@dataclass(frozen=True, slots=True)
class Kill:
    """The leader is killed `delay_ms` after message number `message` was acknowledged, and started again after `down_ms`.

    hold_at: sending waits before this message until the previous victim takes part again, so that one failure is one failure.
    before: and before this one until the leader is killed, which a busy machine may be late with: something has to follow.
    """

    message: int
    delay_ms: float
    down_ms: float
    hold_at: int
    before: int


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
        delay_ms = source.uniform(0, DELAY_MS_MAX)
        kills.append(Kill(message, delay_ms, source.uniform(*RESTART_AFTER_MS), begin, end - 1))
    return kills
