"""Equal positions, equal records: whether a replica got there by running the log, by replay or by a snapshot.

The chain of a document binds its whole past, so comparing it after every turn costs little; whole records, which hold the
sessions and their answers too, are compared at samples, whenever a snapshot was installed, and at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chaos.checkers.checker import Checker
from chaos.checkers.history import NOWHERE, Name, Place
from chaos.checkers.violation import Violation
from cluster.errors import CodeMissing, StorageDamaged, StorageError
from cluster.ids import DocumentId, NodeId, ShardId
from cluster.shard.commands import Command
from cluster.shard.document import decode_record
from cluster.shard.replica import ShardReplica
from cluster.storage.records import RecordStore

if TYPE_CHECKING:
    from chaos.sim.node import SimulatedNode
    from chaos.sim.world import World

RECORD_EVERY = 8
"""One in so many looks compares the whole record."""


class Replicas(Checker):
    """See the module. `newest`: the furthest that any replica has brought each document, by committed commands."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.newest: dict[Name, Place] = {}
        self._chains: dict[tuple[Name, Place], tuple[str, bytes, bool]] = {}
        self._records: dict[tuple[Name, Place], tuple[str, bytes, bool]] = {}
        self._installed: set[tuple[NodeId, ShardId]] = set()
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
            if place > self.newest.get(name, NOWHERE):
                self.newest[name] = place
            if self.world.planted.differs(name, live.epoch):
                continue  # on purpose; at the end it must not
            self._compare(self._chains, "chain", node, replica.id, name, place, live.chain)
            self._looks += 1
            if self._looks % RECORD_EVERY == 0:
                self._compare(self._records, "record", node, replica.id, name, place, live.record())

    def installed(self, node: SimulatedNode, replica: ShardReplica) -> None:
        """A replica has switched to a state that came as a snapshot: every record of it is one that the log would have made."""
        self._installed.add((node.name, replica.id))
        try:
            stored = RecordStore(node.disk, replica.id)
        except StorageError:
            return  # the disk does not let itself be looked at
        for name in self.world.documents_of(replica.id):
            try:
                body = stored.get(replica.cache.generation, DocumentId(*name))
            except StorageError:
                return  # the disk does not let itself be looked at
            if body is None:
                continue
            record = decode_record(body)
            if not self.world.planted.differs(name, record.epoch):
                place = (record.epoch, record.index)
                self._compare(self._chains, "chain", node, replica.id, name, place, record.chain)
                self._compare(self._records, "record", node, replica.id, name, place, body)

    def _compare(
        self,
        known: dict[tuple[Name, Place], tuple[str, bytes, bool]],
        what: str,
        node: SimulatedNode,
        shard: ShardId,
        name: Name,
        place: Place,
        value: bytes,
    ) -> None:
        installed = (node.name, shard) in self._installed
        first = known.setdefault((name, place), (node.name, value, installed))
        if first[2] is not installed:
            self.world.marks["installed_equals_replayed"] += 1
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
                    if not self.world.planted.undecided(name):
                        self._final(node, replica, name)

    def _final(self, node: SimulatedNode, replica: ShardReplica, name: Name) -> None:
        try:
            live = replica.cache.get(*name)
        except StorageDamaged:
            return  # rot that nobody has read yet: whoever reads it first has the replica healed, and nothing is told before
        except CodeMissing:
            return  # it came with a snapshot, and this node asks for its code when it has to run it
        if live.epoch or live.index:
            self._compare(self._records, "record", node, replica.id, name, (live.epoch, live.index), live.record())
