"""Recent failures of authors' code on this node, for `moot space errors`. Clients only ever see the opaque id."""

from __future__ import annotations

from collections import deque
from typing import Any

from cluster.shard.apply import HandlerFailure

ERRORS_KEPT = 1000


class ErrorsLog:
    """A bounded memory; the oldest goes. Replay fills it again."""

    def __init__(self) -> None:
        self._failures: deque[HandlerFailure] = deque(maxlen=ERRORS_KEPT)

    def add(self, failure: HandlerFailure) -> None:
        self._failures.append(failure)

    def rows(self, space: str, error_id: str, limit: int) -> list[dict[str, Any]]:
        """Newest first, in the shape of admin.proto."""
        wanted = [
            failure
            for failure in reversed(self._failures)
            if failure.document.space == space and error_id in ("", failure.error_id)
        ]
        return [_row(failure) for failure in wanted[:limit]]


def _row(failure: HandlerFailure) -> dict[str, Any]:
    return {
        "error_id": failure.error_id,
        "document": {"space": failure.document.space, "key": failure.document.key},
        "position": {"epoch": failure.epoch, "index": failure.index},
        "channel": failure.channel,
        "sender": failure.sender,
        "time_ms": failure.time_ms,
        "traceback": failure.traceback,
    }
