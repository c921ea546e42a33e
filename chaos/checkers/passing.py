"""What passes by: nobody sees a cursor that nobody set, none stays behind when its connection has gone, and when all is quiet
everybody sees the cursor of every connection as it was set last; what is said in passing is heard once or not at all, by those
whom it is for.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec

from chaos.checkers.checker import Checker
from chaos.checkers.history import Call, Name, Place
from chaos.checkers.violation import Violation
from cluster.session.operations import Delta, Kind

if TYPE_CHECKING:
    from chaos.sim.world import World

SPACE, FIELD = "notes", "cursors"
Cursor = tuple[str, int]
"""A principal, and the number that one of its connections shows."""


def lasting(name: Name, view: Any) -> Any:
    """What a document's state has of a view: no connection's value."""
    return view if name[0] != SPACE else {field: value for field, value in view.items() if field != FIELD}


def changes_state(name: Name, patch: list[dict[str, Any]]) -> bool:
    """Whether a patch is of more than what connections show."""
    return any(name[0] != SPACE or operation["path"].split("/")[1] != FIELD for operation in patch)


class Passing(Checker):
    """See the module."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._shows: dict[tuple[str, int], int] = {}
        """By client and watch: what it has shown last."""
        self._ever: set[Cursor] = set()
        self._said: dict[int, tuple[str, bool]] = {}
        """By number: who says it, and whether to himself."""
        self._heard: dict[tuple[str, int, Place], set[int]] = {}

    def shows(self, client: str, watch: int, payload: bytes) -> None:
        """An application has its connection show this, nothing if it is empty."""
        if not payload:
            self._shows.pop((client, watch), None)
            return
        number: int = msgspec.json.decode(payload)["number"]
        self._shows[(client, watch)] = number
        self._ever.add((self.world.principals[client], number))

    def asked(self, call: Call) -> None:
        """A client sends something."""
        if call.name[0] == SPACE and call.kind is Kind.SEND:
            number: int = msgspec.json.decode(call.payload)["number"]
            self._said[number] = (self.world.principals[call.client], call.channel == "whisper")

    def changed(self, client: str, watch: int, delta: Delta) -> None:
        if self.world.watches.name_of(client, watch)[0] != SPACE:
            return
        for cursor in _cursors(self.world.watches.view_of(client, watch)):
            if cursor not in self._ever:
                raise Violation("passing", f"{client} is shown {cursor}, which nobody has set")
            self.world.marks["cursors_shown"] += 1
        for emitted in delta.emitted or ():
            place = (emitted.epoch, emitted.index)
            if not (delta.from_epoch, delta.from_index) < place <= (delta.epoch, delta.index):
                raise Violation("passing", f"{client} hears at {(delta.epoch, delta.index)} what was said at {place}")
            self._hears(client, watch, place, msgspec.json.decode(emitted.payload))

    def _hears(self, client: str, watch: int, place: Place, said: dict[str, Any]) -> None:
        number, who = said["number"], self.world.principals[client]
        by, hidden = self._said[number]
        if said["by"] != by or (hidden and who != by):
            raise Violation("passing", f"{who} hears {said}, which {by} {'whispered' if hidden else 'said'}")
        heard = self._heard.setdefault((client, watch, place), set())
        if number in heard:
            raise Violation("passing", f"{client} hears {number} twice")
        heard.add(number)
        self.world.marks["events_heard"] += 1

    def behind(self) -> list[str]:
        """Who does not see what is shown yet."""
        viewers = {
            (client.name, watch): name
            for client in self.world.clients
            for name, watch in client.watching.items()
            if name[0] == SPACE
        }
        shown: dict[Name, Counter[Cursor]] = {}
        for (client, watch), name in viewers.items():
            number = self._shows.get((client, watch))
            cursors = shown.setdefault(name, Counter())
            if number is not None:
                cursors[(self.world.principals[client], number)] += 1
        late = []
        for (client, watch), name in viewers.items():
            sees = Counter(_cursors(self.world.watches.view_of(client, watch)))
            if sees != shown[name]:
                late.append(f"{client} sees {dict(sees)} at {'/'.join(name)}, where {dict(shown[name])} is shown")
        return late


def _cursors(view: Any) -> list[Cursor]:
    """What a view shows of connections, whose names begin with their principals."""
    return [(name.rpartition("#")[0], cursor["number"]) for name, cursor in (view or {}).get(FIELD, {}).items()]
