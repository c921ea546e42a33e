"""One replica of a simulated cluster: a real core with its disk, its share of node-pair liveness and its state machine."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from cluster.ids import LogIndex, ReplicaId, Term
from cluster.raft.configuration import TAG, decode
from cluster.raft.core import Raft
from cluster.raft.effects import Effects, Role
from cluster.raft.events import (
    Event,
    LeaderLost,
    LivenessChanged,
    PeerAcked,
    PeerUnreachable,
    Persisted,
)
from cluster.raft.messages import Configuration, Message
from tests.raft.disk import Disk, Write

if TYPE_CHECKING:
    from tests.raft.network import Cluster

SHARD = 7
PAUSE_MS_MAX = 1_000.0


@dataclass(slots=True)
class Beat:
    generation: int
    term_led: Term | None
    sent_ms: float


@dataclass(slots=True)
class BeatAck:
    term: Term
    sent_ms: float


class Node:
    """One replica with its disk, its share of liveness and its state machine (the list of applied entries)."""

    def __init__(self, cluster: Cluster, replica: ReplicaId, configuration: Configuration) -> None:
        self.cluster = cluster
        self.replica = replica
        self.disk = Disk(configuration)
        self.generation = 0
        self.alive = False
        self.start()

    def start(self) -> None:
        assert not self.alive
        self.alive = True
        self.stopped = False
        self.held: list[Callable[[], None]] = []
        self.generation += 1
        self.heard: dict[tuple[ReplicaId, Term], float] = {}
        self.generations: dict[ReplicaId, int] = {}
        self.acked: dict[tuple[ReplicaId, Term], float] = {}
        self.heard_at: dict[ReplicaId, float] = {}
        self.acked_at: dict[ReplicaId, float] = {}
        self.listed: dict[ReplicaId, Term | None] = {}
        self.silent: set[tuple[str, ReplicaId]] = set()
        self.promised: dict[tuple[ReplicaId, Term], float] = {}
        self.machine = list(self.disk.visible.machine)
        self.gated: list[tuple[int, ReplicaId, Message]] = []
        self.last_write: tuple[Term, int] = (Term(0), 0)
        self.syncing = False
        self.reads: dict[int, LogIndex] = {}
        self.leased: set[int] = set()
        self.refused: list[int] = []
        self.read_results: dict[int, int] = {}
        image = self.disk.visible
        self.core = Raft(
            replica=self.replica,
            configuration=image.snapshot.configuration,
            hard_state=image.hard_state,
            log=self.disk,
            liveness=self,
            random=self.cluster.random,
            config=self.cluster.config,
            applied=image.snapshot.index,
            shard=SHARD,
            now_ms=self.cluster.now_ms,
        )
        self.check_configuration()

    def check_configuration(self) -> None:
        """Reference trap 42: it is the newest in the log, whatever was truncated, compacted, installed or lost in a crash."""
        image, core = self.disk.visible, self.core
        found = [(image.snapshot.index, image.snapshot.configuration)]
        for place, (_, payload) in enumerate(image.entries):
            if payload[:1] == bytes([TAG]):
                found.append((LogIndex(image.snapshot.index + 1 + place), decode(payload)))
        assert core.configuration == found[-1][1], f"replica {self.replica} believes in another configuration than its log"
        for index, configuration in found:
            assert core.configuration_at(index) == configuration

    def leader_heard_ms(self, leader: ReplicaId, term: Term) -> float:
        return self.heard.get((leader, term), -math.inf)

    def acked_sent_ms(self, peer: ReplicaId, term: Term) -> float:
        return self.acked.get((peer, term), -math.inf)

    def promised_until_ms(self, peer: ReplicaId, term: Term) -> float:
        return self.acked_sent_ms(peer, term) + self.cluster.config.election_timeout_ms_min

    def promised_at_ms(self, leader: ReplicaId, term: Term) -> float:
        return self.promised.get((leader, term), -math.inf)

    def heard_ms(self, peer: ReplicaId) -> float:
        return self.heard_at.get(peer, -math.inf)

    def step(self, event: Event) -> Effects:
        before = self.core.configuration
        effects = self.core.step(event, self.cluster.now_ms)
        assert (effects.configuration is not None) == (before != self.core.configuration), "owners are told of changes"
        self.carry_out(effects)
        self.cluster.check(self, effects, before)
        return effects

    def carry_out(self, effects: Effects) -> None:
        cluster = self.cluster
        if effects.persist is not None:
            write = Write(persist=effects.persist)
            if effects.persist.snapshot is not None:
                write.machine = self.machine[: effects.persist.snapshot.index]
            self.disk.write(write)
            term, sequence = effects.persist.term, effects.persist.sequence
            assert sequence == self.last_write[1] + 1, "writes are numbered without a gap"
            self.last_write = (term, sequence)
        for peer, message in effects.send_now:
            cluster.transmit(self.replica, peer, message)
        for peer, message in effects.send_after_persist:
            if self.disk.unsynced or self.gated:
                self.gated.append((self.last_write[1], peer, message))
            else:
                cluster.transmit(self.replica, peer, message)
        self.begin_sync()
        for context, index in effects.reads_ready:
            self.reads[context] = index
        for context, index in effects.reads_leased:
            self.reads[context] = index
            self.leased.add(context)
        self.refused.extend(effects.reads_refused)
        if effects.round_needed:
            self.beat()
        for peer in effects.snapshot_to:
            cluster.after(cluster.random.uniform(5.0, 30.0), partial(cluster.transfer, self, peer))
        self.apply()

    def begin_sync(self) -> None:
        if self.syncing or not (self.disk.unsynced or self.gated) or self.replica in self.cluster.hung_disks:
            return
        self.syncing = True
        generation, (term, sequence), count = self.generation, self.last_write, len(self.disk.unsynced)

        def done() -> None:
            if not self.alive or self.generation != generation:
                return
            if self.stopped:
                self.held.append(done)
                return
            self.syncing = False
            self.disk.sync(min(count, len(self.disk.unsynced)))
            released = [message for message in self.gated if message[0] <= sequence]
            self.gated = [message for message in self.gated if message[0] > sequence]
            for _, peer, message in released:
                self.cluster.transmit(self.replica, peer, message)
            self.step(Persisted(term, sequence))
            self.begin_sync()

        self.cluster.after(self.cluster.random.uniform(*self.cluster.faults.sync_ms), done)

    def apply(self) -> None:
        """Apply what is committed, at once and in order; answer reads that waited for it."""
        core = self.core
        while core.applied_index < core.commit_index:
            for run in core.entries(LogIndex(core.applied_index + 1), core.commit_index, 1 << 20):
                for payload in run.payloads:
                    self.machine.append((run.term, payload))
                    self.cluster.applied(LogIndex(len(self.machine)), run.term, payload)
                core.applied_to(run.last_index)
        assert len(self.machine) == core.applied_index
        for context in [context for context, index in self.reads.items() if index <= core.applied_index]:
            if context in self.leased:
                self.answer_leased(context)
                continue
            asked_at = self.cluster.committed_when_asked[context]
            assert core.applied_index >= asked_at, f"read {context} at {core.applied_index}, {asked_at} was committed before"
            self.read_results[context] = core.applied_index
            del self.reads[context]

    def answer_leased(self, context: int) -> None:
        """The process may be stopped between looking at its lease and computing, and computing takes no time of the cluster's;
        what it computed leaves only if the lease holds on a clock read afterwards."""
        self.reads.pop(context, None)
        self.leased.discard(context)
        if self.stopped:
            self.held.append(partial(self.answer_leased, context))
        elif self.cluster.random.random() < self.cluster.faults.pause:
            self.stop(self.cluster.random.uniform(0.0, PAUSE_MS_MAX), partial(self.compute_leased, context))
        else:
            self.compute_leased(context)

    def compute_leased(self, context: int) -> None:
        cluster, applied = self.cluster, self.core.applied_index
        newest = cluster.committed_through
        if not self.core.lease_holds(cluster.now_ms):
            cluster.leased_reads_thrown_away += 1
            self.refused.append(context)
            return
        # Stronger than linearizability asks for: nobody has committed anything that this leader does not know.
        assert applied >= newest, f"leased read {context} at {applied} while {newest} is committed"
        self.read_results[context] = applied
        cluster.leased_reads += 1

    def stop(self, duration_ms: float, then: Callable[[], None] = lambda: None) -> None:
        """The process stands still: what comes for it waits. `then` is what it does first afterwards."""
        self.stopped = True
        generation = self.generation

        def go_on() -> None:
            if not self.alive or self.generation != generation:
                return
            self.stopped = False
            then()
            held, self.held = self.held, []
            for action in held:
                action()

        self.cluster.after(duration_ms, go_on)

    @property
    def running(self) -> bool:
        return self.alive and not self.stopped

    def beat(self) -> None:
        term_led = self.core.term if self.core.role is Role.LEADER else None
        for peer in self.cluster.nodes:
            if peer != self.replica:
                self.cluster.transmit(self.replica, peer, Beat(self.generation, term_led, self.cluster.now_ms))

    def look_out(self) -> None:
        """Who has fallen silent for an election timeout: sleepers are told once."""
        patience_ms = self.cluster.config.election_timeout_ms_min
        for what, times in (("heard", self.heard_at), ("acked", self.acked_at)):
            for peer, at_ms in times.items():
                if self.cluster.now_ms - at_ms >= patience_ms and (what, peer) not in self.silent:
                    self.silent.add((what, peer))
                    self.liveness_changed()

    def heard_from(self, what: str, times: dict[ReplicaId, float], sender: ReplicaId, at_ms: float) -> None:
        """`sender` is there, or again."""
        returned = (what, sender) in self.silent or sender not in times
        times[sender] = max(times.get(sender, -math.inf), at_ms)
        self.silent.discard((what, sender))
        if returned:
            self.liveness_changed()

    def liveness_changed(self) -> None:
        if self.core.asleep:
            self.step(LivenessChanged())

    def on_beat(self, sender: ReplicaId, beat: Beat) -> None:
        known = self.generations.get(sender, beat.generation)
        self.generations[sender] = max(known, beat.generation)
        if beat.generation < known:
            return
        if beat.generation > known:
            for key in [key for key in self.promised if key[0] == sender]:
                self.heard.pop(key, None)
                del self.promised[key]
            if self.core.leader == sender:
                self.step(LeaderLost())
            self.step(PeerUnreachable(sender))
        if beat.term_led is not None:
            self.heard[sender, beat.term_led] = self.promised[sender, beat.term_led] = self.cluster.now_ms
        before, self.listed[sender] = self.listed.get(sender), beat.term_led
        if before is not None and before != beat.term_led:
            self.heard.pop((sender, before), None)
            self.liveness_changed()
        self.heard_from("heard", self.heard_at, sender, self.cluster.now_ms)
        if beat.term_led is None:
            return
        if self.core.term <= beat.term_led:
            self.cluster.transmit(self.replica, sender, BeatAck(beat.term_led, beat.sent_ms))

    def on_beat_ack(self, sender: ReplicaId, ack: BeatAck) -> None:
        key = (sender, ack.term)
        self.acked[key] = max(self.acked.get(key, -math.inf), ack.sent_ms)
        self.heard_from("acked", self.acked_at, sender, ack.sent_ms)
        self.step(PeerAcked(sender, ack.term, ack.sent_ms))
