"""A follower's log: verify, cut what the leader contradicts, append, acknowledge when durable (paper 5.3, 7).

Invariant: an acknowledgement names the last entry that its message verified, never a tail that nobody has checked, and the
commit index rises no further than that (reference trap 26). Entries go only from the first contradiction on, so a late or
repeated append deletes nothing (reference trap 25).
"""

from __future__ import annotations

import math

from cluster.errors import StorageDamaged
from cluster.ids import LogIndex, ReplicaId
from cluster.raft import roles
from cluster.raft.configuration import entries_in
from cluster.raft.effects import Role
from cluster.raft.events import SnapshotInstalled
from cluster.raft.log import runs_after, size_of
from cluster.raft.messages import Append, AppendReply, Message, Run, SnapshotMeta, SnapshotOffer
from cluster.raft.state import State


def accepted(state: State, index: LogIndex) -> AppendReply:
    """`index` is verified. The hint tells this replica's commit index, so the leader knows when a notice got lost."""
    return AppendReply(state.term, index, False, state.commit, state.term)


def on_stale_leader(state: State, sender: ReplicaId, message: Message) -> None:
    """Any role, message of an earlier term. The answer deposes a leader that PreVote would otherwise let rule for ever
    without this replica, which may not go back to its term (reference trap 19)."""
    state.send_now(sender, AppendReply(state.term, LogIndex(0), True, LogIndex(0), state.term))


def on_append(state: State, sender: ReplicaId, message: Append, now_ms: float) -> None:
    """Follower, pre-candidate or candidate, well-formed message of this term. Raises StorageDamaged for a contradiction of
    what is committed."""
    _follow(state, sender, now_ms)
    log, runs = state.log, message.runs
    last = runs[-1].last_index if runs else message.previous_index
    if message.previous_index < log.snapshot.index:
        # What a snapshot covers is committed: of that, only its last entry is still known here, and must not differ.
        _compare_with_snapshot(state, runs)
        runs = runs_after(runs, log.snapshot.index)
        last = max(last, log.snapshot.index)
    elif not log.matches(message.previous_index, message.previous_term):
        _reject(state, sender, message)
        return
    for run in runs:
        if run.first_index <= log.last_index:
            conflict = log.first_conflict(run)
            if conflict is not None:
                state.truncate_from(conflict)
    for run in runs_after(runs, log.last_index):
        state.append(run, size_of(run.payloads))
        for index, configuration in entries_in(run):
            state.adopt(index, configuration)
    if state.votes_here and state.deadline_ms == math.inf:
        roles.arm_election(state, now_ms)
    commit_before = state.commit
    state.commit_to(min(message.commit, last))
    if message.runs or message.commit <= commit_before:
        # An empty append that taught a commit index is a notice: silence. One that taught nothing asks for an answer.
        state.send_after_persist(sender, accepted(state, last))


def _compare_with_snapshot(state: State, runs: list[Run]) -> None:
    snapshot = state.log.snapshot
    for run in runs:
        if run.first_index <= snapshot.index <= run.last_index and run.term != snapshot.term:
            raise StorageDamaged(
                f"the leader of term {state.term} has entry {snapshot.index} of term {run.term}, "
                f"but the snapshot here ends with it in term {snapshot.term}"
            )


def _reject(state: State, sender: ReplicaId, message: Append) -> None:
    """Hint at the newest entry that may match, skipping a whole term at a time (paper 5.3, reference trap 32)."""
    hint = state.log.newest_at_most(message.previous_index, message.previous_term)
    reply = AppendReply(state.term, message.previous_index, True, hint, state.log.term_of(hint))
    state.send_now(sender, reply)


def on_snapshot_offer(state: State, sender: ReplicaId, message: SnapshotOffer, now_ms: float) -> None:
    """Answer when the log already holds what is offered; otherwise the owner fetches and installs it."""
    _follow(state, sender, now_ms)
    meta = message.meta
    if needs_snapshot(state, meta):
        return
    assert meta.term <= state.term, "a leader's snapshot is of its term or an earlier one"
    if meta.index > state.commit:
        state.commit_to(meta.index)  # the very entry is here, and the leader only offers what is committed
    state.send_after_persist(sender, accepted(state, state.commit))


def needs_snapshot(state: State, meta: SnapshotMeta) -> bool:
    """Whether installing `meta` would add anything and is in order. If the log holds its last entry, installing would throw
    away what follows it, which may be acknowledged (paper 7; reference trap 48). A term that this replica has not entered
    must be durable before entries of it (reference trap 4)."""
    return state.commit < meta.index and meta.term <= state.term and not state.log.matches(meta.index, meta.term)


def on_snapshot_installed(state: State, event: SnapshotInstalled, now_ms: float) -> None:
    """The owner's state and stable log are now the snapshot, so this log is too. One that is already covered by the commit
    index is only acknowledged. Does not look at the stable log, which has changed already: the owner asked
    `needs_snapshot` before it installed."""
    meta = event.meta
    assert meta.term <= state.term, "the owner asked needs_snapshot"
    if meta.index > state.commit:
        if state.role is Role.LEADER:
            raise StorageDamaged(f"a leader of term {state.term} lacks entry {meta.index}, which is committed")
        state.reset_to(meta)
        roles.become_follower(state, state.term, state.leader, now_ms)
        if state.leader is None:
            # Its offer got lost and it may have nothing more to say: look out for it like for a leader lost from sight.
            state.lost_leader, state.lost_ms = event.leader, now_ms
        roles.arm_election(state, now_ms)
    state.send_after_persist(event.leader, accepted(state, state.commit))


def _follow(state: State, sender: ReplicaId, now_ms: float) -> None:
    if state.leader == sender:
        state.heard_ms = now_ms
    elif state.leader is None:
        roles.become_follower(state, state.term, sender, now_ms)
    else:
        raise StorageDamaged(f"replicas {state.leader} and {sender} both lead term {state.term}")
