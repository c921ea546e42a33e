"""A leader changes the configuration, and sees every change through (paper section 6; thesis 4.2.2, 4.3).

    1. ChangeConfiguration appends the joint configuration, which counts from then on, at whoever has the entry.
    2. Once that is committed in this leadership, whoever leads appends the final one. No client has to come back for it
       (reference traps 43, 46).
    3. A leader that does not vote in the final one hands over to the best successor when that is committed, and stops
       (reference trap 45).

Invariant: at most one configuration entry is uncommitted, and a joint one is left before the next change (reference trap 41).

Not here: what an entry says and which steps are allowed (configuration), adoption and rollback by followers (state).
"""

from __future__ import annotations

from cluster.errors import ChangePending, ClusterError, InvalidRequest, LearnerBehind, NotLeader
from cluster.ids import LogIndex, ReplicaId
from cluster.raft import configuration, roles, transfer
from cluster.raft.effects import Ticket
from cluster.raft.events import ChangeConfiguration
from cluster.raft.log import size_of
from cluster.raft.messages import Configuration, Run
from cluster.raft.progress import Pace, Progress
from cluster.raft.state import State


def refuse_change(state: State, _: ChangeConfiguration, now_ms: float) -> None:
    """Any role but leader."""
    leader = "" if state.leader is None else state.leader
    state.effects.refusal = NotLeader("this replica does not lead the group", leader=leader)


def on_change(state: State, event: ChangeConfiguration, now_ms: float) -> None:
    """Leader. Appends one entry or refuses, nothing changed."""
    state.effects.refusal = refusal = _refusal(state)
    if refusal is not None:
        return
    try:
        wanted = configuration.entered(state.configuration, event.voters, event.learners, event.places)
    except (ChangePending, InvalidRequest) as error:
        state.effects.refusal = error
        return
    for replica in wanted.voters:
        if replica in state.configuration.learners and not _close(state, replica, now_ms):
            state.effects.refusal = LearnerBehind(
                f"replica {replica} lacks too much of the log to vote", retry_after_ms=state.config.overloaded_retry_ms
            )
            return
    _append(state, wanted, now_ms)
    index = state.log.last_index
    state.effects.ticket = Ticket(state.term, index, index)


def _refusal(state: State) -> ClusterError | None:
    if state.transfer_to is not None:
        return transfer.transferring(state)
    if state.commit < state.term_start or state.commit < state.configured:
        # Two leaders that each change from a different old one could otherwise commit apart (raft-dev 2015, trap 41).
        return ChangePending("an earlier entry must be committed first", retry_after_ms=state.config.overloaded_retry_ms)
    return None


def _close(state: State, replica: ReplicaId, now_ms: float) -> bool:
    """Whether this learner would count at once as a voter (thesis 4.2.1, reference trap 44)."""
    progress = state.progress[replica]
    heard_ms = max(progress.heard_ms, state.liveness.acked_sent_ms(replica, state.term))
    return (
        progress.pace is Pace.REPLICATE
        and progress.match + state.config.promotion_lag_entries >= state.log.last_index
        and now_ms - heard_ms <= state.config.election_timeout_ms_min
    )


def _append(state: State, wanted: Configuration, now_ms: float) -> None:
    payloads = [configuration.encode(wanted)]
    index = LogIndex(state.log.last_index + 1)
    state.append(Run(index, state.term, payloads), size_of(payloads))
    state.adopt(index, wanted)
    for peer in [peer for peer in state.progress if peer not in state.peers]:
        del state.progress[peer]
    for peer in state.peers:
        if peer not in state.progress:
            if not state.progress:
                state.progress = {}
            state.progress[peer] = Progress(index, now_ms)


def settle(state: State, now_ms: float) -> None:
    """Leader, once in each step: take the next step that the configuration needs."""
    joint = bool(state.configuration.outgoing)
    if not joint and state.replica in state.configuration.voters:
        return
    if state.commit < max(state.configured, state.term_start):
        return
    if joint:
        # Not while leadership is handed over: the successor's log would never be complete.
        if state.transfer_to is None:
            _append(state, configuration.left(state.configuration), now_ms)
    elif not state.retiring:
        state.retiring = True
        if state.transfer_to is None:
            successor = transfer.best_successor(state)
            assert successor is not None, "a group has voters, and the leader is none of them"
            transfer.begin(state, successor, now_ms)
    elif state.transfer_to is None:
        roles.become_follower(state, state.term, None, now_ms)
