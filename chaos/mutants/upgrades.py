"""Planted bugs in giving documents new code."""

from __future__ import annotations

from typing import Any

from chaos.mutants.mutant import Patch, collector
from chaos.mutants.reach import UPGRADES
from cluster.documents.instance import DocumentInstance
from cluster.documents.runtime import UPGRADE_CHANNEL
from cluster.session.table import SessionTable
from cluster.shard import upgrades
from cluster.shard.deployments import Space
from cluster.shard.document import LiveDocument
from cluster.shard.gathering import Gatherer
from cluster.shard.upgrades import Upgrades

MUTANTS, mutant = collector()


@mutant("an upgrade that is proposed twice is applied twice", UPGRADES)
def upgrade_applied_twice(patch: Patch) -> None:
    def code_of(upgrading: Upgrades, live: LiveDocument) -> bytes:
        code: bytes = original(upgrading, live)
        queued = list(upgrading.queued)
        upgrading.queued = [*queued, *queued]
        return code

    patch.set(upgrades, "check_order", lambda live, command: None)
    original = patch.set(Upgrades, "code_of", code_of)


@mutant("a message is put before the upgrade that it was checked for", UPGRADES)
def message_before_its_upgrade(patch: Patch) -> None:
    def gather(gatherer: Gatherer, *arguments: Any) -> Any:
        entries = original(gatherer, *arguments)
        moved = []
        for _, origins, commands in entries:
            order = sorted(range(len(commands)), key=lambda place: commands[place].channel == UPGRADE_CHANNEL)
            commands = [commands[place] for place in order]
            moved.append((gatherer._encode(commands, arguments[1]), [origins[place] for place in order], commands))
        return moved

    original = patch.set(Gatherer, "gather", gather)


@mutant("an upgrade leaves the document's sessions behind", UPGRADES)
def upgrade_forgets_sessions(patch: Patch) -> None:
    def run(live: LiveDocument, *arguments: Any) -> Any:
        outcome = original(live, *arguments)
        live.sessions = SessionTable()
        return outcome

    original = patch.set(upgrades, "run", run)


@mutant("fields that no hook touches begin anew with an upgrade", UPGRADES)
def upgrade_carries_nothing_over(patch: Patch) -> None:
    def take_over(instance: DocumentInstance, state: bytes, sources: dict[str, str]) -> None:
        original(instance, state, {})

    original = patch.set(DocumentInstance, "take_over", take_over)


@mutant("a document goes straight to the newest code, past the hooks of the versions between", UPGRADES)
def versions_skipped(patch: Patch) -> None:
    def next_code(space: Space, key: str, code_hash: bytes, *, directly: bool = False) -> bytes | None:
        found: bytes | None = original(space, key, code_hash, directly=True)
        return found

    original = patch.set(Space, "next_code", next_code)


@mutant("what viewers missed before an upgrade is patched from the changes of the old code", UPGRADES)
def ring_survives_the_upgrade(patch: Patch) -> None:
    def clear_ring(live: LiveDocument) -> None:
        if not live.upgraded_index or live.upgraded_index != live.index:
            original(live)

    original = patch.set(LiveDocument, "clear_ring", clear_ring)


@mutant("a repeat is compared with what was answered before the upgrade, letter by letter", UPGRADES)
def repeats_across_upgrades_compared(patch: Patch) -> None:
    patch.set(upgrades, "spelt_otherwise", lambda live, command, stored: False)
