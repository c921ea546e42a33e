"""What handlers emitted, on its way from apply to the viewers of one document, within a turn.

Every replica notes it while it applies, because apply does not know who leads; whoever has no viewers forgets it at once, and a
leader forgets it when the feed has served those who had credit. So it is at most once, and there is nothing to resume.

Invariant: bounded, whatever a slice of apply runs: what comes too much is dropped, the newest first.
"""

from __future__ import annotations

from cluster.documents.runtime import Emission, Instance
from cluster.ids import Principal
from cluster.session.operations import Emitted
from cluster.shard.document import LiveDocument

PASSING_MAX = 256
PASSING_BYTES_MAX = 64 * 1024
"""Events of one document between two flushes of the feed."""


class Passing:
    """Events of one document, in order. Asking whom one is for is done once for each principal."""

    __slots__ = ("_asked", "_bytes", "_events")

    def __init__(self) -> None:
        self._events: list[tuple[Emitted, Emission, Instance | None]] = []
        self._bytes = 0
        self._asked: dict[tuple[int, Principal], bool] = {}

    def add(self, live: LiveDocument, emitted: list[Emission]) -> None:
        """Note what the document's newest command emitted."""
        for emission in emitted:
            self._bytes += len(emission.body)
            if len(self._events) >= PASSING_MAX or self._bytes > PASSING_BYTES_MAX:
                return
            event = Emitted(emission.name, emission.body, live.epoch, live.index)
            self._events.append((event, emission, live.instance))

    def after(self, epoch: int, index: int, who: Principal, instance: Instance) -> list[Emitted] | None:
        """What happened behind a position and is for this viewer. What an instance emitted that is gone is for nobody, for it
        can not be asked.
        """
        found = []
        for place, (event, emission, made_by) in enumerate(self._events):
            if (event.epoch, event.index) > (epoch, index) and made_by is instance:
                admits = emission.admits
                if admits is not None:
                    key = (place, who)
                    said = self._asked.get(key)
                    if said is None:
                        said = self._asked[key] = admits(who)
                    if not said:
                        continue
                found.append(event)
        return found or None


def note(live: LiveDocument, emitted: list[Emission]) -> None:
    """The document's newest command emitted these."""
    if live.passing is None:
        live.passing = Passing()
    live.passing.add(live, emitted)
