"""Operators' calls on their way between nodes: asked of one node, answered by the one that leads the shard.

They travel like a client's operations, as Kind.CONTROL, and end here: what such a call does is the owner's business (it asks
the pump, which decides). Invariant: each gets one answer, by `answer` or by a refusal.
"""

from __future__ import annotations

from cluster.errors import Overloaded
from cluster.session.failures import failure_of
from cluster.session.operations import Kind, Operation, Reply
from cluster.shard.turn import StreamKey, Turn

WAITING_MAX = 256
"""Calls that the owner has not taken yet."""


class Control:
    """Calls that came from other nodes and wait for the owner to take them."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._waiting: list[tuple[StreamKey, Operation]] = []

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def take(self) -> list[tuple[StreamKey, Operation]]:
        """Everything that waits, to be answered."""
        taken, self._waiting = self._waiting, []
        return taken

    def arrived(self, stream: StreamKey, operations: list[Operation]) -> list[Operation]:
        """Keep the calls among these; returns the others."""
        for operation in operations:
            if operation.kind != Kind.CONTROL:
                continue
            if len(self._waiting) < WAITING_MAX:
                self._waiting.append((stream, operation))
            else:
                error = Overloaded("too many calls of operators wait", retry_after_ms=100, bound="waiting_max")
                self.answer(stream, Reply(operation.id, failure=failure_of(error)))
        return [operation for operation in operations if operation.kind != Kind.CONTROL]

    def answer(self, stream: StreamKey, reply: Reply) -> None:
        """The one answer to a call; it leaves with the next turn."""
        self._turn.reply(stream, reply)
