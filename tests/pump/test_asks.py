"""Workers in a cluster: what documents ask is handed out to whom they ask, one worker at a time, until it is answered."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest

from cluster.ids import ShardId
from cluster.session.operations import Kind, Operation, Reply
from cluster.shard import asks
from tests.pump.waiting import answer, clocks, leader_of, make, send, view
from tests.pump.world import Client, World

NUMBERS = itertools.count(1_000)


class Worker:
    """A worker's gateway, as far as one shard concerns it."""

    def __init__(self, world: World, client: Client, who: str = "bob", space: str = "clock") -> None:
        self.world, self.client, self.who, self.space = world, client, who, space
        self.shard = client.node.pump.router.shard_of(space, "a")

    def order(self, **order: Any) -> int:
        operation = Operation(next(NUMBERS), Kind.WORK, self.space, "", f"{self.who}@acme", payload=msgspec.json.encode(order))
        self.client.node.pump.streams.submit_to(self.client.number, ShardId(self.shard), operation, self.world.now_ms)
        return operation.id

    def reply(self, number: int) -> Reply:
        self.world.run_until(lambda: number in self.client.replies)
        return self.client.replies[number][0]

    def take(self, count: int, lease_ms: int = 1_000, **order: Any) -> list[tuple[str, str, int]]:
        """(key, request, attempt) of what was handed out."""
        reply = self.reply(self.order(take=count, lease_ms=lease_ms, **order))
        while reply.failure is not None and reply.failure.retryable:
            self.world.run(20)
            reply = self.reply(self.order(take=count, lease_ms=lease_ms, **order))
        assert reply.failure is None, reply.failure
        return [(work["key"], work["request"], work["attempt"]) for work in msgspec.json.decode(reply.payload)["work"]]


def asked(world: World, client: Client, key: str, question: str = "why", who: str = "bob") -> str:
    found: str = send(client, key, "ask", who=who, question=question, within_ms=60_000)
    return found


def test_an_ask_is_handed_out_to_one_worker_at_a_time_and_again_when_its_lease_ends() -> None:
    world, client = clocks(shards=1)
    make(client, "a")
    asked(world, client, "a")
    one, other = Worker(world, client), Worker(world, world.client("n2"))
    assert one.take(5) == [("a", "why", 1)]
    assert other.take(5) == []
    waits = other.order(wait=True)
    world.run(800)
    assert waits not in other.client.replies
    world.run(300)
    assert waits in other.client.replies
    assert other.take(5) == [("a", "why", 2)]


def test_what_is_handed_back_goes_to_who_waits_at_once() -> None:
    world, client = clocks(shards=1)
    make(client, "a")
    ask = asked(world, client, "a")
    one, other = Worker(world, client), Worker(world, world.client("n2"))
    one.take(1, lease_ms=60_000)
    waits = other.order(wait=True)
    world.run(100)
    one.order(release=[("a", ask)])
    world.run(50)
    assert waits in other.client.replies
    assert other.take(1) == [("a", "why", 2)]


def test_who_waits_is_told_of_a_new_ask_and_strangers_are_not() -> None:
    world, client = clocks(shards=1)
    make(client, "a")
    bob, eve = Worker(world, client), Worker(world, world.client("n2"), "eve")
    waits, watches = bob.order(wait=True), eve.order(wait=True)
    world.run(50)
    asked(world, client, "a")
    world.run(50)
    assert waits in bob.client.replies
    assert watches not in eve.client.replies
    assert eve.take(9) == []
    assert bob.take(9) == [("a", "why", 1)]


def test_an_answered_ask_is_handed_out_no_more_and_those_of_documents_on_disk_are_found() -> None:
    world, client = clocks(shards=1, cache_bytes_max=1)
    for number in range(70):
        make(client, f"d{number:02}")
        asked(world, client, f"d{number:02}", str(number))
    world.run(7_000)
    worker = Worker(world, client)
    replica = leader_of(world, "a").pump.replicas[ShardId(worker.shard)]
    assert len(replica.cache) == 0
    found = worker.take(50, lease_ms=60_000) + worker.take(50, lease_ms=60_000)
    assert [(key, request) for key, request, _ in found] == [(f"d{number:02}", str(number)) for number in range(70)]
    assert worker.take(50) == []
    (ask,) = view(client, "d07")["asked"]
    assert answer(client, "d07", ask, "seven", "bob").failure is None
    assert worker.take(50, release=[("d07", ask)]) == []
    assert view(client, "d07")["answers"] == ["bob:seven"]


def test_after_a_change_of_leaders_an_ask_is_handed_out_again_and_concluded_once() -> None:
    world, client = clocks(shards=1)
    make(client, "a")
    ask = asked(world, client, "a")
    worker = Worker(world, world.client("n2"))
    assert worker.take(1, lease_ms=60_000) == [("a", "why", 1)]
    dying = leader_of(world, "a")
    waits = worker.order(wait=True) if dying is not worker.client.node else None
    dying.crash()
    world.run_until(lambda: world.settled_without(dying))
    name = next(name for name, node in world.nodes.items() if node.up)
    again = Worker(world, world.client(name))
    if waits is not None and worker.client.node.up:
        assert worker.reply(waits).failure is not None
    assert again.take(1, lease_ms=60_000) == [("a", "why", 1)]
    assert answer(again.client, "a", ask, "because", "bob").failure is None
    late = answer(again.client, "a", ask, "too late", "bob")
    assert late.failure is not None
    assert late.failure.reason == "ASK_CLOSED"
    assert view(again.client, "a")["answers"] == ["bob:because"]


def test_what_orders_no_work_is_refused() -> None:
    world, client = clocks(shards=1)
    worker = Worker(world, client)
    for order in ({"take": -1}, {"take": 1_001}, {"take": 1, "lease_ms": 10}, {"take": "x"}, {"what": 1}):
        reply = worker.reply(worker.order(**order))
        assert reply.failure is not None
        assert reply.failure.reason == "INVALID_REQUEST"


def test_leases_are_bounded_and_those_that_ended_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asks, "LEASES_MAX", 4)
    world, client = clocks(shards=1)
    make(client, "a")
    for number in range(6):
        asked(world, client, "a", str(number))
    worker = Worker(world, client)
    assert len(worker.take(4)) == 4
    refused = worker.reply(worker.order(take=1)).failure
    assert refused is not None
    assert (refused.reason, refused.details) == ("OVERLOADED", {"bound": "leases_max"})
    world.run(1_100)
    assert [attempt for _, _, attempt in worker.take(4)] == [1, 1, 1, 1]
