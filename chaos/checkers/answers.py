"""What clients were told: acknowledged once and in order, reads that contain what was acknowledged before they began, positions
that never go back, one content for each position, and nothing that a viewer may not see.

Every answer names a position, so no search is needed: a read that began after an answer was given must be at that position or
a later one (compare the revisions of etcd's robustness tests). `ledgers` searches nevertheless, and believes no position.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from chaos.checkers.checker import Checker
from chaos.checkers.history import NOWHERE, Call, Name, Place
from chaos.checkers.violation import Violation
from chaos.sim import drawn
from cluster.session.operations import Consistency, Kind

if TYPE_CHECKING:
    from chaos.sim.world import World

_WRITES = (Kind.CREATE, Kind.SEND, Kind.DELETE)
_OPERATOR = frozenset(
    ("STORAGE_ERROR", "STORAGE_DAMAGED", "APPLY_HALTED", "LOG_LOST", "INTERNAL", "HANDLER_FAILED", "POISONED")
)
"""What no client may be told: it is not the client's business, or nobody's."""
_BEFORE_THE_LOG = frozenset(("UNKNOWN_DOCUMENT", "DOCUMENT_DELETED", "DOCUMENT_EXISTS", "UNKNOWN_CHANNEL"))


class Answers(Checker):
    """See the module. `views`: what was shown at (document, position, viewer)."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.views: dict[tuple[Name, Place, str], Any] = {}
        self.acked: dict[tuple[Name, Place], Call] = {}
        self._last_ack: dict[tuple[str, Name], Call] = {}

    def answered(self, call: Call) -> None:
        assert call.reply is not None
        failure = call.reply.failure
        if failure is not None:
            self._refused(call, failure.reason)
        elif call.kind is Kind.READ:
            self._read(call)
        elif call.kind in _WRITES:
            self._acked(call)

    def _refused(self, call: Call, reason: str) -> None:
        meant = reason == "HANDLER_FAILED" and call.name[0] == drawn.SPACE and call.kind is Kind.SEND
        if reason in _OPERATOR and not meant:
            raise Violation("answers", f"a client was told {reason}: {call}")
        if reason == "KEY_REUSED":
            raise Violation("answers", f"a client repeated itself letter by letter and was told {reason}: {call}")
        if reason == "OUTCOME_UNKNOWN" and not call.alone and not call.gave_up and not self._may_be_forgotten(call):
            raise Violation("exactly once", f"the document has room for every session, and has forgotten this one: {call}")
        assert call.reply is not None
        failure = call.reply.failure
        if failure is not None and failure.retryable and not call.alone and not call.gave_up:
            raise Violation("answers", f"a session gives up what it could repeat: {call}")
        seen = call.own_floor if call.consistency is Consistency.AT_LEAST else call.floor
        if reason == "UNKNOWN_DOCUMENT" and seen[0] > 0:
            raise Violation("linearizability", f"a document that was seen at {seen} is said never to have been: {call}")
        if reason == "DOCUMENT_DELETED" and not any(
            other.kind is Kind.DELETE and other.name == call.name for other in self.world.history.calls
        ):
            raise Violation("linearizability", f"nobody deleted this document: {call}")

    def _may_be_forgotten(self, call: Call) -> bool:
        """Whether a session's write may end as unknown: its document has more sessions than room, or a write before it was
        refused for good before the log, so that a number is missing there.
        """
        if self.world.commands.crowded(call.name):
            return True
        others = [
            other
            for other in self.world.history.calls
            if other.client == call.client and other.name == call.name and not other.alone
        ]
        failures = [other.reply.failure for other in others if other.reply is not None]
        if any(other.gave_up for other in others):
            return True  # it may have been refused so after its client had stopped waiting
        return any(failure is not None and failure.reason in _BEFORE_THE_LOG for failure in failures)

    def _acked(self, call: Call) -> None:
        place = call.place
        self.reached(call.name, place, call)
        if call.kind is Kind.CREATE:
            self._recreated(call)
        other = self.acked.setdefault((call.name, place), call)
        if other is not call:
            raise Violation("exactly once", f"two calls were acknowledged at {place}: {other} and {call}")
        if call.alone:
            return
        before = self._last_ack.get((call.client, call.name))
        if before is not None and before.number < call.number and before.place >= place:
            raise Violation("order", f"{call} is acknowledged at {place}, behind what was sent before it: {before}")
        if before is None or before.number < call.number:
            self._last_ack[(call.client, call.name)] = call

    def _recreated(self, call: Call) -> None:
        """A document begins anew only after its end."""
        epoch = call.place[0]
        ends = sum(other.kind is Kind.DELETE and other.name == call.name for other in self.world.history.calls)
        if epoch > 1 + ends:
            raise Violation("answers", f"a document is created for the {epoch}th time after {ends} deletions: {call}")

    def _read(self, call: Call) -> None:
        place = call.place
        if call.consistency is Consistency.LINEARIZABLE and place < call.floor:
            raise Violation(
                "linearizability", f"a read that began when {call.floor} had been told is answered at {place}: {call}"
            )
        if not call.alone and place < call.own_floor:
            raise Violation("monotonic reads", f"a client that had seen {call.own_floor} is answered at {place}: {call}")
        assert call.reply is not None
        self.shown(call.name, place, call.client, msgspec.json.decode(call.reply.payload))

    def reached(self, name: Name, place: Place, told: object) -> None:
        """What is told never runs ahead of what is committed: some replica has come to that position."""
        newest = self.world.replicas.newest.get(name, NOWHERE)
        if place > newest:
            raise Violation(
                "ahead of commit", f"{name} {place} was told, but no replica has come further than {newest}: {told}"
            )

    def shown(self, name: Name, place: Place, viewer: str, view: Any) -> None:
        """One position has one content, however it was shown."""
        self.reached(name, place, viewer)
        if self.world.planted.differs(name, place[0]):
            return
        principal = self.world.principals[viewer]
        if name[0] == "chat":
            self._private(name, place, principal, view)
        first = self.views.setdefault((name, place, principal), view)
        if first != view:
            raise Violation("equal views", f"{viewer} ({principal}) is shown {view} at {name} {place}, and was shown {first}")

    def _private(self, name: Name, place: Place, principal: str, view: Any) -> None:
        """Who is shown what only members of a room may see is one of them, at that very position."""
        shown = sorted({"members", "messages"} & view.keys())
        if shown and principal not in view.get("members", ()):
            raise Violation(
                "privacy", f"{principal} is no member of {'/'.join(name)} at {place} and is shown its {shown}: {view}"
            )

    def finished(self) -> None:
        """Nothing that anybody was told has vanished."""
        final = self.world.final_places()
        for (name, place), call in self.acked.items():
            if place > final.get(name, (0, 0)):
                raise Violation("lost", f"acknowledged at {place}, but the document ends at {final.get(name)}: {call}")
        for name, place in self.world.history.told.items():
            if place > final.get(name, (0, 0)) and not self.world.planted.undecided(name):
                raise Violation("lost", f"{place} of {name} was shown, but the document ends at {final.get(name)}")
