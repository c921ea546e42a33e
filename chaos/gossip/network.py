"""A network under virtual time that carries the packets of real gossip cores. One seed, one run.

Faults: datagram loss, duplication and reordering, delay, partitions (one-way too), crash, restart as a new process, pause,
clocks that run apart. A paused node keeps its packets and its timers and gets them all late; a stream survives loss, because
TCP repeats, but not a partition.
"""

from __future__ import annotations

import heapq
import itertools
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from cluster.gossip.config import GossipConfig
from cluster.gossip.core import Gossip
from cluster.gossip.effects import (
    Datagram,
    Effects,
    Endpoint,
    Event,
    MemberChange,
    Remembered,
    StreamFailed,
    StreamReplied,
    StreamRequested,
    Tick,
)
from cluster.gossip.messages import Address, Alive, State, Tags
from cluster.ids import NodeId

CLUSTER = "simulated"
STREAM_TIMEOUT_MS = 1_000
REORDERED_MS = 100
"""A datagram that is reordered comes this much later at most."""


@dataclass(slots=True)
class Host:
    """A machine: its current process, if any, and what that process said over time."""

    name: NodeId
    endpoint: Endpoint
    core: Gossip
    source: random.Random
    generation: int = 1
    up: bool = True
    paused: bool = False
    late: list[Event] = field(default_factory=list)
    changes: list[tuple[int, MemberChange]] = field(default_factory=list)
    superseded_by: int = 0
    datagrams_sent: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    steps: int = 0
    step_us: list[float] | None = None
    """Processor time of each step, where somebody asked for that."""
    clock_rate: float = 1.0
    clock_offset_ms: int = 0

    def clock_ms(self, now_ms: int) -> int:
        """What this machine's clock shows."""
        return int(now_ms * self.clock_rate) + self.clock_offset_ms

    def reached_ms(self, clock_ms: int) -> int:
        """When its clock shows that, or a little later."""
        at_ms = int((clock_ms - self.clock_offset_ms) / self.clock_rate)
        while self.clock_ms(at_ms) < clock_ms:
            at_ms += 1
        return at_ms


class Network:
    """Cores of `count` nodes n0, n1, ...; everybody's seeds are the first three.

    loss, duplication, reordering: the share of datagrams that it happens to. skew: by how much clocks run fast or slow, as a
    share; they differ by minutes too. met: everybody knows everybody from the start. zones: how many there are.
    """

    def __init__(
        self,
        count: int,
        seed: int,
        *,
        loss: float = 0.0,
        duplication: float = 0.0,
        reordering: float = 0.0,
        skew: float = 0.0,
        zones: int = 1,
        met: bool = False,
        delay_ms: tuple[int, int] = (1, 5),
        config: GossipConfig | None = None,
        boot_spread_ms: int = 0,
        streams: bool = True,
    ) -> None:
        self.now_ms = self.began_ms = 1_000_000
        self.loss = loss
        self.duplication = duplication
        self.reordering = reordering
        self._skew = skew
        self._zones = zones
        self._remembered: tuple[Alive, ...] = ()
        self.delay_ms = delay_ms
        self.streams = streams
        """Whether streams get through. Without them only datagrams speak for a member."""
        self.random = random.Random(seed)
        self.config = config or GossipConfig()
        self.hosts: dict[NodeId, Host] = {}
        self._by_endpoint: dict[Endpoint, Host] = {}
        self._blocked: set[tuple[NodeId, NodeId]] = set()
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._streams: dict[int, tuple[Host, int, int]] = {}
        self._stream_numbers = itertools.count(1)
        self._names = [NodeId(f"n{number}") for number in range(count)]
        self.seeds: tuple[Endpoint, ...] = tuple((f"host-{name}", 7402) for name in self._names[:3])
        for name in self._names:
            self._boot(name, self.random.randint(0, boot_spread_ms))
        if met:
            self._remembered = tuple(host.core.own for host in self.hosts.values())

    def __getitem__(self, number: int) -> Host:
        return self.hosts[self._names[number]]

    # Faults.

    def crash(self, number: int) -> None:
        self[number].up = False

    def restart(self, number: int, *, move: bool = False) -> None:
        """A new process under the same name: a later generation, nothing remembered, maybe another address."""
        host = self[number]
        host.generation += 1
        host.up, host.paused = True, False
        host.late.clear()
        if move:
            del self._by_endpoint[host.endpoint]
            host.endpoint = (f"{host.endpoint[0]}-moved", host.endpoint[1])
            self._by_endpoint[host.endpoint] = host
        host.core = self._core(host)
        self._arm(host)

    def pause(self, number: int) -> None:
        self[number].paused = True

    def resume(self, number: int) -> None:
        host = self[number]
        host.paused = False
        late, host.late = host.late, []
        for event in late:
            self._step(host, event)
        self._step(host, Tick())

    def partition(self, *groups: Iterable[int], one_way: bool = False) -> None:
        """Cut the groups off from each other. one_way: only what the first group sends is lost."""
        sides = [[self[number].name for number in group] for group in groups]
        for first, second in itertools.permutations(sides, 2):
            if not one_way or first is sides[0]:
                self._blocked |= set(itertools.product(first, second))

    def heal(self) -> None:
        self._blocked.clear()

    # Running.

    def run(self, duration_ms: int, until: Callable[[], bool] | None = None) -> int | None:
        """Advance virtual time. Returns how long it took until the condition held, None if it never did."""
        start_ms = self.now_ms
        end_ms = start_ms + duration_ms
        while self._queue and self._queue[0][0] <= end_ms:
            self.now_ms, _, action = heapq.heappop(self._queue)
            action()
            if until is not None and until():
                return self.now_ms - start_ms
        self.now_ms = end_ms
        return None

    def inject(self, number: int, event: Event) -> Effects:
        return self._step(self[number], event)

    def _boot(self, name: NodeId, after_ms: int) -> None:
        endpoint = (f"host-{name}", 7402)
        host = Host(name, endpoint, None, random.Random(self.random.random()))  # type: ignore[arg-type]
        host.up = False
        if self._skew:
            host.clock_rate = 1 + self.random.uniform(-self._skew, self._skew)
            host.clock_offset_ms = self.random.randint(-300_000, 300_000)
        self.hosts[name] = self._by_endpoint[endpoint] = host

        def start() -> None:
            host.up = True
            host.core = self._core(host)
            if self._remembered:
                self._step(host, Remembered(self._remembered))
            self._arm(host)

        host.core = self._core(host)
        self._at(self.now_ms + after_ms, start)

    def _core(self, host: Host) -> Gossip:
        return Gossip(
            cluster_id=CLUSTER,
            node=host.name,
            boot_generation=host.generation,
            address=Address(*host.endpoint),
            tags=Tags(host.endpoint[0], f"zone-{int(host.name[1:]) % self._zones}"),
            seeds=self.seeds,
            config=self.config,
            source=host.source,
            now_ms=host.clock_ms(self.now_ms),
        )

    def _at(self, at_ms: int, action: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (at_ms, next(self._numbers), action))

    def _arm(self, host: Host) -> None:
        core, deadline_ms = host.core, host.core.deadline_ms

        def due() -> None:
            if host.core is core and core.deadline_ms == deadline_ms:
                self._deliver(host, Tick())

        self._at(max(host.reached_ms(deadline_ms), self.now_ms), due)

    def _deliver(self, host: Host, event: Event) -> None:
        if host.paused:
            if not isinstance(event, Tick):
                host.late.append(event)
        elif host.up:
            self._step(host, event)

    def _step(self, host: Host, event: Event) -> Effects:
        deadline_ms = host.core.deadline_ms
        host.steps += 1
        began = time.thread_time()
        effects = host.core.step(event, host.clock_ms(self.now_ms))
        if host.step_us is not None:
            host.step_us.append((time.thread_time() - began) * 1e6)
        if host.core.deadline_ms != deadline_ms:
            self._arm(host)
        host.changes += [(self.now_ms, change) for change in effects.changes]
        host.superseded_by = max(host.superseded_by, effects.superseded_by)
        for target, data in effects.datagrams:
            host.datagrams_sent += 1
            host.bytes_sent += len(data)
            if self.random.random() >= self.loss:
                self._carry(host, target, Datagram(host.endpoint, data))
                if self.duplication and self.random.random() < self.duplication:
                    self._carry(host, target, Datagram(host.endpoint, data))
        for request in effects.requests:
            host.bytes_sent += len(request.data)
            stream = next(self._stream_numbers)
            self._streams[stream] = (host, host.generation, request.request)
            if self.streams:
                self._carry(host, request.target, StreamRequested(stream, request.data))
            self._at(self.now_ms + STREAM_TIMEOUT_MS, lambda stream=stream: self._fail(stream))  # type: ignore[misc]
        for reply in effects.replies:
            host.bytes_sent += len(reply.data)
            asker, generation, number = self._streams.pop(reply.stream, (host, -1, 0))
            if generation == asker.generation:
                event_back = StreamReplied(number, reply.data) if reply.data else StreamFailed(number)
                self._carry(host, asker.endpoint, event_back)
        return effects

    def _carry(self, host: Host, target: Endpoint, event: Event) -> None:
        receiver = self._by_endpoint.get(target)
        if receiver is None or (host.name, receiver.name) in self._blocked:
            return
        generation = receiver.generation

        def arrive() -> None:
            if isinstance(event, Datagram) or receiver.generation == generation:
                self._deliver(receiver, event)

        delay_ms = self.random.randint(*self.delay_ms)
        if self.reordering and isinstance(event, Datagram) and self.random.random() < self.reordering:
            delay_ms += self.random.randint(0, REORDERED_MS)
        self._at(self.now_ms + delay_ms, arrive)

    def _fail(self, stream: int) -> None:
        asker, generation, number = self._streams.pop(stream, (None, 0, 0))
        if asker is not None and generation == asker.generation:
            self._deliver(asker, StreamFailed(number))

    # What tests ask.

    def running(self) -> list[Host]:
        return [host for host in self.hosts.values() if host.up and not host.paused]

    def holds(self, observer: Host, subject: Host) -> State | None:
        """What a node holds of another one's current process; None if it does not know that process."""
        member = observer.core.member(subject.name)
        return member.state if member is not None and member.generation == subject.generation else None

    def everybody_sees_everybody(self) -> bool:
        """All hosts, none of them down or paused, hold each other alive."""
        running = self.running()
        return len(running) == len(self.hosts) and all(
            self.holds(a, b) is State.ALIVE for a in running for b in running if a is not b
        )

    def everybody_holds(self, number: int, state: State) -> bool:
        subject = self[number]
        return all(self.holds(host, subject) is state for host in self.running() if host is not subject)

    def deaths(self) -> list[tuple[int, NodeId, NodeId]]:
        """(when, observer, subject) of every verdict so far."""
        return [
            (at_ms, host.name, change.member.node)
            for host in self.hosts.values()
            for at_ms, change in host.changes
            if change.member.state is State.DEAD
        ]
