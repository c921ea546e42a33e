"""How fast and how patiently bulk traffic goes: a token bucket for bytes, and a timeout that learns from answers.

Invariant: no clock is read and nothing is scheduled; every method is told the time, in monotonic milliseconds that never fall.
Over any stretch of time a bucket lets through at most what its rate allows for it, one burst and one frame.
"""

from __future__ import annotations

DOUBLINGS_MAX = 16


class TokenBucket:
    """Bytes that may be sent. A frame may leave whenever the balance is positive, and is charged afterwards with its real size:
    one larger than the burst is never stuck, the next just waits longer.

    bytes_per_second: what is earned. burst_bytes: what can be saved up while nothing is sent; both above zero.
    """

    __slots__ = ("_balance", "_burst", "_per_ms", "_since_ms")

    def __init__(self, bytes_per_second: float, burst_bytes: float, now_ms: float) -> None:
        assert bytes_per_second > 0, "a rate is positive"
        assert burst_bytes > 0, "a burst is positive"
        self._per_ms = bytes_per_second / 1000
        self._burst = float(burst_bytes)
        self._balance = float(burst_bytes)
        self._since_ms = now_ms

    def ready_at_ms(self, now_ms: float) -> float:
        """When the next frame may leave; `now_ms` when it may at once."""
        self._earn(now_ms)
        return now_ms if self._balance > 0 else now_ms + (1 - self._balance) / self._per_ms

    def charge(self, size: int, now_ms: float) -> None:
        """`size` bytes leave now."""
        self._earn(now_ms)
        self._balance -= size

    def _earn(self, now_ms: float) -> None:
        passed_ms = max(0.0, now_ms - self._since_ms)
        self._balance = min(self._burst, self._balance + passed_ms * self._per_ms)
        self._since_ms = max(self._since_ms, now_ms)


class Patience:
    """How long to wait for an answer before asking again: three times what answers took of late, at least `least_ms`, doubled
    with every repeat and at most `most_ms`. Only answers to questions asked once are measured (Karn 1987): which of two
    questions an answer belongs to can not be told.
    """

    __slots__ = ("_asked_ms", "_least_ms", "_most_ms", "_smoothed_ms", "repeats")

    def __init__(self, least_ms: float, most_ms: float) -> None:
        assert 0 < least_ms <= most_ms, "patience has bounds"
        self._least_ms = least_ms
        self._most_ms = most_ms
        self._smoothed_ms = 0.0
        self._asked_ms = 0.0
        self.repeats = 0

    def asked(self, now_ms: float, *, again: bool = False) -> None:
        """The question leaves now."""
        self.repeats = min(self.repeats + 1, DOUBLINGS_MAX) if again else 0
        self._asked_ms = now_ms

    def answered(self, now_ms: float) -> None:
        """Its answer is here."""
        if self.repeats == 0:
            took_ms = now_ms - self._asked_ms
            self._smoothed_ms += (took_ms - self._smoothed_ms) * (0.25 if self._smoothed_ms else 1.0)

    @property
    def ends_ms(self) -> float:
        """When to ask again."""
        wait_ms = max(self._least_ms, 3 * self._smoothed_ms) * (1 << self.repeats)
        return self._asked_ms + min(wait_ms, self._most_ms)
