"""Planted bugs in what operators do to documents by hand: repairs, forks, thaws."""

from __future__ import annotations

from typing import Any

import msgspec

from chaos.mutants.mutant import Patch, collector
from chaos.mutants.reach import BY_HAND, THAWS
from cluster.documents.instance import DocumentInstance
from cluster.documents.runtime import Outcome
from cluster.session.table import SessionTable
from cluster.shard import forking, repairs, thawing
from cluster.shard.apply import Applier
from cluster.shard.commands import Command, CommandKind
from cluster.shard.document import LiveDocument

MUTANTS, mutant = collector()


@mutant("a repair is carried out wherever the document is by then", BY_HAND)
def repair_ignores_the_expected_position(patch: Patch) -> None:
    def check(live: LiveDocument, command: Command, *arguments: Any) -> None:
        order = msgspec.json.decode(command.payload)
        payload = msgspec.json.encode({**order, "expect": None})
        original(live, msgspec.structs.replace(command, payload=payload), *arguments)

    original = patch.set(repairs, "check", check)


@mutant("viewers are not told what a repair has changed", BY_HAND)
def repair_not_shown(patch: Patch) -> None:
    def repair(instance: DocumentInstance, invocation: Any) -> Outcome:
        outcome = original(instance, invocation)
        return Outcome(outcome.code, outcome.answer, outcome.writes)

    original = patch.set(DocumentInstance, "repair", repair)


@mutant("a repair is not remembered, so one that is sent again is judged again", BY_HAND)
def repair_not_remembered(patch: Patch) -> None:
    def conclude(applier: Applier, live: LiveDocument, command: Command, *arguments: Any) -> None:
        if command.kind == CommandKind.REPAIR:
            command = msgspec.structs.replace(command, session=b"")
        original(applier, live, command, *arguments)

    original = patch.set(Applier, "_conclude", conclude)


@mutant("a fork takes along what its document had armed", BY_HAND)
def fork_rings_too(patch: Patch) -> None:
    patch.set(forking, "disarmed", lambda state: state)


@mutant("a fork replaces the document that is there", BY_HAND)
def fork_over_a_document(patch: Patch) -> None:
    patch.set(forking, "check", lambda live: None)


@mutant("a fork begins to count anew, not behind the position that it was taken at", BY_HAND)
def fork_counts_anew(patch: Patch) -> None:
    def run(live: LiveDocument, *arguments: Any) -> Outcome:
        outcome: Outcome = original(live, *arguments)
        live.index = 0
        return outcome

    original = patch.set(forking, "run", run)


@mutant("a thawed document goes on in the epoch that it was frozen in", THAWS)
def thaw_in_the_same_epoch(patch: Patch) -> None:
    def run(live: LiveDocument, *arguments: Any) -> Outcome:
        epoch = live.epoch
        outcome: Outcome = original(live, *arguments)
        live.epoch = epoch
        return outcome

    original = patch.set(thawing, "run", run)


@mutant("a thaw is done again when it comes again", THAWS)
def thawed_twice(patch: Patch) -> None:
    def check_order(live: LiveDocument, *arguments: Any) -> Any:
        frozen, live.frozen = live.frozen, live.frozen or "once more"
        epoch, live.epoch = live.epoch, 0
        try:
            return original(live, *arguments)
        finally:
            live.frozen, live.epoch = frozen, epoch

    patch.set(thawing, "check", lambda live, command: None)
    original = patch.set(thawing, "check_order", check_order)


@mutant("every replica keeps its own sessions when it takes a thawed document over", THAWS)
def thaw_keeps_sessions(patch: Patch) -> None:
    def run(live: LiveDocument, *arguments: Any) -> Outcome:
        sessions: SessionTable = live.sessions
        outcome: Outcome = original(live, *arguments)
        live.sessions = sessions
        return outcome

    original = patch.set(thawing, "run", run)


@mutant("a thawed document is still frozen where its record was taken frozen", THAWS)
def thaw_stays_frozen(patch: Patch) -> None:
    def run(live: LiveDocument, command: Command, program: Any) -> Outcome:
        outcome: Outcome = original(live, command, program)
        live.frozen = thawing.record_of(thawing.order_of(command.payload)).frozen
        return outcome

    original = patch.set(thawing, "run", run)


@mutant("every replica keeps the chain of its own past when it takes a thawed document over", THAWS)
def thaw_keeps_chains(patch: Patch) -> None:
    def run(live: LiveDocument, *arguments: Any) -> Outcome:
        chain = live.chain
        outcome: Outcome = original(live, *arguments)
        live.chain = chain
        return outcome

    original = patch.set(thawing, "run", run)
