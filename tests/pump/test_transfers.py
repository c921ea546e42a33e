"""Snapshot transfers that break, and go on where they stopped: the receiver knows durably what it has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import msgspec
import pytest

from cluster.ids import LogIndex, NodeId, ShardId
from cluster.pump import frames, history_pulling, snapshot_receiving, snapshot_sending
from cluster.pump.lanes import Lane
from cluster.pump.pump import PumpConfig
from cluster.session.operations import Kind
from cluster.shard.replica import CompactionConfig, ShardReplica
from cluster.shard.turn import HistoryChunk, SnapshotChunk, SnapshotClose, SnapshotOpening
from cluster.storage.engine import Family
from tests.pump.tally import session_id
from tests.pump.world import SimulatedNode, World

SHARD = ShardId(1)
KEYS = [f"document-{number:02d}" for number in range(20)]
TIGHT = CompactionConfig(every_entries=10, kept_entries=4, lagging_entries=200)
CUT = CompactionConfig(every_entries=10, kept_entries=4, lagging_entries=6)
ELECTION_TIMEOUT_MS = PumpConfig().election_timeout_ms
SMALL_CHUNKS = PumpConfig(snapshot_chunk_bytes=400)
"""A record or two in each."""


class Tap:
    """Counts what transfers carry, and loses what a test wants lost. broken: links on which bulk frames vanish."""

    def __init__(self, world: World) -> None:
        self.records: Counter[bytes] = Counter()
        self.senders: list[NodeId] = []
        self.history_from: list[NodeId] = []
        self.record_bytes = 0
        self.openings = 0
        self.refusals = 0
        self.loses: Callable[[SnapshotChunk], bool] = lambda chunk: False
        self.loses_history: Callable[[HistoryChunk], bool] = lambda chunk: False
        self._send = world.send
        world.send = self.send  # type: ignore[method-assign]

    def send(self, sender: NodeId, receiver: NodeId, lane: Lane, frame: bytes) -> bool:
        if lane is Lane.BULK:
            for item in frames.unpack_bulk(frame):
                if isinstance(item, SnapshotChunk):
                    if self.loses(item):
                        return True
                    self.records.update(name for name, _ in item.records)
                    self.record_bytes += sum(len(name) + len(body) for name, body in item.records)
                    self.senders.append(sender)
                elif isinstance(item, HistoryChunk):
                    if self.loses_history(item):
                        return True
                    if not item.refused:
                        self.history_from.append(sender)
                elif isinstance(item, SnapshotOpening):
                    self.openings += 1
                elif isinstance(item, SnapshotClose):
                    self.refusals += not item.done
        return self._send(sender, receiver, lane, frame)


def with_laggard(compaction: CompactionConfig = TIGHT, **more: object) -> tuple[World, SimulatedNode]:
    """A cluster whose shard has lost the log that its third replica, down now, would need."""
    world = World(shards=1, compaction=CUT, **{"pump": SMALL_CHUNKS, **more})  # type: ignore[arg-type]
    client = world.start()
    for key in KEYS:
        client.insist(Kind.CREATE, key)
    world.run_until(lambda: world.leader(KEYS[0]).pump.replicas[SHARD].raft.progress != {})
    late = next(node for node in world.nodes.values() if node is not world.leader(KEYS[0]) and node.name != "n1")
    late.crash()
    write(world, 60)
    assert leader_replica(world).log.snapshot.index > 50, "the log was cut"
    for node in world.nodes.values():
        if node.up:
            node.pump.replicas[SHARD]._compaction = compaction
    world.compaction = compaction
    return world, late


def write(world: World, rounds: int, first: int = 0) -> None:
    client = world.client(world.leader(KEYS[0]).name)
    for amount in range(first, first + rounds):
        assert client.insist(Kind.SEND, KEYS[amount % len(KEYS)], "add", {"amount": amount}).failure is None


def leader_replica(world: World) -> ShardReplica:
    return world.leader(KEYS[0]).pump.replicas[SHARD]


def partial_of(node: SimulatedNode) -> bytes:
    """The last name that a snapshot under way has brought."""
    partial = node.pump.replicas[SHARD].stored.partial
    return partial.after if partial is not None else b""


def halfway(world: World, node: SimulatedNode) -> bytes:
    """Run until about half of the records are there; returns the last name."""
    world.run_until(lambda: partial_of(node) >= b"tally\0" + KEYS[8].encode())
    return partial_of(node)


def generations(node: SimulatedNode) -> set[bytes]:
    """Which generations of the shard's records there is anything of."""
    return {key[4:8] for key, _ in node.engine.scan(Family.RECORDS, b"", b"\xff" * 40) if key[:4] == b"\0\0\0\1"}


def history(node: SimulatedNode) -> list[tuple[bytes, bytes]]:
    return [(key, value) for key, value in node.engine.scan(Family.HISTORY, b"\0\0\0\1", b"\0\0\0\2")]


def well(world: World) -> bool:
    """All replicas are equal: records, history, and nothing owed."""
    nodes = [node for node in world.nodes.values() if node.up]
    if any(node.pump.replicas[SHARD].incomplete for node in nodes):
        return False
    if len({node.pump.replicas[SHARD].applied for node in nodes}) != 1:
        return False
    return all(len(set(world.records(key))) == 1 for key in KEYS)


def check_whole(world: World) -> None:
    world.run_until(lambda: well(world), within_ms=60_000)
    told = [history(node) for node in world.nodes.values() if node.up]
    assert all(rows == told[0] for rows in told), "history is the same everywhere"
    assert all(len(generations(node)) == 1 for node in world.nodes.values() if node.up), "old generations are erased"


def interrupt_connection(world: World, late: SimulatedNode) -> None:
    for one, other in ((world.leader(KEYS[0]), late), (late, world.leader(KEYS[0]))):
        one.pump.on_disconnected(other.name, False, world.now_ms)
    late.inbox.clear()
    for one, other in ((world.leader(KEYS[0]), late), (late, world.leader(KEYS[0]))):
        one.pump.on_connected(other.name, world.now_ms)


def interrupt_receiver(world: World, late: SimulatedNode) -> None:
    late.crash(keep_batches=world.random.randint(0, late.unsynced_batches))
    world.run(300)
    late.boot()


def interrupt_sender(world: World, late: SimulatedNode) -> None:
    leader = world.leader(KEYS[0])
    leader.crash()
    world.run(20)
    leader.boot()


@pytest.mark.parametrize("interrupt", [interrupt_connection, interrupt_receiver, interrupt_sender])
def test_a_transfer_that_breaks_goes_on_behind_the_last_stored_record(
    interrupt: Callable[[World, SimulatedNode], None],
) -> None:
    """Whichever side fails, and although another leader may send the rest: no record is sent twice, but those on their way."""
    world, late = with_laggard()
    tap = Tap(world)
    late.boot()
    halfway(world, late)
    interrupt(world, late)
    check_whole(world)
    assert tap.openings >= 2, "it was interrupted"
    assert late.pump.replicas[SHARD].cache.generation == 1
    names = {b"tally\0" + key.encode() for key in KEYS}
    assert names <= set(tap.records)
    again = [name for name, times in tap.records.items() if times > 1]
    assert len(again) <= 3, "only what was on its way comes twice"


def test_writes_while_it_is_interrupted_are_there_once_and_in_order() -> None:
    world, late = with_laggard()
    late.boot()
    halfway(world, late)
    client = world.client(world.leader(KEYS[0]).name)
    for sequence in range(1, 40):
        if sequence == 10:
            interrupt_receiver(world, late)
        send = {"session": session_id(1), "sequence": sequence, "acked_through": sequence - 1}
        assert client.insist(Kind.SEND, KEYS[3], "add", {"amount": 1000 + sequence}, **send).failure is None
    check_whole(world)
    numbers = msgspec.json.decode(world.client("n1").insist(Kind.READ, KEYS[3]).payload)["numbers"]
    assert [number for number in numbers if number > 1000] == [1000 + sequence for sequence in range(1, 40)]


def test_a_transfer_whose_point_the_log_has_left_starts_anew_and_erases_what_came() -> None:
    """A record that came would be replayed from an entry that nobody has any more."""
    world, late = with_laggard(CUT)
    tap = Tap(world)
    late.boot()
    halfway(world, late)
    point = late.pump.replicas[SHARD].stored.partial
    assert point is not None
    late.crash()
    write(world, 60, first=60)
    assert leader_replica(world).log.snapshot.index > point.point, "nobody waits for ever"
    late.boot()
    check_whole(world)
    assert max(tap.records.values()) > 1


def test_a_broken_transfer_holds_the_log_as_a_lagging_follower_does() -> None:
    world, late = with_laggard(TIGHT)
    late.boot()
    halfway(world, late)
    point = late.pump.replicas[SHARD].stored.partial
    assert point is not None
    late.crash()
    write(world, 60, first=60)
    assert leader_replica(world).log.snapshot.index <= point.point
    late.boot()
    check_whole(world)


def test_a_lost_chunk_costs_about_an_election_timeout() -> None:
    world, late = with_laggard()
    tap = Tap(world)
    lost: list[float] = []

    def loses(chunk: SnapshotChunk) -> bool:
        if chunk.after >= b"tally\0" + KEYS[8].encode() and not lost:
            lost.append(world.now_ms)
            return True
        return False

    tap.loses = loses
    late.boot()
    world.run_until(lambda: bool(lost))
    at = partial_of(late)
    world.run_until(lambda: partial_of(late) > at)
    assert world.now_ms - lost[0] <= 1.2 * ELECTION_TIMEOUT_MS
    check_whole(world)


def test_a_receiver_that_never_asks_gives_its_place_to_another() -> None:
    """It is there and does nothing, as a process that stands still; its transfer is offered again later."""
    world, late = with_laggard()
    late.boot()
    sending = world.leader(KEYS[0]).pump._transfers._sending
    world.run_until(lambda: bool(sending._outgoing))
    late.paused_until_ms = world.now_ms + 60_000
    world.run_until(lambda: not sending._outgoing, within_ms=12_000)
    late.paused_until_ms = 0.0
    check_whole(world)


def test_what_the_log_brought_meanwhile_is_not_needed_and_erased() -> None:
    world, late = with_laggard()
    late.boot()
    halfway(world, late)
    replica = late.pump.replicas[SHARD]
    partial = replica.stored.partial
    assert partial is not None
    check_whole(world)
    replica.stored.begin(LogIndex(replica.applied - 1), late.pump._turn)
    late.pump._schedule.moved[SHARD] = None
    world.run_until(lambda: replica.stored.partial is None)
    assert len(generations(late)) == 1


def test_an_offer_that_comes_for_nothing_ends_the_transfer_whose_part_it_erases() -> None:
    """A later leader may offer what the log has brought already while an earlier leader's chunks are on their way."""
    world, late = with_laggard()
    tap = Tap(world)
    late.boot()
    halfway(world, late)
    replica, leader = late.pump.replicas[SHARD], leader_replica(world)
    assert replica.stored.partial is not None
    offer = SnapshotOpening(
        SHARD, leader.replica, replica.replica, leader.raft.term, 1_000_000, replica.raft.commit_index, LogIndex(0)
    )
    [frame] = frames.pack_bulk([offer])
    world.send(world.leader(KEYS[0]).name, late.name, Lane.BULK, frame)
    world.run_until(lambda: replica.stored.partial is None)
    check_whole(world)
    assert tap.refusals > 0, "chunks of the transfer that ended were declined"


# -- history -------------------------------------------------------------------------------------------------------------


def lose_history(world: World) -> Tap:
    tap = Tap(world)
    tap.loses_history = lambda chunk: True
    return tap


def installed(late: SimulatedNode) -> Callable[[], bool]:
    return lambda: late.pump.replicas[SHARD].stored.lacking is not None


@pytest.mark.parametrize("interrupt", [interrupt_connection, interrupt_receiver, interrupt_sender])
def test_history_that_did_not_come_is_asked_for_again_after_any_break(
    interrupt: Callable[[World, SimulatedNode], None],
) -> None:
    world, late = with_laggard()
    tap = lose_history(world)
    late.boot()
    world.run_until(installed(late))
    interrupt(world, late)
    world.run(3_000)
    assert late.pump.replicas[SHARD].stored.lacking is not None
    tap.loses_history = lambda chunk: False
    check_whole(world)


def test_history_goes_on_behind_the_last_row_after_a_restart() -> None:
    world, late = with_laggard()
    tap = Tap(world)
    late.boot()

    def after() -> bytes:
        lacking = late.pump.replicas[SHARD].stored.lacking
        return lacking.after if lacking is not None else b""

    world.run_until(lambda: after() > b"tally\0" + KEYS[5].encode())
    before, at = len(tap.history_from), after()
    interrupt_receiver(world, late)
    assert after() >= b"tally\0" + KEYS[4].encode()
    assert abs(len(after()) - len(at)) <= 4
    check_whole(world)
    assert len(tap.history_from) - before < before * 5


def test_history_comes_from_any_peer_that_has_it() -> None:
    """The leader's own is rotten: it goes on serving, and another one gives the past."""
    world, late = with_laggard()
    leader = world.leader(KEYS[0])
    key = next(key for key, _ in history(leader))
    leader.engine.corrupt(Family.HISTORY, key, b"rotten")
    other = next(node for node in world.nodes.values() if node.up and node is not leader)
    tap = Tap(world)
    late.boot()
    world.run_until(lambda: well(world))
    assert other.name in tap.history_from
    assert history(late) == history(other)


def test_a_peer_that_lacks_the_same_history_refuses_and_rounds_get_rarer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica never believes to have all the history because one that lacks it gave all it had."""
    world, late = with_laggard()
    lose_history(world)
    late.boot()
    world.run_until(installed(late))
    lacking = late.pump.replicas[SHARD].stored.lacking
    assert lacking is not None
    for node in world.nodes.values():
        if node is not late:
            node.pump.replicas[SHARD].stored.lacking = lacking
    asked: list[float] = []
    pull = history_pulling.HistoryPulling._pull

    def counted(self, search, now_ms, turn):  # type: ignore[no-untyped-def]
        if search.replica.node == late.name:
            asked.append(now_ms)
        pull(self, search, now_ms, turn)

    monkeypatch.setattr(history_pulling.HistoryPulling, "_pull", counted)
    Tap(world).loses_history = lambda chunk: not chunk.refused
    world.run(20_000)
    late_replica = late.pump.replicas[SHARD]
    assert late_replica.stored.lacking == lacking
    later = [at for at in asked if at >= world.now_ms - 10_000]
    assert 0 < len(later) < len(asked) - len(later)


def test_history_of_documents_that_came_ahead_of_the_point_is_whole_too() -> None:
    """Records may hold entries committed during the transfer; replay skips those, so their history must be asked for."""
    world, late = with_laggard()
    late.boot()
    client = world.client(world.leader(KEYS[0]).name)
    amount = 500
    while late.pump.replicas[SHARD].cache.generation == 0:
        assert client.insist(Kind.SEND, KEYS[amount % len(KEYS)], "add", {"amount": amount}).failure is None
        leader_replica(world).save_all(world.leader(KEYS[0]).pump._turn)
        amount += 1
    assert amount > 505, "it went on while the snapshot was sent"
    check_whole(world)


# -- rates and bounds ----------------------------------------------------------------------------------------------------


def test_the_rate_bounds_what_a_node_sends_and_writes_do_not_wait_for_it() -> None:
    rate = 1_000
    world, late = with_laggard(pump=PumpConfig(snapshot_bytes_per_second=rate, snapshot_chunk_bytes=400))
    tap = Tap(world)
    late.boot()
    began_ms = world.now_ms
    client = world.client(world.leader(KEYS[0]).name)
    slowest = 0.0
    while late.pump.replicas[SHARD].cache.generation == 0:
        asked_ms = world.now_ms
        assert client.insist(Kind.SEND, KEYS[0], "add", {"amount": 1}).failure is None
        slowest = max(slowest, world.now_ms - asked_ms)
        world.run(25)
        assert world.now_ms < began_ms + 60_000
    took_ms = world.now_ms - began_ms
    assert len(tap.records) == len(KEYS)
    assert took_ms >= (tap.record_bytes - 2 * 400) / rate * 1000, "all but a burst and the last chunk"
    assert took_ms <= tap.record_bytes / rate * 1000 + 3 * ELECTION_TIMEOUT_MS
    assert slowest < 20.0
    world.run_until(lambda: well(world), within_ms=200_000)


def test_more_receivers_than_places_all_get_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A place for one transfer, four replicas that need one, some of them refused by a receiver that is busy."""
    monkeypatch.setattr(snapshot_sending, "TRANSFERS_MAX", 1)
    monkeypatch.setattr(snapshot_receiving, "TRANSFERS_MAX", 1)
    world = World(shards=4, compaction=CUT, pump=SMALL_CHUNKS)
    client = world.start()
    keys = [f"key-{number}" for number in range(24)]
    for key in keys:
        client.insist(Kind.CREATE, key)
    late = world.nodes[NodeId("n3")]
    late.crash()
    for amount in range(200):
        assert client.insist(Kind.SEND, keys[amount % 24], "add", {"amount": amount}).failure is None
    late.boot()
    most = 0

    def everywhere() -> bool:
        nonlocal most
        for node in world.nodes.values():
            most = max(most, len(node.pump._transfers._sending._outgoing), len(node.pump._transfers._receiving._incoming))
        replicas = [late.pump.replicas[ShardId(shard)] for shard in range(1, 5)]
        return all(replica.cache.generation == 1 and not replica.incomplete for replica in replicas)

    world.run_until(everywhere, within_ms=60_000)
    assert most == 1
    world.run_until(lambda: all(len(set(world.records(key))) == 1 for key in keys))


# -- damage --------------------------------------------------------------------------------------------------------------


def test_damage_is_remembered_through_a_restart_and_its_repair_goes_on_where_it_stopped() -> None:
    world, late = with_laggard()
    late.boot()
    check_whole(world)
    replica = late.pump.replicas[SHARD]
    replica.damaged = "rot"
    late.pump.look_at(replica, world.now_ms)
    halfway(world, late)
    tap = Tap(world)
    late.crash()
    world.run(100)
    late.boot()
    assert late.pump.replicas[SHARD].damaged == "rot"
    check_whole(world)
    assert max(tap.records.values()) == 1
    assert late.pump.replicas[SHARD].cache.generation == 2
    late.crash()
    late.boot()
    assert not late.pump.replicas[SHARD].damaged, "it is well again, also for the next process"
