"""Which rare things a run has been through. A test that never met a snapshot says nothing about snapshots.

Everything is read off what nodes write, send and have become: the product has no counters for this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chaos.checkers.checker import Checker
from chaos.checkers.history import Call
from chaos.sim.paths import PATHS
from chaos.sim.sites import SITES
from cluster.ids import LogIndex, NodeId, ReplicaId, ShardId, Term
from cluster.pump import frames
from cluster.raft.effects import LEADER
from cluster.raft.messages import Configuration
from cluster.session.operations import Failure, Kind
from cluster.shard.commands import Command
from cluster.shard.replica import ShardReplica
from cluster.shard.turn import BundleReply, RaftLaneItem, SnapshotClose, SnapshotPull, SnapshotRequest
from cluster.storage import keys
from cluster.storage.engine import Batch, Family

if TYPE_CHECKING:
    from chaos.sim.node import SimulatedNode
    from chaos.sim.world import World


MARKS: dict[str, str] = {
    "answers": "a call was answered with success",
    "applies_stalled": "a replica waited for code that it did not have",
    "bundles_fetched": "code came from a peer",
    "clients_gave_up": "a client's time for an operation was up, and the outcome unknown",
    "cursors_shown": "a viewer was shown a connection's cursor",
    "damaged_replicas_healed": "a replica was reinstalled from its peers",
    "configurations_rolled_back": "a configuration was in a log and is no more",
    "deletions": "a document was deleted",
    "divergences_found": "a node's replicas of a document were found to differ from others",
    "divergences_undecided": "such a document was frozen, because a voter was away or had lost what it needs to have a word",
    "elections": "a leader was elected",
    "forks": "a document began as another one was, by hand",
    "events_heard": "a viewer heard what was said in passing",
    "handovers_done": "leadership went where it was sent",
    "handovers_failed": "leadership was sent somewhere and went elsewhere, or stayed",
    "handlers_failed": "a handler that was drawn to fail did",
    "hidden_changes": "a document changed where a viewer could not see it",
    "histories_linearizable": "one order of all calls to a ledger was found",
    "histories_undecided": "the search for it gave up",
    "installed_equals_replayed": "a state that came as a snapshot was compared with one that came from the log",
    "joint_configurations_entered": "a replica was in a joint configuration",
    "leader_deaths_with_traffic": "a leader's process ended while clients waited",
    "learners_promoted": "a learner became a voter",
    "leases_held": "a leader held a lease",
    "listings_of_one_page": "a space was listed on one page",
    "listings_of_pages": "a space was listed page by page",
    "logs_compacted": "a log was cut at its old end",
    "logs_truncated": "a log was cut at its new end: its entries lost against another leader's",
    "moves_done": "an operator moved a replica from node to node",
    "placement_empties": "a node that was drained or decommissioned was emptied by the controller of placement",
    "placement_evens_out": "leaders or replicas were evened out",
    "placement_inherited": "a controller ordered a move in its first plan, after another one",
    "placement_rebuilds": "a dead voter was replaced",
    "placement_takes_back": "a learner was removed because no move needed it any more",
    "recreations": "a document was created again after its deletion",
    "repairs": "a document was changed by hand",
    "repairs_asked": "a damaged replica asked for its state",
    "repeats_in_log": "a command stood in the log twice",
    "replicas_born": "a node was given a replica",
    "replicas_erased": "a node forgot a replica that was removed",
    "replicas_damaged": "a replica found its state damaged",
    "resets": "a viewer was given a whole view again",
    "restarts": "a process started again",
    "rival_leaders": "a leader was elected while another believed that it led",
    "snapshots_installed": "a replica's state was replaced by a snapshot",
    "spaces_deployed_late": "code was deployed while things failed",
    "thaws": "a document that no majority could say what it was went on as one replica had it",
    "told_document_deleted": "a client was told that its document is gone",
    "told_document_exists": "a client was told that the document is there already",
    "told_handler_refused": "a handler refused",
    "told_outcome_unknown": "a client was told that the outcome is unknown",
    "told_position_rewound": "a client was told that history was replaced",
    "told_storage_full": "a client was told that the disk is full",
    "told_unavailable": "a client was told that nothing was changed",
    "told_unknown_document": "a client was told that there is no such document",
    "transfers_refused": "a chunk of a snapshot was refused",
    "transfers_resumed": "a snapshot's transfer went on where an earlier one had broken off",
    "upgrades": "a document was given new code",
    "messages_of_older_code": "a message ran on newer code than the one it was checked against",
    "versions_deployed": "new code was deployed in the middle",
    "watches_ended": "a watch ended with its document",
    "windows_full": "a client waited for an acknowledgement before it could send on",
}
MARKS |= PATHS
MARKS |= {f"site_{name}": f"done at an odd moment: {name.replace('_', ' ')}" for name in SITES}
"""What a sweep should meet, and what each means. A run may meet other refusals too, counted as told_ and their reason."""


class Marks(Checker):
    """Counts into `world.marks`. Asserts nothing."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._held: dict[NodeId, frozenset[ShardId]] = {}
        self._glances: dict[tuple[NodeId, ShardId], tuple[object, ...]] = {}
        self._configurations: dict[tuple[ShardId, ReplicaId], tuple[LogIndex, Configuration]] = {}
        self._handed: dict[ShardId, tuple[ReplicaId, Term, ReplicaId]] = {}
        self._leased: set[tuple[NodeId, ShardId, Term]] = set()
        self._created: set[tuple[str, str]] = set()
        self._generations: dict[tuple[NodeId, ShardId], int] = {}
        self._snapshots: dict[tuple[NodeId, ShardId], int] = {}
        self._damaged: set[tuple[NodeId, ShardId]] = set()
        self._numbered: set[tuple[str, str, bytes, int]] = set()
        self._pulled: set[tuple[NodeId, ShardId, ReplicaId, int]] = set()

    def booted(self, node: SimulatedNode) -> None:
        if node.generation > 1:
            self.world.marks["restarts"] += 1

    def died(self, node: SimulatedNode) -> None:
        """A process ends."""
        if self.world.history.open and any(replica.leads for replica in node.pump.replicas.values()):
            self.world.marks["leader_deaths_with_traffic"] += 1

    def turned(self, node: SimulatedNode) -> None:
        leases = node.world.scenario.limits.lease_reads
        for shard, replica in node.pump.replicas.items():
            state = replica.raft._state
            leads = state.role is LEADER
            glance = (
                replica.replica, leads, state.term, state.transfer_to, state.configured_at(state.log.last_index),
                state.log.snapshot.index, replica.cache.generation, replica.damaged,
            )  # fmt: skip
            place = (node.name, shard)
            # Handing leadership over is a matter of two replicas: another's turn may have begun or ended it.
            if glance != self._glances.get(place) or state.transfer_to is not None or shard in self._handed:
                self._glances[place] = glance
                self._looked(node, shard, replica)
            if replica.stalled:
                self.world.marks["applies_stalled"] += 1
            if leads and leases:
                self._look_for_lease(node, shard, replica)

        held = self._held.get(node.name, frozenset())
        if len(held) != len(node.pump.replicas) or held != node.pump.replicas.keys():
            now = frozenset(node.pump.replicas)
            if held and now - held:
                self.world.marks["replicas_born"] += 1
            if held - now:
                self.world.marks["replicas_erased"] += 1
            self._held[node.name] = now

    def _looked(self, node: SimulatedNode, shard: ShardId, replica: ShardReplica) -> None:
        """Something of what is told of a replica may be new."""
        marks, place = self.world.marks, (node.name, shard)
        generation, snapshot = replica.cache.generation, replica.raft.snapshot.index
        if generation > self._generations.get(place, 0):
            self._generations[place] = generation
            marks["snapshots_installed"] += 1
            self.world.replicas.installed(node, replica)
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
        self._configured(shard, replica)

    def _configured(self, shard: ShardId, replica: ShardReplica) -> None:
        """Who belongs to the shard, and who is to lead it, as this replica sees it."""
        raft, marks = replica.raft, self.world.marks
        index, before = raft.configured_index, self._configurations.get((shard, raft.replica))
        if before is None:
            self._configurations[(shard, raft.replica)] = (index, raft.configuration)
        elif index != before[0]:
            configuration = raft.configuration
            self._configurations[(shard, raft.replica)] = (index, configuration)
            if index < before[0]:
                marks["configurations_rolled_back"] += 1
            if configuration.outgoing:
                marks["joint_configurations_entered"] += 1
            if set(configuration.voters) & set(before[1].learners):
                marks["learners_promoted"] += 1
        to = raft.transferring_to if replica.leads else None
        handed = self._handed.get(shard)
        if handed is None:
            if to is not None:
                self._handed[shard] = (raft.replica, raft.term, to)
        elif replica.leads and raft.term > handed[1]:
            marks["handovers_done" if raft.replica == handed[2] else "handovers_failed"] += 1
            del self._handed[shard]
        elif replica.leads and raft.replica == handed[0] and to is None:
            marks["handovers_failed"] += 1
            del self._handed[shard]

    def _look_for_lease(self, node: SimulatedNode, shard: ShardId, replica: ShardReplica) -> None:
        term = (node.name, shard, replica.raft.term)
        if term not in self._leased and replica.raft.lease_holds(node.clock_ms):
            self._leased.add(term)
            self.world.marks["leases_held"] += 1

    def wrote(self, node: NodeId, batch: Batch) -> None:
        for family, _, value, end in batch.operations:
            if family is Family.LOG and value is None and end is not None and keys.log_entry_index(end) == keys.INDEX_MAX:
                self.world.marks["logs_truncated"] += 1

    def bulk(self, node: SimulatedNode, frame: bytes) -> None:
        """A frame of the bulk lane leaves a node."""
        for item in frames.unpack_bulk(frame):
            if type(item) is SnapshotRequest:
                self.world.marks["repairs_asked"] += 1
            elif type(item) is SnapshotClose and not item.done:
                self.world.marks["transfers_refused"] += 1
            elif type(item) is BundleReply and item.bundle:
                self.world.marks["bundles_fetched"] += 1

    def said(self, node: SimulatedNode, item: RaftLaneItem) -> None:
        """Anything but a Raft message leaves a node in a frame of Raft's lane."""
        if type(item) is SnapshotPull:
            transfer = (node.name, item.shard, item.receiver, item.transfer)
            if item.after and transfer not in self._pulled:
                self.world.marks["transfers_resumed"] += 1
            self._pulled.add(transfer)

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
            if call.kind is Kind.DELETE:
                self.world.marks["deletions"] += 1
            elif call.kind is Kind.CREATE:
                if call.name in self._created:
                    self.world.marks["recreations"] += 1
                self._created.add(call.name)
        else:
            self.world.marks[f"told_{failure.reason.lower()}"] += 1
            if call.gave_up and failure.applied == "unknown":
                self.world.marks["clients_gave_up"] += 1

    def watch_ended(self, failure: Failure) -> None:
        """A watch is over."""
        self.world.marks["watches_ended"] += 1
