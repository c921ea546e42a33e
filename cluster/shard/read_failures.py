"""What fails while somebody reads: views, policies and gates. Viewers see an opaque id; operators are told here."""

from __future__ import annotations

from collections.abc import Callable

from cluster.ids import Principal
from cluster.shard.apply import Applier, HandlerFailure
from cluster.shard.document import LiveDocument

Told = Callable[[LiveDocument, Principal], None]
"""Called after a document was read for somebody: takes what failed meanwhile."""


def nobody_told(live: LiveDocument, who: Principal) -> None:
    """Where nobody keeps what failed."""


class ReadFailures:
    """Tells a node's log of failures what failed in views. applier: knows the shard's time."""

    __slots__ = ("_applier", "_on_failure")

    def __init__(self, on_failure: Callable[[HandlerFailure], None], applier: Applier) -> None:
        self._on_failure = on_failure
        self._applier = applier

    def __call__(self, live: LiveDocument, who: Principal) -> None:
        """See Told."""
        if live.instance is None:
            return
        for failure in live.instance.read_failures():
            place = (live.id, live.epoch, live.index, failure.what, str(who), self._applier.now_ms)
            self._on_failure(HandlerFailure(failure.error_id, *place, failure.error))
