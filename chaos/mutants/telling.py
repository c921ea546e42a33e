"""Planted bugs in what clients are told: reads, watches, answers, and the client's own half."""

from __future__ import annotations

from typing import Any

from chaos.mutants.mutant import Patch, collector
from cluster.raft import core, reads
from cluster.raft.state import State
from cluster.session.client import ClientSession
from cluster.shard.document import LiveDocument
from cluster.shard.feed import Feed
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


@mutant("after a lost connection the client sends again under a new session")
def client_repeats_under_a_new_session(patch: Patch) -> None:
    def on_disconnected(session: ClientSession) -> None:
        original(session)
        for document in session._documents.values():
            if document.sent:
                document.forgotten = True
                for pending in document.sent:
                    pending.ambiguous = False

    original = patch.set(ClientSession, "_on_disconnected", on_disconnected)
