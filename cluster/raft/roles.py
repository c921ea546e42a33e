"""The four roles and every way from one to another (paper 5.1, figure 4; PreVote of thesis 9.6).

    FOLLOWER -> PRE_CANDIDATE -> CANDIDATE -> LEADER, and from everywhere back to FOLLOWER

Invariant: whoever stops leading refuses its waiting reads and forgets its followers in the same step.
"""

from __future__ import annotations

import math

from cluster.empty import NO_ENTRIES, NO_ITEMS
from cluster.ids import LogIndex, ReplicaId, Term
from cluster.raft import lease
from cluster.raft.effects import Role
from cluster.raft.log import size_of
from cluster.raft.messages import Run
from cluster.raft.progress import Progress
from cluster.raft.state import NOBODY, State


def arm_election(state: State, now_ms: float) -> None:
    """Next look at the leader after a fresh random timeout. A replica that does not vote has nothing to do then, except to
    look out for a leader that it lost from sight."""
    if state.votes_here or state.lost_leader is not None:
        timeout_ms = state.random.uniform(state.config.election_timeout_ms_min, state.config.election_timeout_ms_max)
        state.deadline_ms = now_ms + timeout_ms
    else:
        state.deadline_ms = math.inf


def become_follower(state: State, term: Term, leader: ReplicaId | None, now_ms: float) -> None:
    """Follow `leader`, or nobody yet, in `term`. The election timer restarts unless this only learns of a term: a candidate
    that can not win must not keep others from trying."""
    assert term >= state.term, "terms never fall"
    was = state.role
    if term > state.term:
        if was is not Role.LEADER:
            state.promised_until_ms = lease.promised_until_ms(state)  # liveness is asked about the new term from now on
        state.save_vote(term, NOBODY)
    if was is Role.LEADER:
        _leave_leadership(state)
    state.role = Role.FOLLOWER
    state.leader = leader
    state.votes = NO_ENTRIES
    state.self_vote = 0
    if leader is not None:
        state.heard_ms = now_ms
        state.lost_leader = None
        state.lost_retries = 0
    if leader is not None or was is not Role.FOLLOWER:
        arm_election(state, now_ms)


def become_pre_candidate(state: State, now_ms: float) -> None:
    """Ask whether an election could be won, changing nothing durable."""
    assert state.role is not Role.LEADER, "who leads has no reason to campaign"
    assert state.votes_here, "only voters campaign"
    state.role = Role.PRE_CANDIDATE
    state.leader = None
    state.votes = {state.replica: True}
    state.self_vote = 0
    arm_election(state, now_ms)


def become_candidate(state: State, now_ms: float, *, transfer: bool = False) -> None:
    """Enter the next term with a vote for oneself, which counts once it is durable (reference trap 1)."""
    assert transfer or state.role is Role.PRE_CANDIDATE, "a campaign begins with a pre-vote unless the leader wants it"
    assert state.role is not Role.LEADER, "who leads has no reason to campaign"
    state.role = Role.CANDIDATE
    state.leader = None
    state.save_vote(Term(state.term + 1), state.replica)
    state.votes = {}
    state.self_vote = state.sequence + 1
    arm_election(state, now_ms)


def become_leader(state: State, now_ms: float) -> None:
    """Lead the term: append its no-op, without which older entries may not be committed (paper 5.4.2, 8)."""
    assert state.role is Role.CANDIDATE, "leaders are elected"
    state.role = Role.LEADER
    state.leader = state.replica
    state.lost_leader = None
    state.lost_retries = 0
    state.votes = NO_ENTRIES
    state.self_vote = 0
    state.term_start = LogIndex(state.log.last_index + 1)
    state.progress = {peer: Progress(state.term_start, now_ms) for peer in state.peers}
    state.check_ms = now_ms + state.config.election_timeout_ms_min
    no_op = [b""]
    state.append(Run(state.term_start, state.term, no_op), size_of(no_op))


def _leave_leadership(state: State) -> None:
    state.effects.reads_refused.extend(context for context, _, _ in state.reads_waiting)
    state.reads_waiting = state.proposals = NO_ITEMS
    state.reads_acked = state.progress = state.timeouts_sent = NO_ENTRIES
    state.uncommitted_bytes = 0
    state.check_ms = state.retry_ms = state.transfer_until_ms = math.inf
    state.transfer_to = None
    state.retiring = state.transfer_told = False
