"""Planted bugs in the replicated log: appending, acknowledging, committing, and the order of writing, syncing and telling."""

from __future__ import annotations

from typing import Any

from chaos.mutants.mutant import Patch, collector
from cluster.ids import LogIndex, ReplicaId, Term
from cluster.pump.pump import Pump
from cluster.raft import core, following, quorum, replication
from cluster.raft.log import Log
from cluster.raft.messages import Append, AppendReply, Message, VoteReply, VoteRequest
from cluster.raft.progress import Pace, Progress
from cluster.raft.state import State
from cluster.shard.turn import Turn

MUTANTS, mutant = collector()

# telling before the disk has it


def _tell_early(patch: Patch, kind: type[Message]) -> None:
    def send(state: State, peer: ReplicaId, message: Message) -> None:
        if isinstance(message, kind):
            state.send_now(peer, message)
        else:
            original(state, peer, message)

    original = patch.set(State, "send_after_persist", send)


@mutant("a vote is told before it is durable (trap 1)")
def vote_told_before_sync(patch: Patch) -> None:
    _tell_early(patch, VoteReply)


@mutant("a candidate asks for votes before its own is durable (trap 1)")
def own_vote_told_before_sync(patch: Patch) -> None:
    _tell_early(patch, VoteRequest)


@mutant("a follower acknowledges an append before its disk has it (trap 5)")
def append_acked_before_sync(patch: Patch) -> None:
    _tell_early(patch, AppendReply)


@mutant("a write counts as durable when it is written, not when it is synced (trap 8)")
def frames_leave_with_the_write(patch: Patch) -> None:
    def send(turn: Turn, node: Any, item: Any) -> None:
        turn.send_now(node, item)

    patch.set(Turn, "send_after_sync", send)


@mutant("one finished sync counts for everything written since it began")
def sync_counts_for_later_writes(patch: Patch) -> None:
    def persisted(pump: Pump, write: int, now_ms: float) -> Any:
        return original(pump, pump.written, now_ms)

    original = patch.set(Pump, "persisted", persisted)


@mutant("the acknowledgement of an installed snapshot does not wait for the disk (trap 5)")
def snapshot_acked_before_sync(patch: Patch) -> None:
    def on_installed(state: State, event: Any, now_ms: float) -> None:
        following.on_snapshot_installed(state, event, now_ms)
        state.effects.send_now.extend(state.effects.send_after_persist)
        state.effects.send_after_persist.clear()

    patch.handler(core.EVENTS, following.on_snapshot_installed, on_installed)


@mutant("a truncated entry still counts as durable (trap 6)")
def truncation_keeps_persisted(patch: Patch) -> None:
    def truncate(log: Log, index: LogIndex) -> None:
        persisted = log.persisted
        original(log, index)
        log.persisted = persisted

    original = patch.set(Log, "truncate_from", truncate)


@mutant("the completion of a write counts for the entries that have replaced its own (trap 6)")
def completion_of_a_replaced_write_counts(patch: Patch) -> None:
    def truncate(state: State, index: LogIndex) -> None:
        writes = list(state.writes)
        original(state, index)
        state.writes = writes

    original = patch.set(State, "truncate_from", truncate)


# committing


def _commit(patch: Patch, reached_by: Any, *, old_terms: bool = False) -> None:
    def maybe_commit(state: State) -> None:
        reached = LogIndex(reached_by(state))
        if reached > state.commit and (old_terms or reached >= state.term_start):
            state.commit_to(reached)
            state.proposals = [item for item in state.proposals if item[0] > reached]
            state.uncommitted_bytes = sum(size for _, size in state.proposals)

    patch.set(replication, "maybe_commit", maybe_commit)


def _agreed(state: State, own: LogIndex) -> LogIndex:
    return LogIndex(
        quorum.agreed(state.configuration, lambda voter: own if voter == state.replica else state.progress[voter].match)
    )


@mutant("the leader counts itself before its own disk has the entry (trap 7)")
def leader_counts_unsynced_self(patch: Patch) -> None:
    _commit(patch, lambda state: _agreed(state, state.log.last_index))


@mutant("an entry of an earlier term is committed by counting (paper figure 8, trap 24)")
def old_term_committed_by_count(patch: Patch) -> None:
    _commit(patch, lambda state: _agreed(state, state.log.persisted), old_terms=True)


@mutant("the leader commits what it alone has")
def leader_commits_alone(patch: Patch) -> None:
    _commit(patch, lambda state: state.log.persisted)


# following


@mutant("any append cuts the log behind its own last entry (trap 25)")
def append_truncates_what_follows(patch: Patch) -> None:
    def on_append(state: State, sender: ReplicaId, message: Append, now_ms: float) -> None:
        last = message.runs[-1].last_index if message.runs else message.previous_index
        fits = state.log.matches(message.previous_index, message.previous_term)
        if fits and max(state.commit, state.log.snapshot.index) <= last < state.log.last_index:
            state.truncate_from(LogIndex(last + 1))
        following.on_append(state, sender, message, now_ms)

    patch.handler(core.MESSAGES, following.on_append, on_append)


@mutant("entries that the leader contradicts stay in the log (paper 5.3)")
def contradicted_entries_kept(patch: Patch) -> None:
    patch.set(Log, "first_conflict", lambda log, run: None)


@mutant("the entry before an append is not compared (paper 5.3)")
def previous_entry_not_compared(patch: Patch) -> None:
    def matches(log: Log, index: LogIndex, term: Term) -> bool:
        return log.snapshot.index <= index <= log.last_index

    patch.set(Log, "matches", matches)


@mutant("an acknowledgement names the last entry of the log instead of the last one verified (trap 26)")
def ack_of_unverified_tail(patch: Patch) -> None:
    def accepted(state: State, index: LogIndex) -> AppendReply:
        return AppendReply(state.term, state.log.last_index, False, state.commit, state.term)

    patch.set(following, "accepted", accepted)


# not waiting for ever


@mutant("what a follower does not answer is never asked again (trap 30)")
def unanswered_append_never_repeated(patch: Patch) -> None:
    patch.set(replication, "_ask_again", lambda state, peer, progress, now_ms: None)


@mutant("who was offered a snapshot must acknowledge that very index (trap 31)")
def snapshot_must_be_the_one_offered(patch: Patch) -> None:
    def accepted(state: State, progress: Progress, reply: AppendReply, now_ms: float) -> None:
        if progress.pace is Pace.SNAPSHOT and reply.index != progress.pending_snapshot:
            return
        original(state, progress, reply, now_ms)

    original = patch.set(replication, "_accepted", accepted)
