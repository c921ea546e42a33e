"""What one seed stands for: the limits of its cluster, what its clients will ask, and what will go wrong.

Swarm testing (Groce et al., 2012): a seed switches each kind of fault on or off and draws each limit, mostly from tiny values, so
that rare paths are common and faults that hide each other meet each other's absence.

The budget keeps every scenario recoverable. One node, the victim, may lose what it had synced (wipe, rot); every other fault takes
no synced data from anybody, so a majority always holds what was acknowledged, and once all faults are over that majority
must answer everything.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from chaos.sim import faults
from chaos.sim.faults import CRASH_POINTS, Fault, Link
from chaos.sim.randomness import Streams
from cluster.ids import NodeId
from cluster.session.operations import Consistency, Kind
from cluster.storage.engine import Family

SAFETY_MS = 4_000.0
"""Length of the safety phase."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The numbers of one cluster. Names are those of the configurations that they go into.

    entry_cost_ms: how far a node's clock moves while it applies an entry (apply slices end by it). drift: rates of the nodes'
    monotonic clocks. skew_ms: of their wall clocks. sync_ms: how long a sync takes; below inline_sync_ms it is done inline.
    consume_ms: how long a watching application takes for a delta. restarted: all nodes are restarted once more at the end.
    invariants_checked: the product's own expensive assertions run after every step.
    """

    nodes: int
    shards: int
    election_timeout_ms: float
    heartbeat_ms: float
    append_bytes_max: int
    window_appends: int
    tail_bytes_max: int
    every_entries: int
    kept_entries: int
    lagging_entries: int
    cache_bytes_max: int
    session_window: int
    sessions_max: int
    change_ring_bytes: int
    client_window: int
    watch_credit_bytes: int
    entry_cost_ms: float
    drift: tuple[float, ...]
    skew_ms: tuple[float, ...]
    sync_ms: float
    consume_ms: float
    checkpoints: bool
    restarted: bool
    invariants_checked: bool


@dataclass(frozen=True, slots=True)
class Work:
    """Something a client does at at_ms. kind: of the operation; WATCH and UNWATCH too. alone: a unary call with an idempotency
    key instead of a place in the client's session. keyless: without one, so it is tried once only."""

    at_ms: float
    client: int
    kind: Kind
    space: str
    key: str
    channel: str = ""
    payload: bytes = b""
    consistency: Consistency = Consistency.LINEARIZABLE
    alone: bool = False
    keyless: bool = False

    def __str__(self) -> str:
        how = "alone " if self.alone else ""
        what = f"{self.channel} {self.payload.decode()}" if self.payload or self.channel else ""
        return f"{self.at_ms:7.0f} c{self.client} {how}{self.kind.name.lower()} {self.space}/{self.key} {what}".rstrip()


@dataclass(frozen=True, slots=True)
class Scenario:
    """One run, whole: `run` makes the same of the same."""

    seed: int
    limits: Limits
    clients: int
    faults: tuple[Fault, ...]
    work: tuple[Work, ...]


def draw(seed: int) -> Scenario:
    """The scenario of a seed."""
    streams = Streams(seed)
    limits = _draw_limits(streams.named("limits"))
    names = node_names(limits.nodes)
    clients = streams.named("clients").randint(2, 4)
    work = _Workload(streams.named("workload"), clients).draw()
    found: list[Fault] = []
    for kind, maker in _MAKERS.items():
        stream = streams.named(f"faults/{kind}")
        if stream.random() < _LIKELIHOOD.get(kind, 0.35):
            found.extend(maker(stream, names, clients))
    victims = sorted((fault for fault in found if isinstance(fault, faults.Wipe | faults.BitFlip)), key=lambda f: f.start_ms)
    spared = {id(fault) for fault in victims if fault.node != victims[0].node}
    kept = [fault for fault in found if id(fault) not in spared]
    return Scenario(seed, limits, clients, tuple(sorted(kept, key=lambda fault: fault.start_ms)), work)


def node_names(nodes: int) -> list[NodeId]:
    return [NodeId(f"n{number}") for number in range(1, nodes + 1)]


def _draw_limits(source: random.Random) -> Limits:
    pick = source.choice
    nodes = pick((3, 3, 3, 3, 5))
    election = pick((300.0, 500.0))
    drift, skewed = pick((0.0, 0.0, 0.03, 0.3, 0.3)), source.random() < 0.5
    kept = pick((2, 8, 64))
    return Limits(
        nodes=nodes,
        shards=pick((1, 1, 2)),
        election_timeout_ms=election,
        heartbeat_ms=election / 5,
        append_bytes_max=pick((256, 4096, 1 << 20)),
        window_appends=pick((1, 2, 4)),
        tail_bytes_max=pick((0, 1024, 1 << 20)),
        every_entries=pick((4, 16, 64)),
        kept_entries=kept,
        lagging_entries=kept * pick((1, 4)),
        cache_bytes_max=pick((1, 4096, 1 << 20)),
        session_window=pick((16, 64)),
        sessions_max=pick((2, 16, 64)),
        change_ring_bytes=pick((128, 1024, 1 << 18)),
        client_window=pick((1, 4, 16)),
        watch_credit_bytes=pick((64, 512, 1 << 18)),
        entry_cost_ms=pick((0.0, 0.0, 6.0, 25.0)),
        drift=tuple(1.0 + source.uniform(-drift, drift) for _ in range(nodes)),
        skew_ms=tuple(source.uniform(-2_000, 2_000) if skewed else 0.0 for _ in range(nodes)),
        sync_ms=pick((0.0, 0.3, 3.0)),
        consume_ms=pick((0.0, 5.0, 100.0)),
        checkpoints=source.random() < 0.85,
        restarted=source.random() < 0.25,
        invariants_checked=source.random() < 0.25,
    )


# faults

Maker = Callable[[random.Random, list[NodeId], int], list[Fault]]


def _span(source: random.Random, shortest: float, longest: float) -> tuple[float, float]:
    start = source.uniform(100, SAFETY_MS * 0.9)
    return round(start), round(min(SAFETY_MS, start + source.uniform(shortest, longest)))


def _some_links(source: random.Random, names: list[NodeId]) -> tuple[Link, ...]:
    """One of the ways in which networks part: one node from all, halves, one pair, one direction, at random."""
    pairs = [(one, other) for one in names for other in names if one != other]
    shape = source.randrange(5)
    if shape == 0:
        alone = source.choice(names)
        return tuple(pair for pair in pairs if alone in pair)
    if shape == 1:
        part = set(source.sample(names, len(names) // 2))
        return tuple((one, other) for one, other in pairs if (one in part) != (other in part))
    if shape == 2:
        one, other = source.sample(names, 2)
        return ((one, other), (other, one))
    if shape == 3:
        alone, inward = source.choice(names), source.random() < 0.5
        return tuple((one, other) for one, other in pairs if (other if inward else one) == alone)
    return tuple(pair for pair in pairs if source.random() < 0.4)


def _links_or_all(source: random.Random, names: list[NodeId]) -> tuple[Link, ...]:
    if source.random() < 0.7:
        return _some_links(source, names)
    return tuple((one, other) for one in names for other in names if one != other)


def _crashes(source: random.Random, names: list[NodeId], _: int) -> list[Fault]:
    found: list[Fault] = []
    for _crash in range(source.randint(1, 5)):
        keep = source.choice((1.0, 0.0, source.random()))
        place = (source.choice(names), source.choice(CRASH_POINTS), keep, source.random() < 0.3)
        found.append(faults.Crash(*_span(source, 50, 1_500), *place))
    return found


def _leader_crashes(source: random.Random, names: list[NodeId], _: int) -> list[Fault]:
    return [
        faults.LeaderCrash(*_span(source, 20, 800), source.randint(0, 1), source.choice(CRASH_POINTS), source.choice((1.0, 0.0)))
        for _crash in range(source.randint(1, 4))
    ]


def _leader_cuts(source: random.Random, names: list[NodeId], _: int) -> list[Fault]:
    return [faults.LeaderCut(*_span(source, 150, 1_200), 1) for _cut in range(source.randint(1, 5))]


def _power_losses(source: random.Random, names: list[NodeId], _: int) -> list[Fault]:
    return [faults.PowerLoss(*_span(source, 50, 400), source.choice((0.0, source.random())))]


def _pauses(source: random.Random, names: list[NodeId], _: int) -> list[Fault]:
    return [faults.Pause(*_span(source, 20, 1_500), source.choice(names)) for _pause in range(source.randint(1, 3))]


def _partitions(source: random.Random, names: list[NodeId], _: int) -> list[Fault]:
    return [
        faults.Partition(*_span(source, 50, 2_000), _some_links(source, names), source.choice((50.0, 500.0, 5_000.0)))
        for _partition in range(source.randint(1, 3))
    ]


def _flapping(source: random.Random, names: list[NodeId], _: int) -> list[Fault]:
    return [faults.Flapping(*_span(source, 300, 2_000), _some_links(source, names), source.uniform(20, 400))]


def _slow_links(source: random.Random, names: list[NodeId], _: int) -> list[Fault]:
    return [
        faults.Slow(*_span(source, 200, 3_000), _links_or_all(source, names), source.choice((5.0, 50.0, 400.0)))
        for _slow in range(source.randint(1, 2))
    ]


def _unruly(source: random.Random, names: list[NodeId], _: int) -> list[Fault]:
    rates = [source.choice((0.0, 0.05, 0.3)) for _rate in range(3)]
    return [faults.Unruly(*_span(source, 200, 2_500), _some_links(source, names), *rates)]


def _breaks(source: random.Random, names: list[NodeId], _: int) -> list[Fault]:
    found: list[Fault] = []
    for _break in range(source.randint(1, 6)):
        start, _end = _span(source, 0, 1)
        found.append(faults.Break(start, start, _some_links(source, names)))
    return found


def _client_breaks(source: random.Random, names: list[NodeId], clients: int) -> list[Fault]:
    found: list[Fault] = []
    for _break in range(source.randint(1, 6)):
        start, _end = _span(source, 0, 1)
        found.append(faults.ClientBreak(start, start, source.randrange(clients)))
    return found


def _slow_syncs(source: random.Random, names: list[NodeId], _: int) -> list[Fault]:
    return [
        faults.SlowSync(*_span(source, 100, 2_000), source.choice(names), source.choice((2.0, 20.0, 150.0, 1_200.0)))
        for _slow in range(source.randint(1, 3))
    ]


def _sync_failures(source: random.Random, names: list[NodeId], _: int) -> list[Fault]:
    return [faults.SyncFails(*_span(source, 100, 1_000), source.choice(names))]


def _read_failures(source: random.Random, names: list[NodeId], _: int) -> list[Fault]:
    return [faults.ReadsFail(*_span(source, 100, 1_000), source.choice(names))]


def _full_disks(source: random.Random, names: list[NodeId], _: int) -> list[Fault]:
    return [faults.DiskFull(*_span(source, 100, 1_000), source.choice(names))]


def _disk_stalls(source: random.Random, names: list[NodeId], _: int) -> list[Fault]:
    return [faults.DiskStalls(*_span(source, 10, 800), source.choice(names)) for _stall in range(source.randint(1, 3))]


def _high_water(source: random.Random, names: list[NodeId], _: int) -> list[Fault]:
    return [faults.HighWater(*_span(source, 100, 1_000), source.choice(names))]


def _rot(source: random.Random, names: list[NodeId], _: int) -> list[Fault]:
    victim = source.choice(names)
    found: list[Fault] = []
    for _flip in range(source.randint(1, 6)):
        start, _end = _span(source, 0, 1)
        family = source.choice((Family.RECORDS, Family.RECORDS, Family.RECORDS, Family.LOG, Family.META))
        found.append(faults.BitFlip(start, start, victim, family))
    restart, up = _span(source, 50, 300)
    found.append(faults.Crash(restart, up, victim, "anywhere", 1.0, False))
    return found


def _wipes(source: random.Random, names: list[NodeId], _: int) -> list[Fault]:
    return [faults.Wipe(*_span(source, 20, 600), source.choice(names))]


def _clock_jumps(source: random.Random, names: list[NodeId], _: int) -> list[Fault]:
    found: list[Fault] = []
    for _jump in range(source.randint(1, 4)):
        start, _end = _span(source, 0, 1)
        found.append(faults.ClockJump(start, start, source.choice(names), source.choice((-60_000.0, -500.0, 700.0, 60_000.0))))
    return found


_MAKERS: dict[str, Maker] = {
    "crash": _crashes,
    "leader_crash": _leader_crashes,
    "leader_cut": _leader_cuts,
    "power_loss": _power_losses,
    "pause": _pauses,
    "partition": _partitions,
    "flapping": _flapping,
    "slow": _slow_links,
    "unruly": _unruly,
    "break": _breaks,
    "client_break": _client_breaks,
    "slow_sync": _slow_syncs,
    "sync_fails": _sync_failures,
    "reads_fail": _read_failures,
    "disk_full": _full_disks,
    "disk_stalls": _disk_stalls,
    "high_water": _high_water,
    "bit_flip": _rot,
    "wipe": _wipes,
    "clock_jump": _clock_jumps,
}
_LIKELIHOOD = {"crash": 0.6, "sync_fails": 0.15, "reads_fail": 0.15, "disk_full": 0.15, "high_water": 0.15, "bit_flip": 0.15,
               "wipe": 0.1, "power_loss": 0.25}  # fmt: skip


# work


@dataclass(slots=True)
class _Workload:
    """What clients ask. Every number appended to a ledger is its own, so a repeat shows."""

    source: random.Random
    clients: int
    number: int = 0
    work: list[Work] = field(default_factory=list)

    def draw(self) -> tuple[Work, ...]:
        source = self.source
        documents = [("ledger", "a"), ("ledger", "b"), ("counter", "c"), ("text", "t"), ("chat", "r")]
        documents = documents[:2] + source.sample(documents[2:], source.randint(1, 3))
        for place, (space, key) in enumerate(documents):
            self._add(10.0 + place, source.randrange(self.clients), Kind.CREATE, space, key, payload=_construct(space))
        at_ms = 60.0
        pace_ms = source.choice((20.0, 50.0, 120.0))
        deletes = source.random() < 0.3
        while at_ms < SAFETY_MS and len(self.work) < 260:
            self._act(at_ms, *source.choice(documents), deletes)
            at_ms += source.expovariate(1 / pace_ms)
        if source.random() < 0.3:
            self._read_often(*documents[0])
        return tuple(sorted(self.work, key=lambda work: work.at_ms))

    def _read_often(self, space: str, key: str) -> None:
        """Everybody reads and writes one document all the time: what is stale for a moment only shows to who looks then."""
        at_ms = 100.0
        while at_ms < SAFETY_MS:
            for client in range(self.clients):
                self._add(at_ms + client, client, Kind.READ, space, key)
            channel, payload = self._message(space)
            self._add(at_ms, self.source.randrange(self.clients), Kind.SEND, space, key, channel, payload)
            at_ms += 40.0

    def _act(self, at_ms: float, space: str, key: str, deletes: bool) -> None:
        source = self.source
        client = source.randrange(self.clients)
        chance = source.random()
        if chance < 0.5:
            for _ in range(source.choice((1, 1, 2, 6))):
                channel, payload = self._message(space)
                self._add(at_ms, client, Kind.SEND, space, key, channel, payload)
        elif chance < 0.6:
            channel, payload = self._message(space)
            self._add(at_ms, client, Kind.SEND, space, key, channel, payload, alone=True, keyless=source.random() < 0.3)
        elif chance < 0.8:
            level = source.choice((Consistency.LINEARIZABLE, Consistency.LINEARIZABLE, Consistency.AT_LEAST))
            self._add(at_ms, client, Kind.READ, space, key, consistency=level, alone=source.random() < 0.3)
        elif chance < 0.92:
            self._add(at_ms, client, Kind.WATCH, space, key)
        elif chance < 0.95:
            self._add(at_ms, client, Kind.UNWATCH, space, key)
        elif deletes and space == "ledger" and key == "b":
            self._add(at_ms, client, Kind.DELETE, space, key)
            self._add(at_ms + source.uniform(0, 60), client, Kind.CREATE, space, key, payload=_construct(space))

    def _message(self, space: str) -> tuple[str, bytes]:
        self.number += 1
        number = self.number
        if space == "ledger":
            channel = "doubt" if self.source.random() < 0.1 else "append"
            return channel, b'{"number":%d}' % number
        if space == "counter":
            return ("add", b'{"amount":%d}' % number) if self.source.random() < 0.8 else ("put", b'{"value":"v%d"}' % number)
        if space == "text":
            return "edit", b'{"patches":[{"at":0,"delete":0,"insert":"%d "}]}' % number
        return "say", b'{"text":"%d"}' % number

    def _add(self, at_ms: float, client: int, kind: Kind, space: str, key: str, channel: str = "", payload: bytes = b"", **more: object) -> None:
        self.work.append(Work(round(at_ms, 1), client, kind, space, key, channel, payload, **more))  # type: ignore[arg-type]


def _construct(space: str) -> bytes:
    if space == "ledger":
        return b'{"first":0}'
    if space == "chat":
        members = ",".join(f'"c{number}@sim"' for number in range(4))
        return b'{"title":"room","members":[%b]}' % members.encode()
    return b"{}"
