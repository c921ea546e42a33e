"""Planted bugs in what clients are told: reads, watches, privacy, and the routes between a gateway and a leader."""

from __future__ import annotations

import math
from typing import Any

from chaos.mutants.mutant import Patch, collector
from cluster.documents.views import Viewing
from cluster.pump.incoming import Incoming
from cluster.pump.streams import Streams
from cluster.raft import core, reads
from cluster.raft.state import State
from cluster.session.operations import Consistency, Kind, Operation
from cluster.shard.document import LiveDocument
from cluster.shard.feed import Feed
from cluster.shard.proposals import Proposals
from cluster.shard.reading import Reader, WaitingReads

MUTANTS, mutant = collector()


@mutant("a leader answers reads without asking anybody whether it still leads")
def read_without_quorum(patch: Patch) -> None:
    def answer(state: State) -> None:
        state.effects.reads_ready.extend(item[:2] for item in state.reads_waiting)
        state.reads_waiting.clear()

    patch.set(reads, "_answer", answer)


@mutant("a new leader reads before it knows what earlier ones committed (trap 34)")
def read_before_the_terms_first_entry(patch: Patch) -> None:
    def on_read(state: State, event: Any, now_ms: float) -> None:
        start, state.term_start = state.term_start, state.commit
        try:
            reads.on_read(state, event, now_ms)
        finally:
            state.term_start = start

    patch.handler(core.EVENTS, reads.on_read, on_read)


@mutant("an acknowledged round counts from when its answer came, not from when it was sent (trap 37)")
def round_counts_from_receipt(patch: Patch) -> None:
    def on_acked(state: State, event: Any, now_ms: float) -> None:
        reads.on_peer_acked(state, type(event)(event.peer, event.term, now_ms), now_ms)

    patch.handler(core.EVENTS, reads.on_peer_acked, on_acked)


@mutant("a confirmed read does not wait until what it must contain is applied")
def read_before_applied(patch: Patch) -> None:
    def ready(waiting: WaitingReads, applied: int) -> Any:
        return original(waiting, 1 << 60)

    original = patch.set(WaitingReads, "ready", ready)
    patch.set(WaitingReads, "answerable", lambda waiting, applied: bool(waiting._confirmed))


@mutant("a read that asks for a position is answered before it")
def at_least_ignored(patch: Patch) -> None:
    def read(reader: Reader, operation: Any, now_ms: float) -> Any:
        operation.epoch = operation.index = 0
        return original(reader, operation, now_ms)

    original = patch.set(Reader, "_read", read)


@mutant("a viewer who comes back misses the change after the one it saw")
def watch_resumes_one_too_late(patch: Patch) -> None:
    def changes_since(live: LiveDocument, index: int) -> Any:
        found = original(live, index)
        return found[1:] if found and len(found) > 1 else found

    original = patch.set(LiveDocument, "changes_since", changes_since)


@mutant("a viewer who fell out of the ring of changes gets a patch all the same")
def gap_in_the_ring_unnoticed(patch: Patch) -> None:
    def changes_since(live: LiveDocument, index: int) -> Any:
        return [changes for at, changes, _ in live.ring if at > index and changes is not None]

    patch.set(LiveDocument, "changes_since", changes_since)


@mutant("viewers are not told of a change while their credit is used up, nor afterwards")
def credit_swallows_changes(patch: Patch) -> None:
    def grant(feed: Feed, stream: Any, watch: int, credit_bytes: int, turn: Any) -> None:
        name = feed._by_watch.get((stream, watch))
        if name is not None:
            feed._watched[name].viewers[(stream, watch)].credit_bytes += credit_bytes

    patch.set(Feed, "grant", grant)


@mutant("a read is confirmed by a round that began before it was asked (trap 35)")
def read_confirmed_by_an_earlier_round(patch: Patch) -> None:
    def answer(state: State) -> None:
        state.reads_waiting = [(context, index, -1e300) for context, index, _ in state.reads_waiting]
        known = state.liveness
        for peer in state.peers:
            acked_ms = max(state.reads_acked.get(peer, -math.inf), known.acked_sent_ms(peer, state.term))
            state.reads_acked = {**state.reads_acked, peer: acked_ms}
        original(state)

    original = patch.set(reads, "_answer", answer)


@mutant("reads need one voter less than commits (trap 36)")
def read_quorum_one_short(patch: Patch) -> None:
    def answer(state: State) -> None:
        for peer in state.peers[:1]:
            state.reads_acked = {**state.reads_acked, peer: math.inf}
        original(state)

    original = patch.set(reads, "_answer", answer)


@mutant("any replica answers linearizable reads from what it has")
def read_at_any_replica(patch: Patch) -> None:
    def submit(streams: Streams, number: int, operations: list[Operation], now_ms: float) -> None:
        for operation in operations:
            if operation.kind == Kind.READ and operation.consistency == Consistency.LINEARIZABLE:
                operation.consistency = Consistency.ANY
        original(streams, number, operations, now_ms)

    original = patch.set(Streams, "submit", submit)


@mutant("a viewer who comes back is sent the last change that it saw once more")
def watch_resumes_one_too_early(patch: Patch) -> None:
    def changes_since(live: LiveDocument, index: int) -> Any:
        found = original(live, index)
        seen = [changes for at, changes, _ in live.ring if at == index and changes is not None]
        return [*seen, *found] if found else found

    original = patch.set(LiveDocument, "changes_since", changes_since)


@mutant("viewers of different classes share one patch")
def patch_shared_across_classes(patch: Patch) -> None:
    def send(feed: Feed, watched: Any, viewer: Any, shared: Any, turn: Any, *, opening: bool) -> None:
        kept = viewer.sight
        viewer.held = viewer.sight = (None, kept[1])
        try:
            original(feed, watched, viewer, shared, turn, opening=opening)
        finally:
            viewer.held = viewer.sight = kept

    original = patch.set(Feed, "_send", send)


@mutant("a policy is asked when a watch is opened, and not again")
def policy_asked_once(patch: Patch) -> None:
    def answer(viewing: Viewing, policy: Any, who: Any) -> tuple[bool, frozenset[str]]:
        said, reads = original(viewing, policy, who)
        asked = once.setdefault(id(viewing), (viewing, {}))[1]
        return asked.setdefault((policy, who), said) or said, reads

    once: dict[int, tuple[Viewing, dict[Any, bool]]] = {}
    original = patch.set(Viewing, "answer", answer)


@mutant("fields behind a policy are shown to everybody")
def policies_not_asked(patch: Patch) -> None:
    patch.set(Viewing, "answer", lambda viewing, policy, who: (True, frozenset()))
    patch.set(Viewing, "admits", lambda viewing, policy, row, who: (True, frozenset()))


# on the way between gateway and leader


@mutant("forwarded operations are handed to the leader's replica twice")
def forwarded_twice(patch: Patch) -> None:
    def on_forwarded(incoming: Incoming, node: Any, item: Any) -> None:
        original(incoming, node, item)
        original(incoming, node, item)

    original = patch.set(Incoming, "_on_forwarded", on_forwarded)


@mutant("a lost leader's operations are not given up, so who asked waits for ever")
def operations_of_a_lost_node_not_given_up(patch: Patch) -> None:
    patch.set(Streams, "_give_up", lambda streams, lost: None)


@mutant("what was proposed by a leader that is deposed is not answered")
def proposals_of_the_deposed_not_answered(patch: Patch) -> None:
    def lose(proposals: Proposals, turn: Any) -> None:
        proposals._waiting.clear()
        proposals._commands = 0

    patch.set(Proposals, "lose", lose)


@mutant("a watch whose leader is lost is not opened again at the next one")
def watch_not_moved_to_the_next_leader(patch: Patch) -> None:
    patch.set(Streams, "_orphan_where", lambda streams, watches, which, now_ms: None)
