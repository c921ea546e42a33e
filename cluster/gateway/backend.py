"""What the gateway needs from the node it stands on. The node injects the real one; gateway code imports only this.

A stream is one client connection's conversation. Replies and deltas of one stream are delivered in order, in batches, from the
event loop's thread: a delta that contains position p comes before, or in the same batch as, the answer at p.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from cluster.session.operations import Delta, Operation, Reply

Deliver = Callable[[list[Reply | Delta]], None]
"""Called with everything that one pump turn produced for one stream. Must not block or await."""


class Stream(Protocol):
    """One client's conversation with the cluster through this node."""

    def submit(self, operations: list[Operation]) -> None:
        """Route and run operations; their replies come through `deliver`, each exactly once, in any order across documents,
        in order per (session, document). Never raises for a bad operation: that becomes a Reply with a failure.
        The gateway has checked names, sizes and principal; the leader checks payloads against the schema."""
        ...

    def submit_to(self, part: int, operation: Operation) -> None:
        """The same for an operation on all documents in one of the backend's `parts`."""
        ...

    def grant(self, watch: int, credit_bytes: int) -> None:
        """Give a watch more credit (bytes)."""
        ...

    def close(self) -> None:
        """Forget the stream: open watches end; outcomes of operations under way are no longer reported."""
        ...


class Backend(Protocol):
    """The node behind the gateway."""

    def open(self, deliver: Deliver) -> Stream: ...

    @property
    def parts(self) -> Sequence[int]:
        """What documents are divided into: who wants to hear of all of a space's asks each. They may change."""
        ...

    async def admin(self, method: str, request: dict[str, Any], principal: str) -> dict[str, Any]:
        """An administrative call by its AdminService method name, JSON-like in and out, of an authenticated principal. Raises
        ClusterError."""
        ...

    @property
    def ready(self) -> bool:
        """Whether the node serves: for grpc.health.v1."""
        ...
