"""What the core costs: `python -m tests.raft.benchmark`.

One proposal of 100 payloads of 100 bytes is carried to commit on three cores in one thread, without disk and network. Each
line is the median of one step in microseconds, so that a busy machine shows up less.
"""

from __future__ import annotations

import gc
import math
import random
import statistics
import time
import tracemalloc
from collections import defaultdict

from cluster.ids import LogIndex, ReplicaId, Term
from cluster.raft.config import RaftConfig
from cluster.raft.core import Raft
from cluster.raft.effects import Effects
from cluster.raft.events import Campaign, Deadline, Event, Persisted, Propose, Receive
from cluster.raft.messages import Append, AppendReply, Configuration, HardState, Run, SnapshotMeta, VoteReply

ROUNDS = 5_000
GROUPS = 1_000
PAYLOADS = [b"x" * 100 for _ in range(100)]
CONFIGURATION = Configuration((ReplicaId(1), ReplicaId(2), ReplicaId(3)))


class NothingStored:
    """The stable log of a group that has just been made; the cores answer everything else from memory."""

    snapshot = SnapshotMeta(LogIndex(0), Term(0), CONFIGURATION)
    last_index = LogIndex(0)

    def term(self, index: LogIndex) -> Term:
        return Term(0)

    def runs(self, first: LogIndex, last: LogIndex, bytes_max: int) -> list[Run]:
        raise KeyError(first)


class HeardJustNow:
    """Liveness in which everybody is well."""

    now_ms = -math.inf

    def leader_heard_ms(self, leader: ReplicaId, term: Term) -> float:
        return self.now_ms

    def acked_sent_ms(self, peer: ReplicaId, term: Term) -> float:
        return self.now_ms

    def promised_until_ms(self, peer: ReplicaId, term: Term) -> float:
        return -math.inf

    def promised_at_ms(self, leader: ReplicaId, term: Term) -> float:
        return -math.inf

    def heard_ms(self, peer: ReplicaId) -> float:
        return self.now_ms


def make(replica: int, liveness: HeardJustNow, generator: random.Random) -> Raft:
    return Raft(
        replica=ReplicaId(replica),
        configuration=CONFIGURATION,
        hard_state=HardState(Term(0), ReplicaId(0)),
        log=NothingStored(),
        liveness=liveness,
        random=generator,
        config=RaftConfig(),
        applied=LogIndex(0),
        shard=1,
        now_ms=0.0,
    )


def lead(core: Raft) -> None:
    """Make this core the leader of term 1, with its no-op committed."""
    core.step(Campaign(), 1.0)
    core.step(Receive(ReplicaId(2), VoteReply(Term(1), True, True)), 1.0)
    core.step(Persisted(Term(1), 1), 1.0)
    core.step(Receive(ReplicaId(2), VoteReply(Term(1), True, False)), 1.0)
    core.step(Persisted(Term(1), 2), 1.0)
    for peer in (2, 3):
        core.step(Receive(ReplicaId(peer), AppendReply(Term(1), LogIndex(1), False, LogIndex(1), Term(1))), 1.0)
    core.applied_to(LogIndex(1))


class Stopwatch:
    def __init__(self) -> None:
        self.samples: defaultdict[str, list[float]] = defaultdict(list)

    def step(self, name: str, core: Raft, event: Event, now_ms: float) -> Effects:
        begin = time.perf_counter()
        effects = core.step(event, now_ms)
        self.samples[name].append(time.perf_counter() - begin)
        return effects

    def report(self, counts: dict[str, int]) -> None:
        total = 0.0
        for name, count in counts.items():
            median_us = statistics.median(self.samples[name]) * 1e6
            total += median_us * count
            print(f"{name:32} {median_us:6.1f} us x {count}")
        print(f"{'sum':32} {total:6.1f} us")


def replication() -> None:
    generator, liveness, watch = random.Random(1), HeardJustNow(), Stopwatch()
    leader = make(1, liveness, generator)
    followers = {ReplicaId(peer): make(peer, liveness, generator) for peer in (2, 3)}
    lead(leader)
    for core in followers.values():
        no_op = leader.entries(LogIndex(1), LogIndex(1), 100)
        core.step(Receive(ReplicaId(1), Append(Term(1), LogIndex(0), Term(0), LogIndex(1), no_op)), 1.0)
        core.step(Persisted(Term(1), 1), 1.0)
        core.applied_to(LogIndex(1))
    for _ in range(ROUNDS):
        proposed = watch.step("leader: propose 100", leader, Propose(PAYLOADS), 1.0)
        answers = []
        for peer, message in proposed.send_now:
            core = followers[peer]
            appended = watch.step("follower: append 100", core, Receive(ReplicaId(1), message), 1.0)
            assert appended.persist is not None
            watch.step("follower: persisted", core, Persisted(appended.persist.term, appended.persist.sequence), 1.0)
            answers.append((peer, appended.send_after_persist[0][1]))
        assert proposed.persist is not None
        watch.step("leader: persisted", leader, Persisted(proposed.persist.term, proposed.persist.sequence), 1.0)
        for peer, answer in answers:
            for to, notice in watch.step("leader: acknowledgement", leader, Receive(peer, answer), 1.0).send_now:
                watch.step("follower: commit notice", followers[to], Receive(ReplicaId(1), notice), 1.0)
        for core in (leader, *followers.values()):
            assert core.commit_index == leader.last_index
            core.applied_to(core.commit_index)
    watch.report(
        {
            "leader: propose 100": 1,
            "leader: persisted": 1,
            "leader: acknowledgement": 2,
            "follower: append 100": 2,
            "follower: persisted": 2,
            "follower: commit notice": 2,
        }
    )


def idle() -> None:
    """An idle group steps only at its deadlines; and what it weighs."""
    generator, liveness, watch = random.Random(1), HeardJustNow(), Stopwatch()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    groups = [make(1, liveness, generator) for _ in range(GROUPS)]
    made = tracemalloc.get_traced_memory()[0]
    for core in groups:
        lead(core)
        core.trim(0)
    led = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    print(f"follower {(made - before) / GROUPS:.0f} bytes, idle leader of three {(led - before) / GROUPS:.0f} bytes")
    leader = groups[0]
    for _ in range(ROUNDS):
        now_ms = leader.deadline_ms
        liveness.now_ms = now_ms - 50
        watch.step("idle leader: deadline", leader, Deadline(), now_ms)
    watch.report({"idle leader: deadline": 1})


if __name__ == "__main__":
    gc.disable()
    replication()
    idle()
