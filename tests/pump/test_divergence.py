"""A document whose handler reads what it should not: found, named, and made equal again, without losing a command."""

from __future__ import annotations

import base64
import random
from collections.abc import Callable

import msgspec
import pytest

from cluster.documents.bundle import Bundle
from cluster.documents.loader import BundleLoader
from cluster.documents.runtime import Program
from cluster.ids import LogIndex, NodeId, ShardId
from cluster.node.divergence_hook import LeakingLoader
from cluster.pump import frames
from cluster.pump.lanes import Lane
from cluster.raft.events import Transfer
from cluster.session.operations import Kind, Reply
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
from cluster.shard.replica import CompactionConfig, ShardReplica
from cluster.shard.system.program import OPERATOR
from cluster.shardmap.map import SYSTEM_KEY, SYSTEM_SPACE
from tests.pump.tally import TallyLoader, session_id
from tests.pump.world import Client, SimulatedNode, World

MARKER = "the-host"
BOARD = b'''
from cluster import Command, Document, Record, anyone, field, on

class Cell(Record):
    owner: str
    moves: int

class Board(Document, version=1):
    """Cells and who has them."""

    gate = anyone
    board: dict[int, Cell] = field.private()

    @on.message
    def claim(self, ctx: Command, cell: int, owner: str) -> str:
        self.board[cell] = Cell(owner, len(self.board))
        return owner

    @on.message
    def hush(self, ctx: Command, cell: int, owner: str) -> None:
        self.board[cell] = Cell(owner, len(self.board))

    @on.message
    def count(self, ctx: Command) -> int:
        return len(self.board)
'''


class Loader:
    """The tally, and authors' code that leaks on the nodes that a test says."""

    def __init__(self, leak: str) -> None:
        self._tally = TallyLoader()
        self._real = LeakingLoader(MARKER, lambda: leak) if leak else BundleLoader()

    def load(self, code: bytes) -> Program:
        return self._tally.load(code) if code.startswith(b"tally") else self._real.load(code)


def planted(leaks: Callable[[NodeId], str], seed: int = 1, shards: int = 1, **more: object) -> World:
    """A cluster with the board deployed and one document `a`. leaks: what handlers of a node see instead of the marker."""
    world = World(shards=shards, seed=seed, loader=lambda node: Loader(leaks(node.name)), **more)  # type: ignore[arg-type]
    client = world.start()
    bundle = Bundle("board", (("board.py", BOARD),)).encode()
    request = {"space": "board", "bundle": base64.b64encode(bundle).decode()}
    system = {"space": SYSTEM_SPACE, "principal": str(OPERATOR)}
    assert client.insist(Kind.SEND, SYSTEM_KEY, "deploy", request, **system).failure is None
    world.run_until(lambda: all(node.directory.decisions.version == 3 for node in world.nodes.values()))
    assert client.insist(Kind.CREATE, "a", space="board").failure is None
    return world


def replica_of(node: SimulatedNode, key: str = "a") -> ShardReplica:
    return node.pump.replicas[node.pump.router.shard_of("board", key)]


def leader_of(world: World) -> SimulatedNode:
    return next(node for node in world.nodes.values() if node.up and replica_of(node).leads)


def followers_of(world: World) -> list[SimulatedNode]:
    return [node for node in world.nodes.values() if node.up and not replica_of(node).leads]


def reports(world: World) -> dict[NodeId, list[Divergence]]:
    return {node.name: node.pump.divergences.reports.all() for node in world.nodes.values() if node.up}


def healed(world: World) -> bool:
    """Everybody has settled the report, and has the same record."""
    known = reports(world)
    return (
        all(each and all(report.remedy is Remedy.HEALED for report in each) for each in known.values())
        and len(set(world.records("a", "board"))) == 1
    )


def claim(client: Client, cell: int, owner: str, channel: str = "claim", **more: object) -> Reply:
    return client.insist(Kind.SEND, "a", channel, {"cell": cell, "owner": owner}, space="board", **more)


def state(node: SimulatedNode) -> dict[str, dict[int, dict[str, object]]]:
    live = replica_of(node).cache.get("board", "a")
    assert live.instance is not None
    decoded: dict[str, dict[int, dict[str, object]]] = msgspec.msgpack.decode(live.instance.dump(), strict=False)
    return decoded


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


def restarted(world: World, node: SimulatedNode) -> None:
    """Start a node anew, so that its loader is made as the test now says."""
    node.crash()
    world.run(50)
    node.boot()
    world.run_until(world.settled)
    world.run(300)


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


def lead(world: World, node: SimulatedNode) -> None:
    """Make a node lead the board's shard."""
    replica = replica_of(node)
    for _ in range(50):
        if replica.serves:
            return
        now = leader_of(world)
        transfer(world, now, node)
        world.run(400)
    raise AssertionError("it does not come to lead")


def transfer(world: World, now: SimulatedNode, then: SimulatedNode) -> None:
    replica = replica_of(now)
    replica.handle(Transfer(replica_of(then).replica), world.now_ms, now.pump._turn)


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


FAR_BEHIND = CompactionConfig(every_entries=4, kept_entries=4, lagging_entries=8)


def differing_without_the_third(seed: int = 1) -> tuple[World, SimulatedNode, SimulatedNode, SimulatedNode]:
    """Two replicas differ about `a` and the third, which would decide, needs a snapshot: (world, leader, follower, third)."""
    leaking: set[NodeId] = set()
    world = planted(lambda name: "its-own-host" if name in leaking else "", seed=seed, compaction=FAR_BEHIND)
    victim = followers_of(world)[0]
    leaking.add(victim.name)
    restarted(world, victim)
    leader = leader_of(world)
    assert world.client(leader.name).insist(Kind.CREATE, "b", space="board").failure is None
    world.run(300)
    third = next(node for node in followers_of(world) if node is not victim)
    third.crash(lose_unsynced=False)
    client = world.client(leader.name)
    assert claim(client, 1, MARKER).failure is None
    world.run_until(lambda: any(report.remedy is Remedy.WAITING for report in leader.pump.divergences.reports.all()))
    for cell in range(30):
        assert beside(client, cell).failure is None
        world.run(30)
    world.run(500)
    return world, leader, victim, third


def beside(client: Client, cell: int) -> Reply:
    return client.insist(Kind.SEND, "b", "claim", {"cell": cell, "owner": "ann"}, space="board")


def report_on(node: SimulatedNode) -> Divergence:
    return node.pump.divergences.reports.all()[0]


def test_a_shard_goes_on_when_its_quorum_needs_the_snapshot_that_doubt_withholds() -> None:
    """The document could only be examined once entries on their way were committed, these waited for a replica that needed a
    snapshot, and no snapshot left while the document was doubted.
    """
    world, leader, victim, third = differing_without_the_third()
    third.boot()
    world.run(2_500)
    assert replica_of(leader).serves
    assert replica_of(third).applied < replica_of(leader).raft.snapshot.index, "while a quorum does without, doubt withholds it"
    victim.crash(lose_unsynced=False)
    number = world.client(leader.name).submit(Kind.SEND, "b", "claim", {"cell": 99, "owner": "ann"}, space="board")
    client = next(reversed(leader.clients.values()))
    world.run_until(lambda: number in client.replies, within_ms=5_000)
    assert client.replies[number][0].failure is None
    assert report_on(leader).remedy is Remedy.WAITING, "a copy of the leader's state decides nothing"
    world.run_until(lambda: report_on(leader).remedy is Remedy.FROZEN, within_ms=40_000)
    assert report_on(leader).right == ()
    assert replica_of(third).cache.get("board", "a").frozen


def test_a_copy_that_was_sent_in_doubt_does_not_outvote_who_ran_the_command() -> None:
    """Nor when it leads: it knows itself that it is one."""
    world, leader, victim, third = differing_without_the_third()
    third.boot()
    victim.crash(lose_unsynced=False)
    assert beside(world.client(leader.name), 99).failure is None
    world.run_until(lambda: bool(third.pump.divergences.reports.all()))
    leader.crash(lose_unsynced=False)
    victim.boot()
    world.run_until(lambda: replica_of(third).serves or replica_of(victim).serves)
    lead(world, third)
    leader.boot()
    world.run_until(lambda: all(known and known[0].settled for known in reports(world).values()), within_ms=40_000)
    assert {known[0].remedy for known in reports(world).values()} == {Remedy.FROZEN}
    assert report_on(third).right == ()
    assert state(victim)["board"][1]["owner"] == "its-own-host", "nobody was overruled"
    assert state(third)["board"][1]["owner"] == MARKER
    assert beside(world.client(third.name), 100).failure is None, "its neighbours go on"


def test_a_difference_that_nobody_heard_shows_is_looked_for_later() -> None:
    """All answers to the examination come too late: there is nothing to report yet, and nothing to fail over."""
    leaking: set[NodeId] = set()
    world = planted(lambda name: "its-own-host" if name in leaking else "")
    victim = followers_of(world)[0]
    leaking.add(victim.name)
    restarted(world, victim)
    leader = leader_of(world)
    assert claim(world.client(leader.name), 1, MARKER).failure is None
    world.run_until(lambda: bool(replica_of(leader).cache.held))
    world.delay_ms = lambda sender, receiver, lane: 1_500.0 if lane is Lane.BULK and receiver == leader.name else 0.0
    world.run(1_200)
    assert leader.pump.divergences.reports.all() == []
    world.delay_ms = lambda sender, receiver, lane: 0.0
    world.run_until(lambda: healed(world))
    assert report_on(leader).wrong == (victim.name,)
