"""From opinions to a view: verdicts gathered into cuts, and flapping members held down.

Whoever places replicas pays for every change of the view. A rack that fails is declared dead node by node within some tens of
milliseconds; that is published as one cut (compare Rapid, Suresh et al., ATC 2018). A member that dies and returns again and
again is published as up only after a hold-down that doubles with each death; deaths are never delayed by it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cluster.gossip.effects import Cut, MemberView
from cluster.gossip.messages import State
from cluster.ids import NodeId

QUIET_MS: Final = 100
"""A cut is published when no further verdict came for this long ..."""
BATCH_MS_MAX: Final = 500
"""... and at the latest this long after its first."""
HOLD_FIRST_MS: Final = 2_000
"""A member that returns from its second unforgiven death is held down for this long, twice that after the third, and so on."""
HOLD_MS_MAX: Final = 300_000
FLAP_FORGIVEN_MS: Final = 120_000
"""One death is forgiven for each such time without another."""


class _Flaps:
    """Deaths that are not forgiven yet."""

    __slots__ = ("deaths", "last_ms")

    def __init__(self) -> None:
        self.deaths = 0
        self.last_ms = 0

    def died(self, now_ms: int) -> None:
        self.deaths = max(0, self.deaths - (now_ms - self.last_ms) // FLAP_FORGIVEN_MS) + 1
        self.last_ms = now_ms

    def held_until_ms(self) -> int:
        if self.deaths < 2:
            return 0
        return self.last_ms + min(HOLD_MS_MAX, HOLD_FIRST_MS << min(30, self.deaths - 2))


class StabilityFilter:
    """What is published of each member: ALIVE, DEAD or LEFT; suspects are still alive here.

    Invariant: published and opinion differ only for members that wait: in `_pending` for the next cut, or in `_held` for the
    end of their hold-down.
    """

    __slots__ = ("_first_ms", "_flaps", "_held", "_last_ms", "_number", "_pending", "published")

    def __init__(self) -> None:
        self.published: dict[NodeId, State] = {}
        self._pending: dict[NodeId, None] = {}
        self._held: dict[NodeId, int] = {}
        self._flaps: dict[NodeId, _Flaps] = {}
        self._first_ms = 0
        self._last_ms = 0
        self._number = 0

    def hear(self, node: NodeId, state: State, now_ms: int) -> None:
        """An opinion changed to this state."""
        published = self.published.get(node)
        if state is State.DEAD:
            self._flaps.setdefault(node, _Flaps()).died(now_ms)
        self._held.pop(node, None)
        if _settled(state) is published:
            self._pending.pop(node, None)
            return
        if published is State.DEAD and state <= State.SUSPECT and (flaps := self._flaps.get(node)) is not None:
            until_ms = flaps.held_until_ms()
            if until_ms > now_ms:
                self._held[node] = until_ms
                self._pending.pop(node, None)
                return
        if node not in self._pending:
            if not self._pending:
                self._first_ms = now_ms
            self._pending[node] = None
            self._last_ms = now_ms

    def forget(self, node: NodeId) -> None:
        for known in (self.published, self._pending, self._held, self._flaps):
            known.pop(node, None)

    def deadline_ms(self) -> int | None:
        """When to look again; None while nothing waits."""
        due_ms = min(self._held.values(), default=None)
        if not self._pending:
            return due_ms
        return self._cut_ms if due_ms is None else min(due_ms, self._cut_ms)

    @property
    def _cut_ms(self) -> int:
        return min(self._last_ms + QUIET_MS, self._first_ms + BATCH_MS_MAX)

    def publish(self, now_ms: int, view_of: Callable[[NodeId], MemberView | None]) -> Cut | None:
        """The cut that is due now, if any."""
        due = [node for node, until_ms in self._held.items() if until_ms <= now_ms]
        for node in due:
            del self._held[node]
        if self._pending and self._cut_ms <= now_ms:
            due += self._pending
            self._pending = {}
        views = [view for node in due if (view := view_of(node)) is not None]
        if not views:
            return None
        for view in views:
            self.published[view.node] = _settled(view.state)
        self._number += 1
        return Cut(
            self._number,
            tuple(view for view in views if view.state <= State.SUSPECT),
            tuple(view for view in views if view.state is State.DEAD),
            tuple(view for view in views if view.state is State.LEFT),
        )


def _settled(state: State) -> State:
    return State.ALIVE if state <= State.SUSPECT else state
