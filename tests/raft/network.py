"""A cluster of real cores in virtual time: a network that loses, delays, repeats and reorders, disks that forget what was not
synced, node-pair liveness with boot generations, and crashes. One seed decides everything.

After every event the cluster checks the four safety properties of the paper's figure 3, that what is committed is durable at
a majority, and that reads are linearizable. Scripted tests use it with the faults off; then every hop takes one millisecond.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from cluster.ids import LogIndex, ReplicaId, Term
from cluster.raft.config import RaftConfig
from cluster.raft.configuration import members_of
from cluster.raft.core import Raft
from cluster.raft.effects import Effects, Role
from cluster.raft.events import (
    Campaign,
    ChangeConfiguration,
    Compact,
    Deadline,
    Propose,
    Read,
    Receive,
    SnapshotFailed,
    SnapshotInstalled,
)
from cluster.raft.messages import Configuration, Message, Run, SnapshotMeta
from tests.raft.disk import Write
from tests.raft.node import Beat, BeatAck, Node

HEARTBEATS_PER_ELECTION_TIMEOUT = 10
EVENTS_PER_INSTANT_MAX = 10_000
TEST_CONFIG = RaftConfig(invariants_checked=True)


@dataclass(slots=True)
class Faults:
    """What the network and disks do. The default does nothing wrong."""

    loss: float = 0.0
    duplication: float = 0.0
    delay_ms: tuple[float, float] = (1.0, 1.0)
    sync_ms: tuple[float, float] = (1.0, 1.0)
    pause: float = 0.0
    """How often a process stands still between the lease that admits a read and computing its answer."""


class Cluster:
    """Nodes, the network between them, virtual time, and the checks."""

    def __init__(
        self,
        voters: int = 3,
        *,
        learners: int = 0,
        seed: int = 0,
        config: RaftConfig = TEST_CONFIG,
        faults: Faults | None = None,
    ) -> None:
        ids = [ReplicaId(number) for number in range(1, voters + learners + 1)]
        self.configuration = Configuration(tuple(ids[:voters]), tuple(ids[voters:]))
        self.config = replace(config, invariants_checked=True)
        self.heartbeat_ms = config.election_timeout_ms_min / HEARTBEATS_PER_ELECTION_TIMEOUT
        self.random = random.Random(seed)
        self.faults = faults or Faults()
        self.now_ms = 1_000.0
        self.hung_disks: set[ReplicaId] = set()
        """Replicas whose disks finish no write."""
        self.blocked: set[tuple[ReplicaId, ReplicaId]] = set()
        self.dropped: Callable[[ReplicaId, ReplicaId, object], bool] | None = None
        self.delivered: list[tuple[ReplicaId, ReplicaId, object]] = []
        self.agenda: list[tuple[float, int, Callable[[], None]]] = []
        self.ordinal = 0
        self.events = self.events_now = 0
        self.instant_ms = self.now_ms
        self.leaders: dict[Term, ReplicaId] = {}
        self.entries_seen: dict[tuple[int, int], tuple[int, bytes]] = {}
        self.committed: dict[LogIndex, tuple[Term, bytes]] = {}
        self.committed_in: dict[LogIndex, Term] = {}
        self.committed_through = LogIndex(0)
        self.contexts = 0
        self.leased_reads = self.leased_reads_thrown_away = 0
        self.committed_when_asked: dict[int, LogIndex] = {}
        self.nodes: dict[ReplicaId, Node] = {}
        for replica in ids:
            self.nodes[replica] = Node(self, replica, self.configuration)
        for replica in ids:
            self.after(self.random.uniform(0.0, self.heartbeat_ms), partial(self.heartbeat, replica))

    def add(self, replica: int) -> Node:
        """A new node with an empty disk, which learns who is in the group from its leader."""
        node = self.nodes[ReplicaId(replica)] = Node(self, ReplicaId(replica), Configuration(()))
        self.after(self.heartbeat_ms, partial(self.heartbeat, node.replica))
        return node

    # Time

    def after(self, delay_ms: float, action: Callable[[], None]) -> None:
        self.ordinal += 1
        heapq.heappush(self.agenda, (self.now_ms + delay_ms, self.ordinal, action))

    def heartbeat(self, replica: ReplicaId) -> None:
        if self.nodes[replica].running:
            self.nodes[replica].look_out()
            self.nodes[replica].beat()
        self.after(self.heartbeat_ms, partial(self.heartbeat, replica))

    def turn(self) -> None:
        """The next thing that happens: a deadline or an agenda item."""
        self.events += 1
        self.events_now = self.events_now + 1 if self.now_ms == self.instant_ms else 0
        self.instant_ms = self.now_ms
        assert self.events_now < EVENTS_PER_INSTANT_MAX, f"time stands still: {self.summary()}"
        due = min((node for node in self.nodes.values() if node.running), key=lambda node: node.core.deadline_ms, default=None)
        if due is not None and due.core.deadline_ms <= self.agenda[0][0]:
            self.now_ms = max(self.now_ms, due.core.deadline_ms)
            due.step(Deadline())
            return
        at, _, action = heapq.heappop(self.agenda)
        self.now_ms = max(self.now_ms, at)
        action()

    def run_ms(self, duration_ms: float) -> None:
        end = self.now_ms + duration_ms
        self.after(duration_ms, lambda: None)
        while self.now_ms < end:
            self.turn()

    def run_until(self, condition: Callable[[], bool], limit_ms: float = 20_000.0) -> None:
        end = self.now_ms + limit_ms
        while not condition():
            assert self.now_ms < end, f"not within {limit_ms} ms: {self.summary()}"
            self.turn()

    # Network

    def transmit(self, sender: ReplicaId, receiver: ReplicaId, message: object) -> None:
        faults, rng = self.faults, self.random
        copies = 1 + (faults.duplication > 0 and rng.random() < faults.duplication)
        for _ in range(copies):
            if faults.loss > 0 and rng.random() < faults.loss:
                continue
            self.after(rng.uniform(*faults.delay_ms), partial(self.deliver, sender, receiver, message))

    def deliver(self, sender: ReplicaId, receiver: ReplicaId, message: object) -> None:
        node = self.nodes[receiver]
        if not node.alive or (sender, receiver) in self.blocked:
            return
        if self.dropped is not None and self.dropped(sender, receiver, message):
            return
        if node.stopped:
            node.held.append(partial(self.deliver, sender, receiver, message))
            return
        if isinstance(message, Beat):
            node.on_beat(sender, message)
        elif isinstance(message, BeatAck):
            node.on_beat_ack(sender, message)
        else:
            self.delivered.append((sender, receiver, message))
            assert isinstance(message, Message)
            node.step(Receive(sender, message))

    def transfer(self, source: Node, peer: ReplicaId) -> None:
        """Carry a snapshot of what `source` has applied to `peer`, or fail."""
        if not source.running:
            return
        target = self.nodes[peer]
        lost = self.faults.loss > 0 and self.random.random() < self.faults.loss
        if lost or not target.running or (source.replica, peer) in self.blocked:
            source.step(SnapshotFailed(peer))
            return
        index = source.core.applied_index
        meta = SnapshotMeta(index, source.core.term_of(index), source.core.configuration_at(index))
        if target.core.needs_snapshot(meta):
            target.disk.write(Write(install=meta, machine=source.machine[:index]))
            target.disk.sync(len(target.disk.unsynced))
            target.machine = source.machine[:index]
            target.step(SnapshotInstalled(source.replica, meta))
        else:
            source.step(SnapshotFailed(peer))

    def isolate(self, *replicas: int) -> None:
        """Cut these off from all others, not from each other."""
        inside = set(replicas)
        for a in self.nodes:
            for b in self.nodes:
                if (a in inside) != (b in inside):
                    self.blocked.add((a, b))

    def heal(self) -> None:
        self.blocked.clear()
        self.dropped = None

    # Processes

    def crash(self, replica: int) -> None:
        node = self.nodes[ReplicaId(replica)]
        assert node.alive
        node.alive = False
        node.disk.crash(self.random.randint(0, len(node.disk.unsynced)))

    def restart(self, replica: int) -> None:
        self.nodes[ReplicaId(replica)].start()

    # Clients

    def node(self, replica: int) -> Node:
        return self.nodes[ReplicaId(replica)]

    @property
    def leader(self) -> Node | None:
        """The live leader of the highest term."""
        leading = [node for node in self.nodes.values() if node.running and node.core.role is Role.LEADER]
        return max(leading, key=lambda node: node.core.term, default=None)

    def elect(self, replica: int) -> Node:
        """Make `replica` the leader and let its no-op reach everybody."""
        node = self.node(replica)
        node.step(Campaign())
        self.run_until(lambda: node.core.role is Role.LEADER and node.core.commit_index == node.core.last_index)
        self.settle()
        return node

    def settle(self) -> None:
        """Run until all live nodes know all that the leader has committed."""
        self.run_until(self.converged)

    def settle_without(self, *away: int) -> None:
        """The same without some that can not be reached."""
        self.run_until(lambda: self.converged(*away))

    def converged(self, *away: int) -> bool:
        leader = self.leader
        if leader is None or leader.core.commit_index != leader.core.last_index or leader.core.configuration.outgoing:
            return False
        members = members_of(leader.core.configuration)
        present = [replica for replica in members if replica not in away and self.nodes[replica].alive]
        cores = [self.nodes[replica].core for replica in present]
        return all(
            core.commit_index == leader.core.commit_index
            and core.last_index == leader.core.last_index
            and core.term == leader.core.term
            and core.leader == leader.replica
            for core in cores
        )

    def propose(self, *payloads: bytes) -> Effects:
        leader = self.leader
        assert leader is not None, "somebody leads"
        return leader.step(Propose(list(payloads)))

    def change(self, voters: list[int], learners: list[int] | None = None) -> Effects:
        leader = self.leader
        assert leader is not None, "somebody leads"
        goal = tuple(map(ReplicaId, voters)), tuple(map(ReplicaId, learners or []))
        effects = leader.step(ChangeConfiguration(*goal))
        assert effects.refusal is None, effects.refusal
        return effects

    def read(self, replica: int) -> int:
        self.contexts += 1
        self.committed_when_asked[self.contexts] = self.committed_through
        self.node(replica).step(Read(self.contexts))
        return self.contexts

    def compact(self, replica: int, index: int) -> Effects:
        return self.node(replica).step(Compact(LogIndex(index)))

    def messages(self, kind: type, sender: int | None = None, receiver: int | None = None) -> list[object]:
        """Delivered messages of one kind."""
        return [
            message
            for a, b, message in self.delivered
            if isinstance(message, kind) and sender in (None, a) and receiver in (None, b)
        ]

    # Checks

    def applied(self, index: LogIndex, term: Term, payload: bytes) -> None:
        """State machine safety: nobody applies anything else at this index, ever."""
        assert self.committed.setdefault(index, (term, payload)) == (term, payload), f"two entries applied at {index}"

    def check(self, node: Node, effects: Effects, before: Configuration) -> None:
        core = node.core
        if effects.persist is not None:
            for run in effects.persist.runs:
                self.check_log_matching(core, run)
        if core.role is Role.LEADER:
            first = self.leaders.setdefault(core.term, node.replica)
            assert first == node.replica, f"election safety: {first} and {node.replica} lead term {core.term}"
            if effects.role_changed:
                self.check_leader_completeness(core)
            # Leader append-only (figure 3).
            assert effects.persist is None or effects.persist.truncate_from is None, "a leader deletes nothing"
        if effects.committed is not None and effects.committed > self.committed_through:
            self.check_durable(core, effects.committed, before)
            for index in range(self.committed_through + 1, effects.committed + 1):
                self.committed_in[LogIndex(index)] = core.term
            self.committed_through = effects.committed
        if effects.configuration is not None:
            node.check_configuration()

    def check_log_matching(self, core: Raft, run: Run) -> None:
        """An (index, term) names one payload and one predecessor everywhere; by induction, one whole prefix."""
        previous = core.term_of(LogIndex(run.first_index - 1))
        for offset, payload in enumerate(run.payloads):
            key = (run.first_index + offset, run.term)
            found = self.entries_seen.setdefault(key, (previous, payload))
            assert found == (previous, payload), f"log matching: two different entries at {key}"
            previous = run.term

    def check_leader_completeness(self, core: Raft) -> None:
        """Of what was committed in earlier terms. Who learns late that it was elected lacks what later ones have."""
        for index, (term, _) in self.committed.items():
            if index >= core.snapshot.index and self.committed_in.get(index, core.term) < core.term:
                assert core.term_of(index) == term, f"leader of term {core.term} lacks committed entry {index}"

    def check_durable(self, core: Raft, index: LogIndex, configuration: Configuration) -> None:
        """Invariant 5: commit means durable at a majority, and at one of the outgoing voters while there are any."""
        term = core.term_of(index)
        for half in filter(None, (configuration.voters, configuration.outgoing)):
            holders = [voter for voter in half if self.nodes[voter].disk.durable.holds(index, term)]
            assert len(holders) > len(half) // 2, f"entry {index} committed but durable only at {holders} of {half}"

    def summary(self) -> str:
        return "; ".join(
            f"{node.replica}: {'up' if node.alive else 'down'} {node.core.role.value} term {node.core.term} leader"
            f" {node.core.leader} commit {node.core.commit_index} last {node.core.last_index}"
            for node in self.nodes.values()
        )
