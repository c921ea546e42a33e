"""What viewers were shown: a whole view, then patches that each start where the last one ended; positions that rise; the same
content at a position as everybody else; and at the end, everything.

A reset is allowed and counted: who fell out of the ring of changes, or met another epoch, starts again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from chaos.checkers.answers import Answers
from chaos.checkers.checker import Checker
from chaos.checkers.connections import may_end_so
from chaos.checkers.history import NOWHERE, Name, Place
from chaos.checkers.passing import changes_state, lasting
from chaos.checkers.violation import Violation
from cluster.documents.state.patch import apply_patch
from cluster.session.operations import Delta, Failure

if TYPE_CHECKING:
    from chaos.sim.world import World


@dataclass(slots=True)
class _Viewer:
    name: Name
    place: Place = NOWHERE
    view: Any = None
    begun: bool = False
    over: str = ""


class Watches(Checker):
    """See the module. `deltas`, `resets`: how many were shown."""

    def __init__(self, world: World, answers: Answers) -> None:
        super().__init__(world)
        self.deltas = 0
        self.resets = 0
        self._answers = answers
        self._viewers: dict[tuple[str, int], _Viewer] = {}

    def opened(self, client: str, watch: int, name: Name) -> None:
        self._viewers[(client, watch)] = _Viewer(name)

    def name_of(self, client: str, watch: int) -> Name:
        """The document that a watch follows."""
        return self._viewers[(client, watch)].name

    def view_of(self, client: str, watch: int) -> Any:
        """What a viewer has been shown, None if nothing."""
        return self._viewers[(client, watch)].view

    def closed(self, client: str, watch: int) -> None:
        self._viewers.pop((client, watch), None)

    def changed(self, client: str, watch: int, delta: Delta) -> None:
        viewer = self._viewers[(client, watch)]
        self.deltas += 1
        start, end = (delta.from_epoch, delta.from_index), (delta.epoch, delta.index)
        torn = self.world.planted.differs(viewer.name, end[0])  # each replica that leads shows its own
        if viewer.begun and end < viewer.place and not torn:
            raise Violation("watches", f"{client} is at {viewer.place} of {viewer.name} and is shown {end}")
        if delta.reset:
            if viewer.begun:
                self.resets += 1
                self.world.marks["resets"] += 1
            viewer.view = msgspec.json.decode(delta.body)
        else:
            patch = msgspec.json.decode(delta.body)
            if end < start or (end == start and changes_state(viewer.name, patch)):
                raise Violation("watches", f"{client} is sent a patch of {viewer.name} from {start} to {end}")
            if not viewer.begun or start != viewer.place:
                raise Violation("watches", f"{client} is at {viewer.place} of {viewer.name} and is sent a patch from {start}")
            try:
                viewer.view = apply_patch(viewer.view, patch)
            except ValueError as error:
                raise Violation(
                    "watches", f"a patch of {viewer.name} at {end} does not fit {client}'s view: {error}"
                ) from error
        viewer.begun, viewer.place = True, end
        self._answers.shown(viewer.name, end, client, lasting(viewer.name, viewer.view))

    def finished(self) -> None:
        """What a chain of patches has made of a view is what the document shows."""
        for (client, _), viewer in self._viewers.items():
            if viewer.begun and not viewer.over and not self.world.planted.undecided(viewer.name):
                shown = self.world.final_view(viewer.name, client)
                if shown is not None and shown != lasting(viewer.name, viewer.view):
                    raise Violation("watches", f"{client} has {viewer.view} of {viewer.name}, which shows {shown}")

    def ended(self, client: str, watch: int, failure: Failure) -> None:
        viewer = self._viewers[(client, watch)]
        viewer.over = failure.reason
        if failure.reason not in ("DOCUMENT_DELETED", "UNKNOWN_DOCUMENT") and not may_end_so(viewer.name, failure):
            raise Violation("watches", f"{client}'s watch of {viewer.name} ended with {failure.reason}: {failure.message}")

    def behind(self) -> list[str]:
        """Who has not been shown the present state of a document yet."""
        final = self.world.final_places()
        living = self.world.final_views()
        late = []
        for (client, _), viewer in self._viewers.items():
            end = final.get(viewer.name)
            if viewer.over or self.world.planted.undecided(viewer.name):
                continue
            if viewer.name in living and (not viewer.begun or viewer.place != end):
                stands = viewer.place if viewer.begun else "nothing"
                late.append(f"{client} is at {stands} of {'/'.join(viewer.name)}, which is at {end}")
        return late
