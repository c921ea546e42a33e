"""Operations, replies and deltas as they travel inside a node and between nodes.

One vocabulary for gateway, pump, peers and the shards: the gateway makes these once from the public protocol, and they are
forwarded to another node in bulk with one encode call. `id` is chosen by the submitting stream and comes back in the reply.
"""

from __future__ import annotations

import enum

from msgspec import Struct


class Kind(enum.IntEnum):
    """What is asked."""

    CREATE = 1
    SEND = 2
    READ = 3
    DELETE = 4
    WATCH = 5
    UNWATCH = 6
    LIST = 7
    CONTROL = 8
    ANSWER = 9
    WORK = 10
    ARGUMENTS = 12
    PRESENT = 13
    REPAIR = 14
    THAW = 15
    FORK = 16


COMMAND_KINDS = frozenset((Kind.CREATE, Kind.SEND, Kind.DELETE, Kind.ANSWER, Kind.REPAIR, Kind.THAW, Kind.FORK))
"""What goes through the log; everything else only reads."""


DELTA_OVERHEAD_BYTES = 32
EMITTED_OVERHEAD_BYTES = 16
"""What a watch's credit is charged for a delta, and for what was emitted, beside the contents (documents.proto)."""


class Consistency(enum.IntEnum):
    """How fresh a read must be."""

    LINEARIZABLE = 0
    AT_LEAST = 1
    ANY = 2


class Operation(Struct, array_like=True, gc=False):
    """One thing a client wants of one document.

    id: unique among the submitting stream's open operations and watches. UNWATCH has the id of the WATCH that it ends.
    principal: `agent@authority`, authenticated by the gateway.
    key: empty for LIST and WORK, which concern a space's documents in one shard.
    channel: SEND: the handler. LIST: the key prefix. WATCH: what the viewer shows others, JSON, empty for nothing. CONTROL: the
        operator's call; no client can send one. READ: what is read instead of the view: the hash of a blob, or HTTP_CHANNEL
        for the answer to a request. Otherwise empty.
    payload: UTF-8 JSON object of parameters (CREATE, SEND, CONTROL), {"ask", "value"} (ANSWER), an HTTP request (SEND and READ
        to HTTP_CHANNEL) or an order (WORK; REPAIR, THAW and FORK, which no client can send either); READ, WATCH, ARGUMENTS: the
        arguments of views and windows, empty for none; PRESENT: what to show, empty for nothing; LIST: page token.
    session, sequence, acked_through: exactly-once identity of commands. Sequence 0 means that `session` is an idempotency key
        (unary calls) and the order is nobody's. WATCH, ARGUMENTS: `sequence` is the version of the arguments.
    epoch, index: READ with AT_LEAST: the position to reach. WATCH: resume after this position; index -1 asks for a full view.
    credit: WATCH: bytes that may be in flight to this viewer. LIST: the page size. ARGUMENTS, PRESENT: the watch that it
        concerns.
    """

    id: int
    kind: int
    space: str
    key: str
    principal: str
    channel: str = ""
    payload: bytes = b""
    session: bytes = b""
    sequence: int = 0
    acked_through: int = 0
    consistency: int = 0
    epoch: int = 0
    index: int = -1
    credit: int = 0


class Failure(Struct, frozen=True, array_like=True, gc=False):
    """An error of `cluster.errors` on its way to whoever asked.

    reason: the class's wire name. applied: "no", "yes" or "unknown". details: ErrorInfo metadata.
    """

    reason: str
    message: str
    retryable: bool
    applied: str
    retry_after_ms: int = 0
    details: dict[str, str] = {}


class Reply(Struct, array_like=True, gc=False):
    """The one answer to an operation. `failure` None means success.

    epoch, index: the position at which the answer was made (the document's position after the command, or the read's).
    payload: result JSON (SEND, CREATE), view or blob JSON (READ), page JSON (LIST), empty otherwise.
    """

    id: int
    epoch: int = 0
    index: int = 0
    payload: bytes = b""
    failure: Failure | None = None


class Emitted(Struct, frozen=True, array_like=True, gc=False):
    """What a handler showed in passing, in the command at this position. payload: JSON."""

    name: str
    payload: bytes
    epoch: int
    index: int


class Delta(Struct, array_like=True, gc=False):
    """A change of one watched document, on the stream that watches; `watch` is the id of the WATCH operation.

    from_epoch, from_index, from_arguments: the viewer must hold exactly this position, and a view made with this version of
        the arguments, to apply a patch (not for resets). arguments: the version that the viewer's view is of afterwards.
    reset: `body` is a whole view that replaces what the viewer has; otherwise it is a JSON Patch.
    A hidden change is an empty patch `[]` with a new position. `failure` ends the watch.
    emitted: what was shown in passing behind the earlier position, up to this one; in no other delta, and lost with this one.
    """

    watch: int
    from_epoch: int
    from_index: int
    epoch: int
    index: int
    reset: bool = False
    body: bytes = b"[]"
    failure: Failure | None = None
    from_arguments: int = 0
    arguments: int = 0
    emitted: list[Emitted] | None = None

    @property
    def credit_bytes(self) -> int:
        """What the delta takes of its watch's credit, and is granted again when it was taken."""
        size = len(self.body) + DELTA_OVERHEAD_BYTES
        if self.emitted:
            size += sum(len(one.name) + len(one.payload) + EMITTED_OVERHEAD_BYTES for one in self.emitted)
        return size
