"""One replica of one Raft group: `step(event, now_ms) -> Effects`, and nothing else changes it.

Every pair of role and event, and of role and message, has a cell in a table below and each cell was chosen: `_ignore` means
that the event can come in that role and rightly does nothing, `_contradiction` that it can not come at all while Raft's
guarantees hold.

Messages of a higher term make a follower first, those of a lower term are answered or dropped before the table is asked
(paper 5.1). Votes have their own rule: a voter that hears its leader does not enter the term of whoever asks (thesis 4.2.3).

Invariant: all durable changes of a step leave in one Persist, numbered (term, sequence); only `Persisted` of that very pair
makes them count (reference traps 5, 6, 7).

Not here: clocks, sockets, disks, heartbeats, snapshot transfer, applying.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from cluster.empty import NO_ITEMS
from cluster.errors import StorageDamaged
from cluster.ids import LogIndex, ReplicaId, Term
from cluster.raft import election, following, lease, membership, reads, replication, roles, sleeping, transfer
from cluster.raft.config import RaftConfig
from cluster.raft.configuration import without_configurations
from cluster.raft.effects import LEADER, Effects, Persist, Role
from cluster.raft.events import (
    Campaign,
    ChangeConfiguration,
    Compact,
    Deadline,
    Event,
    LeaderLost,
    Liveness,
    LivenessChanged,
    LogStorage,
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
from cluster.raft.log import check_append
from cluster.raft.messages import (
    Append,
    AppendReply,
    Configuration,
    HardState,
    Message,
    Run,
    SnapshotMeta,
    SnapshotOffer,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)
from cluster.raft.state import NOTHING_ASKED, State

if TYPE_CHECKING:
    from random import Random

_EventHandler = Callable[[State, Any, float], None]
_MessageHandler = Callable[[State, ReplicaId, Any, float], None]
# `Any` because a table of handlers of different events has no closer type; the tables' keys say which each one takes, and
# a test compares them with the handlers' annotations.


_UNHEARD: frozenset[type[Event]] = frozenset((Deadline, PeerAcked))
"""What does not wake a sleeper: it has no deadline, and no read that waits for acknowledgements."""


def _ignore(state: State, event: object, now_ms: float) -> None:
    """The event may come in this role and changes nothing."""


def _ignore_message(state: State, sender: ReplicaId, message: object, now_ms: float) -> None:
    """The message may come in this role, late or repeated, and changes nothing."""


def _contradiction(state: State, sender: ReplicaId, message: Message, now_ms: float) -> None:
    """Only the leader of a term sends these, and it is this replica."""
    raise StorageDamaged(f"replica {sender} sent a leader's message in term {state.term}, which is led here")


def _on_persisted(state: State, event: Persisted, now_ms: float) -> None:
    _settle_writes(state, event)


def _on_candidate_persisted(state: State, event: Persisted, now_ms: float) -> None:
    if _settle_writes(state, event) and event.sequence >= state.self_vote > 0:
        state.self_vote = 0
        state.votes[state.replica] = True
        election.count_votes(state, now_ms)


def _on_leader_persisted(state: State, event: Persisted, now_ms: float) -> None:
    if _settle_writes(state, event):
        replication.maybe_commit(state)


def _settle_writes(state: State, event: Persisted) -> bool:
    """Take the named write, and all before it, as durable. False when no write in flight has that name (trap 6)."""
    writes = state.writes
    place = event.sequence - writes[0][0] if writes else -1
    if not 0 <= place < len(writes) or writes[place][1] != event.term:
        return False
    state.log.persisted = max(state.log.persisted, writes[place][2])
    state.writes = writes[place + 1 :] or NO_ITEMS
    return True


EVENTS: Mapping[Role, Mapping[type[Event], _EventHandler]] = {
    Role.FOLLOWER: {
        Deadline: election.on_follower_deadline,
        Propose: replication.refuse_proposal,
        Read: reads.refuse_read,
        PeerAcked: _ignore,
        LeaderLost: election.on_leader_lost,
        LivenessChanged: election.on_liveness_changed,
        PeerUnreachable: _ignore,
        Persisted: _on_persisted,
        Compact: replication.on_compact,
        SnapshotInstalled: following.on_snapshot_installed,
        SnapshotFailed: _ignore,
        Campaign: election.on_campaign,
        Transfer: transfer.refuse_transfer,
        ChangeConfiguration: membership.refuse_change,
    },
    Role.PRE_CANDIDATE: {
        Deadline: election.on_candidate_deadline,
        Propose: replication.refuse_proposal,
        Read: reads.refuse_read,
        PeerAcked: _ignore,
        LeaderLost: _ignore,
        LivenessChanged: _ignore,
        PeerUnreachable: _ignore,
        Persisted: _on_persisted,
        Compact: replication.on_compact,
        SnapshotInstalled: following.on_snapshot_installed,
        SnapshotFailed: _ignore,
        Campaign: election.on_campaign,
        Transfer: transfer.refuse_transfer,
        ChangeConfiguration: membership.refuse_change,
    },
    Role.CANDIDATE: {
        Deadline: election.on_candidate_deadline,
        Propose: replication.refuse_proposal,
        Read: reads.refuse_read,
        PeerAcked: _ignore,
        LeaderLost: _ignore,
        LivenessChanged: _ignore,
        PeerUnreachable: _ignore,
        Persisted: _on_candidate_persisted,
        Compact: replication.on_compact,
        SnapshotInstalled: following.on_snapshot_installed,
        SnapshotFailed: _ignore,
        Campaign: election.on_campaign,
        Transfer: transfer.refuse_transfer,
        ChangeConfiguration: membership.refuse_change,
    },
    Role.LEADER: {
        Deadline: replication.on_deadline,
        Propose: replication.on_propose,
        Read: reads.on_read,
        PeerAcked: reads.on_peer_acked,
        LeaderLost: _ignore,
        LivenessChanged: replication.on_liveness_changed,
        PeerUnreachable: replication.on_peer_unreachable,
        Persisted: _on_leader_persisted,
        Compact: replication.on_compact,
        SnapshotInstalled: following.on_snapshot_installed,
        SnapshotFailed: replication.on_snapshot_failed,
        Campaign: _ignore,
        Transfer: transfer.on_transfer,
        ChangeConfiguration: membership.on_change,
    },
}

MESSAGES: Mapping[Role, Mapping[type[Message], _MessageHandler]] = {
    Role.FOLLOWER: {
        VoteRequest: election.on_vote_request,
        VoteReply: election.on_late_vote,
        Append: following.on_append,
        AppendReply: _ignore_message,
        SnapshotOffer: following.on_snapshot_offer,
        TimeoutNow: transfer.on_timeout_now,
    },
    Role.PRE_CANDIDATE: {
        VoteRequest: election.on_vote_request,
        VoteReply: election.on_pre_candidate_vote,
        Append: following.on_append,
        AppendReply: _ignore_message,
        SnapshotOffer: following.on_snapshot_offer,
        TimeoutNow: transfer.on_timeout_now,
    },
    Role.CANDIDATE: {
        VoteRequest: election.on_vote_request,
        VoteReply: election.on_candidate_vote,
        Append: following.on_append,
        AppendReply: _ignore_message,
        SnapshotOffer: following.on_snapshot_offer,
        TimeoutNow: _ignore_message,
    },
    Role.LEADER: {
        VoteRequest: replication.on_vote_request,
        VoteReply: election.on_late_vote,
        Append: _contradiction,
        AppendReply: replication.on_append_reply,
        SnapshotOffer: _contradiction,
        TimeoutNow: _contradiction,
    },
}


class Raft:
    """One replica.

    replica: this one. It may be absent from `configuration`; then it follows and answers but never campaigns.
    configuration: who votes and who listens as of the log's snapshot, or at first. Newer ones in the log count instead.
    hard_state, log: as found on disk. Everything in them must be durable before this is called.
    liveness: what node-pair heartbeats know; asked at deadlines only.
    random: shared by the groups of a node. config: shared too.
    applied: how far the owner's state machine already is. shard: the group's number, spreads leaders over nodes.
    now_ms: the monotonic clock that every step names.

    Raises LogLost when the log is shorter than what was applied, StorageDamaged when it is ahead of the durable term; an
    operator must look (reference traps 4, 14).
    """

    __slots__ = ("_state",)

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
        now_ms: float,
    ) -> None:
        self._state = State(
            replica=replica,
            configuration=configuration,
            hard_state=hard_state,
            log=log,
            liveness=liveness,
            random=random,
            config=config,
            applied=applied,
            shard=shard,
        )
        if config.lease_reads:
            # Whom this replica heard before it was started is forgotten, and still relies on it.
            self._state.promised_until_ms = now_ms + config.election_timeout_ms_min
        roles.arm_election(self._state, now_ms)

    def step(self, event: Event, now_ms: float) -> Effects:
        """Take one event at `now_ms`, which never falls from step to step.

        Raises InvalidRequest for a malformed message or compaction, nothing changed; StorageDamaged when what is durable
        here or at a peer contradicts Raft's guarantees: stop the group.
        """
        state = self._state
        effects = state.effects = Effects()
        role, term, leader, configuration = state.role, state.term, state.leader, state.configuration
        looks = False
        if state.asleep and type(event) not in _UNHEARD:
            sleeping.wake(state, now_ms)
        if type(event) is Receive:
            _receive(state, event.sender, event.message, now_ms)
        elif type(event) is not Deadline or now_ms >= self.deadline_ms:
            EVENTS[state.role][type(event)](state, event, now_ms)
            looks = type(event) is Deadline or type(event) is LivenessChanged
        if state.role is LEADER:
            membership.settle(state, now_ms)
        if state.role is LEADER:
            replication.flush(state, now_ms)
            transfer.tell_successor(state)
        _persist(state, now_ms)
        if looks:
            sleeping.rest(state, now_ms)
        effects.role_changed = role is not state.role or term != state.term or leader != state.leader
        if state.configuration is not configuration and state.configuration != configuration:
            effects.configuration = state.configuration
        state.effects = NOTHING_ASKED
        if state.config.invariants_checked:
            state.invariants_all()
        else:
            state.invariants()
        return effects

    def applied_to(self, index: LogIndex) -> None:
        """The owner has applied through `index`: memory up to there may go, and compaction may reach it."""
        state = self._state
        assert state.applied <= index <= state.commit, "entries are applied in order and only when committed"
        state.applied = index
        state.log.trim(index, state.config.tail_bytes_max)

    def trim(self, bytes_max: int) -> None:
        """Hold at most `bytes_max` of what the stable log can give back, for a node that shares memory among groups."""
        self._state.log.trim(self._state.applied, bytes_max)

    def term_of(self, index: LogIndex) -> Term:
        """Term of a retained entry or of the snapshot index. Raises KeyError outside."""
        return self._state.log.term_of(index)

    def entries(self, first: LogIndex, last: LogIndex, bytes_max: int) -> list[Run]:
        """Entries from `first` towards `last`, at least one, at most `bytes_max` beyond that. May end before either bound:
        go on behind the last entry. Raises KeyError when `first` is not retained.

        For whoever applies them: an empty payload is a leader's no-op or a configuration, and asks for nothing."""
        runs = self._state.log.slice(first, last, bytes_max)[0]
        if self._state.configured >= first:
            return [without_configurations(run) for run in runs]
        return runs

    def needs_snapshot(self, meta: SnapshotMeta) -> bool:
        """Whether to install `meta`: ask before switching, in the very turn that switches and then steps SnapshotInstalled.
        Installing one that is not needed would throw away entries that this replica has acknowledged (trap 48); then end
        the transfer as failed, and the leader finds out what is missing."""
        return following.needs_snapshot(self._state, meta)

    def lease_holds(self, now_ms: float) -> bool:
        """Whether nobody else can have led before `now_ms`, a clock read after the answers to `reads_leased` were computed:
        then what they were computed from was the newest (thesis 6.4.1)."""
        return self._state.role is Role.LEADER and lease.holds(self._state, now_ms)

    @property
    def replica(self) -> ReplicaId:
        return self._state.replica

    @property
    def role(self) -> Role:
        return self._state.role

    @property
    def term(self) -> Term:
        return self._state.term

    @property
    def vote(self) -> ReplicaId:
        """Whom this replica voted for in `term`; 0 for nobody."""
        return self._state.vote

    @property
    def leader(self) -> ReplicaId | None:
        """Who leads `term` as far as is known here and believed alive."""
        return self._state.leader

    @property
    def commit_index(self) -> LogIndex:
        return self._state.commit

    @property
    def applied_index(self) -> LogIndex:
        return self._state.applied

    @property
    def last_index(self) -> LogIndex:
        return self._state.log.last_index

    @property
    def persisted_index(self) -> LogIndex:
        """Entries up to here are known to be durable here."""
        return self._state.log.persisted

    @property
    def deadline_ms(self) -> float:
        """When to step `Deadline`; infinity for never. It may move with any step, mostly it does not."""
        state = self._state
        if state.asleep:
            return math.inf
        return replication.deadline_ms(state) if state.role is LEADER else state.deadline_ms

    @property
    def asleep(self) -> bool:
        """Whether this replica has no deadline and relies on being told: messages, requests, and changes of liveness."""
        return self._state.asleep

    @property
    def configuration(self) -> Configuration:
        """The newest in the log, committed or not."""
        return self._state.configuration

    @property
    def configured_index(self) -> LogIndex:
        """The entry that made `configuration`, retained or not; 0 when it is the group's first. It names a configuration: no
        two of a group that were ever committed have the same."""
        return self._state.configured_at(self._state.log.last_index)

    @property
    def committed_configuration(self) -> Configuration:
        """The newest that is known here as committed."""
        return self._state.configuration_at(self._state.commit)

    @property
    def committed_configured_index(self) -> LogIndex:
        """The entry that made `committed_configuration`."""
        return self._state.configured_at(self._state.commit)

    def configuration_at(self, index: LogIndex) -> Configuration:
        """The one that counted at `index`, which the log retains."""
        return self._state.configuration_at(index)

    def snapshot_at(self, index: LogIndex) -> SnapshotMeta:
        """What a snapshot at `index`, which the log retains, stands for (reference trap 47)."""
        return self._state.snapshot_at(index)

    @property
    def snapshot(self) -> SnapshotMeta:
        """The log starts behind this."""
        return self._state.log.snapshot

    @property
    def progress(self) -> dict[ReplicaId, LogIndex]:
        """Leader: what each replica, itself included, durably holds of this log. Empty elsewhere."""
        state = self._state
        if state.role is not Role.LEADER:
            return {}
        return {peer: progress.match for peer, progress in state.progress.items()} | {state.replica: state.log.persisted}

    def only_snapshot_helps(self, peer: ReplicaId) -> bool:
        """Leader: whether a replica is known to lack entries that the log here has no more."""
        return replication.only_snapshot_helps(self._state, peer)

    @property
    def transferring_to(self) -> ReplicaId | None:
        """Leader: to whom leadership is being handed over; None when it is not."""
        return self._state.transfer_to

    @property
    def uncommitted_bytes(self) -> int:
        """Leader: bytes of own proposals that wait for commit."""
        return self._state.uncommitted_bytes

    @property
    def inflight_bytes(self) -> int:
        """Leader: bytes of entries on their way to followers."""
        return replication.inflight_bytes(self._state)

    @property
    def tail_bytes(self) -> int:
        """Bytes of entries held in memory."""
        return self._state.log.tail_bytes

    def invariants(self) -> None:
        """Assert everything that can be asserted about one replica alone."""
        self._state.invariants_all()


def _receive(state: State, sender: ReplicaId, message: Message, now_ms: float) -> None:
    """Compare terms (paper 5.1), then ask the table."""
    if isinstance(message, Append):
        check_append(message)
    if message.term != state.term and not _is_vote_business(message):
        leads = isinstance(message, Append | SnapshotOffer | TimeoutNow)
        if message.term < state.term:
            if leads:
                following.on_stale_leader(state, sender, message)
            return
        roles.become_follower(state, message.term, sender if leads else None, now_ms)
    MESSAGES[state.role][type(message)](state, sender, message, now_ms)


def _is_vote_business(message: Message) -> bool:
    """Requests for votes and answers to pre-votes name terms that nobody is in yet; `election` judges them."""
    return isinstance(message, VoteRequest) or (isinstance(message, VoteReply) and message.pre)


def _persist(state: State, now_ms: float) -> None:
    """Number what this step changed durably, as one write."""
    if not (state.unsaved_runs or state.unsaved_vote or state.unsaved_snapshot or state.unsaved_truncate):
        return
    state.sequence += 1
    state.effects.persist = Persist(
        state.term,
        state.sequence,
        state.hard_state if state.unsaved_vote else None,
        state.unsaved_truncate,
        state.unsaved_runs,
        state.unsaved_snapshot,
    )
    if not state.writes:
        state.writes = []
    state.writes.append((state.sequence, state.term, state.log.last_index, now_ms))
    state.unsaved_vote = False
    state.unsaved_truncate = None
    state.unsaved_runs = NO_ITEMS
    state.unsaved_snapshot = None
