"""The whole cluster below the sockets: real pumps, shards, Raft and storage in one thread."""

from __future__ import annotations

import msgspec
import pytest

from cluster.ids import NodeId, ShardId
from cluster.session.operations import Consistency, Delta, Kind
from cluster.shard.replica import CompactionConfig
from cluster.storage.engine import Batch, Family
from tests.pump.tally import session_id
from tests.pump.world import World


def test_any_node_creates_and_sends_and_reads() -> None:
    world = World()
    world.start()
    for name in world.names:
        client = world.client(name)
        assert client.insist(Kind.CREATE, f"key-{name}").failure is None
        answer = client.insist(Kind.SEND, f"key-{name}", "add", {"amount": 5})
        assert (answer.failure, answer.payload, answer.epoch, answer.index) == (None, b"5", 1, 2)
        view = client.insist(Kind.READ, f"key-{name}")
        assert msgspec.json.decode(view.payload) == {"numbers": [0, 5]}


def test_replicas_hold_equal_records_at_one_position() -> None:
    world = World()
    client = world.start()
    client.insist(Kind.CREATE, "a")
    for amount in range(50):
        client.submit(Kind.SEND, "a", "add", {"amount": amount})
    world.run(500)
    records = world.records("a")
    assert len(set(records)) == 1
    assert len(client.replies) >= 50


def test_a_pipelined_session_survives_its_leader_in_order_exactly_once() -> None:
    world = World(seed=7)
    client = world.start()
    client.insist(Kind.CREATE, "a")
    gateway = next(world.client(name) for name in world.names if world.nodes[name] is not world.leader("a"))
    session = session_id(1)
    waiting = dict.fromkeys(range(1, 201))
    acked = 0
    killed = False
    for _ in range(4000):
        unsent = list(waiting)[:32]
        if not unsent:
            break
        ids = {}
        for sequence in unsent:
            send = {"session": session, "sequence": sequence, "acked_through": acked}
            ids[gateway.submit(Kind.SEND, "a", "add", {"amount": sequence}, **send)] = sequence
        if not killed and len(waiting) < 120:
            world.run(1)
            world.leader("a").crash()
            killed = True
        world.run_until(lambda ids=ids: all(number in gateway.replies for number in ids))
        for number, sequence in ids.items():
            if gateway.replies[number][0].failure is None:
                waiting.pop(sequence, None)
        acked = min(waiting, default=201) - 1
        world.run(5)
    assert killed
    assert not waiting
    view = msgspec.json.decode(gateway.insist(Kind.READ, "a").payload)
    assert view["numbers"] == [0, *range(1, 201)]


def test_a_watcher_follows_by_patches_alone_across_a_leader_death() -> None:
    world = World(seed=3)
    client = world.start()
    client.insist(Kind.CREATE, "a")
    third = next(name for name in world.names if world.nodes[name] is not world.leader("a"))
    watcher = world.client(third)
    watch = watcher.submit(Kind.WATCH, "a")
    sender = world.client(third)
    for amount in range(1, 40):
        if amount == 20:
            world.leader("a").crash()
        reply = sender.insist(Kind.SEND, "a", "add", {"amount": amount}, session=session_id(2), sequence=amount)
        assert reply.failure is None
    world.run_until(lambda: bool(watcher.deltas) and watcher.deltas[-1].index == 40)
    assert watcher.replies[watch][0].failure is None
    assert watcher.deltas[0].reset
    assert not any(delta.reset for delta in watcher.deltas[1:])
    numbers = msgspec.json.decode(watcher.deltas[0].body)["numbers"]
    at = (watcher.deltas[0].epoch, watcher.deltas[0].index)
    for delta in watcher.deltas[1:]:
        assert (delta.from_epoch, delta.from_index) == at
        numbers += [operation["value"] for operation in msgspec.json.decode(delta.body)]
        at = (delta.epoch, delta.index)
    assert numbers == [0, *range(1, 40)]


def test_the_delta_at_a_position_never_comes_after_the_answer_at_it() -> None:
    world = World()
    world.start().insist(Kind.CREATE, "a")
    for name in world.names:
        client = world.client(name)
        client.submit(Kind.WATCH, "a")
        world.run(200)
        ids = [client.submit(Kind.SEND, "a", "add", {"amount": 1}) for _ in range(20)]
        world.run_until(lambda client=client, ids=ids: all(number in client.replies for number in ids))
        seen = 0
        for event in client.order:
            if isinstance(event, Delta):
                seen = max(seen, event.index)
            elif event.id in ids:
                assert event.index <= seen


def test_everything_synced_survives_the_crash_of_all_nodes() -> None:
    """Trap 8: what was acknowledged was synced before, on a majority."""
    world = World()
    client = world.start()
    client.insist(Kind.CREATE, "a")
    for amount in range(30):
        assert client.insist(Kind.SEND, "a", "add", {"amount": amount}).failure is None
    for node in world.nodes.values():
        node.crash()
    for node in world.nodes.values():
        node.boot()
    world.run_until(world.settled)
    view = world.client("n2").insist(Kind.READ, "a")
    assert msgspec.json.decode(view.payload) == {"numbers": [0, *range(30)]}
    world.run_until(lambda: len(set(world.records("a"))) == 1)


def test_a_follower_that_missed_the_cut_log_gets_a_snapshot() -> None:
    world = World(shards=1, compaction=CompactionConfig(every_entries=20, kept_entries=5, lagging_entries=10))
    client = world.start()
    for key in "abc":
        client.insist(Kind.CREATE, key)
    late = next(node for node in world.nodes.values() if node is not world.leader("a") and node.name != "n1")
    late.crash()
    sender = world.client("n1")
    for amount in range(100):
        assert sender.insist(Kind.SEND, "abc"[amount % 3], "add", {"amount": amount}).failure is None
    assert world.leader("a").pump.replicas[ShardId(1)].log.snapshot.index > 50, "the log was cut"
    late.boot()
    world.run_until(lambda: all(len(set(world.records(key))) == 1 for key in "abc"))
    assert late.pump.replicas[ShardId(1)].cache.generation == 1, "it came by snapshot, not by log"
    late.crash()
    late.boot()
    world.run_until(lambda: all(len(set(world.records(key))) == 1 for key in "abc"))


def test_a_replica_whose_record_rotted_is_reinstalled_from_its_leader_and_keeps_voting() -> None:
    world = World(shards=1)
    client = world.start()
    client.insist(Kind.CREATE, "a")
    client.insist(Kind.SEND, "a", "add", {"amount": 1})
    sick = next(node for node in world.nodes.values() if node is not world.leader("a"))
    for node in world.nodes.values():
        node.crash(lose_unsynced=False)
    key = next(key for key, _ in sick.engine.scan(Family.RECORDS, b"", b"\xff" * 40) if key.endswith(b"a"))
    rotten = Batch()
    rotten.put(Family.RECORDS, key, b"rotten")
    sick.engine.write(rotten)
    for node in world.nodes.values():
        node.boot()
    world.run_until(world.settled)
    client = world.client(world.leader("a").name)
    assert client.insist(Kind.SEND, "a", "add", {"amount": 2}).failure is None
    world.run_until(lambda: sick.pump.replicas[ShardId(1)].cache.generation == 1)
    world.run_until(lambda: len(set(world.records("a"))) == 1)


def test_a_wiped_node_under_an_old_name_is_fenced() -> None:
    """Reference trap 11: it would vote and acknowledge as if it remembered."""
    world = World()
    client = world.start()
    client.insist(Kind.CREATE, "a")
    victim = world.nodes[NodeId("n3")]
    victim.crash()
    victim.engine = type(victim.engine)()
    victim.boot()
    world.run_until(lambda: bool(victim.pump.fenced))
    assert "new name" in victim.pump.fenced


def test_a_full_disk_refuses_commands_and_goes_on_reading() -> None:
    world = World()
    client = world.start()
    client.insist(Kind.CREATE, "a")
    for node in world.nodes.values():
        node.pump.storage_full = "full"
    refused = client.call(Kind.SEND, "a", "add", {"amount": 1})
    assert refused.failure is not None
    assert (refused.failure.reason, refused.failure.applied) == ("STORAGE_FULL", "no")
    assert refused.failure.retryable
    assert refused.failure.retry_after_ms > 0
    assert client.insist(Kind.READ, "a").failure is None
    for node in world.nodes.values():
        node.pump.storage_full = ""
    assert client.insist(Kind.SEND, "a", "add", {"amount": 1}).index == 2


def test_a_gap_in_a_session_is_refused_with_the_expected_sequence() -> None:
    world = World()
    client = world.start()
    client.insist(Kind.CREATE, "a")
    send = {"session": session_id(3)}
    assert client.insist(Kind.SEND, "a", "add", {"amount": 1}, sequence=1, **send).failure is None
    gap = client.call(Kind.SEND, "a", "add", {"amount": 3}, sequence=3, **send)
    assert gap.failure is not None
    assert (gap.failure.reason, gap.failure.details["expected"], gap.failure.applied) == ("SEQUENCE_GAP", "2", "no")
    reused = client.call(Kind.SEND, "a", "add", {"amount": 9}, sequence=1, **send)
    assert reused.failure is not None
    assert reused.failure.reason == "KEY_REUSED"
    repeated = client.call(Kind.SEND, "a", "add", {"amount": 1}, sequence=1, **send)
    assert (repeated.failure, repeated.payload, repeated.index) == (None, b"1", 2)


@pytest.mark.parametrize(
    ("kind", "key", "channel", "payload", "more", "reason"),
    [
        (Kind.SEND, "none", "add", {"amount": 1}, {}, "UNKNOWN_DOCUMENT"),
        (Kind.SEND, "a", "nothing", {}, {}, "UNKNOWN_CHANNEL"),
        (Kind.SEND, "a", "add", {"amount": "x"}, {}, "INVALID_PAYLOAD"),
        (Kind.SEND, "a", "add", b"\xff", {}, "INVALID_PAYLOAD"),
        (Kind.CREATE, "a", "", {}, {}, "DOCUMENT_EXISTS"),
        (Kind.CREATE, "b", "", {}, {"space": "nowhere"}, "UNKNOWN_SPACE"),
        (Kind.SEND, "a", "add", {"amount": 1}, {"principal": "eve@outside"}, "PERMISSION_DENIED"),
        (Kind.READ, "a", "", None, {"principal": "eve@outside"}, "PERMISSION_DENIED"),
        (Kind.WATCH, "a", "", None, {"principal": "eve@outside"}, "PERMISSION_DENIED"),
        (Kind.READ, "none", "", None, {}, "UNKNOWN_DOCUMENT"),
        (Kind.SEND, "a", "refuse", {}, {}, "HANDLER_REFUSED"),
    ],
)
def test_bad_input_gets_a_typed_refusal_and_changes_nothing(  # type: ignore[no-untyped-def]
    kind, key, channel, payload, more, reason
) -> None:
    world = World()
    client = world.start()
    client.insist(Kind.CREATE, "a")
    for name in world.names:
        reply = world.client(name).insist(kind, key, channel, payload, **more)
        assert reply.failure is not None
        assert (reply.failure.reason, reply.failure.applied) == (reason, "no")
    view = client.insist(Kind.READ, "a")
    assert msgspec.json.decode(view.payload) == {"numbers": [0]}


def test_a_deleted_document_keeps_its_sessions_and_comes_back_in_a_later_epoch() -> None:
    world = World()
    client = world.start()
    client.insist(Kind.CREATE, "a")
    first = {"session": session_id(4), "sequence": 1}
    assert client.insist(Kind.SEND, "a", "add", {"amount": 1}, **first).failure is None
    assert client.insist(Kind.DELETE, "a").failure is None
    gone = client.insist(Kind.SEND, "a", "add", {"amount": 1})
    assert gone.failure is not None
    assert gone.failure.reason == "DOCUMENT_DELETED"
    repeated = client.insist(Kind.SEND, "a", "add", {"amount": 1}, **first)
    assert (repeated.failure, repeated.payload) == (None, b"1")
    again = client.insist(Kind.CREATE, "a")
    assert (again.failure, again.epoch, again.index) == (None, 2, 1)


def test_listing_pages_through_all_shards() -> None:
    world = World(shards=3)
    client = world.start()
    keys = {f"key-{number:02}" for number in range(25)}
    for key in keys:
        client.insist(Kind.CREATE, key)
    client.insist(Kind.DELETE, "key-07")
    found: list[str] = []
    token = ""
    while True:
        reply = client.insist(Kind.LIST, "", "key-", token.encode(), credit=4)
        assert reply.failure is None
        page = msgspec.json.decode(reply.payload)
        found += [document["key"] for document in page["documents"]]
        token = page["next_page_token"]
        if not token:
            break
    assert sorted(found) == sorted(keys - {"key-07"})


def test_a_suspected_command_halts_only_its_shard_until_it_is_isolated() -> None:
    world = World(shards=2)
    client = world.start()
    for key in ("a", "b", "c", "d", "e", "f"):
        client.insist(Kind.CREATE, key)
    router = world.nodes[NodeId("n1")].pump.router
    shard = router.shard_of("tally", "a")
    other = next(key for key in "bcdef" if router.shard_of("tally", key) != shard)
    same = next((key for key in "bcdef" if router.shard_of("tally", key) == shard), "a")
    leader = world.leader("a")
    index = leader.pump.replicas[shard].raft.last_index + 1
    for node in world.nodes.values():
        node.marker.suspects[(shard, index)] = 0
    poison = client.submit(Kind.SEND, "a", "add", {"amount": 13}, session=session_id(5), sequence=1)
    world.run_until(lambda: all(node.pump.replicas[shard].halted for node in world.nodes.values()))
    assert client.insist(Kind.SEND, other, "add", {"amount": 1}).failure is None
    operator = {"space": "system", "principal": "operator@moot"}
    isolate = {"shard": shard, "index": index, "offset": 0, "reason": "test"}
    assert client.insist(Kind.SEND, "cluster", "isolate", isolate, **operator).failure is None
    world.run_until(world.settled)
    again = client.insist(Kind.SEND, "a", "add", {"amount": 13}, session=session_id(5), sequence=1)
    assert again.failure is not None
    assert again.failure.reason == "POISONED"
    if same != "a":
        assert client.insist(Kind.SEND, same, "add", {"amount": 1}).failure is None
    frozen = client.insist(Kind.SEND, "a", "add", {"amount": 1})
    assert frozen.failure is not None
    assert frozen.failure.reason == "DOCUMENT_FROZEN"
    assert len(client.replies[poison]) == 1
    world.run_until(lambda: len(set(world.records("a"))) == 1)


def test_halted_replicas_bring_one_with_a_shorter_log_to_the_place_where_they_halted() -> None:
    """The two that hold the newest entries are halted and do not campaign; the third can not win without those entries."""
    world = World(shards=1)
    client = world.start()
    client.insist(Kind.CREATE, "a")
    shard = world.nodes[NodeId("n1")].pump.router.shard_of("tally", "a")
    leader = world.leader("a")
    behind = next(node for node in world.nodes.values() if node is not leader)
    behind.crash(lose_unsynced=False)
    index = leader.pump.replicas[shard].raft.last_index + 1
    for node in world.nodes.values():
        node.marker.suspects[(shard, index)] = 0
    world.client(leader.name).submit(Kind.SEND, "a", "add", {"amount": 13})
    world.run_until(lambda: all(node.pump.replicas[shard].halted for node in world.nodes.values() if node.up))
    world.run(5_000)
    assert not any(node.pump.replicas[shard].leads for node in world.nodes.values() if node.up), "nobody healthy could lead"
    behind.boot()
    world.run_until(lambda: bool(behind.pump.replicas[shard].halted))
    world.run(10_000)
    terms = {node.pump.replicas[shard].raft.term for node in world.nodes.values()}
    world.run(10_000)
    assert terms == {node.pump.replicas[shard].raft.term for node in world.nodes.values()}, "then all of them are still"


def test_reads_at_a_position_never_go_back() -> None:
    world = World()
    client = world.start()
    client.insist(Kind.CREATE, "a")
    wrote = client.insist(Kind.SEND, "a", "add", {"amount": 2})
    for name in world.names:
        at_least = {"consistency": Consistency.AT_LEAST, "epoch": wrote.epoch, "index": wrote.index}
        reply = world.client(name).insist(Kind.READ, "a", "", None, **at_least)
        assert reply.failure is None
        assert reply.index >= wrote.index


def test_a_leader_cut_off_from_its_quorum_answers_no_linearizable_read() -> None:
    world = World(seed=11)
    client = world.start()
    client.insist(Kind.CREATE, "a")
    old = world.leader("a")
    inside = world.client(old.name)
    for other in world.names:
        if other != old.name:
            world.cut |= {(old.name, other), (other, old.name)}
    number = inside.submit(Kind.READ, "a")
    world.run(3000)
    replies = inside.replies.get(number, [])
    assert all(reply.failure is not None for reply in replies)
    world.cut.clear()
    world.run_until(world.settled)
    assert client.insist(Kind.READ, "a").failure is None


def test_commands_gather_into_one_entry_while_the_last_one_is_on_its_way() -> None:
    world = World()
    client = world.start()
    client.insist(Kind.CREATE, "a")
    leader = world.leader("a")
    inside = world.client(leader.name)
    replica = leader.pump.replicas[leader.pump.router.shard_of("tally", "a")]
    world.sync_ms = lambda: 40.0
    first = replica.raft.last_index
    ids = []
    for _ in range(30):
        ids.append(inside.submit(Kind.SEND, "a", "add", {"amount": 1}))
        world.run(1)
    world.run_until(lambda: all(number in inside.replies for number in ids))
    assert all(inside.replies[number][0].failure is None for number in ids)
    assert replica.raft.last_index - first <= 3


def test_a_replica_that_had_passed_an_isolated_command_is_rebuilt_from_one_that_had_not() -> None:
    world = World(shards=1)
    client = world.start()
    client.insist(Kind.CREATE, "a")
    ahead = next(node for node in world.nodes.values() if node is not world.leader("a"))
    index = world.leader("a").pump.replicas[ShardId(1)].raft.last_index + 1
    for node in world.nodes.values():
        if node is not ahead:
            node.marker.suspects[(ShardId(1), index)] = 0
    client.submit(Kind.SEND, "a", "add", {"amount": 13})
    world.run_until(lambda: ahead.pump.replicas[ShardId(1)].applied == index)
    isolate = {"shard": 1, "index": index, "offset": 0, "reason": "test"}
    operator = {"space": "system", "principal": "operator@moot"}
    assert client.insist(Kind.SEND, "cluster", "isolate", isolate, **operator).failure is None
    world.run_until(lambda: ahead.pump.replicas[ShardId(1)].cache.generation == 1)
    world.run_until(lambda: len(set(world.records("a"))) == 1)
    frozen = world.client(ahead.name).insist(Kind.SEND, "a", "add", {"amount": 1})
    assert frozen.failure is not None
    assert frozen.failure.reason == "DOCUMENT_FROZEN"
