"""By which ways this node reaches a member, and how long a round trip takes.

Datagrams, gossip's streams and the connections of the data path break independently: a filtered port, a full table of
connections, a process whose event loop serves one socket and not the other. Any of them that works keeps a member alive;
which of them do not is told to operators.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PathsView:
    """Whether each way worked when it was last tried; None if it never was. rtt_ms: smoothed, None before the first answer."""

    datagram: bool | None
    stream: bool | None
    data: bool | None
    rtt_ms: float | None


class Reach:
    """Of one process of one member. The round trip is estimated as TCP does it (Jacobson 1988)."""

    __slots__ = ("_deviation_ms", "_smoothed_ms", "data", "datagram", "stream")

    def __init__(self) -> None:
        self.datagram: bool | None = None
        self.stream: bool | None = None
        self.data: bool | None = None
        self._smoothed_ms: float | None = None
        self._deviation_ms = 0.0

    def measured(self, rtt_ms: float) -> None:
        if self._smoothed_ms is None:
            self._smoothed_ms, self._deviation_ms = rtt_ms, rtt_ms / 2
            return
        error_ms = rtt_ms - self._smoothed_ms
        self._smoothed_ms += error_ms / 8
        self._deviation_ms += (abs(error_ms) - self._deviation_ms) / 4

    @property
    def rtt_high_ms(self) -> float | None:
        """A round trip that few exceed; None before the first was measured."""
        return None if self._smoothed_ms is None else self._smoothed_ms + 4 * self._deviation_ms

    def view(self) -> PathsView:
        return PathsView(self.datagram, self.stream, self.data, self._smoothed_ms)
