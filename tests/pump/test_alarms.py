"""Alarms in a cluster: they ring once, at their time or soon after, whoever leads by then and whatever is in memory."""

from __future__ import annotations

import pytest

from cluster.ids import DocumentId
from cluster.session.operations import Kind
from cluster.shard import alarms
from cluster.shard.alarms import FIRINGS_MAX
from cluster.shard.commands import TIME_PRINCIPAL, Command, CommandKind
from cluster.shard.replica import CompactionConfig
from cluster.storage.engine import Batch
from tests.pump.waiting import answer, clocks, leader_of, make, send, view


def test_an_alarm_rings_once_at_its_time_and_not_before() -> None:
    world, client = clocks()
    make(client, "a")
    send(client, "a", "arm", name="x", after_ms=300)
    world.run(280)
    assert view(client, "a")["rung"] == []
    world.run(40)
    assert view(client, "a")["rung"] == ["x"]
    world.run(1_000)
    assert view(client, "a")["rung"] == ["x"]
    assert len(set(world.records("a", "clock"))) == 1


def test_a_cancelled_alarm_does_not_ring_and_one_armed_again_rings_at_its_new_time() -> None:
    world, client = clocks()
    make(client, "a")
    send(client, "a", "arm", name="x", after_ms=200)
    send(client, "a", "arm", name="y", after_ms=200)
    assert send(client, "a", "disarm", name="x") == 1
    assert send(client, "a", "disarm", name="x") == 0
    send(client, "a", "arm", name="y", after_ms=800)
    world.run(600)
    assert view(client, "a")["rung"] == []
    world.run(400)
    assert view(client, "a")["rung"] == ["y"]


def test_an_alarm_whose_handler_fails_is_consumed_and_told_to_operators() -> None:
    world, client = clocks()
    make(client, "a")
    send(client, "a", "arm", name="x", after_ms=50, fails=True)
    before = len(world.records("a", "clock")[0])
    world.run(2_000)
    assert view(client, "a")["rung"] == []
    leader = leader_of(world, "a")
    assert [(one.channel, one.sender) for one in leader.failures] == [("-alarm", "system:time@moot")]
    assert len(world.records("a", "clock")[0]) < before
    assert len(set(world.records("a", "clock"))) == 1


def test_a_repeating_alarm_keeps_its_beat_and_skips_what_it_missed() -> None:
    world, client = clocks()
    make(client, "a")
    send(client, "a", "repeat", name="x", every_ms=100)
    world.run(1_050)
    assert view(client, "a")["rung"] == ["x"] * 10
    for node in world.nodes.values():
        node.paused_until_ms = world.now_ms + 1_000
    world.run(1_000)
    world.run_until(world.settled)
    world.run(60)
    assert 10 < len(view(client, "a")["rung"]) <= 13
    assert send(client, "a", "disarm", name="x") == 1
    rung = view(client, "a")["rung"]
    world.run(500)
    assert view(client, "a")["rung"] == rung


@pytest.mark.parametrize("saved", [True, False])
def test_an_alarm_rings_at_the_next_leader_whether_its_document_is_written_or_only_in_the_log(saved: bool) -> None:
    world, client = clocks(checkpoints=saved)
    make(client, "a")
    send(client, "a", "arm", name="x", after_ms=9_000)
    world.run(7_000 if saved else 200)  # written after 5 s without a command
    dying = leader_of(world, "a")
    dying.crash()
    world.run_until(lambda: world.settled_without(dying))
    client = world.client(next(name for name, node in world.nodes.items() if node.up))
    world.run(1_000)
    assert view(client, "a")["rung"] == []
    world.run(8_500)
    assert view(client, "a")["rung"] == ["x"]


def test_alarms_of_documents_that_are_not_in_memory_ring_after_all_nodes_restarted() -> None:
    world, client = clocks(cache_bytes_max=1, compaction=CompactionConfig(every_entries=8, kept_entries=2))
    for number in range(20):
        make(client, f"d{number}")
        send(client, f"d{number}", "arm", name="x", after_ms=15_000 + 10 * number)
    world.run(8_000)
    shard = world.nodes[next(iter(world.nodes))].pump.replicas
    assert all(len(replica.cache) == 0 for number, replica in shard.items() if number)
    for node in world.nodes.values():
        node.crash()
    for node in world.nodes.values():
        node.boot()
    world.run_until(world.settled)
    client = world.client("n1")
    world.run(16_000)
    assert [view(client, f"d{number}")["rung"] for number in range(20)] == [["x"]] * 20


def test_a_snapshot_brings_what_its_documents_wait_for() -> None:
    """The index is written with the records, whoever they come from: a follower that was given a snapshot can lead."""
    world, client = clocks(compaction=CompactionConfig(every_entries=8, kept_entries=2, lagging_entries=8), shards=1)
    away = next(node for node in world.nodes.values() if node is not leader_of(world, "a") and node.name != "n1")
    away.crash()
    make(client, "a")
    send(client, "a", "arm", name="x", after_ms=30_000)
    for number in range(40):
        make(client, f"d{number}")
        world.run(200)
    away.boot()
    replica = away.pump.replicas[leader_of(world, "a").pump.router.shard_of("clock", "a")]
    world.run_until(lambda: replica.stored.partial is None and replica.cache.generation > 0)
    assert replica.cache.due(b"", 1 << 60, 9) != []


def test_many_alarms_that_are_due_at_once_are_paced_and_others_are_served_meanwhile() -> None:
    world, client = clocks(shards=1)
    make(client, "busy")
    for number in range(40):
        make(client, f"d{number}")
    at_ms = world.now_ms + 2_000
    for number in range(40):
        for name in "abcdefgh":
            send(client, f"d{number}", "arm", name=name, after_ms=int(at_ms - world.now_ms))
    world.run(at_ms - world.now_ms)
    served = []
    for _ in range(20):
        asked_ms = world.now_ms
        send(client, "busy", "disarm", name="x")
        served.append(world.now_ms - asked_ms)
    assert max(served) <= 20
    world.run(300)
    assert all(len(view(client, f"d{number}")["rung"]) == 8 for number in range(40))
    leader = leader_of(world, "busy")
    per_entry: dict[tuple[int, int], int] = {}
    for shard, index, _offset in leader.marker.ran:
        per_entry[shard, index] = per_entry.get((shard, index), 0) + 1
    assert max(per_entry.values()) <= FIRINGS_MAX + 1


def test_a_heap_that_is_cut_forgets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alarms, "HEAP_MAX", 4)
    world, client = clocks(shards=1, cache_bytes_max=1)
    for number in range(30):
        make(client, f"d{number}")
        send(client, f"d{number}", "arm", name="x", after_ms=20_000 - 100 * number)
        world.run(300)
    world.run(18_000)
    assert [view(client, f"d{number}")["rung"] for number in range(30)] == [["x"]] * 30


def test_an_ask_without_an_answer_ends_at_its_time_with_nothing() -> None:
    world, client = clocks()
    make(client, "a")
    ask = send(client, "a", "ask", who="bob", question="why", within_ms=500)
    world.run(450)
    assert view(client, "a")["answers"] == []
    world.run(100)
    assert view(client, "a")["answers"] == ["system:time:nothing"]
    late = answer(client, "a", ask, "because", "bob")
    assert late.failure is not None
    assert late.failure.reason == "ASK_CLOSED"
    assert view(client, "a")["answers"] == ["system:time:nothing"]


def test_the_first_answer_counts_a_repeat_gets_it_again_and_others_are_refused() -> None:
    world, client = clocks()
    make(client, "a")
    ask = send(client, "a", "ask", who="bob", question="why", within_ms=5_000)
    stranger = answer(client, "a", ask, "guess", "carol")
    assert stranger.failure is not None
    assert stranger.failure.reason == "ASK_CLOSED"
    wrong = answer(client, "a", ask, 5, "bob")
    assert wrong.failure is not None
    assert wrong.failure.reason == "INVALID_PAYLOAD"
    unfit = answer(client, "a", ask, "unfit", "bob")
    assert unfit.failure is not None
    assert unfit.failure.reason == "HANDLER_REFUSED"
    key = bytes(range(16))
    first = answer(client, "a", ask, "because", "bob", session=key)
    assert (first.failure, first.payload) == (None, b"1")
    again = answer(client, "a", ask, "because", "bob", session=key)
    assert (again.failure, again.payload, again.index) == (None, b"1", first.index)
    other = answer(client, "a", ask, "well", "bob")
    assert other.failure is not None
    assert other.failure.reason == "ASK_CLOSED"
    world.run(6_000)
    assert view(client, "a")["answers"] == ["bob:because"]
    assert len(set(world.records("a", "clock"))) == 1


def test_a_leader_made_command_that_is_repeated_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two leaders may propose the same firing: only the first that is applied counts, and the other moves no position."""
    world, client = clocks()
    make(client, "a")
    send(client, "a", "arm", name="x", after_ms=100)
    shard = leader_of(world, "a").pump.replicas[leader_of(world, "a").pump.router.shard_of("clock", "a")]
    live = shard.cache.get("clock", "a")
    assert live.instance is not None
    due = live.instance.due(1 << 60, 9)
    world.run(300)
    before = client.insist(Kind.READ, "a", "", None, space="clock").index
    made = Command(
        int(CommandKind.ALARM), "clock", "a", due[0].channel, due[0].payload, TIME_PRINCIPAL, b"", 0, 0, live.code_hash
    )
    proposed: list[int] = []

    def take(self: alarms.Alarms, now_ms: int) -> list[Command]:
        if self._cache is not shard.cache:
            return []
        proposed.append(now_ms)
        return [made]

    monkeypatch.setattr(alarms.Alarms, "take", take)
    make(client, "b")
    for number in range(9):
        send(client, "a", "disarm", name=str(number))
        before += 1
    assert len(proposed) >= 9
    assert client.insist(Kind.READ, "a", "", None, space="clock").index == before
    assert view(client, "a")["rung"] == ["x"]


def test_a_document_that_was_taken_over_from_another_replica_rings_by_what_that_one_has() -> None:
    """The record of the majority replaces a leader's own: what it has armed is what counts, at once and after a restart."""
    world, client = clocks(shards=1)
    make(client, "a")
    send(client, "a", "arm", name="x", after_ms=2_000)
    replica = leader_of(world, "a").pump.replicas[leader_of(world, "a").pump.router.shard_of("clock", "a")]
    body = replica.cache.get("clock", "a").record()
    batch = Batch()
    alarms_of = replica.intake._alarms
    assert alarms_of is not None
    alarms_of._known.clear()  # as if it had never heard of it
    replica.cache.adopt(DocumentId("clock", "a"), body, batch)
    leader_of(world, "a").engine.write(batch)
    assert replica.cache.due(b"", 1 << 60, 9) != []
    make(client, "b")
    world.run(2_500)
    assert view(client, "a")["rung"] == ["x"]
