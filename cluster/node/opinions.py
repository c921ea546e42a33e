"""What gossip believes of nodes, for the controller of placement: and since when this node has been told so.

Who is dead or back is taken from the published view, which waits for members that flap. An opinion moves no replica alone:
before any is rebuilt, the leader of each shard must not hear the node either.
"""

from __future__ import annotations

from collections.abc import Mapping

from cluster.gossip.core import Gossip
from cluster.gossip.messages import State
from cluster.ids import NodeId
from cluster.node.loop import monotonic_ms
from cluster.placement.view import Liveness

_LIVENESS = {
    State.ALIVE: Liveness.ALIVE,
    State.SUSPECT: Liveness.SUSPECT,
    State.DEAD: Liveness.DEAD,
    State.LEFT: Liveness.LEFT,
}


class Opinions:
    """Of every node that gossip has met. Called, it gives them, and since when each is what it is."""

    def __init__(self, gossip: Gossip) -> None:
        self._gossip = gossip
        self._held: dict[NodeId, tuple[Liveness, float]] = {}

    def note(self) -> None:
        """Gossip may have changed its mind."""
        now_ms = monotonic_ms()
        for member in self._gossip.members():
            suspect = member.state is State.SUSPECT
            liveness = _LIVENESS[member.state if suspect else self._gossip.published(member.node) or member.state]
            held = self._held.get(member.node)
            if held is None or held[0] is not liveness:
                self._held[member.node] = (liveness, now_ms)

    def __call__(self) -> Mapping[NodeId, tuple[Liveness, float]]:
        self.note()
        return self._held
