"""Handing leadership over on purpose, for maintenance and balance, in about one round trip (thesis 3.10).

The leader stops taking proposals, brings its successor up to date, and tells it to campaign at once. Voters grant such a
campaign although they hear a leader, for it is the leader's own wish (thesis 4.2.3).

Invariant: a leader never takes proposals and hands over at once, and gives a transfer up after a minimum election timeout, so
a successor that can not catch up costs the group no more than that (reference trap 40). What a TimeoutNow started can not be
recalled: `may_still_campaign` is True until the log of whoever got one has moved on, which makes it stale (reference trap 38).
"""

from __future__ import annotations

import math

from cluster.errors import InvalidRequest, NotLeader, Transferring
from cluster.ids import LogIndex, ReplicaId
from cluster.raft import election
from cluster.raft.events import Transfer
from cluster.raft.messages import TimeoutNow
from cluster.raft.state import State


def on_transfer(state: State, event: Transfer, now_ms: float) -> None:
    """Leader. The same successor named again changes nothing, another one is refused until this is over."""
    if state.transfer_to == event.to:
        return
    if state.transfer_to is not None:
        state.effects.refusal = transferring(state)
    elif event.to == state.replica or event.to not in state.configuration.voters:
        state.effects.refusal = InvalidRequest(f"replica {event.to} is not another voter of this group")
    else:
        begin(state, event.to, now_ms)


def begin(state: State, to: ReplicaId, now_ms: float) -> None:
    state.transfer_to = to
    state.transfer_until_ms = now_ms + state.config.election_timeout_ms_min
    state.transfer_told = False


def refuse_transfer(state: State, _: Transfer, now_ms: float) -> None:
    """Any role but leader."""
    leader = "" if state.leader is None else state.leader
    state.effects.refusal = NotLeader("this replica does not lead the group", leader=leader)


def transferring(state: State) -> Transferring:
    """What proposals are told meanwhile."""
    successor = "" if state.transfer_to is None else state.transfer_to
    return Transferring("leadership is being handed over", retry_after_ms=state.config.overloaded_retry_ms, successor=successor)


def tell_successor(state: State) -> None:
    """Leader, once in each step: send TimeoutNow when the successor holds the whole log durably."""
    to = state.transfer_to
    if to is None or state.transfer_told:
        return
    last = state.log.last_index
    if state.progress[to].match == last:
        state.transfer_told = True
        if not state.timeouts_sent:
            state.timeouts_sent = {}
        state.timeouts_sent[to] = last
        state.send_now(to, TimeoutNow(state.term, last))


def best_successor(state: State) -> ReplicaId | None:
    """Leader: the other voter that has most of the log, and of several the one that was heard last: one may be dead and have
    everything. None when there is no other voter."""

    def rank(voter: ReplicaId) -> tuple[LogIndex, float]:
        progress = state.progress[voter]
        return progress.match, max(progress.heard_ms, state.liveness.acked_sent_ms(voter, state.term))

    return max([voter for voter in state.configuration.voters if voter != state.replica], key=rank, default=None)


def call_successor(state: State) -> None:
    """Leader that stops because its disk hangs: nothing of the network does, so whoever has the whole log need not wait until
    this one is missed (reference trap 21)."""
    last, to = state.log.last_index, best_successor(state)
    if to is not None and state.progress[to].match == last:
        state.send_now(to, TimeoutNow(state.term, last))


def abort_if_due(state: State, now_ms: float) -> None:
    """Leader: take proposals again when the successor has not managed within an election timeout (reference trap 40)."""
    if now_ms >= state.transfer_until_ms:
        abort(state)


def abort(state: State) -> None:
    state.transfer_to = None
    state.transfer_until_ms = math.inf


def may_still_campaign(state: State) -> bool:
    """Leader: whether somebody may act on a TimeoutNow of this term, however late it arrives."""
    return any(to not in state.progress or state.progress[to].match <= last for to, last in state.timeouts_sent.items())


def on_timeout_now(state: State, sender: ReplicaId, message: TimeoutNow, now_ms: float) -> None:
    """Follower or pre-candidate, message of this term. Refused in silence when stale: the sender gives up by itself."""
    if state.votes_here and message.last_index == state.log.last_index and state.leader in (sender, None):
        election.campaign_for_transfer(state, now_ms)
