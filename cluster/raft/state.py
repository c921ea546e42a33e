"""The fields of one replica, and the few ways in which handlers change them.

Lists rather than deques hold the short queues, and what is empty is shared (`cluster.empty`): an empty deque costs 600 bytes,
an empty list or dictionary 60, and a node has thousands of idle groups.

Handlers (election, following, replication, membership, transfer, reads) are functions over this; `core` owns it and calls them.
A handler that changes what must be durable does it through `save_vote`, `append`, `adopt`, `truncate_from` and `compact_to`,
so that one Persist with everything in it leaves at the end of the step and no message can overtake it.

Invariant: snapshot <= commit <= last index, applied <= commit, vote belongs to term, leader-only fields are empty elsewhere.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from cluster.empty import NO_ENTRIES, NO_ITEMS
from cluster.errors import InvalidRequest, LogLost, StorageDamaged
from cluster.ids import LogIndex, ReplicaId, Term
from cluster.raft.config import RaftConfig
from cluster.raft.configuration import decode, others_of, voters_of
from cluster.raft.effects import Effects, Role
from cluster.raft.events import NEVER, Liveness, LogStorage
from cluster.raft.log import Log
from cluster.raft.messages import Configuration, HardState, Message, Run, SnapshotMeta
from cluster.raft.progress import Progress

if TYPE_CHECKING:
    from random import Random

NOTHING_ASKED = Effects()
"""The effects between two steps: nobody keeps what an earlier step asked for."""

NOBODY = ReplicaId(0)
"""The vote of a replica that has not voted in its term."""


class State:
    """One replica of one group.

    Durable: term, vote, log. Volatile: everything else.

    configurations: (index, configuration) of every configuration entry in the log, oldest first, behind the one that the log
        starts from, which entry `first_configured` made. configuration: the newest, committed or not; voters, peers: its voters
        (outgoing too), and its other members (learners too), sorted.
    promised_until_ms: with leases on, no vote for another leader before this, whatever happens to the belief in the last one.
    heard_ms: newest append of `leader` in `term`. deadline_ms: when `Deadline` is due next, unless `asleep` (see `sleeping`).
    lost_leader, lost_ms, lost_retries: belief ended by LeaderLost, when, and quick campaigns made since.
    votes: answers of the current (pre-)campaign, own included once durable. self_vote: sequence that makes it so.
    writes: (sequence, term, last index, issued_ms) of writes not yet durable, oldest first; last index is 0 when truncated.
    term_start: the leader's no-op. proposals: (last index, bytes) of uncommitted own proposals, oldest first.
    check_ms, retry_ms: a leader's next CheckQuorum, and the earliest time at which an answer is overdue.
    transfer_to, transfer_until_ms, transfer_told: a leader's chosen successor, when it gives that up, and whether it has sent
        TimeoutNow. timeouts_sent: everybody who got one in this term, and its last index. retiring: the leader has no vote
        any more and only waits for its successor.
    reads_waiting: (context, index, asked_ms), in order asked. reads_acked: per voter, send time of its newest acked round.
    """

    __slots__ = (
        "applied",
        "asleep",
        "check_ms",
        "commit",
        "config",
        "configuration",
        "configurations",
        "deadline_ms",
        "effects",
        "first_configured",
        "heard_ms",
        "leader",
        "liveness",
        "log",
        "lost_leader",
        "lost_ms",
        "lost_retries",
        "peers",
        "progress",
        "promised_until_ms",
        "proposals",
        "random",
        "reads_acked",
        "reads_waiting",
        "replica",
        "retiring",
        "retry_ms",
        "role",
        "self_vote",
        "sequence",
        "shard",
        "term",
        "term_start",
        "timeouts_sent",
        "transfer_to",
        "transfer_told",
        "transfer_until_ms",
        "uncommitted_bytes",
        "unsaved_runs",
        "unsaved_snapshot",
        "unsaved_truncate",
        "unsaved_vote",
        "vote",
        "voters",
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
        self.first_configured: LogIndex = self.log.snapshot.configured
        self.configurations: list[tuple[LogIndex, Configuration]] = [(self.log.snapshot.index, configuration)]
        self.configurations += self._configurations_in_log(hard_state.configured)
        self._configure()

        self.role = Role.FOLLOWER
        self.asleep = False
        self.leader: ReplicaId | None = None
        self.heard_ms = NEVER
        self.deadline_ms = math.inf
        self.lost_leader: ReplicaId | None = None
        self.lost_ms = NEVER
        self.promised_until_ms = NEVER
        self.lost_retries = 0

        self.votes: dict[ReplicaId, bool] = NO_ENTRIES
        self.self_vote = 0

        self.sequence = 0
        self.writes: list[tuple[int, Term, LogIndex, float]] = NO_ITEMS
        # An index left behind by a log that a snapshot replaced must not come to mean an entry that is yet to be written.
        self.unsaved_vote = any(index > self.log.last_index for index in hard_state.configured)
        self.unsaved_truncate: LogIndex | None = None
        self.unsaved_runs: list[Run] = NO_ITEMS
        self.unsaved_snapshot: SnapshotMeta | None = None

        self.progress: dict[ReplicaId, Progress] = NO_ENTRIES
        self.term_start: LogIndex = LogIndex(0)
        self.proposals: list[tuple[LogIndex, int]] = NO_ITEMS
        self.uncommitted_bytes = 0
        self.check_ms = math.inf
        self.retry_ms = math.inf
        self.reads_waiting: list[tuple[int, LogIndex, float]] = NO_ITEMS
        self.reads_acked: dict[ReplicaId, float] = NO_ENTRIES
        self.transfer_to: ReplicaId | None = None
        self.transfer_told = False
        self.retiring = False
        self.transfer_until_ms = math.inf
        self.timeouts_sent: dict[ReplicaId, LogIndex] = NO_ENTRIES

        self.effects = NOTHING_ASKED

    @property
    def votes_here(self) -> bool:
        """Whether this replica campaigns: a voter, perhaps an outgoing one (reference trap 23), or one that does not know the
        loss of its vote to be committed. Only the latter's log may be long enough for the others; it does not count its own
        vote (thesis 4.2.2). Everybody answers votes (reference trap 16)."""
        if self.replica in self.voters:
            return True
        for index, configuration in reversed(self.configurations):
            if self.replica in voters_of(configuration):
                return True
            if index <= self.commit:
                break
        return False

    @property
    def configured(self) -> LogIndex:
        """Index of the newest configuration entry in the log; 0 when what the log starts from counts."""
        return self.configurations[-1][0] if len(self.configurations) > 1 else LogIndex(0)

    def configured_at(self, index: LogIndex) -> LogIndex:
        """Which entry made the configuration that counted at `index`, in the log or not; 0 for the group's first."""
        for place in range(len(self.configurations) - 1, 0, -1):
            at = self.configurations[place][0]
            if at <= index:
                return at
        return self.first_configured

    @property
    def hard_state(self) -> HardState:
        """What must be durable beside the log."""
        return HardState(self.term, self.vote, tuple([index for index, _ in self.configurations[1:]]))

    def oldest_write_ms(self, now_ms: float) -> float:
        """When the write was issued that has been on its way to the disk for the longest; now if none is."""
        return self.writes[0][3] if self.writes else now_ms

    def disk_hangs(self, now_ms: float) -> bool:
        """Whether a write takes longer than a group may be held up by one replica (reference trap 21)."""
        return now_ms - self.oldest_write_ms(now_ms) >= self.config.election_timeout_ms_min

    def configuration_at(self, index: LogIndex) -> Configuration:
        """Which configuration counted once entry `index` was there: snapshots need it (reference trap 47)."""
        assert self.log.snapshot.index <= index <= self.log.last_index, "only what the log holds is known"
        return next(configuration for at, configuration in reversed(self.configurations) if at <= index)

    def adopt(self, index: LogIndex, configuration: Configuration) -> None:
        """Entry `index` is a configuration: it counts at once, committed or not (thesis 4.1)."""
        self.configurations.append((index, configuration))
        self.unsaved_vote = True
        self._configure()

    def _configure(self) -> None:
        self.configuration = self.configurations[-1][1]
        assert not set(self.configuration.voters) & set(self.configuration.learners), "a replica is either voter or learner"
        self.voters = voters_of(self.configuration)
        self.peers = others_of(self.configuration, self.replica)

    def _configurations_in_log(self, configured: tuple[LogIndex, ...]) -> list[tuple[LogIndex, Configuration]]:
        """Those that the log holds (reference trap 42). Raises StorageDamaged when one is not what it should be."""
        found: list[tuple[LogIndex, Configuration]] = []
        for index in configured:
            if self.log.snapshot.index < index <= self.log.last_index:
                try:
                    found.append((index, decode(self.log.slice(index, index, 0)[0][0].payloads[0])))
                except InvalidRequest as error:
                    raise StorageDamaged(f"entry {index} should be a configuration: {error.message}") from error
        return found

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
        if not self.unsaved_runs:
            self.unsaved_runs = []
        self.unsaved_runs.append(run)

    def truncate_from(self, index: LogIndex) -> None:
        """Delete uncommitted entries that the leader contradicts. Raises StorageDamaged, nothing changed, if committed."""
        if index <= self.commit:
            raise StorageDamaged(f"the leader of term {self.term} contradicts entry {index}, committed up to {self.commit}")
        assert not self.unsaved_runs, "a step truncates before it appends"
        assert self.unsaved_truncate is None, "a step truncates once"
        self.log.truncate_from(index)
        self.unsaved_truncate = index
        if self.configured >= index:
            # A configuration counts as long as its entry is there (thesis 4.1, reference trap 42).
            while self.configured >= index:
                self.configurations.pop()
            self.unsaved_vote = True
            self._configure()
        # A completion of an older write proves nothing about the entries that replace its own (reference trap 6).
        below = LogIndex(index - 1)
        self.writes = [(sequence, term, min(last, below), at) for sequence, term, last, at in self.writes]

    def snapshot_at(self, index: LogIndex) -> SnapshotMeta:
        """What a snapshot at `index`, which the log retains, stands for (reference trap 47)."""
        return SnapshotMeta(index, self.log.term_of(index), self.configuration_at(index), self.configured_at(index))

    def compact_to(self, index: LogIndex) -> None:
        """The log starts behind `index` from now on."""
        meta = self.snapshot_at(index)
        self.first_configured = meta.configured
        self.configurations = [(index, meta.configuration), *[pair for pair in self.configurations[1:] if pair[0] > index]]
        self.log.compact_to(meta)
        self.unsaved_snapshot = meta

    def reset_to(self, meta: SnapshotMeta) -> None:
        """The log, the configuration and what is applied are now those of the snapshot."""
        self.log.reset_to(meta)
        self.unsaved_vote |= self.configured > 0
        self.configurations = [(meta.index, meta.configuration)]
        self.first_configured = meta.configured
        self._configure()
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
        if self.asleep:
            assert self.role in (Role.FOLLOWER, Role.LEADER), "candidates wait for votes"
            assert not self.writes, "a sleeper waits for no disk"
            assert not self.proposals, "a sleeper waits for no acknowledgement"
            assert not self.reads_waiting, "a sleeper owes no answer"
            assert self.leader is None or self.applied == self.log.last_index, "a sleeper has nothing to do"
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
        indexes = [index for index, _ in self.configurations]
        assert indexes == sorted(set(indexes)), "configurations rise"
        assert self.log.snapshot.index <= indexes[-1] <= self.log.last_index, "the newest configuration is in the log"
        assert self.role is not Role.LEADER or set(self.progress) == set(self.peers), "a leader follows all other members"
        assert self.uncommitted_bytes == sum(size for _, size in self.proposals), "uncommitted bytes are those of proposals"
        for progress in self.progress.values():
            progress.invariants()
            assert progress.match <= self.log.last_index, "nobody matches more than there is"
            assert progress.next <= self.log.last_index + 1, "nothing beyond the log was sent"
