"""Planted bugs in what connections show each other, and in what handlers say in passing."""

from __future__ import annotations

from typing import Any

import msgspec

from chaos.mutants.mutant import Patch, collector
from chaos.mutants.reach import NOTES
from cluster.documents.runtime import Emission
from cluster.session.client_watch import WatchState
from cluster.shard.feed import Feed
from cluster.shard.passing import Passing
from cluster.shard.presence import Shown

MUTANTS, mutant = collector()


@mutant("what a connection has shown stays when the connection has gone", NOTES)
def cursors_outlive_connections(patch: Patch) -> None:
    def close(feed: Feed, *arguments: Any) -> None:
        stays = Patch()
        stays.set(Shown, "remove", lambda shown, connection: False)
        try:
            original(feed, *arguments)
        finally:
            stays.undo()

    original = patch.set(Feed, "close", close)


@mutant("what a connection shows is not told to the leader that serves its watch next", NOTES)
def cursor_lost_with_its_leader(patch: Patch) -> None:
    def opened(watch: WatchState, wire_id: int) -> Any:
        operation = original(watch, wire_id)
        operation.channel = ""
        return operation

    original = patch.set(WatchState, "open", opened)


@mutant("who falls behind is not told that cursors have gone", NOTES)
def gone_cursors_not_told(patch: Patch) -> None:
    def since(shown: Shown, revision: int) -> bytes:
        gone, shown._gone = shown._gone, {}
        try:
            return bytes(original(shown, revision))
        finally:
            shown._gone = gone

    original = patch.set(Shown, "since", since)


@mutant("what is said to one is heard by everybody", NOTES)
def whispers_heard_by_all(patch: Patch) -> None:
    def add(passing: Passing, live: Any, emitted: list[Emission]) -> None:
        original(passing, live, [msgspec.structs.replace(emission, admits=None) for emission in emitted])

    original = patch.set(Passing, "add", add)
