"""One visitor's connection: the client's half of the session protocol, with its stream at the simulated node.

Invariant: what a client library would do after a dropped connection is done here by the same code: numbers, repeats, resuming.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from cluster.documents.state import apply_patch
from cluster.ids import Position
from cluster.session.client import ClientSession
from cluster.session.client_events import (
    Answered,
    ArgumentsRefused,
    Asked,
    Changed,
    Connected,
    Consumed,
    Disconnected,
    Ended,
    Event,
    Intent,
    Presented,
    Received,
    StreamLimits,
    Submitted,
    TimeReached,
    Unwatched,
    Watched,
)
from cluster.session.events import PassedEvent, events_of
from cluster.session.identity import RANDOM_BYTES, new_identity
from cluster.session.operations import Delta, Failure, Kind, Operation, Reply
from cluster.simulate.node import SimulatedNode

Arguments = Mapping[str, Mapping[str, Any]]
"""What is asked of views and windows: `{view: {parameter: value}, table: {"latest": rows}}`."""


class Screen:
    """What one visitor sees of the document, from whole views and patches.

    view: as it is now. position: where that is. patches: what was received, oldest first; a whole view counts as None.
    received: the same as bytes. events: what handlers emitted for this visitor while the screen was lit. ended: why it went
    dark, if it did (the gate closed, the document was deleted).
    """

    def __init__(self, close: Callable[[], None], ask: Callable[[bytes, int], None], present: Callable[[bytes], None]) -> None:
        self._ask = ask
        self._present = present
        self._version = 0
        self._refused: Exception | None = None
        self.view: Any = None
        self.position: Position | None = None
        self.patches: list[list[dict[str, Any]] | None] = []
        self.received: list[bytes] = []
        self.events: list[PassedEvent] = []
        self.ended: Exception | None = None
        self.close = close

    def take(self, delta: Delta) -> None:
        """For the connection: the next step has arrived."""
        self.received.append(delta.body)
        body = msgspec.json.decode(delta.body)
        self.view = body if delta.reset else apply_patch(self.view, body)
        self.patches.append(None if delta.reset else body)
        self.position = Position(delta.epoch, delta.index)
        self.events += events_of(delta)

    def show(self, arguments: Arguments) -> None:
        """Ask something else of views and windows, all of it. Raises InvalidArguments; the screen is as it was then."""
        self._version += 1
        self._ask(msgspec.json.encode(arguments), self._version)
        refused, self._refused = self._refused, None
        if refused is not None:
            raise refused

    def present(self, value: dict[str, Any] | None) -> None:
        """Show the other visitors something while this screen is lit, None for nothing any more. Raises InvalidPayload.

        Of values that come faster than 30 in a second of simulated time the last counts, when time has passed.
        """
        self._present(b"" if value is None else msgspec.json.encode(value))
        refused, self._refused = self._refused, None
        if refused is not None:
            raise refused

    def refuse(self, error: Exception) -> None:
        """For the connection: what was asked last was not taken."""
        self._refused = error


class Connection:
    """failed: makes the exception for a failure that ends a screen."""

    def __init__(self, node: SimulatedNode, space: str, key: str, who: str, failed: Callable[[Failure], Exception]) -> None:
        self._node = node
        self._space = space
        self._key = key
        self._who = who
        self._failed = failed
        self._machine = ClientSession(self._make_session, node.random.random)
        self._session = b""
        self._stream = 0
        self._tickets = 0
        self._replies: dict[int, Reply] = {}
        self._screens: dict[int, Screen] = {}

    @property
    def connected(self) -> bool:
        """Whether there is a stream."""
        return self._stream != 0

    @property
    def wake_at_ms(self) -> float | None:
        """When something falls due if nothing arrives; None without a stream, for then nothing does."""
        return self._machine.wake_at_ms if self._stream else None

    def drop(self) -> None:
        """The stream breaks."""
        if self._stream:
            self._node.close_stream(self._stream)
            self._stream = 0
            self._step(Disconnected())

    def connect(self) -> None:
        """A stream is opened, if there is none."""
        if not self._stream:
            self._stream = self._node.open_stream(lambda events: self._step(Received(events)))
            self._step(Connected(StreamLimits()))

    def submit(self, kind: Kind, channel: str, payload: bytes) -> int:
        """Ask for something; returns the ticket of its answer."""
        self._tickets += 1
        self._step(Submitted([Intent(self._tickets, kind, self._space, self._key, channel, payload)]))
        return self._tickets

    def reply(self, ticket: int) -> Reply | None:
        """The answer, once."""
        return self._replies.pop(ticket, None)

    def watch(self, arguments: bytes = b"") -> Screen:
        """Follow the document."""
        self._tickets += 1
        watch = self._tickets
        screen = Screen(
            lambda: self._close(watch),
            lambda wanted, version: self._ask(Asked(watch, wanted, version)),
            lambda value: self._ask(Presented(watch, value)),
        )
        self._screens[watch] = screen
        self._step(Watched(watch, self._space, self._key, arguments=arguments))
        return screen

    def look(self) -> None:
        """Do what is due by now."""
        wake_ms = self.wake_at_ms
        if wake_ms is not None and wake_ms <= self._node.now_ms:
            self._step(TimeReached())
            self._node.run()

    def _ask(self, asked: Asked | Presented) -> None:
        self._step(asked)
        self._node.run()

    def _close(self, watch: int) -> None:
        if self._screens.pop(watch, None) is not None:
            self._step(Unwatched(watch))
            self._node.run()

    def _make_session(self) -> bytes:
        return new_identity(self._node.now_ms, self._node.random.randbytes(RANDOM_BYTES))

    def _step(self, event: Event) -> None:
        effects = self._machine.step(event, float(self._node.now_ms))
        for happened in effects.happened:
            if isinstance(happened, Answered):
                self._replies[happened.ticket] = happened.reply
            elif isinstance(happened, Changed):
                self._screens[happened.watch].take(happened.delta)
                self._step(Consumed(happened.watch, happened.delta.credit_bytes))
            elif isinstance(happened, ArgumentsRefused):
                self._screens[happened.watch].refuse(self._failed(happened.failure))
            else:
                assert isinstance(happened, Ended)
                self._screens.pop(happened.watch).ended = self._failed(happened.failure)
        for frame in effects.frames:
            self._session = frame.session or self._session
            if self._stream:
                self._node.submit(self._stream, [self._signed(operation) for operation in frame.operations], frame.grants)

    def _signed(self, operation: Operation) -> Operation:
        """As a gateway passes it on: with its principal and its session."""
        session = operation.session or (self._session if operation.sequence else b"")
        return msgspec.structs.replace(operation, principal=self._who, session=session)
