"""One core and its disk, its peers played by the test: what it does is read from its effects, message by message."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from cluster.ids import LogIndex, ReplicaId, Term
from cluster.raft.config import RaftConfig
from cluster.raft.configuration import encode
from cluster.raft.core import Raft
from cluster.raft.effects import Effects, Role
from cluster.raft.events import Campaign, Deadline, Event, Persisted, Propose, Receive
from cluster.raft.messages import (
    Append,
    AppendReply,
    Configuration,
    HardState,
    Message,
    Run,
    SnapshotMeta,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)
from tests.raft.disk import Disk, Write
from tests.raft.network import TEST_CONFIG
from tests.raft.node import SHARD


def run(first: int, term: int, *payloads: bytes) -> Run:
    return Run(LogIndex(first), Term(term), list(payloads))


def append(term: int, previous: tuple[int, int], *runs: Run, commit: int = 0) -> Append:
    """`previous` is (index, term)."""
    return Append(Term(term), LogIndex(previous[0]), Term(previous[1]), LogIndex(commit), list(runs))


def accept(term: int, index: int, commit: int = 0) -> AppendReply:
    return AppendReply(Term(term), LogIndex(index), False, LogIndex(commit), Term(term))


def reject(term: int, index: int, hint: tuple[int, int]) -> AppendReply:
    return AppendReply(Term(term), LogIndex(index), True, LogIndex(hint[0]), Term(hint[1]))


def vote_request(term: int, last: tuple[int, int], *, pre: bool = False, transfer: bool = False) -> VoteRequest:
    """`last` is (index, term) of the candidate's newest entry."""
    return VoteRequest(Term(term), LogIndex(last[0]), Term(last[1]), pre, transfer)


def timeout_now(term: int, last_index: int) -> TimeoutNow:
    return TimeoutNow(Term(term), LogIndex(last_index))


def vote_reply(term: int, granted: bool, *, pre: bool = False) -> VoteReply:
    return VoteReply(Term(term), granted, pre)


def ids(*numbers: int) -> tuple[ReplicaId, ...]:
    return tuple(ReplicaId(number) for number in numbers)


def entry(voters: Sequence[int], learners: Sequence[int] = (), outgoing: Sequence[int] = ()) -> bytes:
    """The payload of a configuration entry."""
    return encode(Configuration(ids(*voters), ids(*learners), ids(*outgoing)))


def configured(core: Raft) -> tuple[list[int], list[int], list[int]]:
    """Voters, learners and outgoing voters that count now."""
    one = core.configuration
    return list(one.voters), list(one.learners), list(one.outgoing)


class Solo:
    """Replica 1 unless said otherwise, with `log` as terms of its entries from index 1 on.

    Time stands still until a test moves `now_ms`. Writes reach the disk at once and are durable when `persist` is called.
    """

    def __init__(
        self,
        *,
        replica: int = 1,
        voters: int = 3,
        learners: int = 0,
        term: int = 0,
        vote: int = 0,
        log: Sequence[int] = (),
        snapshot: tuple[int, int] = (0, 0),
        applied: int = 0,
        config: RaftConfig = TEST_CONFIG,
    ) -> None:
        ids = tuple(ReplicaId(number) for number in range(1, voters + learners + 1))
        self.configuration = Configuration(ids[:voters], ids[voters:])
        self.disk = Disk(self.configuration)
        self.disk.visible.snapshot = SnapshotMeta(LogIndex(snapshot[0]), Term(snapshot[1]), self.configuration)
        self.disk.visible.hard_state = HardState(Term(term), ReplicaId(vote))
        self.disk.visible.entries = [(Term(of), b"old %d" % place) for place, of in enumerate(log)]
        self.now_ms = 10_000.0
        self.heard: dict[tuple[int, int], float] = {}
        self.acked: dict[tuple[int, int], float] = {}
        self.promised: dict[tuple[int, int], float] = {}
        """Promises to leaders that liveness does not hear any more."""
        self.promises_ms: dict[int, float] = {}
        """What peers promise with an acknowledgement, where it is not what they should."""
        self.core_config = config

        self.silent: set[int] = set()
        """Replicas whose nodes have not been heard at all for long."""
        self.write = (Term(0), 0)
        self.core = Raft(
            replica=ReplicaId(replica),
            configuration=self.configuration,
            hard_state=self.disk.visible.hard_state,
            log=self.disk,
            liveness=self,
            random=random.Random(replica),
            config=config,
            applied=LogIndex(applied),
            shard=SHARD,
            now_ms=self.now_ms,
        )

    def leader_heard_ms(self, leader: ReplicaId, term: Term) -> float:
        return self.heard.get((leader, term), -math.inf)

    def acked_sent_ms(self, peer: ReplicaId, term: Term) -> float:
        return self.acked.get((peer, term), -math.inf)

    def promised_until_ms(self, peer: ReplicaId, term: Term) -> float:
        return self.acked_sent_ms(peer, term) + self.promises_ms.get(peer, self.core_config.election_timeout_ms_min)

    def promised_at_ms(self, leader: ReplicaId, term: Term) -> float:
        return max(self.heard.get((leader, term), -math.inf), self.promised.get((leader, term), -math.inf))

    def heard_ms(self, peer: ReplicaId) -> float:
        return -math.inf if peer in self.silent else self.now_ms

    def step(self, event: Event) -> Effects:
        effects = self.core.step(event, self.now_ms)
        if effects.persist is not None:
            self.disk.write(Write(persist=effects.persist))
            self.write = (effects.persist.term, effects.persist.sequence)
        return effects

    def receive(self, sender: int, message: Message) -> Effects:
        return self.step(Receive(ReplicaId(sender), message))

    def persist(self) -> Effects:
        """All writes so far are durable."""
        return self.step(Persisted(*self.write))

    def at_deadline(self) -> Effects:
        """Let time pass until the core wants to be woken, and wake it."""
        assert self.core.deadline_ms < math.inf
        self.now_ms = max(self.now_ms, self.core.deadline_ms)
        return self.step(Deadline())

    def resign(self, acked: Sequence[int] = (), limit_ms: float = 10_000.0) -> float:
        """Let time pass until a leader steps down by itself, while `acked` answer liveness. How long that took."""
        began_ms = self.now_ms
        while self.core.role is Role.LEADER:
            assert self.now_ms < began_ms + limit_ms, "it still leads"
            assert self.core.deadline_ms > self.now_ms, "time goes on"
            self.acked = {(peer, self.core.term): self.core.deadline_ms for peer in acked}
            self.at_deadline()
        return self.now_ms - began_ms

    def propose(self, *payloads: bytes) -> Effects:
        return self.step(Propose(list(payloads)))

    def campaign(self) -> Effects:
        """Win the pre-vote of all other voters; the real campaign's effects."""
        effects = self.step(Campaign())
        for voter in self.others:
            if self.core.role is Role.PRE_CANDIDATE:
                effects = self.receive(voter, vote_reply(self.core.term + 1, True, pre=True))
        assert self.core.role is Role.CANDIDATE
        return effects

    def lead(self, *, match: bool = True) -> Effects:
        """Become leader; with `match`, the no-op is durable here and acknowledged everywhere, so it is committed."""
        self.campaign()
        effects = self.persist()
        for voter in self.others:
            if self.core.role is Role.CANDIDATE:
                effects = self.receive(voter, vote_reply(self.core.term, True))
        assert self.core.role is Role.LEADER
        if match:
            self.persist()
            for peer in self.core.progress:
                if peer != self.core.replica:
                    self.receive(peer, accept(self.core.term, self.core.last_index, self.core.last_index))
            assert self.core.commit_index == self.core.last_index
        return effects

    @property
    def others(self) -> list[ReplicaId]:
        return [voter for voter in self.configuration.voters if voter != self.core.replica]

    @property
    def terms(self) -> list[int]:
        """The terms of the log's entries behind its snapshot."""
        core = self.core
        return [core.term_of(LogIndex(index)) for index in range(core.snapshot.index + 1, core.last_index + 1)]


def to(effects: Effects, peer: int) -> list[Message]:
    """All messages of a step to one peer."""
    return [message for receiver, message in effects.send_now + effects.send_after_persist if receiver == peer]


def appends(effects: Effects, peer: int) -> list[Append]:
    """The appends among them."""
    return [message for message in to(effects, peer) if isinstance(message, Append)]
