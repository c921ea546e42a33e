"""Sleep: a replica that waits for nothing has no deadline, so an idle group costs its node nothing (reference traps 50 to 53).

What a timer would find out is told instead. A sleeper relies on what its node's liveness said when it fell asleep, and the
owner steps `LivenessChanged` when that may no longer hold. Three kinds of replicas sleep:

    a follower    that has everything, and whose leader's node lists the group in its term
    a leader      whose followers have everything and know it, or are away; and a quorum acknowledges liveness
    a candidate   that could not win now, because too few voters' nodes are there; it does so as a follower of nobody

Every other event wakes too, and is then handled as if there had been no sleep: sleeping is never agreed on between replicas,
and one that sleeps alone does no harm. Time is real time throughout, so votes, leases and CheckQuorum judge by it as ever
(trap 52).

Invariant: a sleeper owes nothing: no write, proposal, read, transfer or change is under way. A leader that wakes without its
quorum stops leading before it hears what woke it.

Not here: noticing that liveness changed, and how many sleepers may wake at a time (the owner).
"""

from __future__ import annotations

import math

from cluster.raft import election, quorum, replication, roles
from cluster.raft.effects import Role
from cluster.raft.progress import Pace, Progress
from cluster.raft.state import State


def rest(state: State, now_ms: float) -> None:
    """After a look at liveness: sleep if there is nothing to wait for."""
    if state.writes:
        return
    done = state.applied == state.log.last_index
    if state.role is Role.LEADER:
        state.asleep = done and _leader_may_sleep(state, now_ms)
    elif state.role is Role.FOLLOWER and state.votes_here:
        if state.leader is None:
            state.asleep = not election.could_win(state, now_ms)
        else:
            state.asleep = done and _recent(state, state.liveness.leader_heard_ms(state.leader, state.term), now_ms)
    if state.asleep:
        state.log.trim(state.applied, 0)  # the stable log gives it back to whoever still asks


def wake(state: State, now_ms: float) -> None:
    """Before an event. Timers start anew; a leader first makes sure that it still is one."""
    state.asleep = False
    if state.role is not Role.LEADER:
        roles.arm_election(state, now_ms)
        return
    state.retry_ms = min([progress.retry_at_ms for progress in state.progress.values()], default=math.inf)
    if not replication.check_quorum(state, now_ms):
        roles.become_follower(state, state.term, None, now_ms)


def _leader_may_sleep(state: State, now_ms: float) -> bool:
    """Whether nothing is under way, nobody who is there lacks anything, and the quorum is liveness's business alone."""
    if state.reads_waiting or state.transfer_to is not None or state.configuration.outgoing:
        return False
    if state.replica not in state.configuration.voters:
        return False
    liveness, term = state.liveness, state.term
    for peer, progress in state.progress.items():
        if not _has_everything(state, progress) and _recent(state, liveness.heard_ms(peer), now_ms):
            return False
    acked_ms = quorum.agreed(
        state.configuration, lambda voter: now_ms if voter == state.replica else liveness.acked_sent_ms(voter, term)
    )
    return _recent(state, acked_ms, now_ms)


def _has_everything(state: State, progress: Progress) -> bool:
    return progress.pace is Pace.REPLICATE and progress.commit == progress.match == state.log.last_index


def _recent(state: State, at_ms: float, now_ms: float) -> bool:
    return now_ms - at_ms < state.config.election_timeout_ms_min
