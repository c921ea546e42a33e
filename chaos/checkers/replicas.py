"""Equal positions, equal records: whether a replica got there by running the log, by replay or by a snapshot.

The chain of a document binds its whole past, so comparing it after every turn costs little; whole records are compared at
samples and at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chaos.checkers.checker import Checker
from chaos.checkers.history import Name, Place
from chaos.checkers.violation import Violation
from cluster.errors import StorageDamaged
from cluster.shard.commands import Command
from cluster.shard.document import decode_record
from cluster.shard.replica import ShardReplica

if TYPE_CHECKING:
    from chaos.sim.node import SimulatedNode
    from chaos.sim.world import World

RECORD_EVERY = 8
"""One in so many looks compares the whole record."""


class Replicas(Checker):
    """See the module."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._chains: dict[tuple[Name, Place], tuple[str, bytes]] = {}
        self._records: dict[tuple[Name, Place], tuple[str, bytes]] = {}
        self._touched: dict[tuple[int, Name], None] = {}
        self._looks = 0

    def ran(self, node: SimulatedNode, shard: int, index: int, offset: int, command: Command) -> None:
        self._touched[(shard, (command.space, command.key))] = None

    def turned(self, node: SimulatedNode) -> None:
        if not self._touched:
            return
        touched, self._touched = self._touched, {}
        for shard, name in touched:
            replica = node.pump.replicas.get(shard)  # type: ignore[call-overload]
            live = replica.cache.peek(*name) if replica is not None else None
            if live is None:
                continue
            place = (live.epoch, live.index)
            self._compare(self._chains, "chain", node, name, place, live.chain)
            self._looks += 1
            if self._looks % RECORD_EVERY == 0:
                self._compare(self._records, "record", node, name, place, live.record())

    def _compare(
        self,
        known: dict[tuple[Name, Place], tuple[str, bytes]],
        what: str,
        node: SimulatedNode,
        name: Name,
        place: Place,
        value: bytes,
    ) -> None:
        first = known.setdefault((name, place), (node.name, value))
        if first[1] != value:
            told = ""
            if what == "record":
                told = f": {decode_record(first[1])} and {decode_record(value)}"
            raise Violation("equal replicas", f"{first[0]} and {node.name} have different {what}s of {name} at {place}{told}")

    def finished(self) -> None:
        """All replicas of the nodes that still run hold the same records, byte for byte."""
        for node in self.world.running():
            for replica in node.pump.replicas.values():
                for name in self.world.documents_of(replica.id):
                    self._final(node, replica, name)

    def _final(self, node: SimulatedNode, replica: ShardReplica, name: Name) -> None:
        try:
            live = replica.cache.get(*name)
        except StorageDamaged:
            return  # rot that nobody has read yet: whoever reads it first has the replica healed, and nothing is told before
        if live.epoch or live.index:
            self._compare(self._records, "record", node, name, (live.epoch, live.index), live.record())
