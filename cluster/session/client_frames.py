"""Packs what one step of the client wants sent into as few frames as the server's bounds allow."""

from __future__ import annotations

from cluster.session.client_events import Frame, StreamLimits
from cluster.session.operations import Operation

OPERATION_OVERHEAD_BYTES = 64
"""What an operation takes on the wire beside its payload, key and channel, for keeping frames within their bound."""
GRANT_BYTES = 16


class OutgoingFrames:
    """The frames of one stream. `session`: the one that the stream was opened with."""

    __slots__ = ("_frames", "_limits", "_session", "_size")

    def __init__(self, limits: StreamLimits, session: bytes) -> None:
        self._limits = limits
        self._session = session
        self._frames: list[Frame] = []
        self._size = 0

    def add(self, operation: Operation, session: bytes) -> None:
        """Append an operation; `session` is what a write belongs to, empty for everything else."""
        size = len(operation.payload) + len(operation.channel) + 4 * len(operation.key) + OPERATION_OVERHEAD_BYTES
        self._frame(session, size).operations.append(operation)

    def grant(self, wire_id: int, credit_bytes: int) -> None:
        """Append credit for a watch."""
        self._frame(b"", GRANT_BYTES).grants.append((wire_id, credit_bytes))

    def take(self) -> list[Frame]:
        """What has been packed since the last call."""
        frames, self._frames = self._frames, []
        return frames

    def _frame(self, session: bytes, size: int) -> Frame:
        """The last frame if the next operation still goes into it: not full, and of the same session."""
        name = b""
        if session and session != self._session:
            name = self._session = session
        elif self._frames:
            last = self._frames[-1]
            if (
                len(last.operations) + len(last.grants) < self._limits.operations_max
                and self._size + size <= self._limits.frame_bytes_max
            ):
                self._size += size
                return last
        frame = Frame(name, [], [])
        self._frames.append(frame)
        self._size = size
        return frame
