"""Scenarios: stories about real cores in plain text, with what happened written under each command.

    # A comment, or an empty line.
    > command argument name=value
      what happened

Nothing happens by itself: messages wait until they are delivered or dropped, writes until they are synced, time until it
elapses. Replicas that a command does not name do nothing. `COMMANDS` below lists what can be said.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from cluster.errors import ClusterError, StorageDamaged
from cluster.ids import LogIndex, ReplicaId, Term
from cluster.raft.config import RaftConfig
from cluster.raft.core import Raft
from cluster.raft.effects import Effects, Role
from cluster.raft.events import (
    Campaign,
    ChangeConfiguration,
    Compact,
    Deadline,
    Event,
    LeaderLost,
    LivenessChanged,
    PeerAcked,
    PeerUnreachable,
    Persisted,
    Propose,
    Read,
    Receive,
    SnapshotFailed,
    SnapshotInstalled,
    Transfer,
)
from cluster.raft.messages import Configuration, Message, SnapshotMeta
from tests.raft.disk import Disk, Write
from tests.raft.telling import numbers, tell_configuration, tell_entry, tell_message

SHARD = 0
START_MS = 10_000.0
ROUNDS_MAX = 200


class Mail(NamedTuple):
    sender: ReplicaId
    receiver: ReplicaId
    message: Message


class Replica:
    """One core with its disk and what its node knows of others. Implements Liveness."""

    def __init__(self, scenario: Scenario, replica: ReplicaId, configuration: Configuration) -> None:
        self.scenario = scenario
        self.replica = replica
        self.disk = Disk(configuration)
        self.start()

    def start(self) -> None:
        self.alive = True
        self.heard: dict[tuple[ReplicaId, Term], float] = {}
        self.acked: dict[tuple[ReplicaId, Term], float] = {}
        self.gated: list[tuple[int, Mail]] = []
        self.writes: list[tuple[Term, int]] = []
        image = self.disk.visible
        self.core = Raft(
            replica=self.replica,
            configuration=image.snapshot.configuration,
            hard_state=image.hard_state,
            log=self.disk,
            liveness=self,
            random=random.Random(self.replica),
            config=self.scenario.config,
            applied=image.snapshot.index,
            shard=SHARD,
            now_ms=self.scenario.now_ms,
        )

    def leader_heard_ms(self, leader: ReplicaId, term: Term) -> float:
        return self.heard.get((leader, term), -math.inf)

    def acked_sent_ms(self, peer: ReplicaId, term: Term) -> float:
        return self.acked.get((peer, term), -math.inf)

    def promised_until_ms(self, peer: ReplicaId, term: Term) -> float:
        return self.acked_sent_ms(peer, term) + self.scenario.config.election_timeout_ms_min

    def promised_at_ms(self, leader: ReplicaId, term: Term) -> float:
        return self.leader_heard_ms(leader, term)

    def heard_ms(self, peer: ReplicaId) -> float:
        return -math.inf if (self.replica, peer) in self.scenario.silent else self.scenario.now_ms

    def step(self, event: Event) -> None:
        role, term = self.core.role, self.core.term
        try:
            effects = self.core.step(event, self.scenario.now_ms)
        except StorageDamaged as error:
            self.alive = False
            self.say(f"stops: {error.message}")
            return
        except ClusterError as error:
            self.say(f"refuses {error.reason}: {error.message}")
            return
        if (self.core.role, self.core.term) != (role, term):
            self.say(f"{self.core.role.value} in term {self.core.term}")
        self.tell(effects)
        self.carry_out(effects)

    def tell(self, effects: Effects) -> None:
        if effects.refusal is not None:
            self.say(f"refuses {effects.refusal.reason}: {effects.refusal.message}")
        if effects.ticket is not None:
            self.say(f"takes entries {effects.ticket.first} to {effects.ticket.last} in term {effects.ticket.term}")
        if effects.configuration is not None:
            self.say(f"configuration {tell_configuration(effects.configuration)}")
        if effects.committed is not None:
            self.say(f"commit {effects.committed}")
        for context, index in effects.reads_ready:
            self.say(f"read {context} answered at {index}")
        for context, index in effects.reads_leased:
            self.say(f"read {context} answered by lease at {index}")
        for context in effects.reads_refused:
            self.say(f"read {context} refused")
        for peer in effects.snapshot_to:
            self.say(f"wants a snapshot sent to {peer}")

    def carry_out(self, effects: Effects) -> None:
        if effects.persist is not None:
            self.disk.write(Write(persist=effects.persist))
            self.writes.append((effects.persist.term, effects.persist.sequence))
        for peer, message in effects.send_now:
            self.scenario.mail.append(Mail(self.replica, peer, message))
        for peer, message in effects.send_after_persist:
            mail = Mail(self.replica, peer, message)
            if self.writes:
                self.gated.append((self.writes[-1][1], mail))
            else:
                self.scenario.mail.append(mail)
        if self.core.applied_index < self.core.commit_index:
            self.core.applied_to(self.core.commit_index)

    def sync(self, count: int) -> None:
        """The oldest `count` writes are durable."""
        done = self.writes[:count]
        if not done:
            return
        del self.writes[:count]
        self.disk.sync(count)
        sequence = done[-1][1]
        self.scenario.mail += [mail for needed, mail in self.gated if needed <= sequence]
        self.gated = [pair for pair in self.gated if pair[0] > sequence]
        self.step(Persisted(*done[-1]))

    def say(self, what: str) -> None:
        self.scenario.said.append(f"{self.replica}: {what}")


class Scenario:
    """Runs commands; `said` is what happened since the last one."""

    def __init__(self) -> None:
        self.config = RaftConfig(invariants_checked=True)
        self.now_ms = START_MS
        self.replicas: dict[ReplicaId, Replica] = {}
        self.mail: list[Mail] = []
        self.said: list[str] = []
        self.reads = 0
        self.silent: set[tuple[ReplicaId, ReplicaId]] = set()
        """(who, whom): whose node has not heard whose for an election timeout."""

    def run(self, line: str) -> list[str]:
        """What one command line causes."""
        name, *words = line.split()
        plain = [word for word in words if "=" not in word]
        options = dict(word.split("=", 1) for word in words if "=" in word)
        self.said = []
        COMMANDS[name](self, plain, options)
        assert not options, f"{name} does not know {options}"
        return self.said

    def one(self, word: str) -> Replica:
        replica = self.replicas[ReplicaId(int(word))]
        assert replica.alive, f"replica {word} is down"
        return replica

    def living(self, words: list[str]) -> list[Replica]:
        """Those named, all when none is; only the living."""
        chosen = [self.replicas[ReplicaId(int(word))] for word in words] if words else list(self.replicas.values())
        return [replica for replica in chosen if replica.alive]

    # Commands

    def add_replicas(self, words: list[str], options: dict[str, str]) -> None:
        """COUNT learners=N leases=on promotion-lag=N window=N append-bytes=N uncommitted-bytes=N: the first members."""
        voters, learners = int(words[0]), int(options.pop("learners", 0))
        if options.pop("leases", "off") == "on":
            self.config = replace(self.config, lease_reads=True)
        self.config = replace(
            self.config,
            promotion_lag_entries=int(options.pop("promotion-lag", 0)),
            window_appends=int(options.pop("window", 2)),
            append_bytes_max=int(options.pop("append-bytes", 1_000)),
            uncommitted_bytes_max=int(options.pop("uncommitted-bytes", 1_000_000)),
        )
        ids = tuple(ReplicaId(number) for number in range(1, voters + learners + 1))
        for replica in ids:
            self.replicas[replica] = Replica(self, replica, Configuration(ids[:voters], ids[voters:]))
        self.now_ms += 2 * self.config.election_timeout_ms_max

    def join(self, words: list[str], options: dict[str, str]) -> None:
        """ID: an empty replica that knows of no configuration."""
        replica = ReplicaId(int(words[0]))
        assert replica not in self.replicas, "every replica is new once"
        self.replicas[replica] = Replica(self, replica, Configuration(()))

    def campaign(self, words: list[str], options: dict[str, str]) -> None:
        """ID"""
        self.one(words[0]).step(Campaign())

    def propose(self, words: list[str], options: dict[str, str]) -> None:
        """ID PAYLOAD...: one proposal."""
        self.one(words[0]).step(Propose([word.encode() for word in words[1:]]))

    def read(self, words: list[str], options: dict[str, str]) -> None:
        """ID: numbered in order asked."""
        self.reads += 1
        self.one(words[0]).step(Read(self.reads))

    def lease(self, words: list[str], options: dict[str, str]) -> None:
        """ID: whether what it has computed for reads by lease may go out now."""
        replica = self.one(words[0])
        replica.say("the lease holds" if replica.core.lease_holds(self.now_ms) else "no lease")

    def transfer(self, words: list[str], options: dict[str, str]) -> None:
        """ID to=ID"""
        self.one(words[0]).step(Transfer(ReplicaId(int(options.pop("to")))))

    def change_configuration(self, words: list[str], options: dict[str, str]) -> None:
        """ID voters=ID,... learners=ID,..."""
        goal = [
            tuple(ReplicaId(int(number)) for number in options.pop(kind, "").split(",") if number)
            for kind in ("voters", "learners")
        ]
        self.one(words[0]).step(ChangeConfiguration(goal[0], goal[1]))

    def compact(self, words: list[str], options: dict[str, str]) -> None:
        """ID INDEX"""
        self.one(words[0]).step(Compact(LogIndex(int(words[1]))))

    def leader_lost(self, words: list[str], options: dict[str, str]) -> None:
        """ID...: their nodes have evidence that the leader is gone."""
        for replica in self.living(words):
            replica.step(LeaderLost())

    def unreachable(self, words: list[str], options: dict[str, str]) -> None:
        """ID peer=ID: messages may have been lost."""
        self.one(words[0]).step(PeerUnreachable(ReplicaId(int(options.pop("peer")))))

    def heartbeat(self, words: list[str], options: dict[str, str]) -> None:
        """ID to=ID,... late=MS: one liveness round of a node, acknowledged at once or `late` milliseconds after it was sent."""
        sender = self.one(words[0])
        late_ms = float(options.pop("late", 0))
        names = [name for name in options.pop("to", "").split(",") if name]
        term = sender.core.term
        assert sender.core.role is Role.LEADER, "only led groups are listed"
        for replica in self.living(names):
            if replica is sender:
                continue
            replica.heard[sender.replica, term] = self.now_ms - late_ms
            if replica.core.term <= term:
                sender.acked[replica.replica, term] = self.now_ms - late_ms
                sender.step(PeerAcked(replica.replica, term, self.now_ms - late_ms))

    def silence(self, words: list[str], options: dict[str, str]) -> None:
        """ID...: the others' nodes have not heard theirs for an election timeout, nor been answered; nor theirs the others'."""
        inside = {replica.replica for replica in self.living(words)}
        for replica in self.replicas.values():
            apart = {other for other in self.replicas if (other in inside) != (replica.replica in inside)}
            self.silent |= {(replica.replica, other) for other in apart}
            replica.heard = {key: at for key, at in replica.heard.items() if key[0] not in apart}
            replica.acked = {key: at for key, at in replica.acked.items() if key[0] not in apart}

    def speak(self, words: list[str], options: dict[str, str]) -> None:
        """All nodes hear each other again."""
        self.silent.clear()

    def liveness_changed(self, words: list[str], options: dict[str, str]) -> None:
        """ID...: their nodes tell them, if they sleep, that liveness changed."""
        for replica in self.living(words):
            if replica.core.asleep:
                replica.step(LivenessChanged())

    def elapse(self, words: list[str], options: dict[str, str]) -> None:
        """MS ID...: time passes, for those named (all when none is) with its deadlines."""
        end_ms = self.now_ms + float(words[0])
        while True:
            due = min(self.living(words[1:]), key=lambda replica: replica.core.deadline_ms, default=None)
            if due is None or due.core.deadline_ms > end_ms:
                break
            self.now_ms = max(self.now_ms, due.core.deadline_ms)
            due.step(Deadline())
        self.now_ms = end_ms

    def deliver(self, words: list[str], options: dict[str, str]) -> None:
        """FROM->TO... count=N: the oldest N of what waits there now, all of it when nothing is named; not what it causes."""
        for mail in self.take(words, options):
            self.hand_over(mail)

    def drop(self, words: list[str], options: dict[str, str]) -> None:
        """FROM->TO... count=N quiet=on: lose it instead; `quiet` says only how much."""
        quiet = options.pop("quiet", "off") == "on"
        lost = self.take(words, options)
        if quiet:
            self.said.append(f"lost {len(lost)}")
        else:
            self.said += [f"lost {mail.sender}->{mail.receiver} {tell_message(mail.message)}" for mail in lost]

    def repeat(self, words: list[str], options: dict[str, str]) -> None:
        """FROM->TO...: the network has a copy of everything that waits there, and delivers it after that."""
        again = self.take(words, options)
        self.mail += again + again

    def take(self, words: list[str], options: dict[str, str]) -> list[Mail]:
        count = int(options.pop("count", len(self.mail)))
        taken: list[Mail] = []
        left: list[Mail] = []
        for mail in self.mail:
            wanted = not words or f"{mail.sender}->{mail.receiver}" in words
            (taken if wanted and len(taken) < count else left).append(mail)
        self.mail = left
        return taken

    def hand_over(self, mail: Mail) -> None:
        receiver = self.replicas.get(mail.receiver)
        if receiver is None or not receiver.alive:
            self.said.append(f"lost {mail.sender}->{mail.receiver} {tell_message(mail.message)}")
            return
        self.said.append(f"{mail.sender}->{mail.receiver} {tell_message(mail.message)}")
        receiver.step(Receive(mail.sender, mail.message))

    def sync(self, words: list[str], options: dict[str, str]) -> None:
        """ID writes=N: the oldest N writes become durable, all when not said."""
        self.one(words[0]).sync(int(options.pop("writes", ROUNDS_MAX)))

    def stabilise(self, words: list[str], options: dict[str, str]) -> None:
        """ID... quiet=on: sync and deliver among those named (all when none is) until nothing is left to do; `quiet` says only
        what the replicas make of it."""
        among = {replica.replica for replica in self.living(words)}
        for _ in range(ROUNDS_MAX):
            for replica in self.living(words):
                replica.sync(len(replica.writes))
            ready = [mail for mail in self.mail if mail.sender in among and mail.receiver in among]
            if not ready and not any(replica.writes for replica in self.living(words)):
                break
            self.mail = [mail for mail in self.mail if mail.sender not in among or mail.receiver not in among]
            for mail in ready:
                self.hand_over(mail)
        else:
            raise AssertionError("it does not come to rest")
        if options.pop("quiet", "off") == "on":
            self.said = [line for line in self.said if "->" not in line]

    def send_snapshot(self, words: list[str], options: dict[str, str]) -> None:
        """FROM->TO fails=on: carry a snapshot of what FROM has applied, or fail to."""
        names = words[0].split("->")
        source, target = self.one(names[0]), self.one(names[1])
        index = source.core.applied_index
        meta = SnapshotMeta(index, source.core.term_of(index), source.core.configuration_at(index))
        fails = options.pop("fails", "off") == "on"
        if fails or not target.core.needs_snapshot(meta):
            if not fails:
                target.say(f"has no use for snapshot {meta.index}/{meta.term}")
            source.step(SnapshotFailed(target.replica))
            return
        target.disk.write(Write(install=meta))
        target.disk.sync(len(target.disk.unsynced))
        target.say(f"installs snapshot {meta.index}/{meta.term}, {tell_configuration(meta.configuration)}")
        target.step(SnapshotInstalled(source.replica, meta))

    def crash(self, words: list[str], options: dict[str, str]) -> None:
        """ID: what was not synced is gone, and so is what waited for it."""
        replica = self.one(words[0])
        replica.alive = False
        lost = len(replica.writes)
        replica.disk.crash(0)
        replica.say(f"down, {lost} writes lost")

    def restart(self, words: list[str], options: dict[str, str]) -> None:
        """ID"""
        replica = self.replicas[ReplicaId(int(words[0]))]
        assert not replica.alive, "it is up"
        replica.start()
        self.status(words, options)

    def status(self, words: list[str], options: dict[str, str]) -> None:
        """ID...: a line for each."""
        for replica in self.living(words):
            core = replica.core
            leader = f" follows {core.leader}" if core.leader not in (None, core.replica) else ""
            line = f"{core.role.value} in term {core.term}{leader}, commit {core.commit_index}, last {core.last_index}"
            asleep = ", asleep" if core.asleep else ""
            replica.say(f"{line}, {tell_configuration(core.configuration)}{asleep}")
            if core.role is Role.LEADER:
                matches = [f"{peer} has {match}" for peer, match in sorted(core.progress.items())]
                handing = "" if core.transferring_to is None else f"; hands over to {core.transferring_to}"
                replica.say(f"  {', '.join(matches)}{handing}")

    def log(self, words: list[str], options: dict[str, str]) -> None:
        """ID...: what is in the log, durable or not."""
        for replica in self.living(words):
            image = replica.disk.visible
            first = image.snapshot.index + 1
            entries = [tell_entry(LogIndex(first + at), term, payload) for at, (term, payload) in enumerate(image.entries)]
            start = f"snapshot {image.snapshot.index}/{image.snapshot.term}" if image.snapshot.index else ""
            replica.say("log " + ", ".join(filter(None, [start, *entries])))

    def waiting(self, words: list[str], options: dict[str, str]) -> None:
        """What was sent and neither delivered nor dropped; and who waits for a disk."""
        self.said += [f"waiting {mail.sender}->{mail.receiver} {tell_message(mail.message)}" for mail in self.mail]
        unsynced = [replica.replica for replica in self.living([]) if replica.writes]
        self.said.append(f"unsynced: {numbers(unsynced) or 'nobody'}")


COMMANDS: dict[str, Callable[[Scenario, list[str], dict[str, str]], None]] = {
    "add-replicas": Scenario.add_replicas,
    "join": Scenario.join,
    "campaign": Scenario.campaign,
    "propose": Scenario.propose,
    "read": Scenario.read,
    "lease": Scenario.lease,
    "transfer": Scenario.transfer,
    "change-configuration": Scenario.change_configuration,
    "compact": Scenario.compact,
    "leader-lost": Scenario.leader_lost,
    "unreachable": Scenario.unreachable,
    "heartbeat": Scenario.heartbeat,
    "silence": Scenario.silence,
    "speak": Scenario.speak,
    "liveness-changed": Scenario.liveness_changed,
    "elapse": Scenario.elapse,
    "deliver": Scenario.deliver,
    "drop": Scenario.drop,
    "repeat": Scenario.repeat,
    "sync": Scenario.sync,
    "stabilise": Scenario.stabilise,
    "send-snapshot": Scenario.send_snapshot,
    "crash": Scenario.crash,
    "restart": Scenario.restart,
    "status": Scenario.status,
    "log": Scenario.log,
    "waiting": Scenario.waiting,
}


def play(text: str) -> str:
    """A scenario's text with what happens now under each command. Comments and empty lines stay."""
    scenario = Scenario()
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("> "):
            lines += [line, *(f"  {said}" for said in scenario.run(line[2:]))]
        elif not line.startswith("  "):
            assert not line or line.startswith("#"), f"neither command, output nor comment: {line!r}"
            lines.append(line)
    return "\n".join(lines) + "\n"
