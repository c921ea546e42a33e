"""What generated clients stand on: one document whose channels are methods and whose view has a type.

    cards = Cards(client.document("cards", "table"))      # Cards comes from `moot space schema cards --format python`
    await cards.play(rank="8", suit="hearts", call="spades")
    async with cards.watch() as watch:
        async for view in watch:
            print(view["turn"])
            for event in cards.events(watch):            # if the class emits something
                print(event.name, event.value)

Answers and views are converted from JSON to the types that the schema names: moments, decimals, integers of 64 bits. A view is
converted as a whole at every step; who follows large documents takes `Document.watch`, whose steps share what did not change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, ClassVar, Generic, TypeVar

import msgspec

from cluster.client.client import Document
from cluster.client.watch import Watch
from cluster.documents.state.blob import Blob, BlobReference, as_sent
from cluster.documents.state.scalars import JSON_INT_MAX
from cluster.ids import Position
from cluster.session.events import PassedEvent
from cluster.session.operations import Consistency

ViewT = TypeVar("ViewT")


class Handle(Generic[ViewT]):
    """The base class of generated clients.

    view_type: the TypedDict of what a viewer sees. result_types: of the channels that answer something; "" is the creation.
    answer_types: of the handlers of answers that answer something. event_types: the type of what is emitted, by name, and of
    its value.
    """

    view_type: ClassVar[Any]
    result_types: ClassVar[Mapping[str, Any]] = {}
    answer_types: ClassVar[Mapping[str, Any]] = {}
    event_types: ClassVar[Mapping[str, tuple[Any, Any]]] = {}

    def __init__(self, document: Document) -> None:
        self.document = document

    async def read(self, *, consistency: Consistency = Consistency.LINEARIZABLE) -> ViewT:
        """What the caller may see. Raises what Client.read raises."""
        answer = await self.document.read(consistency=consistency)
        view: ViewT = _converted(answer.value, self.view_type)
        return view

    async def blob(self, blob: BlobReference | str, *, consistency: Consistency = Consistency.LINEARIZABLE) -> Blob:
        """The bytes of a blob in the view, or by its hash. Raises what Client.blob raises."""
        return await self.document.blob(blob, consistency=consistency)

    async def delete(self) -> None:
        """Delete the document. Raises what Client.delete raises."""
        await self.document.delete()

    def watch(self) -> TypedWatch[ViewT]:
        """Follow the document: `async with`, then `async for view in watch`. Raises what Watch raises."""
        return TypedWatch(self.document.watch(), self.view_type)

    def _events(self, watch: TypedWatch[ViewT]) -> list[Any]:
        """What was emitted with the last step that was taken, of the types that the schema names."""
        made = []
        for passed in watch.passed:
            known = self.event_types.get(passed.name)
            if known is not None:  # a later version of the class may emit more
                event, value = known
                made.append(event(passed.name, _converted(passed.value, value), passed.position))
        return made

    async def _answer(self, ask: str, handler: str, value: Any) -> Any:
        answer = await self.document.answer(ask, _plain(value))
        return _converted(answer.value, self.answer_types.get(handler, Any))

    async def _create(self, parameters: Mapping[str, Any], omitted: Sequence[str] = ()) -> Any:
        answer = await self.document.create(_payload(parameters, omitted))
        return _converted(answer.value, self.result_types.get("", Any))

    async def _send(self, channel: str, parameters: Mapping[str, Any], omitted: Sequence[str] = ()) -> Any:
        answer = await self.document.send(channel, _payload(parameters, omitted))
        return _converted(answer.value, self.result_types.get(channel, Any))


class TypedWatch(Generic[ViewT]):
    """A Watch whose steps are views of a type. position: of the last one taken. passed: what was emitted with it."""

    def __init__(self, watch: Watch, view_type: Any) -> None:
        self.passed: Sequence[PassedEvent] = ()
        self._watch = watch
        self._view_type = view_type

    @property
    def position(self) -> Position | None:
        return self._watch.position

    def __aiter__(self) -> TypedWatch[ViewT]:
        return self

    async def __anext__(self) -> ViewT:
        change = await self._watch.__anext__()
        self.passed = change.events
        view: ViewT = _converted(change.view, self._view_type)
        return view

    def present(self, value: Mapping[str, Any] | None) -> None:
        """See Watch.present."""
        self._watch.present(value)

    async def __aenter__(self) -> TypedWatch[ViewT]:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watch.close()


def _converted(value: Any, kind: Any) -> Any:
    # not strict: integers beyond 2**53 are text in JSON. Text stays text wherever the type says so.
    return msgspec.convert(value, kind, strict=False, str_keys=True, dec_hook=_made)


def _made(kind: type, value: Any) -> Any:
    """Values of types that are the client's own."""
    if kind is BlobReference:
        return BlobReference(value["hash"], value["size"], value["media_type"])
    raise TypeError(f"{kind.__name__} is no type of a view")


def _payload(parameters: Mapping[str, Any], omitted: Sequence[str]) -> dict[str, Any]:
    """Parameters as JSON has them; of `omitted` those that are None are left to the author's defaults."""
    return {name: _plain(value) for name, value in parameters.items() if value is not None or name not in omitted}


def _plain(value: Any) -> Any:
    """Moments have milliseconds on the wire, and integers that JSON readers would round are text; the rest is what JSON
    encoding makes of it.
    """
    if isinstance(value, int) and abs(value) > JSON_INT_MAX:
        return str(value)
    if isinstance(value, datetime):
        moment = value.astimezone(UTC) if value.tzinfo else value
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if isinstance(value, Blob):
        return as_sent(value)
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value
