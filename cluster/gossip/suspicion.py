"""How long a suspect has to refute, shortened by independent confirmations (Lifeguard, section IV-B).

Confirmations are counted per zone while witnesses live in several zones: a rack that lost its uplink has many accusers, and
all of them are one witness. Where every witness is in one zone each of them counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from cluster.gossip.messages import ACCUSERS_MAX, Accuser
from cluster.ids import NodeId

NEVER_MS: Final = 1 << 62


class Suspicion:
    """The timer of one suspicion. It lives in the member whose identity it is about and dies with that identity.

    Every node that hears of a suspicion runs its own, so that a suspect does not linger when its accuser dies.

    expected: accusers beyond the first that are worth hearing of.
    Invariant: at most ACCUSERS_MAX accusers; min_ms <= timeout <= max_ms, or none at all while agreement is missing; the
    deadline moves later only by `postpone` and by witnesses that come.
    """

    __slots__ = ("_agreed_ms", "_expected", "_max_ms", "_min_ms", "_start_ms", "_zones", "accusers", "deadline_ms")

    def __init__(
        self, accusers: Iterable[tuple[Accuser, str]], *, now_ms: int, min_ms: int, max_ms: int, expected: int
    ) -> None:
        assert 0 < min_ms <= max_ms
        self.accusers: dict[NodeId, Accuser] = {}
        """In the order in which they were heard of."""
        self.deadline_ms = NEVER_MS
        """When the verdict is due, as of the last `weigh`."""
        self._zones: dict[NodeId, str] = {}
        self._start_ms = now_ms
        self._agreed_ms = now_ms
        """When the second accuser was heard of."""
        self._min_ms = min_ms
        self._max_ms = max_ms
        self._expected = expected
        self.confirm(accusers, now_ms)
        assert self.accusers, "a suspicion has an accuser"

    def confirm(self, accusers: Iterable[tuple[Accuser, str]], now_ms: int) -> bool:
        """Count accusers, each with its zone, that were not known; True if any was, and may matter: that is news to pass on."""
        fresh = False
        for accuser, zone in accusers:
            if accuser.node not in self.accusers and self._make_room(zone):
                self.accusers[accuser.node] = accuser
                self._zones[accuser.node] = zone
                fresh = True
                if len(self.accusers) == 2:
                    self._agreed_ms = now_ms
        return fresh

    def _make_room(self, zone: str) -> bool:
        """A witness of a new zone takes the place of one whose zone has another."""
        if len(self.accusers) < min(ACCUSERS_MAX, self._expected + 1):
            return True
        if zone in self._zones.values():
            return False
        zones = list(self._zones.values())
        second = next((node for node, its in reversed(self._zones.items()) if zones.count(its) > 1), None)
        if second is not None:
            del self.accusers[second], self._zones[second]
        return second is not None

    def weigh(self, *, zones: int, expected: int, agreement: int) -> None:
        """Set the deadline by who could speak now.

        zones: in which somebody lives who could confirm. expected: confirmations that shrink the wait to the shortest.
        agreement: accusers without whom there is no verdict; the time runs from when they agreed, for one of them may have been
        mistaken, and the suspect may have only now begun to be silent.
        """
        confirmations = len(self.accusers) - 1
        if zones > 1:
            confirmations = len(set(self._zones.values())) - 1
            expected = min(expected, zones - 1)
        if len(self.accusers) < agreement:
            self.deadline_ms = NEVER_MS
        else:
            start_ms = self._agreed_ms if agreement > 1 else self._start_ms
            self.deadline_ms = start_ms + self._timeout_ms(confirmations, expected)

    def _timeout_ms(self, confirmations: int, expected: int) -> int:
        if confirmations >= expected:
            return self._min_ms
        shrink = math.log(confirmations + 1) / math.log(expected + 1)
        return max(self._min_ms, int(self._max_ms - (self._max_ms - self._min_ms) * shrink))

    def postpone(self, stalled_ms: int) -> None:
        """This process stood still: it could not have heard a refutation in that time."""
        self._start_ms += stalled_ms
        self._agreed_ms += stalled_ms
        if self.deadline_ms != NEVER_MS:
            self.deadline_ms += stalled_ms
