"""A document whose replicas all differ: an operator chooses one, and all go on from it; whoever was away finds the way too."""

from __future__ import annotations

import base64

import msgspec

from cluster.ids import DocumentId, NodeId
from cluster.session.operations import Kind, Reply
from cluster.shard import thawing
from cluster.shard.divergence import Remedy
from cluster.shard.evidence import freeze
from cluster.shard.turn import Turn
from tests.pump.planting import MARKER, claim, followers_of, leader_of, planted, replica_of, reports, restarted, state
from tests.pump.tally import session_id
from tests.pump.world import Client, SimulatedNode, World


def frozen_world() -> tuple[World, Client]:
    """Three replicas, three states, and the document frozen on all of them."""
    world = planted(lambda name: f"host-of-{name}")
    client = world.client(leader_of(world).name)
    session = session_id(5)
    assert claim(client, 1, MARKER, session=session, sequence=1).failure is None
    world.run_until(lambda: all(each and each[0].remedy is Remedy.FROZEN for each in reports(world).values()))
    assert len(set(world.records("a", "board"))) == 3
    return world, client


def order(node: SimulatedNode, epoch: int, reason: str = "it is right", record: bytes | None = None) -> dict[str, object]:
    found = replica_of(node).cache.get("board", "a").record() if record is None else record
    return {"node": node.name, "reason": reason, "epoch": epoch, "record": base64.b64encode(found).decode()}


def thaw(client: Client, told: dict[str, object]) -> Reply:
    return client.insist(Kind.THAW, "a", payload=told, space="board", principal="root@acme")


def test_all_replicas_go_on_from_the_one_that_was_chosen() -> None:
    world, client = frozen_world()
    chosen = followers_of(world)[1]
    assert claim(client, 2, "ann").failure is not None
    thawed = thaw(client, order(chosen, 2))
    assert (thawed.failure, thawed.epoch, thawed.index) == (None, 2, 3)
    world.run(500)
    assert len(set(world.records("a", "board"))) == 1
    assert {state(node)["board"][1]["owner"] for node in world.nodes.values()} == {f"host-of-{chosen.name}"}
    assert claim(client, 2, "ann").index == 4
    world.run(3_000)
    assert len(set(world.records("a", "board"))) == 1
    for node in world.nodes.values():
        restarted(world, node)
    assert len(set(world.records("a", "board"))) == 1, "replay comes to the same"


def test_what_ran_before_it_in_its_own_entry_is_not_of_the_chain_that_comes() -> None:
    """A replica that never heard of the freeze runs what others refuse, and must be equal behind the thaw all the same."""
    world, client = frozen_world()
    unaware = followers_of(world)[0]
    replica_of(unaware).cache.get("board", "a").frozen = ""
    leader = replica_of(leader_of(world)).cache.get("board", "a")
    refused = client.operation(Kind.SEND, "a", "claim", {"cell": 9, "owner": "ann"}, space="board")
    ordered = client.operation(Kind.THAW, "a", "", order(followers_of(world)[1], 2), space="board", principal="root@acme")
    applied = leader.applied_through
    client.submit_all(refused, ordered)
    world.run_until(lambda: ordered.id in client.replies)
    assert (client.replies[ordered.id][0].failure, leader.applied_through > applied) == (None, True)
    failure = client.replies[refused.id][0].failure
    assert failure is not None
    assert failure.reason == "DOCUMENT_FROZEN"
    world.run(500)
    assert len(set(world.records("a", "board"))) == 1


def test_what_the_record_remembers_is_repeated_and_not_run_again() -> None:
    world, client = frozen_world()
    chosen = followers_of(world)[0]
    thaw(client, order(chosen, 2))
    again = claim(client, 1, MARKER, session=session_id(5), sequence=1)
    assert (again.failure, again.epoch, again.index, again.payload) == (None, 1, 2, f'"host-of-{chosen.name}"'.encode())
    assert claim(client, 2, "ben", session=session_id(5), sequence=2).index == 4


def test_watchers_get_the_document_whole_in_its_new_epoch() -> None:
    world, client = frozen_world()
    client.submit(Kind.WATCH, "a", space="board", credit=100_000)
    world.run_until(lambda: bool(client.deltas))
    before = len(client.deltas)
    thaw(client, order(followers_of(world)[0], 2))
    world.run_until(lambda: len(client.deltas) > before)
    delta = client.deltas[-1]
    assert (delta.reset, delta.epoch, delta.index, delta.failure) == (True, 2, 3, None)


def test_a_replica_that_was_away_comes_to_the_same() -> None:
    world, client = frozen_world()
    away = followers_of(world)[0]
    away.crash()
    chosen = leader_of(world)
    client = world.client(chosen.name)
    assert thaw(client, order(chosen, 2)).failure is None
    assert claim(client, 3, "ann").failure is None
    away.boot()
    world.run_until(world.settled)
    world.run_until(lambda: len(set(world.records("a", "board"))) == 1)
    assert not replica_of(away).cache.get("board", "a").frozen


def test_a_voter_that_slept_through_the_freeze_keeps_what_it_has_and_is_frozen_too() -> None:
    """Found by the simulator: a copy of a frozen replica and that one outvoted the sleeper, which could not be taken back to an
    earlier position. Nor should it: what it has may be what an operator chooses.
    """
    world, _ = frozen_world()
    leader, (copy, sleeper) = leader_of(world), followers_of(world)
    copied = replica_of(copy)
    copied.cache.adopt(DocumentId("board", "a"), replica_of(leader).cache.get("board", "a").record(), Turn().batch)
    replica_of(sleeper).cache.get("board", "a").frozen = ""
    client = world.client(leader.name)
    refused = claim(client, 9, "ann")
    assert refused.failure is not None
    assert refused.failure.reason == "DOCUMENT_FROZEN"
    assert state(sleeper)["board"][9]["owner"] == "ann"
    world.run_until(lambda: bool(replica_of(sleeper).cache.get("board", "a").frozen))
    world.run(3_000)
    assert not any(node.pump.divergences.reports.open for node in world.nodes.values())
    assert not any(replica_of(node).diverged for node in world.nodes.values())
    assert state(sleeper)["board"][9]["owner"] == "ann", "it is kept for who chooses"
    assert thaw(client, order(sleeper, 2)).failure is None
    world.run(500)
    assert len(set(world.records("a", "board"))) == 1
    assert state(leader)["board"][9]["owner"] == "ann"


def test_a_thaw_that_is_repeated_late_or_wrong_changes_nothing() -> None:
    world, client = frozen_world()
    chosen = followers_of(world)[0]
    right = order(chosen, 2)
    wrong: list[tuple[dict[str, object], str]] = [
        (order(chosen, 1), "is in epoch 1 already"),
        (order(chosen, 2, reason=" "), "reason"),
        (order(chosen, 2, record=b"nothing"), "no record"),
        (order(chosen, 2, record=b"x" * (thawing.RECORD_BYTES_MAX + 1)), "can be taken over"),
        ({"epoch": 2}, "orders no thaw"),
    ]
    for told, why in wrong:
        refused = thaw(client, told)
        assert refused.failure is not None
        assert (refused.failure.applied, why in refused.failure.message) == ("no", True), refused.failure
    assert thaw(client, right).failure is None
    records = world.records("a", "board")
    again = thaw(client, right)
    assert again.failure is not None
    assert "not frozen" in again.failure.message
    assert world.records("a", "board") == records


def test_a_report_that_comes_after_the_thaw_does_not_freeze_again() -> None:
    """The leader tells everybody how a divergence ended, also those who missed it, whenever that is."""
    world, client = frozen_world()
    late = reports(world)[leader_of(world).name][0]
    assert thaw(client, order(followers_of(world)[0], 2)).failure is None
    world.run(500)
    for node in world.nodes.values():
        freeze(replica_of(node), late, Turn())
        assert not replica_of(node).cache.get("board", "a").frozen
    assert claim(client, 4, "cid").failure is None


def test_a_document_that_is_the_same_everywhere_is_not_thawed() -> None:
    leaking: set[NodeId] = set()
    world = planted(lambda name: "its-own-host" if name in leaking else "")
    client = world.client(leader_of(world).name)
    refused = thaw(client, order(leader_of(world), 2))
    assert refused.failure is not None
    assert (refused.failure.reason, "not frozen" in refused.failure.message) == ("INVALID_REQUEST", True)
    assert msgspec.msgpack.decode(world.records("a", "board")[0])[2] == 1, "its epoch"
