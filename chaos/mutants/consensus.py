"""Planted bugs in Raft, in its log, and in the order of writing, syncing and telling."""

from __future__ import annotations

from typing import Any

from chaos.mutants.mutant import Patch, collector
from cluster.ids import LogIndex, ReplicaId, Term
from cluster.pump.pump import Pump
from cluster.raft import core, election, following, quorum, replication, roles
from cluster.raft.log import Log
from cluster.raft.messages import Append, AppendReply, HardState, Message, VoteReply, VoteRequest
from cluster.raft.state import State
from cluster.shard.turn import Turn
from cluster.storage.log import ShardLog

MUTANTS, mutant = collector()


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


@mutant("a follower acknowledges an append before its disk has it (trap 7)")
def append_acked_before_sync(patch: Patch) -> None:
    _tell_early(patch, AppendReply)


@mutant("a replica has forgotten whom it voted for after a restart (trap 2)")
def vote_forgotten_at_restart(patch: Patch) -> None:
    def hard_state(log: ShardLog) -> HardState:
        return HardState(log._hard_state.term, ReplicaId(0))

    patch.set(ShardLog, "hard_state", property(hard_state))


@mutant("the frames that wait for a sync leave with the write (trap 7)")
def frames_leave_with_the_write(patch: Patch) -> None:
    def send(turn: Turn, node: Any, item: Any) -> None:
        turn.send_now(node, item)

    patch.set(Turn, "send_after_sync", send)


@mutant("one finished sync counts for everything written since it began")
def sync_counts_for_later_writes(patch: Patch) -> None:
    def persisted(pump: Pump, write: int, now_ms: float) -> Any:
        return original(pump, pump.written, now_ms)

    original = patch.set(Pump, "persisted", persisted)


def _commit(patch: Patch, reached_by: Any, *, old_terms: bool = False) -> None:
    def maybe_commit(state: State) -> None:
        reached = LogIndex(reached_by(state))
        if reached > state.commit and (old_terms or reached >= state.term_start):
            state.commit_to(reached)
            state.proposals[:] = [item for item in state.proposals if item[0] > reached]
            state.uncommitted_bytes = sum(size for _, size in state.proposals)

    patch.set(replication, "maybe_commit", maybe_commit)


def _matches(state: State, own: LogIndex) -> list[LogIndex]:
    return [own if voter == state.replica else state.progress[voter].match for voter in state.configuration.voters]


@mutant("the leader counts itself before its own disk has the entry (trap 7)")
def leader_counts_unsynced_self(patch: Patch) -> None:
    _commit(patch, lambda state: quorum.reached(_matches(state, state.log.last_index)))


@mutant("an entry of an earlier term is committed by counting (paper figure 8, trap 24)")
def old_term_committed_by_count(patch: Patch) -> None:
    _commit(patch, lambda state: quorum.reached(_matches(state, state.log.persisted)), old_terms=True)


@mutant("one follower's acknowledgement is enough for nobody: the leader commits alone")
def leader_commits_alone(patch: Patch) -> None:
    _commit(patch, lambda state: state.log.persisted)


@mutant("a quorum is one voter short")
def quorum_one_short(patch: Patch) -> None:
    def majority(voters: int) -> int:
        return max(1, voters // 2)

    patch.set(quorum, "majority", majority)


@mutant("votes are given without comparing logs (paper 5.4.1)")
def vote_without_log_check(patch: Patch) -> None:
    patch.set(election, "_complete", lambda state, request: True)


@mutant("answers of earlier terms are believed (trap 28)")
def stale_answers_believed(patch: Patch) -> None:
    def receive(state: State, sender: ReplicaId, message: Any, now_ms: float) -> None:
        if isinstance(message, AppendReply | VoteReply) and message.term < state.term:
            core.MESSAGES[state.role][type(message)](state, sender, message, now_ms)
        else:
            original(state, sender, message, now_ms)

    original = patch.set(core, "_receive", receive)


@mutant("any append cuts the log behind its own last entry (trap 25)")
def append_truncates_what_follows(patch: Patch) -> None:
    def on_append(state: State, sender: ReplicaId, message: Append, now_ms: float) -> None:
        last = message.runs[-1].last_index if message.runs else message.previous_index
        fits = state.log.matches(message.previous_index, message.previous_term)
        if fits and max(state.commit, state.log.snapshot.index) <= last < state.log.last_index:
            state.truncate_from(LogIndex(last + 1))
        following.on_append(state, sender, message, now_ms)

    patch.handler(core.MESSAGES, following.on_append, on_append)


@mutant("an acknowledgement names the last entry of the log instead of the last one verified (trap 26)")
def ack_of_unverified_tail(patch: Patch) -> None:
    def accepted(state: State, index: LogIndex) -> AppendReply:
        return AppendReply(state.term, state.log.last_index, False, state.commit, state.term)

    patch.set(following, "accepted", accepted)


@mutant("the entry before an append is not compared (paper 5.3)")
def previous_entry_not_compared(patch: Patch) -> None:
    def matches(log: Log, index: LogIndex, term: Term) -> bool:
        return log.snapshot.index <= index <= log.last_index

    patch.set(Log, "matches", matches)


@mutant("a truncated entry still counts as durable (trap 6)")
def truncation_keeps_persisted(patch: Patch) -> None:
    def truncate(log: Log, index: LogIndex) -> None:
        persisted = log.persisted
        original(log, index)
        log.persisted = persisted

    original = patch.set(Log, "truncate_from", truncate)


@mutant("an installed snapshot throws away the entries behind it, which were acknowledged (trap 48)")
def snapshot_over_acknowledged_entries(patch: Patch) -> None:
    patch.set(following, "needs_snapshot", lambda state, meta: meta.term <= state.term)


@mutant("the acknowledgement of an installed snapshot does not wait for the disk (trap 50)")
def snapshot_acked_before_sync(patch: Patch) -> None:
    def on_installed(state: State, event: Any, now_ms: float) -> None:
        following.on_snapshot_installed(state, event, now_ms)
        state.effects.send_now.extend(state.effects.send_after_persist)
        state.effects.send_after_persist.clear()

    patch.handler(core.EVENTS, following.on_snapshot_installed, on_installed)


@mutant("a wiped node is taken for the one it was (trap 11)")
def wiped_node_not_fenced(patch: Patch) -> None:
    patch.set(Pump, "_known_store", lambda pump, node, store: True)


@mutant("a candidate counts a vote that nobody gave")
def vote_counted_that_nobody_gave(patch: Patch) -> None:
    def become_candidate(state: State, *arguments: Any, **options: Any) -> None:
        original(state, *arguments, **options)
        state.votes = dict.fromkeys(state.peers[:1], True)

    original = patch.set(roles, "become_candidate", become_candidate)
