"""`Presence[Cursor]`: one small typed value for each connection that watches, in no state and no log.

    class Notes(Document):
        cursors: Presence[Cursor] = field.public()

Who watches may set the value of that connection; those who may see the field are shown `{"cursors": {connection: {...}}}` as a
part of their view, kept by the feed of the shard's leader and gone with the connection, whose name begins with its principal.

Invariant: a document's code never sees it. It is no field of the state, so handlers, views, exports, histories and replicas do
not depend on who is connected.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from cluster.documents import payload as json
from cluster.documents.blobs import holds_blobs
from cluster.documents.declare import Document, is_policy
from cluster.documents.sight import lens_of
from cluster.documents.state import FieldOptions, Record
from cluster.documents.state.fields import ABSENT
from cluster.documents.state.record import RecordType, record_type_of
from cluster.errors import InvalidName, InvalidPayload, TooLarge

T = TypeVar("T")

PRESENCE_BYTES_MAX: Final = 256
"""Of one connection's value, as JSON."""
_DEPTH_MAX: Final = 8

Refuse = Callable[[str, str, str], None]
"""Takes (code, reason, replacement)."""


class Presence(Generic[T]):
    """The type of a field that clients set and see, each connection its own value, a Record; handlers can not read it."""

    __slots__ = ()


@dataclass(slots=True, frozen=True)
class PresenceField:
    """policy: who may see it, (self, who); None is everybody whom the gate admits."""

    name: str
    type: RecordType
    policy: Callable[..., bool] | None

    def schema(self, definitions: dict[str, Any]) -> dict[str, Any]:
        """JSON Schema of a connection's value, under the field's name."""
        who = {"visible": "public" if self.policy is None else "by policy"}
        return {self.name: who | self.type.json_schema(definitions)}

    def canonical(self, payload: bytes) -> bytes:
        """The canonical form of a client's value. Raises InvalidPayload or TooLarge."""
        given = json.parse(payload, bytes_max=PRESENCE_BYTES_MAX, depth_max=_DEPTH_MAX)
        try:
            value = json.encode(self.type.to_json(self.type.from_json(given)))
        except (TypeError, ValueError, InvalidName) as error:
            raise InvalidPayload(f"{self.name}: {error}") from None
        if len(value) > PRESENCE_BYTES_MAX:
            raise TooLarge(f"{self.name} has at most {PRESENCE_BYTES_MAX} bytes", limit="presence_bytes_max")
        return value


class Unreadable:
    """Stands where the class declares the field: code that reads it anyway fails."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, document: Document | None, owner: type) -> Unreadable:
        if document is None:
            return self
        self._refuse()

    def __set__(self, document: Document, value: object) -> None:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise AttributeError(f"{self._name} is what connections show each other: a document's code can not see it")


def is_presence(name: str, annotation: Any, owner: type) -> Any:
    """The resolved annotation if it is a Presence, else None."""
    if isinstance(annotation, str):
        if "Presence" not in annotation:
            return None
        try:
            annotation = get_type_hints(owner).get(name)
        except Exception:
            return None  # the other fields' annotations say what is wrong
    return annotation if get_origin(annotation) is Presence or annotation is Presence else None


def read_presence(name: str, annotation: Any, value: object, refuse: Refuse) -> PresenceField | None:
    """The declaration of a field whose annotation is a Presence; None if it was refused."""
    (kind,) = get_args(annotation) or (None,)
    if not (isinstance(kind, type) and issubclass(kind, Record)):
        refuse("presence", f"{name} says nothing of what connections show", "write Presence[Cursor] with a Record")
        return None
    record = record_type_of(kind)
    if lens_of(record) is not None:
        refuse("presence", f"{name}: {kind.__name__} hides something of itself", "say with field.visible who sees it")
    if holds_blobs(record):
        refuse("presence", f"{name}: {kind.__name__} has a blob, and what connections show is kept nowhere", "show its hash")
    given = FieldOptions() if value is inspect.Parameter.empty else value
    options = given if isinstance(given, FieldOptions) else FieldOptions(default=given)
    policy = options.visibility if callable(options.visibility) else None
    if policy is not None and (not is_policy(policy) or len(inspect.signature(policy).parameters) != 2):
        refuse("presence", f"{name} is visible by something else than a policy", "write a @read.policy that takes (self, who)")
    elif policy is None and options.visibility != "public":
        refuse("presence", f"nobody would see {name}", "write field.public() or field.visible(policy)")
    if (options.default, options.key, options.window, options.add, options.was) != (
        ABSENT,
        None,
        None,
        None,
        None,
    ) or options.index:
        refuse("presence", f"{name} has an option of a field of the state", "leave it out")
    return PresenceField(name, record, policy)
