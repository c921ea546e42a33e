"""Planted bugs in alarms and asks."""

from __future__ import annotations

from typing import Any

from chaos.mutants.mutant import Patch, collector
from chaos.mutants.reach import CLOCKS
from cluster.documents.armed import Armed
from cluster.errors import NotArmed
from cluster.shard.alarms import Alarms
from cluster.storage.records import RecordStore

MUTANTS, mutant = collector()


@mutant("an alarm that was cancelled rings all the same", CLOCKS)
def cancelled_alarm_rings(patch: Patch) -> None:
    patch.set(Armed, "cancel", lambda armed, what: int(what in armed._alarms))


@mutant("that an alarm has rung is kept in memory only, so it rings again after a restart", CLOCKS)
def rung_again_after_a_restart(patch: Patch) -> None:
    rung: dict[int, tuple[Armed, set[str]]] = {}

    def of(armed: Armed) -> set[str]:
        return rung.setdefault(id(armed), (armed, set()))[1]

    def alarm(armed: Armed, payload: bytes, now_ms: int) -> Any:
        name, found = find(armed, payload, now_ms)
        if name in of(armed):
            raise NotArmed(f"{name} has rung")
        return name, found

    def ring(armed: Armed, name: str, now_ms: int) -> None:
        of(armed).add(name)

    def counts(armed: Armed, entry: Any) -> bool:
        return entry[3] not in of(armed) and bool(counted(armed, entry))

    find = patch.set(Armed, "alarm", alarm)
    patch.set(Armed, "ring", ring)
    counted = patch.set(Armed, "_counts", counts)


@mutant("what documents wait for is not written with their records", CLOCKS)
def due_times_not_written(patch: Patch) -> None:
    patch.set(RecordStore, "index", lambda store, *arguments: None)


@mutant("a new leader looks only at what the disk says is due, not at what is in memory alone", CLOCKS)
def unwritten_alarms_forgotten(patch: Patch) -> None:
    def begin(alarms: Alarms, cache: Any) -> None:
        unsaved, cache.unsaved = cache.unsaved, {}
        try:
            original(alarms, cache)
        finally:
            cache.unsaved = unsaved

    original = patch.set(Alarms, "__init__", begin)


@mutant("an ask stays open when it is answered, until it is answered again", CLOCKS)
def answered_twice(patch: Patch) -> None:
    once: set[tuple[int, str]] = set()

    def conclude(armed: Armed, id: str) -> None:
        if (key := (hash(armed), id)) in once:
            original(armed, id)
        once.add(key)

    original = patch.set(Armed, "conclude", conclude)
