"""HTTP of documents in `moot dev`: the edge of a node, before the workshop's node in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cluster.errors import ClusterError, Unauthenticated, Unavailable
from cluster.session.failures import failure_of
from cluster.session.operations import Failure, Operation, Reply
from cluster.web.workshop import Workshop, principal_of


class Requests:
    """Runs the operations of requests. changed: is called after each, so that the page shows what it did."""

    def __init__(self, workshop: Workshop, changed: Callable[[], None]) -> None:
        self._workshop = workshop
        self._changed = changed

    async def run(self, operation: Operation, remaining_ms: float | None) -> Reply | Failure:
        """See gateway.http.Calls: a node of one process answers at once, or not at all."""
        reply = self._workshop.ask(operation)
        self._changed()
        if reply is None:
            return failure_of(Unavailable("there is no answer yet", retry_after_ms=100))
        return reply if reply.failure is None else reply.failure


class Named:
    """Believes everybody, as the page does: `?as=alice` is alice@local."""

    def authenticate(self, peer: str, metadata: Any) -> str:
        """See gateway.calls.Identity."""
        names = [str(value) for _, value in metadata]
        if len(names) != 1:
            raise Unauthenticated("say who asks: ?as=alice")
        try:
            return principal_of(names[0])
        except ClusterError as error:
            raise Unauthenticated(error.message) from None
