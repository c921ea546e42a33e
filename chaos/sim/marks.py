"""Which rare things a run has been through. A test that never met a snapshot says nothing about snapshots.

Everything is read off what nodes write, send and have become: the product has no counters for this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chaos.checkers.checker import Checker
from chaos.checkers.history import Call
from cluster.ids import NodeId, ShardId
from cluster.pump import frames
from cluster.session.operations import Failure
from cluster.shard.commands import Command
from cluster.shard.turn import BundleReply, SnapshotAck, SnapshotRequest
from cluster.storage import keys
from cluster.storage.engine import Batch, Family

if TYPE_CHECKING:
    from chaos.sim.node import SimulatedNode
    from chaos.sim.world import World


class Marks(Checker):
    """Counts into `world.marks`. Asserts nothing."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._generations: dict[tuple[NodeId, ShardId], int] = {}
        self._snapshots: dict[tuple[NodeId, ShardId], int] = {}
        self._damaged: set[tuple[NodeId, ShardId]] = set()
        self._numbered: set[tuple[str, str, bytes, int]] = set()

    def booted(self, node: SimulatedNode) -> None:
        if node.generation > 1:
            self.world.marks["restarts"] += 1

    def died(self, node: SimulatedNode) -> None:
        """A process ends."""
        if self.world.history.open and any(replica.leads for replica in node.pump.replicas.values()):
            self.world.marks["leader_deaths_with_traffic"] += 1

    def turned(self, node: SimulatedNode) -> None:
        marks = self.world.marks
        for shard, replica in node.pump.replicas.items():
            place = (node.name, shard)
            generation, snapshot = replica.cache.generation, replica.raft.snapshot.index
            if generation > self._generations.get(place, 0):
                self._generations[place] = generation
                marks["snapshots_installed"] += 1
            if snapshot > self._snapshots.get(place, 0):
                self._snapshots[place] = snapshot
                marks["logs_compacted"] += 1
            if replica.damaged:
                if place not in self._damaged:
                    self._damaged.add(place)
                    marks["replicas_damaged"] += 1
            elif place in self._damaged:
                self._damaged.discard(place)
                marks["damaged_replicas_healed"] += 1
            if replica.stalled:
                marks["applies_stalled"] += 1

    def wrote(self, node: NodeId, batch: Batch) -> None:
        for family, _, value, end in batch.operations:
            if family is Family.LOG and value is None and end is not None and keys.log_entry_index(end) == keys.INDEX_MAX:
                self.world.marks["logs_truncated"] += 1

    def bulk(self, node: SimulatedNode, frame: bytes) -> None:
        """A frame of the bulk lane leaves a node."""
        for item in frames.unpack_bulk(frame):
            if type(item) is SnapshotRequest:
                self.world.marks["repairs_asked"] += 1
            elif type(item) is SnapshotAck and item.sequence < 0:
                self.world.marks["transfers_refused"] += 1
            elif type(item) is BundleReply and item.bundle:
                self.world.marks["bundles_fetched"] += 1

    def committed(self, commands: list[Command]) -> None:
        """An entry is committed."""
        for command in commands:
            if command.session:
                name = (command.space, command.key, command.session, command.sequence)
                if name in self._numbered:
                    self.world.marks["repeats_in_log"] += 1
                self._numbered.add(name)

    def answered(self, call: Call) -> None:
        assert call.reply is not None
        failure = call.reply.failure
        if failure is None:
            self.world.marks["answers"] += 1
        else:
            self.world.marks[f"told_{failure.reason.lower()}"] += 1

    def watch_ended(self, failure: Failure) -> None:
        """A watch is over."""
        self.world.marks["watches_ended"] += 1
