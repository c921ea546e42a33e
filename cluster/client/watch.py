"""What an application sees of a watched document: its view, and how it got there."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import msgspec

from cluster.client.failures import NO_REFUSALS, error_of
from cluster.documents.state.patch import apply_patch
from cluster.ids import Position
from cluster.session.events import PassedEvent, events_of
from cluster.session.operations import Delta, Failure

_decode = msgspec.json.decode
_encode = msgspec.json.encode


class Change:
    """One step of a watched document.

    position: where it is now. view: what the viewer may see now; never modified afterwards, parts are shared between steps.
    patch: the operations that led here from the step before, or None with `reset`: the view was replaced as a whole.
    arguments: the number of the arguments that the view is made with, as `Watch.show` counts them; 0 are those of `watch`.
    events: what handlers emitted on the way here for this viewer, in order; nothing repeats it.
    """

    __slots__ = ("arguments", "events", "patch", "position", "reset", "view")

    def __init__(
        self,
        position: Position,
        view: Any,
        patch: list[dict[str, Any]] | None,
        arguments: int = 0,
        events: Sequence[PassedEvent] = (),
    ) -> None:
        self.arguments = arguments
        self.events = events
        self.position = position
        self.view = view
        self.patch = patch
        self.reset = patch is None

    def __repr__(self) -> str:
        return f"Change(position={self.position}, patch={self.patch!r})"


class Watch:
    """Follows one document: `async for change in watch`. Ends by raising the error that ended it.

    Steps that were not taken yet hold credit back: a slow application is sent fewer, larger steps, never a backlog. Leave it
    with `async with`, or call `close()`; one that is neither closed nor read costs its credit and no more.
    """

    def __init__(
        self,
        close: Callable[[], None],
        consumed: Callable[[int], None],
        asked: Callable[[bytes, int], None],
        presented: Callable[[bytes], None],
        refusals: Mapping[str, type[Exception]] = NO_REFUSALS,
    ) -> None:
        self._authors = refusals
        self._presented = presented
        self._close = close
        self._consumed = consumed
        self._asked = asked
        self._version = 0
        self._refusals: dict[int, Failure] = {}
        self._deltas: deque[Delta] = deque()
        self._arrived = asyncio.Event()
        self._failure: Failure | None = None
        self._closed = False
        self.view: Any = None
        """The view of the last step taken."""
        self.position: Position | None = None
        """The position of the last step taken."""

    def __aiter__(self) -> Watch:
        return self

    async def __anext__(self) -> Change:
        while not self._deltas:
            if self._refusals:
                raise error_of(self._refusals.pop(next(iter(self._refusals))))
            if self._closed:
                raise StopAsyncIteration
            if self._failure is not None:
                raise error_of(self._failure, self._authors)
            self._arrived.clear()
            await self._arrived.wait()
        delta = self._deltas.popleft()
        self._consumed(delta.credit_bytes)
        patch = None
        if delta.reset:
            self.view = _decode(delta.body)
        else:
            patch = _decode(delta.body)
            self.view = apply_patch(self.view, patch)
        self.position = Position(delta.epoch, delta.index)
        return Change(self.position, self.view, patch, delta.arguments, events_of(delta))

    def show(self, arguments: Mapping[str, Mapping[str, Any]]) -> int:
        """Ask something else of views and windows, all of it: `{view: {parameter: value}, table: {"latest": rows}}`.

        Returns the number of these arguments: the first change whose `arguments` is not below it is made with them (or with
        later ones). If the document does not take them, the iteration raises InvalidArguments once and can be gone on with:
        the watch is as it was.
        """
        self._version += 1
        self._asked(_encode(arguments), self._version)
        return self._version

    def present(self, value: Mapping[str, Any] | None) -> None:
        """Show the document's other viewers something while this watch is open, None for nothing any more: its class says what,
        with a `Presence` field, in whose place in the view everybody's values are.

        It is shown again by itself after a lost connection or leader. Of values that come faster than 30 in a second the last
        counts. One that the field does not take makes the iteration raise InvalidPayload once.
        """
        self._presented(b"" if value is None else _encode(value))

    async def __aenter__(self) -> Watch:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop following. An iteration under way ends."""
        if not self._closed:
            self._closed = True
            self._close()
            self._deltas.clear()
            self._arrived.set()

    def put(self, delta: Delta) -> None:
        """For the connection: the next step has arrived."""
        self._deltas.append(delta)
        self._arrived.set()

    def refuse(self, version: int, failure: Failure) -> None:
        """For the connection: these arguments were not taken."""
        self._refusals[version] = failure
        self._arrived.set()

    def end(self, failure: Failure) -> None:
        """For the connection: the watch was ended for good."""
        self._failure = failure
        self._arrived.set()
