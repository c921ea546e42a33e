"""Planted bugs in the client's half of the session protocol."""

from __future__ import annotations

from typing import Any

from chaos.mutants.mutant import Patch, collector
from cluster.session import client
from cluster.session.client import ClientSession
from cluster.session.client_writes import DocumentWrites, Pending, Verdict

MUTANTS, mutant = collector()


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


@mutant("the client says that it has the answer it is still waiting for")
def client_acks_what_it_waits_for(patch: Patch) -> None:
    def send_write(session: ClientSession, pending: Pending, acked_through: int) -> None:
        original(session, pending, acked_through + 1)

    original = patch.set(ClientSession, "_send_write", send_write)


@mutant("after a gap the client sends what came behind it first")
def client_resends_out_of_order(patch: Patch) -> None:
    def renumber(document: DocumentWrites, make_session: Any) -> list[Pending]:
        given_up: list[Pending] = original(document, make_session)
        document.sent.reverse()
        for place, sequence in enumerate(sorted(pending.sequence for pending in document.sent)):
            document.sent[place].sequence = sequence
        return given_up

    original = patch.set(DocumentWrites, "renumber", renumber)


@mutant("a write whose outcome is unknown is answered as final")
def unknown_outcome_taken_for_final(patch: Patch) -> None:
    def judge(document: DocumentWrites, pending: Pending, failure: Any) -> Verdict:
        verdict: Verdict = original(document, pending, failure)
        return Verdict.FINAL if failure is not None and failure.applied == "unknown" else verdict

    original = patch.set(DocumentWrites, "judge", judge)


@mutant("writes that were on the way when the connection broke are not sent again")
def client_forgets_what_was_on_the_way(patch: Patch) -> None:
    def on_disconnected(session: ClientSession) -> None:
        lost = [pending for pending in session._in_flight.values() if pending.intent.kind != client._READ]
        original(session)
        for pending in lost:
            if pending in pending.document.sent:
                pending.document.sent.remove(pending)

    original = patch.set(ClientSession, "_on_disconnected", on_disconnected)


@mutant("the client gives no credit back for what it has shown")
def client_gives_no_credit(patch: Patch) -> None:
    patch.set(ClientSession, "_give_credit", lambda session, watch, due: None)
