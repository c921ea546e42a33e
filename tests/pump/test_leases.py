"""Reads by lease, from a client's operation to its answer: fast while nobody else can lead, and never stale."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest

from cluster.ids import DocumentId, NodeId, Principal
from cluster.raft.config import RaftConfig
from cluster.session.operations import Kind
from tests.pump.tally import TallyInstance, TallyLoader, TallyProgram
from tests.pump.world import Client, SimulatedNode, World

LEASES = RaftConfig(lease_reads=True, lease_drift_ms=100.0, invariants_checked=True)
PAUSE_MS = 6_000.0
"""Longer than two election timeouts: somebody else leads by then and has written."""


class WatchedInstance(TallyInstance):
    """Tells when a view is being computed: before what it shows is fixed, and after."""

    before: Callable[[], None]
    after: Callable[[], None]

    def view(self, who: Principal, arguments: bytes = b"") -> bytes:
        self.before()
        shown = super().view(who)
        self.after()
        return shown


class WatchedProgram(TallyProgram):
    def __init__(self, bundle: bytes, loader: WatchedLoader) -> None:
        super().__init__(bundle, lambda: False)
        self._loader = loader

    def new(self, document: DocumentId) -> TallyInstance:
        return self._watch(super().new(document))

    def load(self, document: DocumentId, state: bytes) -> TallyInstance:
        return self._watch(super().load(document, state))

    def _watch(self, plain: TallyInstance) -> TallyInstance:
        instance = WatchedInstance(plain.numbers, lambda: False)
        instance.before = lambda: self._loader.before()
        instance.after = lambda: self._loader.after()
        return instance


class WatchedLoader(TallyLoader):
    """`before` and `after` run once around the next view that its node computes."""

    def __init__(self) -> None:
        super().__init__()
        self.before: Callable[[], None] = lambda: None
        self.after: Callable[[], None] = lambda: None

    def load(self, bundle: bytes) -> TallyProgram:
        assert super().load(bundle)
        return WatchedProgram(bundle, self)


class Leased:
    """Three nodes with leases on and one document with the number 1 in it. `loaders` belong to the nodes."""

    def __init__(self, raft: RaftConfig = LEASES, seed: int = 5) -> None:
        self.loaders: dict[NodeId, WatchedLoader] = {}
        self.world = World(shards=1, seed=seed, raft=raft, loader=self.loader)
        client = self.world.start()
        assert client.insist(Kind.CREATE, "a").failure is None
        assert client.insist(Kind.SEND, "a", "add", {"amount": 1}).failure is None
        self.world.run(500)
        self.leader = self.world.leader("a")
        self.reader = self.world.client(self.leader.name)
        self.other = next(node for node in self.world.nodes.values() if node is not self.leader)

    def loader(self, node: SimulatedNode) -> WatchedLoader:
        return self.loaders.setdefault(node.name, WatchedLoader())

    def cut_off(self) -> None:
        """Nothing passes between the leader and the others."""
        for node in self.world.nodes.values():
            if node is not self.leader:
                self.world.cut |= {(node.name, self.leader.name), (self.leader.name, node.name)}

    def read(self) -> int:
        return self.reader.submit(Kind.READ, "a")

    def shown(self, number: int) -> list[int] | None:
        """The numbers that a read showed; None while it has no answer, or a refusal."""
        replies = self.reader.replies.get(number)
        return numbers(replies[0].payload) if replies and replies[0].failure is None else None

    def paused_while(self, when: str) -> None:
        """The leader's process stands still around its next view, and another leader takes a write meanwhile."""
        loader = self.loaders[self.leader.name]
        writer = self.world.client(self.other.name)

        def pause() -> None:
            loader.before = loader.after = lambda: None
            self.world.run(PAUSE_MS / 2, without=self.leader)
            number = writer.submit(Kind.SEND, "a", "add", {"amount": 2})
            self.world.run(PAUSE_MS / 2, without=self.leader)
            assert writer.replies[number][0].failure is None, "another leader took it"

        setattr(loader, when, pause)


def numbers(view: bytes) -> list[int]:
    shown: dict[str, list[int]] = msgspec.json.decode(view)
    return shown["numbers"]


def answered_at_once(leased: Leased) -> bool:
    number = leased.read()
    leased.world.run(1)
    return leased.shown(number) == [0, 1]


def test_a_read_by_lease_needs_no_other_node() -> None:
    """Thesis 6.4.1; design section 3. Cut off, a leader answers until its lease is over and not a moment longer."""
    leased = Leased()
    leased.cut_off()
    answers = 0
    while answered_at_once(leased):
        answers += 1
        assert answers < 1_000
    assert 700 < answers < LEASES.election_timeout_ms_min - LEASES.lease_drift_ms
    last = leased.read()
    leased.world.run(3_000)
    failure = leased.reader.replies[last][0].failure
    assert failure is not None
    assert failure.retryable


def test_without_leases_a_read_waits_for_a_round() -> None:
    leased = Leased(replace(LEASES, lease_reads=False))
    leased.cut_off()
    assert not answered_at_once(leased)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_deposed_lease_holder_never_answers_stale(when: str) -> None:
    """Reference traps 37 and 38, design section 3: the lease held when the read was admitted; the process stood still around
    computing the answer; somebody else leads and has written. A clock read after the answer was computed tells."""
    leased = Leased()
    leased.paused_while(when)
    number = leased.read()
    leased.world.run(1)
    assert leased.shown(number) is None, "the computed answer was thrown away"
    leased.world.run_until(lambda: number in leased.reader.replies)
    assert leased.shown(number) in (None, [0, 1, 2])
    assert numbers(leased.reader.insist(Kind.READ, "a").payload) == [0, 1, 2]


def test_a_listing_by_lease_needs_no_other_node_either() -> None:
    leased = Leased()
    leased.cut_off()
    number = leased.reader.submit(Kind.LIST, "", "", b"")
    leased.world.run(1)
    assert leased.reader.replies[number][0].failure is None


def test_a_watch_waits_for_a_round_even_with_leases() -> None:
    """What a watch has begun to show can not be thrown away."""
    leased = Leased()
    leased.cut_off()
    watch = leased.reader.submit(Kind.WATCH, "a")
    leased.world.run(5)
    assert watch not in leased.reader.replies
    assert answered_at_once(leased), "reads do not wait behind it"


@pytest.mark.parametrize("seed", range(4))
def test_a_leader_that_others_take_for_dead_never_answers_stale(seed: int) -> None:
    """Reference trap 39: its port is closed, its process answers on. The others wait for the end of what they promised."""
    leased = Leased(seed=seed)
    world, leader = leased.world, leased.leader
    leased.cut_off()
    for node in world.nodes.values():
        if node is not leader:
            node.pump.on_disconnected(leader.name, True, world.now_ms)
    writer = world.client(leased.other.name)
    write: int | None = None
    reads: list[tuple[int, bool]] = []
    while len(reads) < 2_500:
        taken = write is not None and succeeded(writer, write)
        if write is None or (write in writer.replies and not taken):
            write = writer.submit(Kind.SEND, "a", "add", {"amount": 2})
        reads.append((leased.read(), taken))
        world.run(1)
    assert write is not None
    assert succeeded(writer, write), "somebody else leads"
    shown = [(leased.shown(number), taken) for number, taken in reads]
    assert sum(view == [0, 1] for view, _ in shown) > 500, "it answered by lease for a while"
    assert not any(view == [0, 1] and taken for view, taken in shown), "nothing stale after the write was taken"


def succeeded(client: Client, number: int) -> bool:
    return number in client.replies and client.replies[number][0].failure is None


def test_nodes_that_differ_in_leases_read_by_rounds() -> None:
    """A promise that nobody gave is not counted on, so a mixed configuration costs the leases and nothing else."""
    leased = Leased()
    for node in leased.world.nodes.values():
        if node is not leased.leader:
            node.pump.liveness.promise_ms = 0
    leased.world.run(300)
    assert numbers(leased.reader.insist(Kind.READ, "a").payload) == [0, 1]
    leased.cut_off()
    assert not answered_at_once(leased)


def test_a_dead_leader_is_replaced_when_the_promises_end_and_not_much_later() -> None:
    """Design section 6: leases are waited out, the random timeout is not. Its last heartbeat was at most one interval ago."""
    leased = Leased()
    world, leader = leased.world, leased.leader
    died_ms = world.now_ms
    leader.crash()
    others = [node for node in world.nodes.values() if node is not leader]
    shard = leased.other.pump.router.shard_of("tally", "a")
    world.run_until(lambda: any(node.pump.replicas[shard].serves for node in others))
    waited_ms = world.now_ms - died_ms
    assert LEASES.election_timeout_ms_min - 150 < waited_ms < LEASES.election_timeout_ms_min + 4 * LEASES.stagger_ms


def test_a_leader_that_restarts_ends_the_promise_to_the_process_before() -> None:
    """A newer boot generation proves that nobody answers from the old lease: no more than appends promised is waited for."""
    leased = Leased()
    world, leader = leased.world, leased.leader
    leader.crash()
    world.run(50)
    leader.boot()
    began_ms = world.now_ms
    world.run_until(world.settled)
    assert world.now_ms - began_ms < LEASES.election_timeout_ms_max + 200
    assert numbers(world.client(leased.other.name).insist(Kind.READ, "a").payload) == [0, 1]
