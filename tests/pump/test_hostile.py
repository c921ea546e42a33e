"""What the bytes of peers and clients, rotten disks and unlucky moments may not do: end a node, or leave somebody waiting."""

from __future__ import annotations

import msgspec
import pytest

from cluster.ids import DocumentId, LogIndex, NodeId, ShardId, Term
from cluster.pump import frames
from cluster.pump.lanes import Lane
from cluster.raft.messages import Append, AppendReply, Message, Run, SnapshotMeta, TimeoutNow, VoteReply
from cluster.session.operations import Consistency, Delta, Kind, Operation, Reply
from cluster.shard.commands import decode_row
from cluster.shard.turn import (
    AnswerItem,
    CloseItem,
    ForwardItem,
    GrantItem,
    HistoryChunk,
    HistoryPull,
    RaftItem,
    SnapshotChunk,
    SnapshotClose,
    SnapshotOpening,
    SnapshotPull,
    SnapshotRequest,
)
from cluster.storage.engine import Family
from tests.pump.tally import session_id
from tests.pump.world import SimulatedNode, World

SHARD = ShardId(1)


def started(shards: int = 1) -> World:
    world = World(shards=shards)
    world.start().insist(Kind.CREATE, "a")
    return world


def peers_of_leader(world: World) -> tuple[SimulatedNode, SimulatedNode]:
    """Who leads the shard of the document, and one of its followers."""
    leader = world.leader("a")
    follower = next(node for node in world.nodes.values() if node is not leader)
    return leader, follower


def raft_item(sender: SimulatedNode, receiver: SimulatedNode, message: Message) -> bytes:
    shard = receiver.pump.replicas[SHARD].shard
    sent_by, meant_for = shard.replica_on(sender.name), shard.replica_on(receiver.name)
    assert sent_by is not None
    assert meant_for is not None
    return frames.pack_raft([RaftItem(SHARD, sent_by, meant_for, message)])[0]


def answers_to(node: SimulatedNode, monkeypatch: pytest.MonkeyPatch) -> list[Reply]:
    """Collects what leaders answer to streams of this node, which need not exist."""
    answers: list[Reply] = []

    def answered(number: int, node: NodeId, deltas: list[Delta], replies: list[Reply], now_ms: float) -> None:
        answers.extend(replies)

    monkeypatch.setattr(node.pump.streams, "answered", answered)
    return answers


@pytest.mark.parametrize(
    "more",
    [
        {"key": ""},
        {"key": "a\0b"},
        {"space": "Not a space"},
        {"kind": 99},
        {"kind": -1},
        {"kind": Kind.READ, "consistency": 7},
        {"principal": "nobody"},
        {"principal": "@"},
        {"session": b"short", "sequence": 1},
        {"session": session_id(1), "sequence": -1},
        {"session": session_id(1), "sequence": 1 << 63},
        {"acked_through": -5},
        {"kind": Kind.LIST, "payload": b"!!!"},
        {"kind": Kind.LIST, "credit": -1},
        {"kind": Kind.LIST, "channel": "\0"},
    ],
)
def test_a_forwarded_operation_that_no_gateway_lets_through_is_refused_and_nothing_ends(
    monkeypatch: pytest.MonkeyPatch, more: dict[str, object]
) -> None:
    world = started()
    leader, follower = peers_of_leader(world)
    before = world.records("a")[0]
    fields = {"kind": Kind.SEND, "space": "tally", "key": "a", "principal": "alice@acme", "channel": "add", **more}
    operation = Operation(5, payload=fields.pop("payload", b'{"amount":1}'), **fields)  # type: ignore[arg-type]
    answers = answers_to(follower, monkeypatch)
    leader.pump.on_frame(follower.name, Lane.RAFT, frames.pack_raft([ForwardItem(SHARD, 9, [operation])])[0], world.now_ms)
    world.run(300)
    assert [(reply.id, reply.failure is not None and reply.failure.applied) for reply in answers] == [(5, "no")]
    assert set(world.records("a")) == {before}
    assert world.settled()


def test_an_operation_for_another_shards_document_is_refused_as_a_stale_route(monkeypatch: pytest.MonkeyPatch) -> None:
    world = started(shards=2)
    router = world.nodes[NodeId("n1")].pump.router
    elsewhere = next(key for key in "bcdefgh" if router.shard_of("tally", key) != router.shard_of("tally", "a"))
    leader, follower = peers_of_leader(world)
    answers = answers_to(follower, monkeypatch)
    item = ForwardItem(router.shard_of("tally", "a"), 9, [Operation(5, Kind.CREATE, "tally", elsewhere, "a@b", payload=b"{}")])
    leader.pump.on_frame(follower.name, Lane.RAFT, frames.pack_raft([item])[0], world.now_ms)
    world.run(100)
    assert [reply.failure.reason for reply in answers if reply.failure] == ["STALE_ROUTE"]


@pytest.mark.parametrize(
    "message",
    [
        Append(Term(99), LogIndex(0), Term(0), LogIndex(0), [Run(LogIndex(5), Term(1), [b"x"])]),
        Append(Term(-1), LogIndex(-1), Term(-1), LogIndex(-1), []),
        Append(Term(1), LogIndex(-3), Term(0), LogIndex(0), [Run(LogIndex(-2), Term(1), [b"x"])]),
        AppendReply(Term(1), LogIndex(-1), True, LogIndex(-9), Term(-9)),
        AppendReply(Term(1), LogIndex(1 << 63), False, LogIndex(1 << 63), Term(1)),
        VoteReply(Term(-1), True, False),
        TimeoutNow(Term(-1), LogIndex(-1)),
        TimeoutNow(Term(1), LogIndex(0)),
    ],
)
def test_a_malformed_raft_message_costs_nothing_but_itself(message: Message) -> None:
    world = started()
    leader, follower = peers_of_leader(world)
    for sender, receiver in ((leader, follower), (follower, leader)):
        receiver.pump.on_frame(sender.name, Lane.RAFT, raft_item(sender, receiver, message), world.now_ms)
    world.run(50)
    world.run_until(world.settled)
    assert world.client("n2").insist(Kind.SEND, "a", "add", {"amount": 1}).failure is None


def test_a_message_that_contradicts_raft_stops_that_replica_and_not_the_node() -> None:
    """Only the leader of a term appends in it, so two are a contradiction: whom to believe is for an operator."""
    world = started(shards=2)
    leader = world.leader("a")
    shard = leader.pump.router.shard_of("tally", "a")
    replica = leader.pump.replicas[shard]
    liar = next(place for place in replica.shard.replicas if place.node != leader.name)
    message = Append(replica.raft.term, replica.raft.last_index, replica.raft.term, LogIndex(0), [])
    item = RaftItem(shard, liar.replica, replica.replica, message)
    waiting = world.client(leader.name)
    number = waiting.submit(Kind.SEND, "a", "add", {"amount": 1})
    leader.pump.on_frame(liar.node, Lane.RAFT, frames.pack_raft([item])[0], world.now_ms)
    world.run_until(lambda: bool(replica.halted))
    world.run_until(lambda: number in waiting.replies)
    assert world.client("n1").insist(Kind.SEND, "a", "add", {"amount": 2}).failure is None, "the others elect a leader"
    assert world.leader("a") is not leader or replica.halted


@pytest.mark.parametrize("end", [b"", b"\xc1", msgspec.msgpack.encode([[0, 0, [[], []]], -1]), msgspec.msgpack.encode([1, 2])])
@pytest.mark.parametrize("records", [[], [(b"no document's name", b"x")]])
def test_a_garbage_snapshot_chunk_is_refused(end: bytes, records: list[tuple[bytes, bytes]]) -> None:
    world = started()
    leader, follower = peers_of_leader(world)
    replica = follower.pump.replicas[SHARD]
    sender = replica.shard.replica_on(leader.name)
    assert sender is not None
    head = (SHARD, sender, replica.replica)
    point, term = LogIndex(replica.raft.commit_index + 9), replica.raft.term
    for floor in (point + 1, -1, 0):
        opening = SnapshotOpening(*head, term, 77, point, LogIndex(floor))
        follower.pump.on_frame(leader.name, Lane.BULK, frames.pack_bulk([opening])[0], world.now_ms)
        for after in (b"\xff", b""):
            chunk = SnapshotChunk(*head, term, 77, after, LogIndex(3), records, end)
            follower.pump.on_frame(leader.name, Lane.BULK, frames.pack_bulk([chunk])[0], world.now_ms)
    rows = HistoryChunk(*head, b"", [(b"?", b"")], b"?", False, False)
    follower.pump.on_frame(leader.name, Lane.BULK, frames.pack_bulk([rows])[0], world.now_ms)
    back = (SHARD, replica.replica, sender)
    for item in (SnapshotClose(*back, -3, False), SnapshotClose(*back, 77, False), SnapshotRequest(SHARD, replica.replica)):
        leader.pump.on_frame(follower.name, Lane.BULK, frames.pack_bulk([item])[0], world.now_ms)
    for pull in (
        SnapshotPull(*back, -1, LogIndex(-1), b""),
        SnapshotPull(*back, 1, LogIndex(1 << 60), b"\xff" * 9),
        HistoryPull(*back, LogIndex(-1), LogIndex(9), b""),
        HistoryPull(*back, LogIndex(0), LogIndex(1 << 60), b"\xff" * 9),
    ):
        leader.pump.on_frame(follower.name, Lane.RAFT, frames.pack_raft([pull])[0], world.now_ms)
    world.run(50)
    assert replica.cache.generation == 0
    assert world.client("n3").insist(Kind.SEND, "a", "add", {"amount": 1}).failure is None


def test_a_snapshot_ahead_of_what_a_damaged_replica_knows_as_committed_is_not_installed() -> None:
    """The log is not reset then, so apply would go on behind entries that may still be replaced."""
    world = started()
    leader, follower = peers_of_leader(world)
    replica = follower.pump.replicas[SHARD]
    replica.damaged = "rot"
    commit = replica.raft.commit_index
    sender = replica.shard.replica_on(leader.name)
    assert sender is not None
    meta = SnapshotMeta(LogIndex(commit + 5), Term(replica.raft.term + 1), replica.raft.configuration)
    end = msgspec.msgpack.encode((meta, 0))
    head = (SHARD, sender, replica.replica, replica.raft.term, 77)
    opening = SnapshotOpening(*head, meta.index, LogIndex(0))
    chunk = SnapshotChunk(*head, b"", meta.index, [], end)
    follower.pump.on_frame(leader.name, Lane.BULK, frames.pack_bulk([opening, chunk])[0], world.now_ms)
    world.run(1)
    assert (replica.applied, replica.cache.generation, bool(replica.damaged)) == (commit, 0, True)
    world.run_until(lambda: not replica.damaged)
    world.run_until(lambda: len(set(world.records("a"))) == 1)


def test_a_damaged_replica_asks_again_when_its_sender_died_in_the_middle() -> None:
    world = started()
    leader, follower = peers_of_leader(world)
    replica = follower.pump.replicas[SHARD]
    sender = replica.shard.replica_on(leader.name)
    assert sender is not None
    replica.damaged = "rot"
    head = (SHARD, sender, replica.replica, replica.raft.term, 77)
    opening = SnapshotOpening(*head, replica.raft.commit_index, LogIndex(0))
    follower.pump.on_frame(leader.name, Lane.BULK, frames.pack_bulk([opening])[0], world.now_ms)
    leader.crash()
    world.run_until(lambda: not replica.damaged)


def test_a_leader_with_a_rotten_record_hands_over_and_is_reinstalled() -> None:
    """Whoever asks for that document is sent on: the other replicas have it whole."""
    world = started()
    leader = world.leader("a")
    world.run(7_000)  # idle: the record is written
    leader.crash(lose_unsynced=False)
    leader.boot()
    world.run_until(world.settled)
    while world.leader("a") is not leader:
        world.leader("a").crash()
        world.run_until(lambda: any(node.up and node.pump.replicas[SHARD].serves for node in world.nodes.values()))
        for node in world.nodes.values():
            if not node.up:
                node.boot()
        world.run_until(world.settled)
    replica = leader.pump.replicas[SHARD]
    replica.cache._documents.clear()
    key = next(key for key, _ in leader.engine.scan(Family.RECORDS, b"", b"\xff" * 32) if key.endswith(b"tally\0a"))
    leader.engine.corrupt(Family.RECORDS, key, b"rotten bytes here")
    client = world.client(next(name for name in world.names if name != leader.name))
    assert client.insist(Kind.SEND, "a", "add", {"amount": 4}).failure is None, "who met the rot is answered by another leader"
    world.run_until(lambda: client.call(Kind.READ, "a").failure is None)
    world.run_until(lambda: not replica.damaged)
    assert client.insist(Kind.SEND, "a", "add", {"amount": 5}).failure is None
    world.run_until(lambda: len(set(world.records("a"))) == 1)


def test_a_halt_within_an_entry_writes_no_record_that_claims_the_whole_of_it() -> None:
    """The record would say applied_through = the entry, and a restart would skip the commands that never ran."""
    world = started()
    world.client("n1").insist(Kind.CREATE, "b")
    leader = world.leader("a")
    client = world.client(leader.name)
    for node in world.nodes.values():
        node.halts = True
    client.submit_all(
        client.operation(Kind.SEND, "a", "add", {"amount": 1}),
        client.operation(Kind.SEND, "b", "halt"),
        client.operation(Kind.SEND, "a", "add", {"amount": 2}),
    )
    world.run_until(lambda: all(node.pump.replicas[SHARD].halted for node in world.nodes.values()))
    world.run(10_000)
    assert [len(client.replies[number]) for number in (1, 2, 3)] == [1, 1, 1], "nobody waits, nobody is answered twice"
    for node in world.nodes.values():
        node.halts = False
        node.crash(lose_unsynced=False)
    for node in world.nodes.values():
        node.boot()
    world.run_until(world.settled)
    view = msgspec.json.decode(world.client("n1").insist(Kind.READ, "a").payload)
    assert view == {"numbers": [0, 1, 2]}


def test_a_document_deleted_and_created_in_one_entry_has_one_history_row_an_epoch() -> None:
    world = started()
    client = world.client(world.leader("a").name)
    client.submit_all(
        client.operation(Kind.SEND, "a", "add", {"amount": 1}),
        client.operation(Kind.DELETE, "a"),
        client.operation(Kind.CREATE, "a"),
        client.operation(Kind.SEND, "a", "add", {"amount": 2}),
    )
    world.run_until(lambda: len(client.replies) == 4)
    replica = world.leader("a").pump.replicas[SHARD]
    history = replica._applier._history
    rows = {
        epoch: [
            (first, len(decode_row(body).commands)) for first, _, body in history.read(DocumentId("tally", "a"), epoch, 1, 99)
        ]
        for epoch in (1, 2)
    }
    assert rows == {1: [(1, 1), (2, 2)], 2: [(1, 2)]}


def test_an_unwatch_right_behind_its_watch_leaves_no_viewer() -> None:
    world = started()
    for name in world.names:
        client = world.client(name)
        watch = client.operation(Kind.WATCH, "a")
        end = client.operation(Kind.UNWATCH, "a")
        end.id = watch.id
        client.submit_all(watch, end)
        world.run(200)
        assert [reply.failure for reply in client.replies[watch.id]] == [None]
        assert not client.deltas
    assert all(not len(node.pump.replicas[SHARD].feed) for node in world.nodes.values())


def test_a_watch_whose_delta_was_lost_on_the_way_goes_on_from_where_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    world = started()
    leader, follower = peers_of_leader(world)
    watcher = world.client(follower.name)
    watcher.submit(Kind.WATCH, "a")
    world.run_until(lambda: bool(watcher.deltas))
    answer = leader.pump._outbox._answer
    sender = world.client(leader.name)
    with monkeypatch.context() as losing:
        losing.setattr(leader.pump._outbox, "_answer", lambda stream, deltas, *rest: answer(stream, [], *rest))
        assert sender.insist(Kind.SEND, "a", "add", {"amount": 1}).failure is None
        world.run(50)
    assert sender.insist(Kind.SEND, "a", "add", {"amount": 2}).failure is None
    world.run_until(lambda: watcher.deltas[-1].index == 3)
    at = (watcher.deltas[0].epoch, watcher.deltas[0].index)
    for delta in watcher.deltas[1:]:
        assert delta.reset or (delta.from_epoch, delta.from_index) == at
        assert (delta.epoch, delta.index) > at
        at = (delta.epoch, delta.index)


def test_a_refused_frame_leaves_nobody_waiting() -> None:
    """A full lane of a connection that stands: no disconnect tells anybody."""
    world = started()
    leader, follower = peers_of_leader(world)
    client = world.client(follower.name)
    watch = client.submit(Kind.WATCH, "a")
    world.run_until(lambda: watch in client.replies)
    world.refusing.add((leader.name, follower.name))
    number = client.submit(Kind.SEND, "a", "add", {"amount": 1}, session=session_id(1), sequence=1)
    world.run(30)
    world.refusing.clear()
    started_ms = world.now_ms
    world.run_until(lambda: number in client.replies)
    assert world.now_ms - started_ms < 1_000
    assert client.insist(Kind.SEND, "a", "add", {"amount": 1}, session=session_id(1), sequence=1).index == 2
    world.run_until(lambda: client.deltas[-1].index == 2)


def test_an_answer_owed_to_the_process_before_is_not_taken_for_one_to_this() -> None:
    world = started()
    leader, follower = peers_of_leader(world)
    old = world.client(follower.name)
    number = old.submit(Kind.SEND, "a", "add", {"amount": 7})
    stream = old.number
    follower.crash(refused=True)
    follower.boot()
    new = world.client(follower.name)
    asked = new.submit(Kind.READ, "nothing")
    assert asked == number
    late = AnswerItem(stream, [], [Reply(number, 1, 2, b"7")])
    follower.pump.on_frame(leader.name, Lane.RAFT, frames.pack_raft([late])[0], world.now_ms)
    world.run_until(lambda: asked in new.replies)
    assert [reply.failure is None for reply in new.replies[asked]] == [False]


def test_answers_larger_than_a_frame_leave_in_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "FRAME_BYTES_SPLIT", 1000)
    deltas = [Delta(number, 1, 1, 1, 2, False, b"d" * 400) for number in range(5)]
    replies = [Reply(number, 1, 1, b"r" * 400) for number in range(5)]
    operations = [Operation(number, Kind.SEND, "s", "k", "a@b", payload=b"p" * 400) for number in range(5)]
    packed = frames.pack_raft([CloseItem(1), AnswerItem(3, deltas, replies), ForwardItem(SHARD, 3, operations), CloseItem(2)])
    assert all(len(frame) <= 1000 for frame in packed)
    events: list[object] = []
    for frame in packed:
        for item in frames.unpack_raft(frame):
            if isinstance(item, AnswerItem):
                events += [*item.deltas, *item.replies]
            elif isinstance(item, ForwardItem):
                events += item.operations
            else:
                assert isinstance(item, CloseItem)
                events.append(item)
    assert events == [CloseItem(1), *deltas, *replies, *operations, CloseItem(2)]


def test_asking_for_random_names_leaves_nothing_in_memory() -> None:
    world = started()
    client = world.client(world.leader("a").name)
    numbers = [client.submit(kind, f"never-{number}", "add") for number in range(50) for kind in (Kind.SEND, Kind.READ)]
    world.run_until(lambda: all(number in client.replies for number in numbers))
    assert all(len(node.pump.replicas[SHARD].cache) == 1 for node in world.nodes.values())


def test_a_replica_that_is_behind_says_so_and_not_that_the_position_is_of_another_epoch() -> None:
    world = started()
    client = world.client("n1")
    client.insist(Kind.DELETE, "a")
    client.insist(Kind.CREATE, "a")
    later = {"consistency": Consistency.AT_LEAST, "epoch": 3, "index": 1}
    assert client.call(Kind.READ, "a", "", None, **later).failure.reason == "UNAVAILABLE"  # type: ignore[union-attr]
    assert client.call(Kind.READ, "new", "", None, **later).failure.reason == "UNAVAILABLE"  # type: ignore[union-attr]
    earlier = {"consistency": Consistency.AT_LEAST, "epoch": 1, "index": 1}
    assert client.insist(Kind.READ, "a", "", None, **earlier).failure.reason == "POSITION_REWOUND"  # type: ignore[union-attr]


def test_a_watch_of_a_document_that_does_not_exist_ends_with_that_error() -> None:
    world = started()
    for name in world.names:
        client = world.client(name)
        reply = client.insist(Kind.WATCH, "never")
        assert reply.failure is not None
        assert reply.failure.reason == "UNKNOWN_DOCUMENT"
        world.run(300)
        assert len(client.replies) == 1


def test_a_watch_that_nobody_can_serve_is_answered_in_the_end() -> None:
    world = started()
    for node in list(world.nodes.values())[1:]:
        node.crash()
    client = world.client("n1")
    number = client.submit(Kind.WATCH, "a")
    world.run_until(lambda: number in client.replies)
    failure = client.replies[number][0].failure
    assert failure is not None
    assert failure.retryable


def test_garbage_frames_are_counted() -> None:
    world = started()
    leader, follower = peers_of_leader(world)
    for lane in Lane:
        for frame in (b"", b"\xc1", b"\x91\x92\x01\x02", b"\xff" * 30):
            leader.pump.on_frame(follower.name, lane, frame, world.now_ms)
    assert leader.pump.garbage_frames == 12
    grant = GrantItem(SHARD, -1, -1, -(1 << 60))
    leader.pump.on_frame(follower.name, Lane.RAFT, frames.pack_raft([grant, CloseItem(-1)])[0], world.now_ms)
    world.run(5)
