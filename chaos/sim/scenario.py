"""What one seed stands for: the limits of its cluster, what its clients will ask, and what will go wrong.

Swarm testing (Groce et al., 2012): a seed switches each kind of fault on or off and draws each limit, mostly from tiny values,
so that rare paths are common and faults that hide each other meet each other's absence.

The budget keeps every scenario recoverable. One node, the victim, may lose what it had synced (wipe, rot); every other fault
takes no synced data from anybody, so a majority always holds what was acknowledged, and once all faults are over that
majority must answer everything.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TypeGuard

from chaos.sim.ailments import Ailment
from chaos.sim.by_hand import STEPS
from chaos.sim.drawn import DrawnWork
from chaos.sim.fault_plan import Theme, draw_faults
from chaos.sim.faults import SAFETY_MS, Fault, LeaderCut
from chaos.sim.operator import Errand
from chaos.sim.placing import Placed, draw_placed
from chaos.sim.randomness import Streams
from chaos.sim.workload import ClockWork, LobbyWork, PassingWork, RemadeWork, Work, Workload
from cluster.ids import NodeId
from cluster.pump.snapshot_sending import CHUNK_BYTES
from cluster.shard.commands import COMMANDS_MAX

PATIENT_MS = 600_000.0
"""Longer than any run: what a client was promised an answer to must be answered."""
LEASES = 0.25
"""Share of seeds in which reads are answered from leases; of those with rivals it is half, of those about leases all."""
LEASE_DRIFT = 0.2
"""How far two clocks may drift apart there, as a part of the election timeout."""
LEASED = {Theme.RIVALS: 0.5, Theme.LEASES: 1.0}
QUIET_MS, LONELY_MS = 160.0, 450.0
"""Without writes in such seeds: before a leader is cut off, and as long as one voter still hears it."""
HANDOVERS = 0.3
"""Share of seeds in which leadership is handed over by hand."""
RIVALS, STORMS, TRIALS = 0.12, 0.12, 0.08
"""Shares of seeds that are about one thing, see Theme: old leaders beside new ones, with slow clocks and reads everywhere;
leadership that changes all the time; and leases, with reads everywhere."""
UPGRADED = 0.4
"""Share of seeds in which new code is deployed in the middle; not of those about leases, where it matters when
nobody writes.
"""
BY_HAND = 0.25
"""Share of seeds in which an operator repairs and forks documents; not of those about leases, as above, nor where a document
soon forgets whom it has answered: what is late may run again there, and no answer is known beforehand.
"""
THAWS = 0.75
"""Share of seeds in which an operator thaws a document that is frozen because its replicas differ."""
AILING = 0.3
"""Share of seeds in which one leader stays ill when everything else is healed."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The numbers of one cluster. Names are those of the configurations that they go into.

    entry_cost_ms: how far a node's clock moves while it applies an entry (apply slices end by it). drift: rates of the nodes'
    monotonic clocks. skew_ms: of their wall clocks. sync_ms: how long a sync takes; below inline_sync_ms it is done inline.
    consume_ms: how long a watching application takes for a delta. restarted: all nodes are restarted once more at the end.
    invariants_checked: the product's own expensive assertions run after every step. operation_timeout_ms: after so long a
    client takes the outcome of an operation as unknown. principals: how many users the clients are; one may have several
    sessions at a time. lease_reads, lease_drift_ms: as in RaftConfig. commands_max: in one entry of a log; the fewer, the
    longer are the tails that a leader leaves behind. reply_timeout_ms: a client without an answer for so long breaks its
    stream. snapshot_chunk_bytes: of records or history sent at a time. ailment: what a leader keeps when everything else
    is healed.
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
    operation_timeout_ms: float
    principals: int
    lease_reads: bool
    lease_drift_ms: float
    replication_factor: int
    commands_max: int
    reply_timeout_ms: float
    snapshot_chunk_bytes: int
    ailment: Ailment | None


@dataclass(frozen=True, slots=True)
class Scenario:
    """One run, whole: `run` makes the same of the same. upgrades_ms: when the next version of the ledger is deployed. by_hand:
    whether an operator repairs and forks documents meanwhile. thaws: whether one decides about documents that are frozen.
    placed: what the controller of placement is given to do, None where replicas are placed by hand.
    """

    seed: int
    limits: Limits
    clients: int
    faults: tuple[Fault, ...]
    work: tuple[Work, ...]
    errands: tuple[Errand, ...] = ()
    upgrades_ms: tuple[float, ...] = ()
    by_hand: bool = False
    thaws: bool = False
    placed: Placed | None = None


def draw(seed: int) -> Scenario:
    """The scenario of a seed."""
    streams = Streams(seed)
    theme = _theme(streams.named("theme").random())
    clients = streams.named("clients").randint(2, 4)
    sources = [streams.named(name) for name in ("limits", "limits/clients", "limits/leases", "limits/shape")]
    limits = _draw_limits(*sources, clients=clients, leased=LEASED.get(theme, LEASES))
    names = node_names(limits.nodes)
    drawn = draw_faults(streams, names, clients, theme, steady=limits.lease_reads)
    pauses_ms = tuple(map(_silence_ms, filter(_cuts, drawn))) if theme is Theme.LEASES else ()
    work = Workload(streams.named("workload"), clients).draw(read_often=theme in LEASED, pauses_ms=pauses_ms)
    if theme is not Theme.LEASES:
        clocks = ClockWork(streams.named("clocks"), clients).draw_clocks()
        notes = PassingWork(streams.named("notes"), clients).draw_notes()
        drawn_work = DrawnWork(streams.named("drawn"), clients).draw_messages()
        lobby = LobbyWork(streams.named("lobby"), clients).draw_lobby()
        work = tuple(sorted((*work, *clocks, *notes, *drawn_work, *lobby), key=lambda one: one.at_ms))
        upgrades_ms = draw_upgrades(streams)
        remade = RemadeWork(streams.named("remade"), clients).draw_remade(
            upgrades_ms, pipelined=limits.client_window > 1, remembered=limits.sessions_max > 2
        )
        work = tuple(sorted((*work, *remade), key=lambda one: one.at_ms))
    else:
        upgrades_ms = ()
    errands = draw_errands(streams, limits, [fault.start_ms for fault in drawn if deafens(fault)])
    hand = streams.named("hand")
    by_hand, thaws = hand.random() < BY_HAND, hand.random() < THAWS
    by_hand = by_hand and theme is not Theme.LEASES and limits.sessions_max > STEPS
    placed = draw_placed(streams, limits.nodes, limits.replication_factor) if theme is Theme.MIXED else None
    return Scenario(seed, limits, clients, drawn, work, errands, upgrades_ms, by_hand, thaws, placed)


def draw_upgrades(streams: Streams) -> tuple[float, ...]:
    """When new code comes, in some seeds: one version, or two, soon after each other or not."""
    source = streams.named("upgrades")
    if source.random() >= UPGRADED:
        return ()
    times = [round(source.uniform(100, SAFETY_MS * 0.9)) for _ in range(source.choice((1, 2, 2)))]
    return tuple(sorted(times))


def _theme(chance: float) -> Theme:
    """What a seed is about. chance: from 0 to 1."""
    for theme, share in ((Theme.RIVALS, RIVALS), (Theme.STORMS, STORMS), (Theme.LEASES, TRIALS)):
        if chance < share:
            return theme
        chance -= share
    return Theme.MIXED


def _cuts(fault: Fault) -> TypeGuard[LeaderCut]:
    return isinstance(fault, LeaderCut)


def _silence_ms(cut: LeaderCut) -> tuple[float, float]:
    """When nobody writes around a cut: a leader that appends nothing is known by heartbeats alone, and who is cut off from it
    lacks nothing that would cost it an election."""
    lasts_ms = (cut.last_ms or LONELY_MS) if cut.partly else 0.0
    return cut.start_ms - QUIET_MS, cut.start_ms + lasts_ms + 10.0


def deafens(fault: Fault) -> bool:
    """Whether the leader hears nobody, and so nothing of a successor."""
    return isinstance(fault, LeaderCut) and fault.way == "inward"


def draw_errands(streams: Streams, limits: Limits, deafened_ms: list[float]) -> tuple[Errand, ...]:
    """What an operator does meanwhile: handovers in some seeds, and moves where a node is free to move to.

    deafened_ms: when leaders become deaf. Shortly before that they are handed over.
    """
    source = streams.named("operator/errands")
    found: list[Errand] = []
    if deafened_ms:
        ahead_ms = [source.uniform(1, 25) for _ in deafened_ms]
        times = [at_ms - ahead for at_ms, ahead in zip(deafened_ms, ahead_ms, strict=True)]
        found += [Errand(at_ms, 1, source.randrange(12), source.randrange(12), True) for at_ms in times]
    elif source.random() < HANDOVERS:
        found += [_errand(source, limits.shards, handover=True) for _ in range(source.randint(1, 5))]
    if limits.nodes > limits.replication_factor:
        found += [_errand(source, limits.shards, handover=False) for _ in range(source.randint(1, 4))]
    return tuple(sorted(found, key=lambda errand: errand.at_ms))


def _errand(source: random.Random, shards: int, *, handover: bool) -> Errand:
    at_ms, shard = round(source.uniform(50, SAFETY_MS * 0.8)), source.randint(0 if handover else 1, shards)
    return Errand(at_ms, shard, source.randrange(12), source.randrange(12), handover)


def node_names(nodes: int) -> list[NodeId]:
    return [NodeId(f"n{number}") for number in range(1, nodes + 1)]


def _draw_limits(
    source: random.Random,
    patience: random.Random,
    leases: random.Random,
    shape: random.Random,
    *,
    clients: int,
    leased: float,
) -> Limits:
    pick = source.choice
    nodes = pick((3, 3, 3, 4, 5))
    election = pick((300.0, 500.0))
    drift, skewed = pick((0.0, 0.0, 0.03, 0.3)), source.random() < 0.5
    lease_reads = leases.random() < leased
    if lease_reads:
        drift = min(drift, LEASE_DRIFT / 3)  # two clocks that differ by what a lease allows for, and no more
    rates = [1.0 + source.uniform(-drift, drift) for _ in range(nodes)]
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
        drift=tuple(rates),
        skew_ms=tuple(source.uniform(-2_000, 2_000) if skewed else 0.0 for _ in range(nodes)),
        sync_ms=pick((0.0, 0.3, 3.0)),
        consume_ms=pick((0.0, 5.0, 100.0)),
        checkpoints=source.random() < 0.85,
        restarted=source.random() < 0.25,
        invariants_checked=source.random() < 0.25,
        operation_timeout_ms=patience.choice((PATIENT_MS, PATIENT_MS, 3_000.0, 800.0, 250.0)),
        principals=patience.randint(1, clients),
        lease_reads=lease_reads,
        lease_drift_ms=election * LEASE_DRIFT,
        replication_factor=shape.choice((3, 5)) if nodes == 5 else 3,
        commands_max=shape.choice((1, 3, COMMANDS_MAX)),
        reply_timeout_ms=shape.choice((2_000.0, 2_000.0, PATIENT_MS)),
        snapshot_chunk_bytes=shape.choice((1, 1024, CHUNK_BYTES)),
        ailment=shape.choice(tuple(Ailment)) if shape.random() < AILING else None,
    )
