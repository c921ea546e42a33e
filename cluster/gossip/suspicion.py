"""How long a suspect has to refute, shortened by independent confirmations (Lifeguard, section IV-B)."""

from __future__ import annotations

import math

from cluster.gossip.messages import ACCUSERS_MAX
from cluster.ids import NodeId


class Suspicion:
    """The timer of one suspicion. It lives in the member whose identity it is about and dies with that identity.

    Every node that hears of a suspicion runs its own, so that a suspect does not linger when its accuser dies.

    Invariant: min_ms <= timeout <= max_ms; the deadline moves earlier only by confirmations, later only by `postpone`.
    """

    __slots__ = ("_expected", "_max_ms", "_min_ms", "_start_ms", "accusers")

    def __init__(self, accusers: tuple[NodeId, ...], *, now_ms: int, min_ms: int, max_ms: int, expected: int) -> None:
        assert accusers, "a suspicion has an accuser"
        assert 0 < min_ms <= max_ms
        self.accusers = accusers[:ACCUSERS_MAX]
        self._start_ms = now_ms
        self._min_ms = min_ms
        self._max_ms = max_ms
        self._expected = expected

    @property
    def timeout_ms(self) -> int:
        if self._expected < 1:
            return self._min_ms
        confirmations = min(len(self.accusers) - 1, self._expected)
        shrink = math.log(confirmations + 1) / math.log(self._expected + 1)
        return max(self._min_ms, int(self._max_ms - (self._max_ms - self._min_ms) * shrink))

    @property
    def deadline_ms(self) -> int:
        return self._start_ms + self.timeout_ms

    def confirm(self, accusers: tuple[NodeId, ...]) -> bool:
        """Count accusers that were not known; True if any was, and still matters: that is news to pass on."""
        room = min(ACCUSERS_MAX, self._expected + 1) - len(self.accusers)
        fresh = tuple(dict.fromkeys(accuser for accuser in accusers if accuser not in self.accusers))[: max(0, room)]
        self.accusers += fresh
        return bool(fresh)

    def postpone(self, stalled_ms: int) -> None:
        """This process stood still: it could not have heard a refutation in that time."""
        self._start_ms += stalled_ms
