"""Connections in a cluster: each is told to its document once when it comes and once when it is gone, whoever leads by then and
whatever becomes of leaders, gateways and records meanwhile.
"""

from __future__ import annotations

import pytest

from cluster.ids import DocumentId
from cluster.session.operations import Kind
from cluster.shard.connections import GRACE_MS
from cluster.shard.replica import CompactionConfig
from tests.pump.lobby import (
    DEAF,
    SOURCE,
    Guest,
    deploy,
    leader_of,
    lobbies,
    name_of,
    reply_to,
    send,
    told_in_turn,
    unwatch,
    view,
    watch,
)
from tests.pump.test_storms import Storm
from tests.pump.world import Client, World

SEEDS = 6
STEPS = 700


def elsewhere(world: World, key: str = "one") -> Client:
    """A client of a node that does not lead."""
    leader = leader_of(world, key)
    return world.client(next(name for name, node in world.nodes.items() if node is not leader and node.up))


def test_who_watches_is_told_to_the_document_before_the_first_view_and_when_it_ends() -> None:
    world, client = lobbies()
    view(client)
    bob = elsewhere(world)
    number = watch(bob, "bob")
    name = name_of(bob, number, "bob")
    assert b"+" + name.encode() in bob.deltas[0].body, "the first view shows what the handler did"
    assert view(client)["here"] == [name]
    unwatch(bob, number)
    world.run(50)
    assert view(client) == {"here": [], "heard": [f"+{name}", f"-{name}"], "closed": False, "banned": []}
    assert len(set(world.records("one", "lobby"))) == 1


def test_a_stream_that_ends_takes_its_connections_along_those_too_that_are_on_their_way() -> None:
    world, client = lobbies()
    view(client)
    bob = elsewhere(world)
    open_already = watch(bob, "bob")
    bob.submit(Kind.WATCH, "one", "", None, space="lobby", principal="bob@acme")
    bob.node.pump.close_stream(bob.number)
    world.run(200)
    heard = view(client)["heard"]
    assert told_in_turn(heard)[name_of(bob, open_already, "bob")] == 1
    assert view(client)["here"] == []
    leader = leader_of(world)
    late = world.client(leader.name)
    late.submit(Kind.WATCH, "one", "", None, space="lobby", principal="bob@acme")
    late.node.pump.close_stream(late.number)
    world.run(200)
    assert view(client)["here"] == []
    assert len(leader.pump.replicas[leader.pump.router.shard_of("lobby", "one")].feed) == 0


def test_a_watch_that_is_not_open_yet_ends_with_its_stream() -> None:
    """Opened later it would be a viewer whom nobody ends, and a connection that never goes."""
    world, client = lobbies()
    view(client)
    leader = leader_of(world)
    late = world.client(leader.name)
    late.submit(Kind.WATCH, "one", "", None, space="lobby", principal="bob@acme")
    late.node.pump.close_stream(late.number)
    world.run(200)
    assert view(client)["here"] == []
    assert len(leader.pump.replicas[leader.pump.router.shard_of("lobby", "one")].feed) == 0


@pytest.mark.parametrize(
    ("who", "reason"), [("bob", "HANDLER_REFUSED"), ("buggy", "HANDLER_FAILED"), ("eve", "PERMISSION_DENIED")]
)
def test_a_watch_is_refused_as_its_connect_is_and_leaves_nothing(who: str, reason: str) -> None:
    world, client = lobbies()
    send(client, "ban", agent="eve")
    if who == "bob":
        send(client, "close")
    before = view(client)
    guest = elsewhere(world)
    number = watch(guest, who)
    failure = reply_to(guest, number).failure
    assert failure is not None
    assert failure.reason == reason
    if who == "bob":
        assert failure.details["name"] == "Full"
    world.run(100)
    assert view(client) == before
    assert guest.deltas == []
    assert len(set(world.records("one", "lobby"))) == 1


def test_a_gate_that_closes_ends_the_watch_and_so_the_connection() -> None:
    world, client = lobbies()
    bob = elsewhere(world)
    number = watch(bob, "bob")
    send(client, "ban", agent="bob")
    world.run(100)
    assert bob.deltas[-1].failure is not None
    assert bob.deltas[-1].failure.reason == "PERMISSION_DENIED"
    name = name_of(bob, number, "bob")
    assert view(client)["heard"] == [f"+{name}", f"-{name}"]


def test_a_failing_disconnect_is_told_to_operators_and_the_connection_is_gone() -> None:
    world, _ = lobbies()
    bob = elsewhere(world)
    number = watch(bob, "clumsy")
    unwatch(bob, number)
    world.run(100)
    leader = leader_of(world)
    assert [(one.channel, one.sender) for one in leader.failures] == [("-disconnect", "clumsy@acme")]
    live = leader.pump.replicas[leader.pump.router.shard_of("lobby", "one")].cache.get("lobby", "one")
    assert live.instance is not None
    assert not live.instance.has_connections


@pytest.mark.parametrize("saved", [True, False])
def test_watches_that_go_on_at_the_next_leader_are_told_nothing_and_those_that_do_not_are_gone(saved: bool) -> None:
    world, client = lobbies(checkpoints=saved)
    view(client)
    dying = leader_of(world)
    stays, leaves = elsewhere(world), world.client(dying.name)
    staying, leaving = watch(stays, "bob"), watch(leaves, "eve")
    world.run(7_000 if saved else 200)
    dying.crash()
    world.run_until(lambda: world.settled_without(dying))
    client = stays
    heard = [f"+{name_of(stays, staying, 'bob')}", f"+{name_of(leaves, leaving, 'eve')}"]
    world.run(GRACE_MS // 2)
    assert view(client)["heard"] == heard, "who is lost may come back"
    world.run(GRACE_MS)
    assert view(client)["heard"] == [*heard, f"-{name_of(leaves, leaving, 'eve')}"]
    assert view(client)["here"] == [name_of(stays, staying, "bob")]
    world.run(2 * GRACE_MS)
    assert len(view(client)["heard"]) == 3


def test_a_gateway_that_dies_and_one_that_is_cut_off_for_a_moment_are_told_apart() -> None:
    world, client = lobbies()
    view(client)
    leader = leader_of(world)
    client = world.client(leader.name)
    others = [node for node in world.nodes.values() if node is not leader]
    dies, blinks = (world.client(node.name) for node in others)
    dying, blinking = watch(dies, "eve"), watch(blinks, "bob")
    heard = view(client)["heard"]
    for one, other in ((leader, others[1]), (others[1], leader)):
        one.pump.on_disconnected(other.name, False, world.now_ms)
        one.pump.on_connected(other.name, world.now_ms)
    others[0].crash()
    world.run(GRACE_MS - 500)
    assert view(client)["heard"] == heard
    world.run(1_000)
    assert view(client)["heard"] == [*heard, f"-{name_of(dies, dying, 'eve')}"]
    assert view(client)["here"] == [name_of(blinks, blinking, "bob")]


def test_nobody_is_left_in_documents_on_disk_alone_when_all_nodes_died() -> None:
    world, client = lobbies(cache_bytes_max=1, compaction=CompactionConfig(every_entries=8, kept_entries=2))
    keys = [f"d{number}" for number in range(90)]
    for key in keys:
        number = watch(client, "bob", key)
        assert reply_to(client, number).failure is None
    world.run(6_000)
    for node in world.nodes.values():
        node.crash()
    for node in world.nodes.values():
        node.boot()
    world.run_until(world.settled)
    client = world.client("n2")
    assert [view(client, key)["here"] != [] for key in keys] == [True] * 90
    world.run(GRACE_MS + 3_000)
    assert [view(client, key)["here"] for key in keys] == [[]] * 90
    assert [len(view(client, key)["heard"]) for key in keys] == [2] * 90


def test_a_document_that_is_deleted_is_told_of_nobody_and_one_made_anew_of_whoever_comes_then() -> None:
    world, client = lobbies()
    bob = elsewhere(world)
    watch(bob, "bob")
    assert client.insist(Kind.DELETE, "one", space="lobby").failure is None
    world.run(100)
    assert bob.deltas[-1].failure is not None
    assert bob.deltas[-1].failure.reason == "DOCUMENT_DELETED"
    assert client.insist(Kind.CREATE, "one", "", {}, space="lobby").failure is None
    world.run(2 * GRACE_MS)
    assert view(client)["heard"] == []
    number = watch(bob, "bob")
    assert view(client)["heard"] == [f"+{name_of(bob, number, 'bob')}"]


def test_code_that_begins_to_listen_is_told_of_those_who_watch_already_and_can_refuse_them() -> None:
    world, client = lobbies(DEAF)
    guests = [elsewhere(world), elsewhere(world)]
    numbers = [watch(guest, who) for guest, who in zip(guests, ("bob", "buggy"), strict=True)]
    assert view(client)["heard"] == []
    deploy(world, client, SOURCE.replace('on_missing="create"', 'on_missing="create", version=2'))
    send(client, "note", text="touched")
    world.run(200)
    name = name_of(guests[0], numbers[0], "bob")
    assert view(client)["here"] == [name]
    ended = guests[1].deltas[-1].failure
    assert ended is not None
    assert ended.reason == "HANDLER_FAILED"
    unwatch(guests[0], numbers[0])
    world.run(100)
    assert view(client)["heard"] == [f"+{name}", f"-{name}"]
    deploy(world, client, DEAF.replace('on_missing="create"', 'on_missing="create", version=3'))
    watch(guests[0], "bob")
    world.run(100)
    assert len(view(client)["heard"]) == 2


def test_a_snapshot_brings_connections_and_what_is_to_be_looked_at() -> None:
    world, client = lobbies(compaction=CompactionConfig(every_entries=8, kept_entries=2, lagging_entries=4))
    view(client)
    leader = leader_of(world)
    behind = next(node for node in world.nodes.values() if node is not leader)
    client = world.client(leader.name)
    behind.crash()
    number = watch(client, "bob")
    for place in range(60):
        send(client, "note", text=str(place))
    world.run(6_000)
    behind.boot()
    world.run_until(lambda: len(set(world.records("one", "lobby"))) == 1 and len(world.records("one", "lobby")) == 3)
    shard = behind.pump.router.shard_of("lobby", "one")
    world.run(6_000)
    assert behind.pump.replicas[shard].cache.connected(b"", 9) == [b"lobby\0one"]
    name = name_of(client, number, "bob")
    world.run_until(lambda: behind.pump.replicas[shard].cache.get("lobby", "one").record() in world.records("one", "lobby"))
    others = [node for node in world.nodes.values() if node is not behind]
    leader.pump.transfer(shard, behind.name, world.now_ms)
    world.run_until(lambda: behind.pump.replicas[shard].serves)
    leader.crash()
    client = world.client(behind.name)
    world.run(GRACE_MS + 1_000)
    assert view(client)["heard"] == [f"+{name}", f"-{name}"]
    assert len(others) == 2


def test_a_watch_of_the_same_number_is_another_connection_after_the_first_has_ended() -> None:
    world, client = lobbies()
    view(client)
    bob = elsewhere(world)
    number = watch(bob, "bob")
    opening = bob.operation(Kind.WATCH, "one", "", None, space="lobby", principal="bob@acme")
    unwatch(bob, number)
    opening.id = number
    bob.submit_all(opening)
    world.run(200)
    name = name_of(bob, number, "bob")
    assert view(client)["heard"] == [f"+{name}", f"-{name}", f"+{name}"]
    assert view(client)["here"] == [name]


@pytest.mark.parametrize("seed", range(SEEDS))
def test_after_a_storm_the_document_knows_just_those_who_watch(seed: int) -> None:
    small = CompactionConfig(every_entries=12, kept_entries=4, lagging_entries=8)
    world, client = lobbies(seed=seed, compaction=small, cache_bytes_max=1 << 24 if seed % 2 else 2_000)
    view(client)
    guests = [Guest(world, number) for number in range(5)]
    storm = Storm(world)
    for _ in range(STEPS):
        storm.step()
        for guest in guests:
            guest.step()
        world.run(2)
    storm.heal()
    guests[-1].leave()
    there = guests[:-1]
    client = world.client("n2")

    def agreed() -> bool:
        world.run(200)
        for guest in there:
            super(Guest, guest).step()
        here = [guest.connection for guest in there if guest.client is not None]
        return len(here) == len(there) and sorted(view(client)["here"]) == sorted(here)

    world.run_until(agreed, within_ms=60_000)
    shown = view(client)
    came = told_in_turn(shown["heard"])
    assert sum(came.values()) > len(guests)
    world.run(2 * GRACE_MS)
    assert view(client)["heard"] == shown["heard"], "nobody comes or goes any more"
    world.run_until(lambda: len(set(world.records("one", "lobby"))) == 1)
    live = (
        leader_of(world)
        .pump.replicas[world.nodes[world.names[0]].pump.router.shard_of("lobby", "one")]
        .cache.get("lobby", "one")
    )
    assert live.id == DocumentId("lobby", "one")
    assert live.instance is not None
    assert sorted(live.instance.connections()) == sorted(shown["here"])
