"""One real core among thousands of peers that are only modelled: what a big cluster costs one node.

The peers answer pings, helper requests and comparisons, ping the core as often as a cluster of that size would, and die when
told to, with the suspicions that others would spread. They think nothing, so that ten thousand of them cost little.
"""

from __future__ import annotations

import gc
import heapq
import itertools
import random
import statistics
import time
import tracemalloc
from collections.abc import Callable
from typing import Any, Final

from chaos.gossip.network import CLUSTER
from chaos.gossip.run import collector_off
from cluster.gossip.config import GossipConfig
from cluster.gossip.core import Gossip
from cluster.gossip.effects import (
    Datagram,
    Effects,
    Endpoint,
    Event,
    Remembered,
    StreamFailed,
    StreamReplied,
    StreamRequest,
    Tick,
)
from cluster.gossip.messages import (
    RECORDS_MAX,
    STREAM_BYTES_MAX,
    Accuser,
    Ack,
    Address,
    Alive,
    Message,
    Nack,
    Packet,
    Ping,
    PingRequest,
    State,
    Suspect,
    SyncDelta,
    SyncRecord,
    SyncRecords,
    SyncReply,
    SyncRequest,
    Tags,
    cluster_tag,
    decode,
    encode_message,
    encode_packet,
)
from cluster.ids import NodeId

TAG: Final = cluster_tag(CLUSTER)
RTT_MS: Final = (1, 5)
ACCUSERS: Final = 6
"""Somebody else fails to reach a dead member about once a period."""
CRASHED: Final = 10
DETECTION_MS_MAX: Final = 60_000


class Crowd:
    """The core `n0` and the peers n1, n2, ..."""

    def __init__(self, peers: int, seed: int, loss: float) -> None:
        self.now_ms = 1_000_000
        self.random = random.Random(seed)
        self.loss = loss
        self.records = {self._name(number): self._record(number) for number in range(1, peers + 1)}
        self.by_endpoint = {(each.alive.address.host, 7402): name for name, each in self.records.items()}
        self.down: set[NodeId] = set()
        self.died_ms: dict[NodeId, int] = {}
        self.step_us: list[float] = []
        self.bytes_sent = 0
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self.config = GossipConfig()
        self.core = Gossip(
            cluster_id=CLUSTER,
            node=NodeId("n0"),
            boot_generation=1,
            address=Address("host-n0", 7402),
            tags=Tags("host-n0", "zone-0"),
            seeds=(("host-n1", 7402),),
            config=self.config,
            source=random.Random(seed + 1),
            now_ms=self.now_ms,
        )
        self._arm()
        self._at(self.now_ms + 1_000, self._peers_ping)

    @staticmethod
    def _name(number: int) -> NodeId:
        return NodeId(f"n{number}")

    def _record(self, number: int) -> SyncRecord:
        name = self._name(number)
        alive = Alive(name, 1, 0, Address(f"host-{name}", 7402), Tags(f"host-{name}", f"zone-{number % 3}"))
        return SyncRecord(alive, State.ALIVE, (), 0)

    # Running.

    def run(self, duration_ms: int, until: Callable[[], bool] | None = None) -> int | None:
        """Advance virtual time. Returns how long it took until the condition held, None if it never did."""
        began_ms = self.now_ms
        while self._queue and self._queue[0][0] <= began_ms + duration_ms:
            self.now_ms, _, action = heapq.heappop(self._queue)
            action()
            if until is not None and until():
                return self.now_ms - began_ms
        self.now_ms = began_ms + duration_ms
        return None

    def crash(self, count: int) -> None:
        """The first peers die; others notice, and spread the word in the pings that come anyway."""
        for number in range(1, count + 1):
            name = self._name(number)
            self.down.add(name)
            accusers = self.random.sample(range(count + 1, len(self.records) + 1), ACCUSERS)
            at_ms = self.now_ms + self.config.probe_interval_ms
            for accuser in accusers:
                at_ms += self.random.randint(0, 2 * self.config.probe_interval_ms)
                self._at(at_ms, self._accusation(name, self._name(accuser)))

    def _accusation(self, suspect: NodeId, accuser: NodeId) -> Callable[[], None]:
        return lambda: self._tell(accuser, Suspect(suspect, 1, 0, (Accuser(accuser, 7),)))

    def _at(self, at_ms: int, action: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (at_ms, next(self._numbers), action))

    def _arm(self) -> None:
        deadline_ms = self.core.deadline_ms

        def due() -> None:
            if self.core.deadline_ms == deadline_ms:
                self.step(Tick())

        self._at(max(deadline_ms, self.now_ms), due)

    def step(self, event: Event) -> None:
        deadline_ms = self.core.deadline_ms
        began = time.thread_time()
        effects = self.core.step(event, self.now_ms)
        self.step_us.append((time.thread_time() - began) * 1e6)
        if self.core.deadline_ms != deadline_ms:
            self._arm()
        for change in effects.changes:
            if change.member.state is State.DEAD:
                self.died_ms[change.member.node] = self.now_ms
        self._carry(effects)

    def _carry(self, effects: Effects) -> None:
        for target, data in effects.datagrams:
            self.bytes_sent += len(data)
            if self.random.random() >= self.loss:
                self._answer(target, data)
        for request in effects.requests:
            self.bytes_sent += len(request.data)
            self._answer_stream(request)

    # The peers.

    def _peers_ping(self) -> None:
        """In a cluster each member is pinged about once a period."""
        self._at(self.now_ms + self.config.probe_interval_ms, self._peers_ping)
        number = self.random.randint(1, len(self.records))
        if self._name(number) not in self.down:
            self._tell(self._name(number), Ping(self.random.getrandbits(32), NodeId("n0"), 1))

    def _tell(self, name: NodeId, *messages: Message) -> None:
        data = encode_packet(TAG, name, 1, [encode_message(message) for message in messages])
        delay_ms = self.random.randint(*RTT_MS)
        self._at(self.now_ms + delay_ms, lambda: self.step(Datagram((f"host-{name}", 7402), data)))

    def _answer(self, target: Endpoint, data: bytes) -> None:
        name = self.by_endpoint[target]
        packet = decode(data, TAG, STREAM_BYTES_MAX)
        assert isinstance(packet, Packet), "the core sends what can be read"
        if name in self.down or self.random.random() < self.loss:
            return
        for message in packet.messages:
            if isinstance(message, Ping):
                self._tell(name, Ack(message.sequence, name, 1))
            elif isinstance(message, PingRequest):
                there = message.node not in self.down
                self._tell(name, Ack(message.sequence, message.node, 1) if there else Nack(message.sequence))

    def _answer_stream(self, request: StreamRequest) -> None:
        name = self.by_endpoint[request.target]
        if name in self.down:
            self._at(self.now_ms + 1_000, lambda: self.step(StreamFailed(request.request)))
            return
        packet = decode(request.data, TAG, STREAM_BYTES_MAX)
        assert isinstance(packet, Packet), "the core sends what can be read"
        (message,) = packet.messages
        data = encode_packet(TAG, name, 1, [encode_message(self._reply(name, message))])
        self._at(self.now_ms + self.random.randint(*RTT_MS), lambda: self.step(StreamReplied(request.request, data)))

    def _reply(self, name: NodeId, message: Message) -> Message:
        """Everybody holds everybody: a comparison brings what the core does not have yet."""
        if isinstance(message, Ping):
            return Ack(message.sequence, name, 1)
        if isinstance(message, SyncRequest):
            missing = [record for record in self.records.values() if self.core.member(record.alive.node) is None]
            return SyncReply(0, [], missing[:RECORDS_MAX], len(missing) > RECORDS_MAX)
        assert isinstance(message, SyncDelta)
        return SyncRecords([])


def bytes_per_member(members: int = 2_000) -> int:
    """What the core's state takes for each member, everything included, as the allocator counts it."""
    crowd = Crowd(members, 1, 0.0)
    alone = Crowd(1, 1, 0.0).core
    tracemalloc.start()
    records = [_decoded(record.alive) for record in crowd.records.values()]
    alone.step(Remembered(records), crowd.now_ms)
    del records
    gc.collect()
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return round(used / members)


def _decoded(alive: Alive) -> Alive:
    """A record of its own, as one that came over the wire is."""
    packet = decode(encode_packet(TAG, alive.node, 1, [encode_message(alive)]), TAG, STREAM_BYTES_MAX)
    assert isinstance(packet, Packet)
    (record,) = packet.messages
    assert isinstance(record, Alive)
    return record


def among(peers: int, *, seconds: float, loss: float, seed: int) -> dict[str, Any]:
    """Join, live in calm, see ten peers die. The result has stable keys."""
    with collector_off():
        return _among(peers, seconds, loss, seed)


def _among(peers: int, seconds: float, loss: float, seed: int) -> dict[str, Any]:
    crowd = Crowd(peers, seed, loss)
    joined_ms = crowd.run(120_000, lambda: crowd.core.live >= peers)
    crowd.run(5_000)
    crowd.step_us.clear()
    before = crowd.bytes_sent
    crowd.run(int(seconds * 1000))
    calm_bytes = (crowd.bytes_sent - before) / seconds
    step_us = sorted(crowd.step_us)
    false_deaths = len(crowd.died_ms)
    crowd.step_us.clear()
    at_ms, before = crowd.now_ms, crowd.bytes_sent
    crowd.crash(CRASHED)
    took_ms = crowd.run(DETECTION_MS_MAX, lambda: len(crowd.died_ms) >= CRASHED + false_deaths)
    crash_us = sorted(crowd.step_us)
    times = sorted(when - at_ms for name, when in crowd.died_ms.items() if name in crowd.down)
    return {
        "peers": peers,
        "seed": seed,
        "loss": loss,
        "join_s": None if joined_ms is None else joined_ms / 1000,
        "bytes_per_member": bytes_per_member(),
        "calm_bytes": round(calm_bytes),
        "step_us_p50": round(statistics.median(step_us), 1),
        "step_us_p99": round(step_us[int(len(step_us) * 0.99)], 1),
        "crash_step_us_p99": round(crash_us[int(len(crash_us) * 0.99)], 1),
        "detection_s": None if took_ms is None else took_ms / 1000,
        "detection_p50_s": statistics.median(times) / 1000 if times else None,
        "false_deaths": false_deaths + sum(1 for name in crowd.died_ms if name not in crowd.down),
    }
