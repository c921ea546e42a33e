"""The fields of one replica, and the few ways in which handlers change them.

Lists rather than deques hold the short queues: an empty deque costs 600 bytes, and a node has thousands of idle groups.

Handlers (election, following, replication, reads) are functions over this; `core` owns it and calls them. A handler that
changes what must be durable does it through `save_vote`, `append`, `truncate_from` and `compact_to`, so that one Persist
with everything in it leaves at the end of the step and no message can overtake it.

Invariant: snapshot <= commit <= last index, applied <= commit, vote belongs to term, leader-only fields are empty elsewhere.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from cluster.errors import LogLost, StorageDamaged
from cluster.ids import LogIndex, ReplicaId, Term
from cluster.raft.config import RaftConfig
from cluster.raft.effects import Effects, Role
from cluster.raft.events import Liveness, LogStorage
from cluster.raft.log import Log
from cluster.raft.messages import Configuration, HardState, Message, Run, SnapshotMeta
from cluster.raft.progress import Progress

if TYPE_CHECKING:
    from random import Random

NOBODY = ReplicaId(0)
"""The vote of a replica that has not voted in its term."""


class State:
    """One replica of one group.

    Durable: term, vote, log. Volatile: everything else.

    peers: all other replicas of the configuration, sorted, learners too.
    heard_ms: newest append of `leader` in `term`. deadline_ms: when `Deadline` is due next.
    lost_leader, lost_ms, lost_retries: belief ended by LeaderLost, when, and quick campaigns made since.
    votes: answers of the current (pre-)campaign, own included once durable. self_vote: sequence that makes it so.
    writes: (sequence, term, last index, issued_ms) of writes not yet durable, oldest first; last index is 0 when truncated.
    term_start: the leader's no-op. proposals: (last index, bytes) of uncommitted own proposals, oldest first.
    check_ms, retry_ms: a leader's next CheckQuorum, and the earliest time at which an answer is overdue.
    transfer_to, transfer_until_ms: a leader's chosen successor, and when it gives that up. timeouts_sent: whom it has told to
        campaign in this term, and at which last index.
    reads_waiting: (context, index, asked_ms), in order asked. reads_acked: per voter, send time of its newest acked round.
    """

    __slots__ = (
        "applied",
        "check_ms",
        "commit",
        "config",
        "configuration",
        "deadline_ms",
        "effects",
        "heard_ms",
        "leader",
        "liveness",
        "log",
        "lost_leader",
        "lost_ms",
        "lost_retries",
        "peers",
        "progress",
        "proposals",
        "random",
        "reads_acked",
        "reads_waiting",
        "replica",
        "retry_ms",
        "role",
        "self_vote",
        "sequence",
        "shard",
        "term",
        "term_start",
        "timeouts_sent",
        "transfer_to",
        "transfer_until_ms",
        "uncommitted_bytes",
        "unsaved_runs",
        "unsaved_snapshot",
        "unsaved_truncate",
        "unsaved_vote",
        "vote",
        "votes",
        "writes",
    )

    def __init__(
        self,
        *,
        replica: ReplicaId,
        configuration: Configuration,
        hard_state: HardState,
        log: LogStorage,
        liveness: Liveness,
        random: Random,
        config: RaftConfig,
        applied: LogIndex,
        shard: int,
    ) -> None:
        self.replica = replica
        self.liveness = liveness
        self.random = random
        self.config = config
        self.shard = shard
        self.term: Term = hard_state.term
        self.vote: ReplicaId = hard_state.vote
        self.log = Log(log)
        if applied > self.log.last_index:
            raise LogLost(f"the log ends at {self.log.last_index} but {applied} was applied here: entries were lost")
        if self.log.last_term > self.term:
            raise StorageDamaged(f"the log has entries of term {self.log.last_term} but the durable term is {self.term}")
        self.applied: LogIndex = max(applied, self.log.snapshot.index)
        self.commit: LogIndex = self.applied
        self.configure(configuration)

        self.role = Role.FOLLOWER
        self.leader: ReplicaId | None = None
        self.heard_ms = -math.inf
        self.deadline_ms = math.inf
        self.lost_leader: ReplicaId | None = None
        self.lost_ms = -math.inf
        self.lost_retries = 0

        self.votes: dict[ReplicaId, bool] = {}
        self.self_vote = 0

        self.sequence = 0
        self.writes: list[tuple[int, Term, LogIndex, float]] = []
        self.unsaved_vote = False
        self.unsaved_truncate: LogIndex | None = None
        self.unsaved_runs: list[Run] = []
        self.unsaved_snapshot: SnapshotMeta | None = None

        self.progress: dict[ReplicaId, Progress] = {}
        self.term_start: LogIndex = LogIndex(0)
        self.proposals: list[tuple[LogIndex, int]] = []
        self.uncommitted_bytes = 0
        self.check_ms = math.inf
        self.retry_ms = math.inf
        self.reads_waiting: list[tuple[int, LogIndex, float]] = []
        self.reads_acked: dict[ReplicaId, float] = {}
        self.transfer_to: ReplicaId | None = None
        self.transfer_until_ms = math.inf
        self.timeouts_sent: dict[ReplicaId, LogIndex] = {}

        self.effects = Effects()

    @property
    def votes_here(self) -> bool:
        """Whether this replica is a voter. Only voters campaign; everybody answers votes (reference trap 16)."""
        return self.replica in self.configuration.voters

    def configure(self, configuration: Configuration) -> None:
        self.configuration = configuration
        members = (*configuration.voters, *configuration.learners)
        assert len(set(members)) == len(members), "a replica is either a voter or a learner"
        self.peers = tuple(sorted(member for member in members if member != self.replica))

    def send_now(self, peer: ReplicaId, message: Message) -> None:
        self.effects.send_now.append((peer, message))

    def send_after_persist(self, peer: ReplicaId, message: Message) -> None:
        self.effects.send_after_persist.append((peer, message))

    def save_vote(self, term: Term, vote: ReplicaId) -> None:
        """Make (term, vote) the durable pair. A vote is cleared only by a higher term (reference trap 3)."""
        assert term > self.term or (term == self.term and self.vote in (NOBODY, vote)), "a vote is given once in a term"
        self.term = term
        self.vote = vote
        self.unsaved_vote = True

    def append(self, run: Run, size: int) -> None:
        """Append a run of `size` bytes and have it persisted."""
        assert run.term <= self.term, "the term is durable no later than its entries (reference trap 4)"
        self.log.append(run, size)
        self.unsaved_runs.append(run)

    def truncate_from(self, index: LogIndex) -> None:
        """Delete uncommitted entries that the leader contradicts. Raises StorageDamaged, nothing changed, if committed."""
        if index <= self.commit:
            raise StorageDamaged(f"the leader of term {self.term} contradicts entry {index}, committed up to {self.commit}")
        assert not self.unsaved_runs, "a step truncates before it appends"
        assert self.unsaved_truncate is None, "a step truncates once"
        self.log.truncate_from(index)
        self.unsaved_truncate = index
        # A completion of an older write proves nothing about the entries that replace its own (reference trap 6).
        below = LogIndex(index - 1)
        self.writes = [(sequence, term, min(last, below), at) for sequence, term, last, at in self.writes]

    def reset_to(self, meta: SnapshotMeta) -> None:
        """The log, the configuration and what is applied are now those of the snapshot."""
        self.log.reset_to(meta)
        self.configure(meta.configuration)
        self.applied = meta.index
        self.commit_to(meta.index)
        self.writes = [(sequence, term, LogIndex(0), at) for sequence, term, _, at in self.writes]

    def commit_to(self, index: LogIndex) -> None:
        """Raise the commit index; it never falls."""
        if index > self.commit:
            assert index <= self.log.last_index, "only entries that are here can be committed"
            self.commit = index
            self.effects.committed = index

    def invariants(self) -> None:
        """Assert what the module docstring promises; the cheap part. See `core` for when."""
        assert self.log.snapshot.index <= self.applied <= self.commit <= self.log.last_index, "snapshot to last rise"
        assert self.log.last_term <= self.term, "no entry is of a later term than the replica's"
        assert (self.role is Role.LEADER) == (self.leader == self.replica), "a leader knows itself as leader"
        if self.role is Role.LEADER:
            assert self.term_start <= self.log.last_index, "a leader has its no-op"
            assert self.vote == self.replica, "a leader voted for itself"
        else:
            assert not self.progress, "only leaders have followers"
            assert not self.reads_waiting, "only leaders owe reads"
            assert not self.proposals, "only leaders propose"
            assert self.transfer_to is None, "only leaders hand over"
            assert not self.timeouts_sent, "only leaders tell others to campaign"

    def invariants_all(self) -> None:
        """The expensive part."""
        self.invariants()
        self.log.invariants()
        assert self.uncommitted_bytes == sum(size for _, size in self.proposals), "uncommitted bytes are those of proposals"
        for progress in self.progress.values():
            progress.invariants()
            assert progress.match <= self.log.last_index, "nobody matches more than there is"
            assert progress.next <= self.log.last_index + 1, "nothing beyond the log was sent"
