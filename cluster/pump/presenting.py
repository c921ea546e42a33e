"""What clients show each other (Presence), on its way from a gateway's node to the leader: not faster than a connection may.

Of values that come faster only the last is sent on, when its time has come; the others are answered as if they had been. A
watch that is opened anywhere is opened with what it showed last.

Invariant: a connection sends at most one value in PRESENT_INTERVAL_MS; what it showed last reaches whoever serves its watch.
"""

from __future__ import annotations

from collections.abc import Callable

from cluster.errors import InvalidRequest
from cluster.ids import NodeId, ShardId
from cluster.pump.watches import Watch
from cluster.session.failures import failure_of
from cluster.session.operations import Kind, Operation, Reply

PRESENT_INTERVAL_MS = 33.0
"""Between two values of one connection."""

_NEVER = float("inf")
_NO_REPLIES: list[Reply] = []


class Presenting:
    """Values of this node's streams. forward: hands operations of a stream to the node that serves a shard."""

    __slots__ = ("_due", "_forward")

    def __init__(self, forward: Callable[[NodeId, ShardId, int, list[Operation]], None]) -> None:
        self._forward = forward
        self._due: dict[tuple[int, int], tuple[float, Watch]] = {}
        """By stream and watch: when its last value is sent."""

    def route(
        self,
        number: int,
        watches: dict[int, Watch],
        operation: Operation,
        groups: dict[ShardId, list[Operation]],
        now_ms: float,
    ) -> list[Reply]:
        """A client shows something else: it goes to the leader with its frame, or is answered here and sent in time."""
        watch = watches.get(operation.credit)
        if watch is None:
            error = InvalidRequest(f"no watch {operation.credit} is open")
            return [Reply(operation.id, 0, 0, b"", failure_of(error))]
        watch.show(operation.payload)
        key = (number, operation.credit)
        due_ms = watch.presented_ms + PRESENT_INTERVAL_MS
        if watch.node is not None and not watch.opening and due_ms <= now_ms and key not in self._due:
            watch.presented_ms = now_ms
            groups.setdefault(watch.shard, []).append(operation)
            return _NO_REPLIES
        if watch.node is not None and key not in self._due:
            self._due[key] = (max(due_ms, now_ms), watch)
        return [Reply(operation.id)]

    def send_due(self, now_ms: float) -> None:
        """Send the last values whose time has come; nobody waits for their answers."""
        if not self._due:
            return
        for key, (due_ms, watch) in list(self._due.items()):
            if due_ms > now_ms:
                continue
            del self._due[key]
            if watch.node is None:
                continue  # it is opened with what it shows
            if watch.opening:
                self._due[key] = (now_ms + PRESENT_INTERVAL_MS, watch)
                continue
            watch.presented_ms = now_ms
            wanted = watch.operation
            place = (wanted.space, wanted.key, wanted.principal)
            value = wanted.channel.encode()
            self._forward(
                watch.node, watch.shard, key[0], [Operation(0, Kind.PRESENT.value, *place, payload=value, credit=key[1])]
            )

    def drop(self, number: int, watch: int) -> None:
        """The watch is over."""
        if self._due:
            self._due.pop((number, watch), None)

    @property
    def deadline_ms(self) -> float:
        """When `send_due` has something to do."""
        return min([due_ms for due_ms, _ in self._due.values()]) if self._due else _NEVER
