"""What the client's half of the protocol is told and what it wants done: the vocabulary of `client.py`."""

from __future__ import annotations

from dataclasses import dataclass, field

from msgspec import Struct

from cluster.session.operations import Delta, Failure, Operation, Reply


class Intent(Struct, gc=False):
    """One operation that the application wants: create, send, read or delete. `ticket` is the application's name for it."""

    ticket: int
    kind: int
    space: str
    key: str
    channel: str = ""
    payload: bytes = b""
    consistency: int = 0
    epoch: int = 0
    index: int = -1
    """READ: `payload` is what is asked of views and windows, `channel` the hash of a blob that is read instead; or HTTP_CHANNEL
    and a request that is answered instead."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Bounds and times of one client.

    window: unacknowledged writes per document; not above the server's `session_window`, or answers are forgotten too early.
    queued_max: operations of all documents that wait for an answer; beyond it a new one is answered with OVERLOADED.
    documents_max: documents whose numbering is remembered; beyond it the idle ones are forgotten and get a new session.
    operation_timeout_ms: an operation without an answer for this long is answered with OUTCOME_UNKNOWN or UNAVAILABLE.
    reply_timeout_ms: a connection that owes a reply for this long is given up.
    backoff_min_ms, backoff_max_ms: between attempts, doubling, with jitter; a server's hint may lengthen it.
    watch_credit_bytes: deltas of one watch that may be under way or unconsumed.
    """

    window: int = 1000
    queued_max: int = 100_000
    documents_max: int = 65_536
    operation_timeout_ms: int = 30_000
    reply_timeout_ms: int = 5_000
    backoff_min_ms: int = 10
    backoff_max_ms: int = 250
    watch_credit_bytes: int = 256 * 1024


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """The bounds that the server announced for this stream."""

    frame_bytes_max: int = 4 * 1024 * 1024
    operations_max: int = 4096
    open_operations_max: int = 16384
    payload_bytes_max: int = 1024 * 1024


# events


class Submitted(Struct, gc=False):
    """The application wants these, in this order."""

    intents: list[Intent]


class Watched(Struct, gc=False):
    """The application wants to follow a document. `watch` is its name for it; index -1 asks for a whole view.

    arguments: what it asks of views and windows, as JSON.
    """

    watch: int
    space: str
    key: str
    epoch: int = 0
    index: int = -1
    arguments: bytes = b""


class Asked(Struct, gc=False):
    """The application asks something else of a watch's views and windows. version: its number of these arguments, rising."""

    watch: int
    arguments: bytes
    version: int


class Presented(Struct, gc=False):
    """The application shows the document's other viewers something: JSON, empty for nothing."""

    watch: int
    value: bytes
    version: int = 0


class Unwatched(Struct, gc=False):
    """The application has seen enough."""

    watch: int


class Consumed(Struct, gc=False):
    """The application has taken deltas of a watch: their bytes may be sent again."""

    watch: int
    size: int


class Connected(Struct, gc=False):
    """A stream is open under `ClientSession.session`; nothing of an earlier stream is received any more."""

    limits: StreamLimits


class Disconnected(Struct, gc=False):
    """The stream is gone. What was under way on it may or may not have happened."""


class Received(Struct, gc=False):
    """One frame of the server, in its order."""

    events: list[Reply | Delta]


class TimeReached(Struct, gc=False):
    """`ClientSession.wake_at_ms` has come."""


Event = Submitted | Watched | Asked | Presented | Unwatched | Consumed | Connected | Disconnected | Received | TimeReached


# effects


class Answered(Struct, gc=False):
    """The one answer to an intent."""

    ticket: int
    reply: Reply


class Changed(Struct, gc=False):
    """A watched document changed; consecutive for each watch, except that a reset replaces everything."""

    watch: int
    delta: Delta


class ArgumentsRefused(Struct, gc=False):
    """The server did not take these arguments of a watch, or (version 0) what it was to show; it goes on with those before."""

    watch: int
    version: int
    failure: Failure


class Ended(Struct, gc=False):
    """A watch has ended for good."""

    watch: int
    failure: Failure


class Frame(Struct, gc=False):
    """One frame to send. `session` is not empty when the frame must name the session that its writes belong to.

    Operations carry no principal and no session; ids are those of the wire. `grants`: (id of the watch, bytes).
    """

    session: bytes
    operations: list[Operation]
    grants: list[tuple[int, int]]


@dataclass(slots=True)
class Effects:
    """What one step wants done. `happened` is in the order of the server; `disconnect`: give the stream up and open another."""

    frames: list[Frame] = field(default_factory=list)
    happened: list[Answered | Changed | ArgumentsRefused | Ended] = field(default_factory=list)
    disconnect: bool = False
