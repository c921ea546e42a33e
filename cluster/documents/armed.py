"""What a document has armed: alarms that time will ring, and asks that somebody will answer or time will end.

Both are values of hidden fields of its state, under the same journal as everything else: arming is undone with the command that
armed, and chain, snapshots and dumps carry it. References to handlers are kept by name. Author code can not name these fields
and views never show them. What is due next is kept beside the state, in a heap that is made anew from it.

Invariant: an entry of the heap counts if and only if the state holds an item of that id which is due at that moment; the state
alone decides. This module does not know logs or leaders: who asks `due` brings the time.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import msgspec

from cluster.documents import payload as json
from cluster.documents.connections import CONNECTIONS_FIELD
from cluster.documents.meter import METER, charge, charge_items
from cluster.documents.runtime import ALARM_CHANNEL, ANSWER_CHANNEL, Due, OpenAsk, Settings
from cluster.documents.sizes import measure
from cluster.documents.state import Dict, FieldSpec, Record, StateRoot, field_spec, state_type
from cluster.errors import AskClosed, InvalidPayload, NotArmed
from cluster.ids import Principal

if TYPE_CHECKING:
    from cluster.documents.channels import Channel
    from cluster.documents.declaration import Declaration

ALARMS_FIELD: Final = "-alarms"
ASKS_FIELD: Final = "-asks"
"""Not legal attribute names: no author's field can be called so, and no author code can reach them."""

ID_BYTES_MAX: Final = 128
MADE_ID: Final = "#"
"""What ids begin with that are made here; an author's may not."""
EVERY_MIN: Final = timedelta(milliseconds=100)
EPOCH_MS_MAX: Final = 253_402_300_799_999
"""The last millisecond that a datetime can name."""

_HIDDEN: Final = tuple(name.encode() for name in (ALARMS_FIELD, ASKS_FIELD, CONNECTIONS_FIELD))
_MILLISECOND: Final = timedelta(milliseconds=1)
_STALE_MAX: Final = 64
"""Entries of the heap that may count no more, beyond as many as count."""


class Alarm(Record):
    """due: Unix milliseconds. every: the beat in milliseconds, 0 for an alarm that rings once. arguments: canonical JSON."""

    handler: str
    arguments: bytes
    due: int
    every: int


class Ask(Record):
    """to: who may answer. handler: what takes the answer. request: canonical JSON. due: when it ends unanswered."""

    to: Principal
    handler: str
    request: bytes
    due: int


class _Held(msgspec.Struct, rename={"alarms": ALARMS_FIELD, "asks": ASKS_FIELD, "connections": CONNECTIONS_FIELD}):
    alarms: dict[str, _HeldAlarm] = {}
    asks: dict[str, _HeldAsk] = {}
    connections: dict[str, str] = {}


class _HeldAlarm(msgspec.Struct):
    handler: str
    due: int


class _HeldAsk(msgspec.Struct):
    to: str
    handler: str
    due: int


@dataclass(frozen=True, slots=True)
class Waits:
    """What a dump says its document waits for.

    due_ms: the earliest thing that time must do, None when there is none. asked: who is asked, sorted. handlers: names of the
    handlers that are armed: code without one of them can not take the document over. connected: whether there are connections
    that came and did not go.
    """

    due_ms: int | None
    asked: tuple[str, ...]
    handlers: frozenset[str]
    connected: bool = False


NO_WAITS: Final = Waits(None, (), frozenset())

_decode_held = msgspec.msgpack.Decoder(_Held).decode


def waits_of(state: bytes) -> Waits:
    """What a document waits for, from its dump and without its code. A dump of another runtime, or one that can not be read,
    waits for nothing.
    """
    if not any(name in state for name in _HIDDEN):
        return NO_WAITS
    try:
        held = _decode_held(state)
    except (msgspec.DecodeError, RecursionError):
        return NO_WAITS
    items: list[_HeldAlarm | _HeldAsk] = [*held.alarms.values(), *held.asks.values()]
    due_ms = min((item.due for item in items), default=None)
    asked = tuple(sorted({ask.to for ask in held.asks.values()}))
    return Waits(due_ms, asked, frozenset(item.handler for item in items), bool(held.connections))


def hidden_fields() -> dict[str, FieldSpec]:
    """The fields that classes have whose handlers can be armed."""
    return {
        ALARMS_FIELD: field_spec(ALARMS_FIELD, dict[str, Alarm], owner=Alarm),
        ASKS_FIELD: field_spec(ASKS_FIELD, dict[str, Ask], owner=Ask),
    }


def json_form(value: object) -> object:
    """The JSON form of a value whose type says how it is stored: a Record or a plain value. Raises TypeError or ValueError."""
    if value is None:
        return None
    kind = state_type(type(value), owner=type(value))
    return kind.to_json(kind.admit(value))


class Armed:
    """One document's alarms and asks.

    due_ms: the earliest thing that time must do, Unix milliseconds; None when there is none. Not to be asked within a command.
    """

    __slots__ = ("_asked", "_declaration", "_heap", "_order", "_root", "_settings")

    def __init__(self, root: StateRoot, declaration: Declaration, settings: Settings) -> None:
        self._root = root
        self._declaration = declaration
        self._settings = settings
        self._heap: list[tuple[int, int, bool, str]] = []
        """(due, order of arming, whether it is an ask, id)."""
        self._order = 0
        self._asked: tuple[str, ...] | None = ()

    def reload(self) -> None:
        """The state was replaced: make anew what follows from it."""
        self._order = 0
        alarms = [(alarm.due, False, id) for id, alarm in self._alarms.items()]
        asks = [(ask.due, True, id) for id, ask in self._asks.items()]
        self._heap = [(due, order, is_ask, id) for order, (due, is_ask, id) in enumerate([*alarms, *asks])]
        self._order = len(self._heap)
        heapq.heapify(self._heap)
        self._asked = None

    @property
    def _alarms(self) -> Dict[str, Alarm]:
        alarms: Dict[str, Alarm] = self._root.get(ALARMS_FIELD)
        return alarms

    @property
    def _asks(self) -> Dict[str, Ask]:
        asks: Dict[str, Ask] = self._root.get(ASKS_FIELD)
        return asks

    # -- what a handler does -----------------------------------------------------------------------------------------

    def arm(
        self, due_ms: int, every_ms: int, handler: Callable[..., object], args: tuple[object, ...], id: str | None, made: str
    ) -> str:
        """Arm an alarm and return its id; one of the same id is replaced. `made` is the id where the author gives none.

        Raises TypeError or ValueError for what can not be armed; exhausts the budget `alarms` when there are too many.
        """
        channel = self._handler(handler, self._declaration.alarms, "an @on.alarm handler")
        arguments = _bound(channel, args)
        name = made if id is None else _checked(id)
        alarms = self._alarms
        if name not in alarms and len(alarms) >= self._settings.alarms_max:
            METER.exhaust("alarms")
        charge_items(len(arguments) + 64)
        alarms.put(name, Alarm(channel.name, arguments, due_ms, every_ms))
        self._push(due_ms, False, name)
        return name

    def ask(self, to: Principal, request: object, handler: Callable[..., object], due_ms: int, id: str) -> None:
        """Ask somebody. Raises TypeError or ValueError; exhausts the budget `asks` when too many are open."""
        channel = self._handler(handler, self._declaration.answers, "an @on.answer handler")
        if type(to) is not Principal:
            raise TypeError(f"a Principal is asked, not {type(to).__name__}")
        measure(request)
        told = json.encode(json_form(request))
        charge_items(len(told) + 64)
        if len(told) > self._settings.answer_bytes_max:
            METER.exhaust("request")
        asks = self._asks
        if len(asks) >= self._settings.asks_max:
            METER.exhaust("asks")
        asks.put(id, Ask(to, channel.name, told, due_ms))
        self._push(due_ms, True, id)

    def cancel(self, what: str | Callable[..., object]) -> int:
        """Disarm one alarm or ask by its id, or all of a handler. Returns how many."""
        if isinstance(what, str):
            return self._disarm(self._alarms, [what]) or self._disarm(self._asks, [what])
        alarms, asks = self._alarms, self._asks
        charge(len(alarms) + len(asks))
        known = self._declaration.alarms | self._declaration.answers
        name = self._handler(what, known, "an @on.alarm or @on.answer handler").name
        found = [id for id, alarm in alarms.items() if alarm.handler == name]
        return self._disarm(alarms, found) + self._disarm(asks, [id for id, ask in asks.items() if ask.handler == name])

    def _disarm(self, items: Dict[str, Any], ids: list[str]) -> int:
        found = [id for id in ids if id in items]
        for id in found:
            charge(4)
            del items[id]
        self._asked = None
        return len(found)

    def _handler(self, handler: Callable[..., object], known: dict[str, Any], what: str) -> Channel:
        function = getattr(handler, "__func__", None)
        channel: Channel | None = known.get(getattr(function, "__name__", ""))
        if channel is None or channel.function is not function:
            channel = next((one for one in known.values() if one.function is function), None)
        owner = getattr(handler, "__self__", None)
        if channel is None or getattr(owner, "_moot_root", None) is not self._root:
            raise TypeError(f"{what} of this document is needed, such as self.name")
        return channel

    def _push(self, due_ms: int, is_ask: bool, id: str) -> None:
        self._asked = None
        if len(self._heap) > 2 * (len(self._alarms) + len(self._asks)) + _STALE_MAX:
            self.reload()
        self._order += 1
        heapq.heappush(self._heap, (due_ms, self._order, is_ask, id))

    # -- what time does ----------------------------------------------------------------------------------------------

    def _counts(self, entry: tuple[int, int, bool, str]) -> bool:
        due_ms, _, is_ask, id = entry
        item: Alarm | Ask | None = self._asks.get(id) if is_ask else self._alarms.get(id)
        return item is not None and item.due == due_ms

    @property
    def due_ms(self) -> int | None:
        heap = self._heap
        while heap and not self._counts(heap[0]):
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def due(self, now_ms: int, limit: int) -> list[Due]:
        """The first `limit` items that are due, by their time and then in the order of arming, as commands to propose."""
        heap = self._heap
        found: list[tuple[int, int, bool, str]] = []
        seen: set[tuple[bool, str]] = set()
        while heap and heap[0][0] <= now_ms and len(found) < limit:
            entry = heapq.heappop(heap)
            if self._counts(entry) and entry[2:] not in seen:
                found.append(entry)
                seen.add(entry[2:])
        for entry in found:
            heapq.heappush(heap, entry)
        return [
            Due(ANSWER_CHANNEL, json.encode({"ask": id}), due_ms)
            if is_ask
            else Due(ALARM_CHANNEL, json.encode({"alarm": id}), due_ms)
            for due_ms, _, is_ask, id in found
        ]

    def alarm(self, payload: bytes, now_ms: int) -> tuple[str, Alarm]:
        """The alarm that a firing names. Raises NotArmed unless it is armed and due."""
        id = _member(payload, "alarm")
        found = self._alarms.get(id)
        if found is None or found.due > now_ms:
            raise NotArmed(f"no alarm {id!r} is due")
        return id, found

    def open_ask(self, payload: bytes, sender: Principal, now_ms: int) -> tuple[str, Ask]:
        """The ask that an answer names, or a time-out, which carries no value. Raises AskClosed, InvalidPayload or NotArmed."""
        given = json.decode(payload)
        id = given.get("ask")
        found = self._asks.get(id) if isinstance(id, str) else None
        if "value" not in given:
            if found is None or found.due > now_ms:
                raise NotArmed(f"no ask {id!r} has run out of time")
        elif found is None or found.to != sender:
            raise AskClosed(f"no ask {id!r} of this document waits for an answer of {sender}")
        answering = self._declaration.answers.get(found.handler)
        if answering is not None:
            answering.check(given)
        return str(id), found

    def ring(self, id: str, now_ms: int) -> None:
        """The alarm fires: it is armed no more, or for its next beat, the first after now: missed beats are not made up for."""
        alarms = self._alarms
        alarm = alarms[id]
        if not alarm.every:
            del alarms[id]
            return
        alarm.due = due_ms = alarm.due + alarm.every * ((now_ms - alarm.due) // alarm.every + 1)
        self._push(due_ms, False, id)

    def conclude(self, id: str) -> None:
        """The ask is answered, or its time is up."""
        self._disarm(self._asks, [id])

    @property
    def handlers(self) -> frozenset[str]:
        """Names of the handlers that something armed will call."""
        return frozenset([*[alarm.handler for alarm in self._alarms.values()], *[ask.handler for ask in self._asks.values()]])

    # -- who is asked ------------------------------------------------------------------------------------------------

    @property
    def asked(self) -> tuple[str, ...]:
        """Who is asked anything, sorted."""
        if self._asked is None:
            self._asked = tuple(sorted({str(ask.to) for ask in self._asks.values()}))
        return self._asked

    def open_asks(self, who: Principal) -> list[OpenAsk]:
        """What is asked of `who`, the oldest first."""
        return [OpenAsk(id, ask.handler, ask.request, ask.due) for id, ask in self._asks.items() if ask.to == who]


def _bound(channel: Channel, args: tuple[object, ...]) -> bytes:
    """Positional arguments as the canonical payload of a handler. Raises TypeError or ValueError."""
    parameters = channel.parameters
    if len(args) > len(parameters):
        raise TypeError(f"{channel.name} takes {len(parameters)} arguments, {len(args)} were given")
    missing = [parameter.name for parameter in parameters[len(args) :] if parameter.required]
    if missing:
        raise TypeError(f"{channel.name} needs {missing[0]!r}")
    members = {}
    for parameter, value in zip(parameters, args, strict=False):
        measure(value)
        members[parameter.name] = parameter.type.to_json(parameter.type.admit(value))
    return json.encode(members)


def _checked(id: str) -> str:
    if type(id) is not str:
        raise TypeError(f"the id of an alarm is text, not {type(id).__name__}")
    if not 1 <= len(id.encode()) <= ID_BYTES_MAX or id.startswith(MADE_ID):
        raise ValueError(f"the id of an alarm has 1 to {ID_BYTES_MAX} bytes and does not begin with {MADE_ID!r}")
    return id


def _member(payload: bytes, name: str) -> str:
    value = json.decode(payload).get(name)
    if type(value) is not str:
        raise InvalidPayload(f"{name!r} is missing")
    return value


def milliseconds(span: timedelta) -> int:
    """A span in whole milliseconds, rounded up. Raises TypeError."""
    if not isinstance(span, timedelta):
        raise TypeError(f"expected timedelta, got {type(span).__name__}")
    return -(-span // _MILLISECOND)


def moment_ms(moment: datetime, epoch: datetime) -> int:
    """A moment in Unix milliseconds, rounded up. Raises TypeError or ValueError."""
    if not isinstance(moment, datetime):
        raise TypeError(f"expected datetime, got {type(moment).__name__}")
    if moment.tzinfo is None:
        raise ValueError("a moment needs a time zone: use UTC")
    return milliseconds(moment - epoch)
