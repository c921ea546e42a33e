"""A document whose handler reads what it should not: found, named, and made equal again, without losing a command."""

from __future__ import annotations

import contextlib
import random

import msgspec
import pytest

from cluster.errors import RetryableError
from cluster.ids import LogIndex, NodeId, ShardId
from cluster.placement.move import Action
from cluster.pump import frames
from cluster.pump.lanes import Lane
from cluster.session.operations import Kind
from cluster.shard.divergence import (
    ChainMark,
    CompareRequest,
    Divergence,
    DivergenceItem,
    EvidenceRequest,
    Remedy,
    Side,
    VerdictItem,
)
from cluster.shard.replica import CompactionConfig
from tests.pump.planting import (
    MARKER,
    claim,
    followers_of,
    healed,
    lead,
    leader_of,
    planted,
    replica_of,
    reports,
    restarted,
    state,
)
from tests.pump.tally import session_id
from tests.pump.world import SimulatedNode, World


def test_diverged_follower_is_found_named_and_healed_without_losing_a_command() -> None:
    leaking: set[NodeId] = set()
    world = planted(lambda name: "its-own-host" if name in leaking else "")
    victim = followers_of(world)[0]
    leaking.add(victim.name)
    restarted(world, victim)
    client = world.client(leader_of(world).name)
    for cell in range(3):
        assert claim(client, cell, "ann").failure is None
    answer = claim(client, 3, MARKER)
    assert (answer.failure, answer.payload, answer.index) == (None, b'"the-host"', 5)
    world.run_until(lambda: healed(world))
    report = leader_of(world).pump.divergences.reports.all()[0]
    assert (report.space, report.key, report.epoch, report.index, report.channel) == ("board", "a", 1, 5, "claim")
    assert report.field == "board/3/owner"
    assert report.differs == ("answer", "state")
    assert set(report.right) == set(world.names) - {victim.name}
    assert report.wrong == (victim.name,)
    assert not report.misled
    assert leader_of(world).pump.replicas[ShardId(report.shard)].raft.term_of(LogIndex(report.log_index))
    assert state(victim)["board"][3]["owner"] == MARKER
    assert claim(client, 4, "bob").index == 6
    world.run(2_000)
    assert len(set(world.records("a", "board"))) == 1
    assert len(reports(world)[victim.name]) == 1, "it is told once"


def test_divergence_in_state_alone_is_found_although_every_answer_was_the_same() -> None:
    leaking: set[NodeId] = set()
    world = planted(lambda name: "its-own-host" if name in leaking else "")
    victim = followers_of(world)[1]
    leaking.add(victim.name)
    restarted(world, victim)
    client = world.client(leader_of(world).name)
    assert claim(client, 7, MARKER, "hush").failure is None
    world.run_until(lambda: healed(world))
    report = reports(world)[victim.name][0]
    assert (report.index, report.channel, report.field) == (2, "hush", "board/7/owner")
    assert report.differs == ("state",), "code and answer are what the others have"


def test_the_first_of_many_commands_of_one_entry_is_named() -> None:
    leaking: set[NodeId] = set()
    world = planted(lambda name: "its-own-host" if name in leaking else "")
    victim = followers_of(world)[0]
    leaking.add(victim.name)
    restarted(world, victim)
    client = world.client(leader_of(world).name)
    owners = ["ann"] * 20 + [MARKER] + ["bob"] * 20
    operations = [
        client.operation(Kind.SEND, "a", "claim", {"cell": cell, "owner": owner}, space="board")
        for cell, owner in enumerate(owners)
    ]
    client.submit_all(*operations)
    world.run_until(lambda: healed(world))
    report = reports(world)[victim.name][0]
    assert (report.index, report.offset, report.field) == (1 + 21, 20, "board/20/owner")


def test_a_leader_in_the_minority_hands_over_and_is_healed() -> None:
    """What it answered before it was found can contradict what the document is now: the report says so."""
    leaking: set[NodeId] = set()
    world = planted(lambda name: "its-own-host" if name in leaking else "")
    wrong = leader_of(world)
    leaking.add(wrong.name)
    restarted(world, wrong)
    lead(world, wrong)
    session = session_id(9)
    client = world.client(followers_of(world)[0].name)
    told = {}
    for number, owner in enumerate(["ann", MARKER, "bob", "cid"], start=1):
        told[number] = claim(client, number, owner, session=session, sequence=number)
        assert told[number].failure is None
        world.run(3)
    world.run_until(lambda: healed(world))
    assert leader_of(world) is not wrong
    report = reports(world)[wrong.name][0]
    assert report.misled
    assert (report.leader, report.wrong) == (wrong.name, (wrong.name,))
    assert report.field == "board/2/owner"
    board = state(leader_of(world))["board"]
    assert {cell: entry["owner"] for cell, entry in board.items()} == {1: "ann", 2: MARKER, 3: "bob", 4: "cid"}
    repeated = claim(client, 2, MARKER, session=session, sequence=2)
    assert (repeated.index, repeated.payload) == (told[2].index, b'"the-host"'), "the majority's answer, not the one told first"
    assert told[2].payload == b'"its-own-host"'
    assert not replica_of(wrong).unwell


def test_without_a_majority_only_that_document_freezes() -> None:
    world = planted(lambda name: f"host-of-{name}")
    client = world.client(leader_of(world).name)
    assert client.insist(Kind.CREATE, "b", space="board").failure is None
    assert claim(client, 1, MARKER).failure is None
    world.run_until(lambda: all(each and each[0].remedy is Remedy.FROZEN for each in reports(world).values()))
    report = reports(world)[leader_of(world).name][0]
    assert len(report.sides) == 3
    assert report.right == ()
    refused = claim(client, 2, "ann")
    assert refused.failure is not None
    assert refused.failure.reason == "DOCUMENT_FROZEN"
    beside = client.insist(Kind.SEND, "b", "claim", {"cell": 1, "owner": "ann"}, space="board")
    assert beside.failure is None, "its neighbours go on"
    assert client.insist(Kind.READ, "a", space="board").failure is None, "reads go on"
    world.run(3_000)
    assert len(reports(world)[leader_of(world).name]) == 1


def test_two_that_differ_wait_for_the_third_before_anybody_is_wrong() -> None:
    leaking: set[NodeId] = set()
    world = planted(lambda name: "its-own-host" if name in leaking else "")
    victim, third = followers_of(world)
    leaking.add(victim.name)
    restarted(world, victim)
    world.run_until(world.settled)
    third = next(node for node in followers_of(world) if node is not victim)
    third.crash()
    client = world.client(leader_of(world).name)
    assert claim(client, 1, MARKER).failure is None
    leader = leader_of(world)
    world.run_until(lambda: bool(leader.pump.divergences.reports.all()))
    assert leader.pump.divergences.reports.all()[0].remedy is Remedy.WAITING
    number = client.submit(Kind.SEND, "a", "count", {}, space="board")
    world.run_until(lambda: number in client.replies)
    failure = client.replies[number][0].failure
    assert failure is not None
    assert failure.reason == "UNAVAILABLE", "nobody knows what the document is"
    third.boot()
    world.run_until(lambda: healed(world))
    assert reports(world)[leader_of(world).name][0].wrong == (victim.name,)
    assert claim(world.client(leader_of(world).name), 2, "ann").index == 3


def test_a_follower_that_was_away_is_healed_when_it_comes_back() -> None:
    """The report stays open until every voter was seen to be right, whoever leads by then."""
    leaking: set[NodeId] = set()
    world = planted(lambda name: "its-own-host" if name in leaking else "", seed=5)
    victim = followers_of(world)[0]
    leaking.add(victim.name)
    restarted(world, victim)
    client = world.client(leader_of(world).name)
    assert claim(client, 1, MARKER).failure is None
    leader = leader_of(world)
    world.run_until(lambda: bool(leader.pump.divergences.reports.all()))
    victim.crash(lose_unsynced=False)
    leaking.clear()
    world.run(1_500)
    leader.crash()
    world.run(100)
    victim.boot()
    leader.boot()
    world.run_until(world.settled)
    world.run_until(lambda: len(set(world.records("a", "board"))) == 1)
    assert state(victim)["board"][1]["owner"] == MARKER


def test_watchers_of_a_leader_that_was_wrong_start_over() -> None:
    leaking: set[NodeId] = set()
    world = planted(lambda name: "its-own-host" if name in leaking else "")
    wrong = leader_of(world)
    leaking.add(wrong.name)
    restarted(world, wrong)
    lead(world, wrong)
    watcher = world.client(wrong.name)
    watcher.submit(Kind.WATCH, "a", space="board")
    world.run_until(lambda: bool(watcher.deltas))
    assert claim(world.client(wrong.name), 1, MARKER).failure is None
    world.run_until(lambda: bool(watcher.deltas) and watcher.deltas[-1].failure is not None)
    failure = watcher.deltas[-1].failure
    assert failure is not None
    assert failure.reason == "POSITION_REWOUND"


def test_history_of_the_healed_replica_is_what_the_others_have() -> None:
    leaking: set[NodeId] = set()
    world = planted(lambda name: "its-own-host" if name in leaking else "")
    victim = followers_of(world)[0]
    leaking.add(victim.name)
    restarted(world, victim)
    client = world.client(leader_of(world).name)
    for cell, owner in enumerate(["ann", MARKER, "bob"]):
        assert claim(client, cell, owner).failure is None
    world.run_until(lambda: healed(world))
    stored = [replica_of(node).stored.history.scan_all(None, 1 << 20) for node in world.nodes.values()]
    assert stored[0] == stored[1] == stored[2]


def test_healed_record_survives_the_crash_of_everybody() -> None:
    leaking: set[NodeId] = set()
    world = planted(lambda name: "its-own-host" if name in leaking else "")
    victim = followers_of(world)[0]
    leaking.add(victim.name)
    restarted(world, victim)
    client = world.client(leader_of(world).name)
    assert claim(client, 1, MARKER).failure is None
    world.run_until(lambda: healed(world))
    for node in world.nodes.values():
        node.crash()
    for node in world.nodes.values():
        node.boot()
    world.run_until(world.settled)
    nodes = world.nodes.values()
    world.run_until(lambda: all(replica_of(node).cache.get("board", "a").index == 2 for node in nodes))
    assert {state(node)["board"][1]["owner"] for node in nodes} == {MARKER}
    assert len(set(world.records("a", "board"))) == 1


def test_many_shards_and_documents_that_do_not_differ_are_never_suspected() -> None:
    """With crashes, replay, snapshots and tiny caches: sums of replicas that are well are equal."""
    for seed in range(3):
        small = CompactionConfig(every_entries=12, kept_entries=4, lagging_entries=8)
        world = planted(lambda name: "", seed=seed, shards=2, compaction=small, cache_bytes_max=2_000)
        source = random.Random(seed)
        client = world.client("n1")
        for step in range(120):
            key = source.choice("abcdef")
            if step < 6:
                client.insist(Kind.CREATE, "abcdef"[step], space="board")
            client.submit(Kind.SEND, key, "claim", {"cell": step, "owner": "ann"}, space="board")
            world.run(source.choice((0, 1, 3)))
            if step % 40 == 20:
                victim = world.nodes[source.choice([NodeId("n2"), NodeId("n3")])]
                victim.crash()
                world.run(source.choice((20, 600)))
                victim.boot()
        world.run(3_000)
        for node in world.nodes.values():
            assert node.pump.divergences.reports.all() == []
            assert node.pump.divergences.unexplained == 0


def test_log_line_names_no_key_of_a_private_table() -> None:
    leaking: set[NodeId] = set()
    world = planted(lambda name: "its-own-host" if name in leaking else "")
    victim = followers_of(world)[0]
    leaking.add(victim.name)
    restarted(world, victim)
    client = world.client(leader_of(world).name)
    assert claim(client, 4711, MARKER).failure is None
    leader = leader_of(world)
    world.run_until(lambda: healed(world))
    lines = [report.told() for report in leader.pump.divergences.reports.news]
    assert len(lines) == 2, "found, and healed"
    for line in lines:
        assert "board/a" in line
        assert "'board'" in line
        assert "4711" not in line
        assert MARKER not in line
        assert "its-own-host" not in line


@pytest.mark.parametrize("lost", [0.0, 0.2])
def test_it_is_healed_although_messages_are_lost(lost: float) -> None:
    leaking: set[NodeId] = set()
    world = planted(lambda name: "its-own-host" if name in leaking else "", seed=11)
    victim = followers_of(world)[0]
    leaking.add(victim.name)
    restarted(world, victim)
    client = world.client(leader_of(world).name)
    world.loss = lost
    for cell in range(10):
        client.submit(Kind.SEND, "a", "claim", {"cell": cell, "owner": MARKER}, space="board")
        world.run(30)
        world.mend()
    world.run(1_000)
    world.loss = 0.0
    world.mend()
    world.run_until(lambda: healed(world))


def test_what_a_peer_can_not_mean_is_counted_and_changes_nothing() -> None:
    """Another shard's document, numbers that no store holds, a verdict of somebody who does not lead."""
    world = planted(lambda name: "", shards=2)
    leader = leader_of(world)
    follower, other = followers_of(world)
    mine, theirs = replica_of(follower), replica_of(leader)
    foreign = next(key for key in "bcdefgh" if leader.pump.router.shard_of("board", key) != mine.id)
    head = (mine.id, theirs.replica, mine.replica)
    side = Side(b"1" * 8, (follower.name,))
    report = Divergence(
        mine.id, "board", "a", 1, 1, 1, 0, "", ("state",), "", (side,), (leader.name,), leader.name, False, Remedy.FROZEN, 1
    )
    before = world.records("a", "board")
    garbage: list[DivergenceItem] = [
        CompareRequest(*head, 1, LogIndex(1), [ChainMark("board", foreign, 1, 1, b"")]),
        CompareRequest(*head, 1, LogIndex(1), [ChainMark("board", "a", 1 << 40, 1, b"")]),
        EvidenceRequest(*head, 1, "board", "a\0", LogIndex(1), b"", 1, 1, []),
        EvidenceRequest(*head, 1, "board", "a", LogIndex(-1), b"", 1, 1, []),
        VerdictItem(*head, theirs.raft.term, msgspec.structs.replace(report, key=foreign), False, b"", []),
        VerdictItem(*head, theirs.raft.term, report, True, b"", [(1, 0, b"")]),
    ]
    counted = follower.pump.garbage_frames
    for item in garbage:
        for frame in frames.pack_bulk([item]):
            follower.pump.on_frame(leader.name, Lane.BULK, frame, world.now_ms)
    assert follower.pump.garbage_frames == counted + len(garbage)
    stranger = VerdictItem(mine.id, replica_of(other).replica, mine.replica, theirs.raft.term, report, False, b"", [])
    for frame in frames.pack_bulk([stranger]):
        follower.pump.on_frame(other.name, Lane.BULK, frame, world.now_ms)
    world.run(100)
    assert world.records("a", "board") == before
    assert follower.pump.divergences.reports.all() == []


@pytest.mark.parametrize("replaced", [True, False])
def test_a_report_is_settled_when_the_replica_that_was_wrong_is_moved_away(replaced: bool) -> None:
    """It is not there to be healed; neither those that stayed nor the node that it left keep the report open."""
    leaking: set[NodeId] = set()
    world = planted(lambda name: "its-own-host" if name in leaking else "", nodes=4)
    shard = leader_of(world).pump.router.shard_of("board", "a")
    victim = next(node for node in world.holders(shard) if not replica_of(node).leads)
    leaking.add(victim.name)
    restarted(world, victim)
    client = world.client(leader_of_shard(world, shard).name)
    assert claim(client, 1, MARKER).failure is None
    leader = leader_of_shard(world, shard)
    world.run_until(lambda: bool(leader.pump.divergences.reports.open))
    free = next(node for node in world.nodes.values() if shard not in node.pump.replicas)
    world.cut |= {(victim.name, name) for name in world.names}
    world.run_until(lambda: bool(victim.pump.divergences.reports.open))
    world.cut |= {(name, victim.name) for name in world.names}
    moved(world, shard, victim, free if replaced else None)
    world.run_until(lambda: not leader_of_shard(world, shard).pump.divergences.reports.open, within_ms=40_000)
    for node in world.holders(shard):
        if node is not victim:
            assert [report.remedy for report in node.pump.divergences.reports.all()] in ([Remedy.HEALED], [])
            assert not node.pump.divergences.reports.open
    assert victim.pump.divergences.reports.open, "it was told, and nobody heard that it is right now"
    world.cut.clear()
    world.mend()
    world.run_until(lambda: shard not in victim.pump.replicas)
    world.run(2_500)
    assert not victim.pump.divergences.reports.open


def leader_of_shard(world: World, shard: ShardId) -> SimulatedNode:
    world.run_until(lambda: any(node.up and node.pump.replicas[shard].serves for node in world.holders(shard)))
    return next(node for node in world.holders(shard) if node.up and node.pump.replicas[shard].serves)


def moved(world: World, shard: ShardId, leaving: SimulatedNode, joining: SimulatedNode | None) -> None:
    """Drive a move of a replica to its end."""
    target = joining.name if joining is not None else None
    for _ in range(2_000):
        with contextlib.suppress(RetryableError):
            pump = leader_of_shard(world, shard).pump
            if pump.move_step(shard, leaving.name, target, world.now_ms).action is Action.DONE:
                return
        world.run(20)
    raise AssertionError("the move does not end")
