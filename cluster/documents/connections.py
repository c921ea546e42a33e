"""Whose connections a document knows: what `@on.connect` and `@on.disconnect` rest on.

The connections that were told to the document and not taken back are a hidden field of its state, under the same journal as
everything else: chain, snapshots, replay and upgrades hold for them, author code can not name them, and views never show them.
So it is the state that makes a coming and a going count once: a connect whose connection is there already, and a disconnect
whose connection is not, change nothing, whoever proposes them and how often.

Invariant: a connection is in the state if and only if its connect handler ended well and its disconnect has not run. Classes
without such handlers have no such field.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from cluster.documents import payload as json
from cluster.documents.meter import METER, charge
from cluster.documents.runtime import CONNECT_CHANNEL, Settings
from cluster.documents.state import Dict, FieldSpec, Record, StateRoot, field_spec
from cluster.errors import ConnectionUnchanged
from cluster.ids import Principal

if TYPE_CHECKING:
    from cluster.documents.context import Command
    from cluster.documents.declare import Document

CONNECTIONS_FIELD: Final = "-connections"
"""Not a legal attribute name: no author's field can be called so, and no author code can reach it."""


def connection_fields() -> dict[str, FieldSpec]:
    """The field of classes that are told of connections: names of connections, and whose they are."""
    return {CONNECTIONS_FIELD: field_spec(CONNECTIONS_FIELD, dict[str, Principal], owner=Record)}


def do_nothing(document: Document, ctx: Command) -> None:
    """Stands for a handler that a class lacks."""


class Connected:
    """The connections of one document."""

    __slots__ = ("_root", "_settings")

    def __init__(self, root: StateRoot, settings: Settings) -> None:
        self._root = root
        self._settings = settings

    @property
    def _known(self) -> Dict[str, Principal]:
        known: Dict[str, Principal] = self._root.get(CONNECTIONS_FIELD)
        return known

    @property
    def any(self) -> bool:
        """Whether there are any."""
        return bool(len(self._known))

    def all(self) -> dict[str, Principal]:
        """All of them, and whose they are, in the order in which they came."""
        return dict(self._known.items())

    def has(self, connection: str) -> bool:
        """Whether this one came and did not go."""
        return connection in self._known

    def expect(self, channel: str, payload: bytes, sender: Principal) -> str:
        """The connection that a command names. Raises ConnectionUnchanged unless it is to come and is not there, or is to go,
        is there, and is the sender's.
        """
        connection = str(json.decode(payload).get("connection"))
        owner = self._known.get(connection)
        if channel == CONNECT_CHANNEL:
            if owner is not None:
                raise ConnectionUnchanged(f"{connection} is connected")
        elif owner != sender:
            raise ConnectionUnchanged(f"{connection} is no connection of {sender}")
        return connection

    def come(self, connection: str, who: Principal) -> None:
        """It is connected from now on. Exhausts the budget `connections` when there are too many."""
        charge(4)
        known = self._known
        if len(known) >= self._settings.connections_max:
            METER.exhaust("connections")
        known[connection] = who

    def go(self, connection: str) -> None:
        """It is connected no more."""
        charge(4)
        del self._known[connection]


def connection_payload(connection: str) -> bytes:
    """The payload of a command that names a connection."""
    return json.encode({"connection": connection})


def connection_of(payload: bytes) -> str:
    """The connection that such a payload names."""
    decoded: dict[str, Any] = json.decode(payload)
    return str(decoded["connection"])
