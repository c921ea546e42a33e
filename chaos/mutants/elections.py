"""Planted bugs in votes and terms, in PreVote and CheckQuorum, and in what nodes vouch for."""

from __future__ import annotations

from typing import Any

import msgspec

from chaos.mutants.mutant import Patch, collector
from chaos.mutants.reach import HUNG_LEADERS, ILL_LEADERS, WIPES
from cluster.ids import LogIndex, NodeId, ReplicaId, ShardId, Term
from cluster.pump import liveness
from cluster.pump.outbox import Outbox
from cluster.pump.pump import Pump
from cluster.raft import core, election, quorum, replication, roles
from cluster.raft.effects import Role
from cluster.raft.messages import AppendReply, HardState, VoteReply, VoteRequest
from cluster.raft.progress import Progress
from cluster.raft.state import NOBODY, State
from cluster.storage.log import ShardLog

MUTANTS, mutant = collector()

# votes


@mutant("a replica has forgotten whom it voted for after a restart (trap 2)")
def vote_forgotten_at_restart(patch: Patch) -> None:
    def hard_state(log: ShardLog) -> HardState:
        return HardState(log._hard_state.term, NOBODY, log._hard_state.configured)

    patch.set(ShardLog, "hard_state", property(hard_state))


@mutant("term and vote are kept in memory only (trap 1)")
def term_and_vote_in_memory_only(patch: Patch) -> None:
    def set_hard_state(log: ShardLog, batch: Any, hard_state: HardState) -> None:
        log._hard_state = hard_state

    patch.set(ShardLog, "_set_hard_state", set_hard_state)


@mutant("who steps down within a term forgets its vote in it (trap 3)")
def vote_cleared_on_stepping_down(patch: Patch) -> None:
    def become_follower(state: State, term: Term, leader: ReplicaId | None, now_ms: float) -> None:
        steps_down = term == state.term and state.role is not Role.FOLLOWER
        original(state, term, leader, now_ms)
        if steps_down:
            state.vote = NOBODY

    original = patch.set(roles, "become_follower", become_follower)


@mutant("votes are given without comparing logs (paper 5.4.1)")
def vote_without_log_check(patch: Patch) -> None:
    patch.set(election, "_complete", lambda state, request: True)


@mutant("a quorum is one voter short")
def quorum_one_short(patch: Patch) -> None:
    def majority(voters: int) -> int:
        return max(1, voters // 2)

    patch.set(quorum, "majority", majority)


@mutant("a candidate counts a vote that nobody gave")
def vote_counted_that_nobody_gave(patch: Patch) -> None:
    def become_candidate(state: State, *arguments: Any, **options: Any) -> None:
        original(state, *arguments, **options)
        state.votes = dict.fromkeys(state.peers[:1], True)

    original = patch.set(roles, "become_candidate", become_candidate)


@mutant("a refusal is counted as a vote (trap 22)")
def refusal_counted_as_vote(patch: Patch) -> None:
    def on_vote(state: State, sender: ReplicaId, reply: VoteReply, now_ms: float) -> None:
        election.on_candidate_vote(state, sender, msgspec.structs.replace(reply, granted=True), now_ms)

    patch.handler(core.MESSAGES, election.on_candidate_vote, on_vote)


@mutant("a wiped node is taken for the one it was (trap 11)", WIPES)
def wiped_node_not_fenced(patch: Patch) -> None:
    patch.set(Pump, "_known_store", lambda pump, node, store: True)


# terms


@mutant("answers of earlier terms are believed (trap 28)")
def stale_answers_believed(patch: Patch) -> None:
    def receive(state: State, sender: ReplicaId, message: Any, now_ms: float) -> None:
        if isinstance(message, AppendReply | VoteReply) and message.term < state.term:
            core.MESSAGES[state.role][type(message)](state, sender, message, now_ms)
        else:
            original(state, sender, message, now_ms)

    original = patch.set(core, "_receive", receive)


@mutant("a higher term in an answer is ignored")
def higher_term_in_answer_ignored(patch: Patch) -> None:
    def receive(state: State, sender: ReplicaId, message: Any, now_ms: float) -> None:
        if isinstance(message, AppendReply | VoteReply) and message.term > state.term:
            return
        original(state, sender, message, now_ms)

    original = patch.set(core, "_receive", receive)


@mutant("a pre-vote is granted in the voter's own term, so nobody ever wins one (trap 17)")
def pre_vote_granted_in_own_term(patch: Patch) -> None:
    def answer(state: State, sender: ReplicaId, request: VoteRequest, now_ms: float) -> None:
        granted = (
            request.term > state.term and not election._sticks_to_leader(state, now_ms) and election._complete(state, request)
        )
        state.send_now(sender, VoteReply(state.term, granted, pre=True))

    patch.set(election, "_answer_pre_vote", answer)


@mutant("a candidate whose votes were split does not try again")
def candidate_tries_once(patch: Patch) -> None:
    patch.handler(core.EVENTS, election.on_candidate_deadline, lambda state, event, now_ms: roles.arm_election(state, now_ms))


# leading


@mutant("a new leader appends nothing of its own term and takes the last entry for it (paper 8)")
def no_entry_at_the_terms_start(patch: Patch) -> None:
    def become_leader(state: State, now_ms: float) -> None:
        if not state.log.last_index:
            original(state, now_ms)
            return
        state.role, state.leader, state.lost_leader, state.lost_retries = Role.LEADER, state.replica, None, 0
        state.votes.clear()
        state.self_vote = 0
        state.term_start = state.log.last_index
        state.progress = {peer: Progress(LogIndex(state.term_start + 1), now_ms) for peer in state.peers}
        state.check_ms = now_ms + state.config.election_timeout_ms_min

    original = patch.set(roles, "become_leader", become_leader)


@mutant("a leader that no quorum answers goes on leading (trap 20)", ILL_LEADERS)
def leader_without_quorum_goes_on(patch: Patch) -> None:
    def check(state: State, now_ms: float) -> bool:
        state.check_ms = now_ms + state.config.election_timeout_ms_min
        return not state.disk_hangs(now_ms)

    patch.set(replication, "check_quorum", check)


@mutant("a leader whose disk hangs goes on leading (trap 21)", HUNG_LEADERS)
def leader_with_hung_disk_goes_on(patch: Patch) -> None:
    patch.set(State, "disk_hangs", lambda state, now_ms: False)
    patch.set(State, "oldest_write_ms", lambda state, now_ms: now_ms)
    patch.set(Outbox, "waits_since_ms", lambda outbox, now_ms: now_ms)


@mutant("a node goes on vouching for groups that it leads no more (trap 53)")
def lost_leadership_still_listed(patch: Patch) -> None:
    patch.set(liveness.NodeLiveness, "delist", lambda known, shard: None)


@mutant("an acknowledged round counts also where the peer's term is higher")
def exception_of_a_higher_term_ignored(patch: Patch) -> None:
    def acked_sent_ms(known: liveness.NodeLiveness, node: NodeId, shard: ShardId, term: Term) -> float:
        peer = known._peers.get(node)
        if peer is None:
            return liveness.NEVER
        exceptions, peer.exceptions = peer.exceptions, frozenset()
        try:
            return float(original(known, node, shard, term))
        finally:
            peer.exceptions = exceptions

    original = patch.set(liveness.NodeLiveness, "acked_sent_ms", acked_sent_ms)


@mutant("evidence that the leader is gone is thrown away, and nobody looks out for another")
def lost_leader_never_replaced(patch: Patch) -> None:
    def on_deadline(state: State, event: Any, now_ms: float) -> None:
        if state.leader is not None:
            roles.arm_election(state, now_ms)
        else:
            election.on_follower_deadline(state, event, now_ms)

    patch.handler(core.EVENTS, election.on_leader_lost, lambda state, event, now_ms: None)
    patch.handler(core.EVENTS, election.on_follower_deadline, on_deadline)
