"""Raft's safety properties (paper figure 3), held against all replicas and against what is really on their disks.

- election safety: one leader a term, one told vote a term and voter, across crashes;
- log matching: an entry is named by (index, term), and so is the one before it;
- leader completeness: who leads has everything that was committed in earlier terms;
- state machine safety: one entry is committed at an index;
- durability: a vote, an acknowledgement or a commit is told only when the disks it rests on have it, and is not forgotten;
  a disk that was wiped since counts for what it was said to have;
- time: the entries of a shard carry times that never fall;
- commitment: a leader counts only entries of its own term (paper 5.4.2), and leads only by votes that were given;
- configurations: quorums are those of the configuration that counted, each overlaps with the next (`configurations`), and a
  snapshot brings the one that counted at its entry.

Looked at after every turn, at the replicas of the node that took it: nothing else can have moved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from chaos.checkers.checker import Checker
from chaos.checkers.configurations import Configurations, is_quorum
from chaos.checkers.violation import Violation
from cluster.ids import LogIndex, NodeId, ReplicaId, ShardId, Term
from cluster.raft.configuration import TAG, voters_of
from cluster.raft.effects import LEADER, Role
from cluster.raft.messages import AppendReply, Configuration, HardState, SnapshotMeta, VoteReply, VoteRequest
from cluster.shard.commands import Command, decode_entry
from cluster.shard.replica import ShardReplica
from cluster.shard.turn import RaftItem
from cluster.shardmap.map import bootstrap
from cluster.storage import keys
from cluster.storage.engine import Batch, Family

if TYPE_CHECKING:
    from chaos.sim.node import SimulatedNode
    from chaos.sim.world import World


_CONFIGURATION = bytes([TAG])
_HEADER_BYTES = keys.CHECKSUM_BYTES + 8
_decode_hard_state = msgspec.msgpack.Decoder(HardState).decode
_decode_snapshot = msgspec.msgpack.Decoder(SnapshotMeta).decode


class Consensus(Checker):
    """See the module. `committed` is the one true log of each shard: (term, payload) by index."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        limits = world.scenario.limits
        self.committed: dict[ShardId, dict[int, tuple[Term, bytes]]] = {}
        self._committed_in: dict[tuple[ShardId, int], Term] = {}
        self.commands: dict[tuple[ShardId, int], list[Command]] = {}
        self.configurations = Configurations(bootstrap(world.names, limits.shards, limits.replication_factor))
        self._time_ms: dict[ShardId, int] = {}
        self._leaders: dict[tuple[ShardId, Term], ReplicaId] = {}
        self._votes: dict[tuple[ShardId, ReplicaId, Term], ReplicaId] = {}
        self._entries: dict[tuple[int, int, int], bytes] = {}
        self._before: dict[tuple[int, int, int], Term] = {}
        self._acked: dict[tuple[ShardId, ReplicaId], tuple[Term, LogIndex]] = {}
        self._acked_by: dict[tuple[ShardId, NodeId], tuple[Term, LogIndex]] = {}
        self._seen: dict[tuple[ShardId, ReplicaId], tuple[int, Term, LogIndex, LogIndex]] = {}

    # -- what reaches a disk -----------------------------------------------------------------------------------------

    def wrote(self, node: NodeId, batch: Batch) -> None:
        """An entry of (shard, index, term) has one value, whoever writes it."""
        for family, key, value, _ in batch.operations:
            if family is not Family.LOG or value is None:
                continue
            place = (int.from_bytes(key[:4], "big"), keys.log_entry_index(key), _term_in(value))
            known = self._entries.get(place)
            if known is None:
                self._entries[place] = value
                if value[_HEADER_BYTES : _HEADER_BYTES + 1] == _CONFIGURATION:
                    shard, index, term = ShardId(place[0]), LogIndex(place[1]), Term(place[2])
                    self.configurations.written(shard, index, term, value[_HEADER_BYTES:])
            elif known != value:
                raise Violation(
                    "log matching", f"{node} writes another entry at shard, index, term {place} than was written before"
                )

    # -- what leaves a node ------------------------------------------------------------------------------------------

    def sent(self, node: SimulatedNode, receiver: NodeId, item: RaftItem) -> None:
        message = item.message
        if type(message) is AppendReply:
            if not message.rejected:
                self._acknowledged(node, receiver, item.shard, message)
        elif type(message) is VoteReply:
            if message.granted and not message.pre:
                self._voted(node, item.shard, item.sender, message.term, item.receiver)
        elif type(message) is VoteRequest and not message.pre:
            self._voted(node, item.shard, item.sender, message.term, item.sender)

    def _voted(self, node: SimulatedNode, shard: ShardId, voter: ReplicaId, term: Term, candidate: ReplicaId) -> None:
        if node.wiped:
            return  # a replica that forgot its votes is fenced; until then the cluster must not count it (trap 11)
        first = self._votes.setdefault((shard, voter, term), candidate)
        if first != candidate:
            raise Violation(
                "election safety", f"replica {voter} of shard {shard} votes for {candidate} in term {term}, before for {first}"
            )
        key = keys.shard_meta(shard, keys.SHARD_HARD_STATE)
        if (Family.META, key) in node.disk.rotten:
            return
        stored = node.disk.durable(Family.META, key)
        state = (
            _decode_hard_state(keys.unseal(Family.META, key, stored))
            if stored is not None
            else HardState(Term(0), ReplicaId(0))
        )
        if state.term < term or (state.term == term and state.vote != candidate):
            raise Violation(
                "durability", f"{node.name} tells its vote of term {term} in shard {shard} before it is durable ({state})"
            )

    def _acknowledged(self, node: SimulatedNode, receiver: NodeId, shard: ShardId, reply: AppendReply) -> None:
        if node.wiped:
            return
        index, disk, replica = reply.index, node.disk, node.pump.replicas.get(shard)
        if replica is None:
            return  # it was removed in this very turn, and nobody counts it any more
        held = disk.durable(Family.LOG, keys.log_entry(shard, index)) is not None or index <= self._durable_snapshot(
            node, shard
        )
        if not held and replica.raft.term > reply.term:
            return  # it was there when the sync began; a later leader has had it removed since, which that sync saved too
        if not held:
            raise Violation("durability", f"{node.name} acknowledges entry {index} of shard {shard} before it is durable")
        told = (reply.term, index)
        self._acked[(shard, replica.replica)] = max(self._acked.get((shard, replica.replica), told), told)
        self._acked_by[(shard, node.name)] = max(self._acked_by.get((shard, node.name), told), told)
        leader = self.world.nodes[receiver]
        leading = leader.pump.replicas.get(shard) if leader.up else None
        led = leading.raft if leading is not None else None
        if led is None or led.role is not Role.LEADER or led.term != reply.term or replica.raft.term != reply.term:
            return
        both = max(led.snapshot.index, replica.raft.snapshot.index) < index <= min(led.last_index, replica.raft.last_index)
        if both and led.term_of(index) != replica.raft.term_of(index):
            raise Violation("log matching", f"{node.name} acknowledges entry {index} of shard {shard} and has another one")

    def _durable_snapshot(self, node: SimulatedNode, shard: ShardId) -> int:
        key = keys.shard_meta(shard, keys.SHARD_SNAPSHOT)
        if (Family.META, key) in node.disk.rotten:
            return 1 << 62
        stored = node.disk.durable(Family.META, key)
        return 0 if stored is None else _decode_snapshot(keys.unseal(Family.META, key, stored)).index

    # -- what a node has become --------------------------------------------------------------------------------------

    def booted(self, node: SimulatedNode) -> None:
        for shard, replica in node.pump.replicas.items():
            self._seen.pop((shard, replica.replica), None)
            raft = replica.raft
            told = self._votes.get((shard, raft.replica, raft.term))
            if told is not None and told != raft.vote and not node.wiped:
                raise Violation(
                    "durability", f"{node.name} voted for {told} in term {raft.term} of shard {shard} and has forgotten it"
                )
            self._remembers(node, shard, replica)

    def turned(self, node: SimulatedNode) -> None:
        if node.wiped:
            return
        for shard, replica in node.pump.replicas.items():
            state = replica.raft._state
            leads = state.role is LEADER
            now = (leads, state.term, state.commit, state.log.last_index)
            before = self._seen.get((shard, replica.replica))
            if now == before:
                continue
            raft = replica.raft
            self._seen[(shard, replica.replica)] = now
            self._configured(node, shard, replica)
            self._remembers(node, shard, replica)
            counted = leads and before is not None and before[:2] == (True, raft.term) and raft.commit_index > before[2]
            if counted and raft.term_of(raft.commit_index) != raft.term:
                raise Violation(
                    "commitment", f"{node.name} commits entry {raft.commit_index} of an earlier term by counting in {raft.term}"
                )
            known = before[3] if before is not None else raft.snapshot.index
            self._matches(shard, replica, LogIndex(min(known, raft.commit_index)))
            start = max(before[2] if before is not None else 0, raft.snapshot.index)
            for index in range(start + 1, raft.commit_index + 1):
                self._commits(node, shard, replica, index)
            if leads and (before is None or not before[0] or before[1] != raft.term):
                self._leads(node, shard, replica)

    def _remembers(self, node: SimulatedNode, shard: ShardId, replica: ShardReplica) -> None:
        """What was acknowledged in the present term is still here."""
        term, index = self._acked.get((shard, replica.replica), (Term(0), LogIndex(0)))
        raft = replica.raft
        if raft.term == term and raft.last_index < index and not node.wiped:
            raise Violation(
                "durability",
                f"{node.name} acknowledged entry {index} of shard {shard} in term {term}; its log ends at {raft.last_index}",
            )

    def _configured(self, node: SimulatedNode, shard: ShardId, replica: ShardReplica) -> None:
        """A log that begins behind a snapshot begins with the configuration that counted there. A replica that joined later may
        not know it, and needs none until its log has the one that it joined by.
        """
        meta = replica.raft.snapshot
        if meta.index in self.committed.get(shard, ()):
            counted = self.configurations.at_snapshot(shard, meta.index)
            found = meta.configuration
            if found.voters and found != counted:
                raise Violation(
                    "configurations", f"{node.name}'s snapshot of shard {shard} at {meta.index} has {found}, not {counted}"
                )

    def _matches(self, shard: ShardId, replica: ShardReplica, known: LogIndex) -> None:
        """Whatever is new in this log follows the same entry as everywhere."""
        raft = replica.raft
        for index in range(max(known, raft.snapshot.index) + 1, raft.last_index + 1):
            term, before = raft.term_of(LogIndex(index)), raft.term_of(LogIndex(index - 1))
            first = self._before.setdefault((shard, index, term), before)
            if first != before:
                raise Violation(
                    "log matching",
                    f"entry {index} of term {term} in shard {shard} follows term {before} here, {first} elsewhere",
                )

    def _commits(self, node: SimulatedNode, shard: ShardId, replica: ShardReplica, index: int) -> None:
        term = replica.raft.term_of(LogIndex(index))
        log = self.committed.setdefault(shard, {})
        known = log.get(index)
        if known is not None:
            if known[0] != term:
                raise Violation(
                    "state machine safety",
                    f"{node.name} commits term {term} at entry {index} of shard {shard}, others {known[0]}",
                )
            return
        value = self._entries[(shard, index, term)]
        payload = value[_HEADER_BYTES:]
        log[index] = (term, payload)
        self._committed_in[(shard, index)] = replica.raft.term
        configures = payload[:1] == _CONFIGURATION
        self.commands[(shard, index)] = self._open(shard, index, payload) if payload and not configures else []
        if self.commands[(shard, index)]:
            self.world.committed(shard, index, self.commands[(shard, index)])
        if configures:
            self.configurations.committed(shard, LogIndex(index), term)
        holders = [
            name
            for name, other in self.world.nodes.items()
            if self._has(other, shard, index, value) or self._had(other, shard, replica.raft.term, index)
        ]
        if not any(_holds(holders, counted) for counted in self.configurations.possible(shard, LogIndex(index))):
            raise Violation(
                "durability",
                f"{node.name} commits entry {index} of shard {shard}, which only {holders or 'nobody'} holds durably",
            )

    def _open(self, shard: ShardId, index: int, payload: bytes) -> list[Command]:
        """The commands of an entry, whose time is not before that of the entries before it."""
        entry = decode_entry(payload)
        before_ms = self._time_ms.get(shard, 0)
        if entry.now_ms < before_ms:
            raise Violation(
                "time", f"entry {index} of shard {shard} is of {entry.now_ms}, the entries before it of {before_ms}"
            )
        self._time_ms[shard] = entry.now_ms
        return entry.commands

    def _has(self, node: SimulatedNode, shard: ShardId, index: int, value: bytes) -> bool:
        key = keys.log_entry(shard, index)
        return value in (node.disk.durable(Family.LOG, key), node.disk.rotten.get((Family.LOG, key)))

    def _had(self, node: SimulatedNode, shard: ShardId, term: Term, index: int) -> bool:
        """Whether a wiped node acknowledged this to the leader of `term` while it had its disk: that was true when it was said,
        and who counts it can not know that the disk is gone since.
        """
        acked_in, acked = self._acked_by.get((shard, node.name), (Term(0), LogIndex(0)))
        return node.wiped and acked_in == term and acked >= index

    def _leads(self, node: SimulatedNode, shard: ShardId, replica: ShardReplica) -> None:
        raft = replica.raft
        first = self._leaders.setdefault((shard, raft.term), raft.replica)
        if first != raft.replica:
            raise Violation("election safety", f"replicas {first} and {raft.replica} of shard {shard} lead term {raft.term}")
        self.world.elected(node, shard, raft.term)
        start = raft.last_index
        while start > raft.snapshot.index and raft.term_of(start) == raft.term:
            start = LogIndex(start - 1)
        counted = self.configurations.of(shard, raft, start)
        given = [voter for voter in voters_of(counted) if self._votes.get((shard, voter, raft.term)) == raft.replica]
        if not is_quorum(given, counted):
            raise Violation(
                "election safety", f"{node.name} leads shard {shard} in term {raft.term} by the votes of {given} only"
            )
        for index, (term, _) in self.committed.get(shard, {}).items():
            if index <= raft.snapshot.index or self._committed_in[(shard, index)] >= raft.term:
                continue  # an old candidate may hear late of its votes, when a later leader has gone on already
            if index > raft.last_index or raft.term_of(LogIndex(index)) != term:
                raise Violation(
                    "leader completeness",
                    f"{node.name} leads shard {shard} in term {raft.term} without committed entry {index}",
                )


def _holds(nodes: list[NodeId], counted: Configuration) -> bool:
    return is_quorum([replica for replica, node in counted.places if node in nodes], counted)


def _term_in(value: bytes) -> int:
    return int.from_bytes(value[keys.CHECKSUM_BYTES : _HEADER_BYTES], "big")
