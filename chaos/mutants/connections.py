"""Planted bugs in telling documents who watches them."""

from __future__ import annotations

from typing import Any

from chaos.mutants.mutant import Patch, collector
from chaos.mutants.reach import LOBBIES
from cluster.documents.connections import Connected, connection_of
from cluster.documents.runtime import CONNECT_CHANNEL
from cluster.ids import Principal
from cluster.pump.streams import Streams
from cluster.shard.connections import Connections
from cluster.shard.feed import Feed
from cluster.shard.presence import connection_name
from cluster.shard.reading import WaitingReads

MUTANTS, mutant = collector()


@mutant("every leader tells the document of a watch that it opens, and each connect counts", LOBBIES)
def resumed_as_another(patch: Patch) -> None:
    told: dict[tuple[int, Any, int], Connections] = {}

    def expect(connected: Connected, channel: str, payload: bytes, sender: Principal) -> Any:
        return connection_of(payload) if channel == CONNECT_CHANNEL else original(connected, channel, payload, sender)

    def lets_in(connections: Connections, live: Any, stream: Any, operation: Any, who: Principal) -> bool:
        place = (id(connections), stream, operation.id)
        if admits(connections, live, stream, operation, who) and place not in told:
            key = (live.id.space, live.id.key, connection_name(who, stream, operation.id))
            connections._come(key, stream, operation.id, operation, who, live.code_hash)
            told[place] = connections
            return False
        return place in told

    original = patch.set(Connected, "expect", expect)
    admits = patch.set(Connections, "lets_in", lets_in)


@mutant("a new leader does not look for connections that did not come back", LOBBIES)
def nobody_looks_for_the_lost(patch: Patch) -> None:
    def plan(connections: Connections, now_ms: float) -> None:
        connections._sweep_ms = float("inf")

    patch.set(Connections, "_plan_sweep", plan)


@mutant("a watch that ended before it was open is opened all the same, and nobody ends it", LOBBIES)
def left_before_it_came(patch: Patch) -> None:
    patch.set(WaitingReads, "cancel_streams", lambda reads, ended: None)
    patch.set(Connections, "cancel_streams", lambda connections, ended: None)


@mutant("a watch that a client ends while nobody serves it goes on where it was", LOBBIES)
def ended_where_nobody_serves(patch: Patch) -> None:
    def end(streams: Streams, number: int, watch: Any) -> None:
        if watch.node is not None:
            original(streams, number, watch)

    original = patch.set(Streams, "_end_everywhere", end)


@mutant("a connection whose gateway died is forgotten without telling its document", LOBBIES)
def lost_for_good(patch: Patch) -> None:
    def close(feed: Feed, stream: Any, watch: int, *, lost: bool = False) -> None:
        before = list(feed.departed)
        original(feed, stream, watch, lost=lost)
        if lost:
            feed.departed = before

    original = patch.set(Feed, "close", close)
