"""The seam between a shard and the code of its documents. A shard knows these protocols and nothing else of `documents`.

A `Program` is one deployed bundle's document class, content-addressed by `code_hash`. An `Instance` is one document in
memory. Running a command on an instance is atomic: it either ends in OK with all its writes, or leaves the state as it was.

Determinism: the outcome, the state bytes and the steps are a function of (code, state before, invocation), the same on every
supported Python, in every process. What is not an answer of the author's code (MemoryError, interpreter recursion, a fault
of ours) is raised as ApplyHalted and is never turned into an outcome.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol

from msgspec import Struct

from cluster.errors import AskClosed, ConnectionUnchanged, InvalidRequest, NotArmed, UnknownBlob, UnknownRoute
from cluster.ids import DocumentId, Principal

CONSTRUCT_CHANNEL = ""
DELETE_CHANNEL = "-delete"
"""Not a legal handler name, so no author's channel can be it. A class without @on.delete refuses it: DENIED."""
MISSING_CHANNEL = "-missing"
"""Creation without parameters by somebody who came to a key that never existed, if the class wants that. DENIED, and nothing is
created, unless the gate of what was constructed admits him.
"""
UPGRADE_CHANNEL = "-upgrade"
"""The document gets the code of the command. Its payload says from which."""
ALARM_CHANNEL = "-alarm"
ANSWER_CHANNEL = "-answer"
"""An answer to an ask, or, without a value, the end of its time."""
CONNECT_CHANNEL = "-connect"
"""Somebody's connection begins to watch, by the command's sender. DENIED, and not connected, unless the gate admits him."""
DISCONNECT_CHANNEL = "-disconnect"
REPAIR_CHANNEL = "-repair"
"""An operator's change of the state. Its payload says what, why, and at which position (see repairing.py)."""
THAW_CHANNEL = "-thaw"
"""An operator's choice of one replica's record as the document. Its payload holds it."""
FORK_CHANNEL = "-fork"
"""Creation from another document's past. Its payload holds the state."""
HTTP_CHANNEL = "-http"
"""Messages whose payload is an HTTP request (see requests.py), which says which handler it is for; reads are asked likewise."""


class Code(enum.IntEnum):
    """How a command ended. Stable numbers: they are in the chain and in stored answers."""

    OK = 0
    REFUSED = 1
    FAILED = 2
    BUDGET = 3
    DENIED = 4
    POISONED = 5
    REJECTED = 6  # judged by the shard at apply (unknown document, exists, gap, ...), never by a program


@dataclass(slots=True, frozen=True)
class Settings:
    """Space settings that apply may read. They change by logged commands only, never by node configuration."""

    steps_max: int = 1_000_000
    call_depth_max: int = 64
    state_bytes_max: int = 8 * 1024 * 1024
    answer_bytes_max: int = 256 * 1024
    payload_bytes_max: int = 1024 * 1024
    payload_depth_max: int = 32
    splices_retained_max: int = 1024
    session_window: int = 1024
    sessions_max: int = 1024
    change_ring_bytes: int = 256 * 1024
    alarms_max: int = 1024
    asks_max: int = 256
    connections_max: int = 1024
    checkpoint: bool = True


class Invocation(Struct, gc=False):
    """One command as its handler may observe it.

    channel: handler name; CONSTRUCT_CHANNEL is creation, DELETE_CHANNEL asks @on.delete.
    payload: canonical JSON object bytes, exactly as `Program.check` returned them.
    now_ms: the position's time, Unix milliseconds. seed: 32 bytes (derived per command from the entry's seed).
    index: the document's command counter that this command gets.
    """

    channel: str
    payload: bytes
    sender: Principal
    now_ms: int
    seed: bytes
    index: int


class Emission(Struct, frozen=True):
    """Something for viewers in passing. body: canonical JSON. admits: whom it is for; None is for all who watch.

    It belongs to the instance that made it: `admits` asks the code of that one, of its present state.
    """

    name: str
    body: bytes
    admits: Callable[[Principal], bool] | None


class Outcome(Struct, gc=False):
    """How a command ended and everything that leaves because of it.

    answer: canonical JSON bytes: the result (OK), or {"name", "message", "arguments"} (REFUSED), {"error_id"} (FAILED),
        {"limit"} (BUDGET), {} (DENIED).
    writes: canonical bytes of the tracked writes (empty unless OK): goes into the document's chain.
    changes: opaque record of what changed, for the document's ring; None when nothing visible could have changed.
    change_bytes: its approximate size, for bounding the ring.
    steps: budget used.
    error: author's traceback text for operators (FAILED only); never sent to clients, not part of the chain.
    emitted: events for viewers, of OK only; None when there are none. Not part of the chain, and stored nowhere.
    """

    code: Code
    answer: bytes
    writes: bytes = b""
    changes: Any = None
    change_bytes: int = 0
    steps: int = 0
    error: str = ""
    emitted: list[Emission] | None = None


@dataclass(slots=True, frozen=True)
class ReadFailure:
    """A view, policy or gate that failed while somebody read, for operators.

    what: "view best". error_id: what viewers are shown of it. error: the author's traceback text.
    """

    what: str
    error_id: str
    error: str


@dataclass(slots=True, frozen=True)
class Due:
    """Something that time must do: the channel and payload of the command that does it. due_ms: Unix milliseconds."""

    channel: str
    payload: bytes
    due_ms: int


@dataclass(slots=True, frozen=True)
class OpenAsk:
    """An ask that waits for an answer. request: canonical JSON. due_ms: when it ends unanswered."""

    id: str
    handler: str
    request: bytes
    due_ms: int


class Instance(Protocol):
    """One document in memory."""

    @property
    def classes_vary(self) -> bool:
        """Whether a viewer's class may change while the instance lives."""
        ...

    @property
    def due_ms(self) -> int | None:
        """The earliest thing that time must do, Unix milliseconds; None when there is none. Cheap: asked after commands."""
        ...

    @property
    def asked(self) -> tuple[str, ...]:
        """The principals of whom something is asked, sorted. Cheap: asked after commands."""
        ...

    def due(self, now_ms: int, limit: int) -> list[Due]:
        """What is due, earliest first, at most `limit`."""
        ...

    def open_asks(self, who: Principal) -> list[OpenAsk]:
        """What is asked of `who`, the oldest first."""
        ...

    def expect(self, channel: str, payload: bytes, sender: Principal, now_ms: int) -> None:
        """Raise unless something waits for just this command on ALARM_CHANNEL or ANSWER_CHANNEL, or it is news on
        CONNECT_CHANNEL or DISCONNECT_CHANNEL: NotArmed (a firing that is late, early or repeated), AskClosed, InvalidPayload,
        or ConnectionUnchanged."""
        ...

    def fire(self, invocation: Invocation) -> Outcome:
        """Run what `expect` let pass. It is armed, or connected, no more afterwards, however its handler ends (then `changes`
        says so), except that an answer which the handler refuses leaves its ask open. A connection that comes is connected only
        if its handler ends well. Atomic. Raises ApplyHalted only."""
        ...

    @property
    def told_of_connections(self) -> bool:
        """Whether it takes CONNECT_CHANNEL and DISCONNECT_CHANNEL. Constant."""
        ...

    @property
    def has_connections(self) -> bool:
        """Whether any connection came and did not go. Cheap: asked after commands."""
        ...

    def connections(self) -> dict[str, Principal]:
        """The connections that came and did not go, and whose they are, in the order in which they came."""
        ...

    def is_connected(self, connection: str) -> bool:
        """Whether this one came and did not go."""
        ...

    def check_repair(self, invocation: Invocation) -> None:
        """Raise InvalidPatch or TooLarge unless the repair that the payload orders fits the state; nothing is changed."""
        ...

    def repair(self, invocation: Invocation) -> Outcome:
        """Carry out what `check_repair` let pass. No code of the author's runs. Raises ApplyHalted only."""
        ...

    @property
    def presence_name(self) -> str:
        """The field in which connections show each other something; "" when there is none. Constant."""
        ...

    def presented(self, payload: bytes) -> bytes:
        """What a connection wants to show, canonical. Raises InvalidPayload, TooLarge, or without a field InvalidRequest."""
        ...

    def sees_presence(self, who: Principal) -> bool:
        """Whether a viewer may see what connections show."""
        ...

    def run(self, invocation: Invocation) -> Outcome:
        """Run one message (the gate is asked first: DENIED) or the construction. Atomic. Raises ApplyHalted only."""
        ...

    def dump(self) -> bytes:
        """The state, canonical: equal states give equal bytes. Includes retained splices of Text."""
        ...

    def size_bytes(self) -> int:
        """Approximate size of `dump()`, cheap: called after every command."""
        ...

    def admits(self, who: Principal) -> bool:
        """The gate, for connects and reads. An error in the gate is a no."""
        ...

    def arguments(self, raw: bytes) -> bytes:
        """Arguments of views and windows, `{view: {parameter: value}}` as JSON, checked and canonical; b"" when there are none.
        Raises InvalidArguments."""
        ...

    def visibility_class(self, who: Principal) -> Hashable:
        """Viewers of one class (and equal arguments) are shown the same now: they share one encoded patch. What class a viewer
        is of changes with the state if `classes_vary`."""
        ...

    def view(self, who: Principal, arguments: bytes = b"") -> bytes:
        """What `who` may see, as canonical JSON object bytes: visible fields and views by name; under `-errors` the ids of
        views that failed. arguments: as `arguments` returned them."""
        ...

    def blob(self, who: Principal, hash: str, arguments: bytes = b"") -> bytes:
        """The blob of this hash that `view` shows, as JSON {"hash", "size", "media_type", "data": base64}. Raises UnknownBlob:
        one that is hidden from `who` is as one that does not exist."""
        ...

    def respond(self, who: Principal, request: bytes) -> bytes:
        """The answer to an HTTP request that reads, both as JSON (see requests.py). The gate was asked. Raises InvalidPayload,
        TooLarge, UnknownRoute, HandlerRefused, HandlerFailed or BudgetExceeded."""
        ...

    def projection(self, who: Principal, arguments: bytes = b"") -> Projection:
        """Start following what `who`'s class sees from the present state on."""
        ...

    def read_failures(self) -> list[ReadFailure]:
        """What failed while views were made since the last call; bounded, and the same failure is told once."""
        ...

    def patch_since(self, changes: list[Any], who: Principal) -> bytes | None:
        """JSON Patch for a viewer who last saw the state before `changes` (consecutive, ending now), or None when it can not
        be derived from them (a policy or a view may have changed what is visible): the viewer then gets a reset."""
        ...


class ShowsNobody:
    """The part of an Instance that has to do with presence, for documents whose connections show each other nothing."""

    __slots__ = ()

    @property
    def presence_name(self) -> str:
        """See Instance."""
        return ""

    def presented(self, payload: bytes) -> bytes:
        """See Instance."""
        raise InvalidRequest("this document has no Presence field")

    def sees_presence(self, who: Principal) -> bool:
        """See Instance."""
        return False


class KeepsNoBlobs:
    """The part of an Instance that has to do with blobs, for documents that have none."""

    __slots__ = ()

    def blob(self, who: Principal, hash: str, arguments: bytes = b"") -> bytes:
        """See Instance."""
        raise UnknownBlob


class AnswersNoRequests:
    """The part of an Instance that has to do with HTTP, for documents that answer none."""

    __slots__ = ()

    def respond(self, who: Principal, request: bytes) -> bytes:
        """See Instance."""
        raise UnknownRoute


class TakesNoRepair:
    """The part of an Instance that has to do with operators' patches, for documents whose state has no declared fields."""

    __slots__ = ()

    def check_repair(self, invocation: Invocation) -> None:
        """See Instance."""
        raise InvalidRequest("this document can not be repaired by a patch")

    def repair(self, invocation: Invocation) -> Outcome:
        """See Instance."""
        raise AssertionError("no repair is ever let pass")


class ArmsNothing:
    """The part of an Instance that has to do with time, answers and connections, for documents that arm nothing and are told of
    nobody.
    """

    __slots__ = ()

    @property
    def told_of_connections(self) -> bool:
        """See Instance."""
        return False

    @property
    def has_connections(self) -> bool:
        """See Instance."""
        return False

    def connections(self) -> dict[str, Principal]:
        """See Instance."""
        return {}

    def is_connected(self, connection: str) -> bool:
        """See Instance."""
        return False

    @property
    def due_ms(self) -> int | None:
        """See Instance."""
        return None

    @property
    def asked(self) -> tuple[str, ...]:
        """See Instance."""
        return ()

    def due(self, now_ms: int, limit: int) -> list[Due]:
        """See Instance."""
        return []

    def open_asks(self, who: Principal) -> list[OpenAsk]:
        """See Instance."""
        return []

    def expect(self, channel: str, payload: bytes, sender: Principal, now_ms: int) -> None:
        """See Instance."""
        if channel in (CONNECT_CHANNEL, DISCONNECT_CHANNEL):
            raise ConnectionUnchanged
        raise AskClosed if channel == ANSWER_CHANNEL else NotArmed

    def fire(self, invocation: Invocation) -> Outcome:
        """See Instance."""
        raise AssertionError("nothing is ever expected")


class Projection(Protocol):
    """What one visibility class sees, followed incrementally."""

    def advance(self, changes: list[Any], who: Principal | None = None, arguments: bytes | None = None) -> bytes:
        """JSON Patch (array bytes, possibly b"[]") from the previous call's state to the present one. Text changes are
        {"op": "splice", "path", "at", "delete", "insert"} with code-point offsets, our one extension of RFC 6902.

        who: a viewer whom the class has now, the one of before if None: whoever was of this class before the changes and is of
        his class now. arguments: go over to these, if not None."""
        ...

    def fork(self) -> Projection:
        """Another projection at the same state, for those who leave the class or change their arguments."""
        ...

    def full(self) -> bytes:
        """The whole view now, as `Instance.view` would give it."""
        ...


class Program(Protocol):
    """The document class of one bundle, compiled and checked."""

    @property
    def code_hash(self) -> bytes:
        """BLAKE2b-256 of the bundle's canonical bytes."""
        ...

    @property
    def settings(self) -> Settings: ...

    @property
    def creates_missing(self) -> bool:
        """Whether a document is created when somebody comes to a key that never existed: it takes MISSING_CHANNEL then."""
        ...

    def schema(self) -> dict[str, Any]:
        """Channels with their parameters and refusals, visible fields and views, as JSON Schema."""
        ...

    def check(self, channel: str, payload: bytes) -> bytes:
        """Validate a payload against the channel's schema ("" is construct) and return its canonical JSON bytes.
        Raises UnknownChannel, InvalidPayload or TooLarge; deterministic and free of effects."""
        ...

    def new(self, document: DocumentId) -> Instance:
        """An instance before construction: run an Invocation with channel "" next."""
        ...

    def load(self, document: DocumentId, state: bytes) -> Instance:
        """The instance whose dump() gave `state`. Raises StorageDamaged when it can not be one."""
        ...

    def upgrade(
        self, document: DocumentId, state: bytes, before: Program, invocation: Invocation
    ) -> tuple[Instance | None, Outcome]:
        """Make a document of other code one of this: `state` is its dump under `before`, which is left as it is. The instance
        is None unless the outcome is OK; then `writes` digest the whole new state. Raises StorageDamaged or ApplyHalted."""
        ...


class Loader(Protocol):
    """Compiles bundles. Bundles are canonical bytes (see bundle.py); compiling the same bytes twice gives the same program."""

    def load(self, bundle: bytes) -> Program:
        """Raises InvalidBundle with every finding (code, file, line, reason, replacement)."""
        ...
