"""What a checker may look at. Every method does nothing unless a checker has something to say; none may change the world.

Raise Violation where a promise is broken. `finished` comes once, when everything is healed and quiet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chaos.checkers.history import Call
from cluster.ids import NodeId
from cluster.session.operations import Delta, Failure
from cluster.shard.commands import Command
from cluster.shard.turn import RaftItem
from cluster.storage.engine import Batch

if TYPE_CHECKING:
    from chaos.sim.node import SimulatedNode
    from chaos.sim.world import World


class Checker:
    """Looks at one run."""

    def __init__(self, world: World) -> None:
        self.world = world

    def booted(self, node: SimulatedNode) -> None:
        """A process started."""

    def turned(self, node: SimulatedNode) -> None:
        """A node took a turn."""

    def sent(self, node: SimulatedNode, receiver: NodeId, item: RaftItem) -> None:
        """A Raft message leaves a node."""

    def wrote(self, node: NodeId, batch: Batch) -> None:
        """A batch is about to become visible."""

    def ran(self, node: SimulatedNode, shard: int, index: int, offset: int, command: Command) -> None:
        """A replica runs a command."""

    def answered(self, call: Call) -> None:
        """A client was given the answer to a call; `history` does not count it yet."""

    def changed(self, client: str, watch: int, delta: Delta) -> None:
        """An application was shown a delta."""

    def ended(self, client: str, watch: int, failure: Failure) -> None:
        """An application was told that its watch is over."""

    def finished(self) -> None:
        """The run is over and quiet."""
