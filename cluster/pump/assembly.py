"""Putting a node's pump together from what is on its disk. The same for a real node and a simulated one.

Invariant: after `open_pump` nothing of the node's past is needed but the engine: a cold start needs neither gossip nor the
    system shard.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from cluster.documents.runtime import Loader
from cluster.errors import LogLost, OperatorError, StorageDamaged
from cluster.ids import SYSTEM_SHARD, NodeId, ReplicaId, ShardId
from cluster.pump import facts
from cluster.pump.bundles import BundleFetch
from cluster.pump.facts import Held, HeldShards
from cluster.pump.liveness import GroupLiveness, NodeLiveness
from cluster.pump.pump import Pump, PumpConfig
from cluster.pump.transfers import TransferConfig, Transfers
from cluster.raft.config import RaftConfig
from cluster.raft.messages import Configuration
from cluster.router.router import Router
from cluster.shard.apply import HandlerFailure, RunningMarker
from cluster.shard.assembly import Surroundings, open_replica
from cluster.shard.commands import COMMANDS_MAX
from cluster.shard.connections import GRACE_MS
from cluster.shard.directory import Directory
from cluster.shard.document import LiveDocument
from cluster.shard.members import Members
from cluster.shard.replica import CompactionConfig, ShardReplica
from cluster.shard.system.program import SYSTEM_CODE, SystemInstance, SystemProgram
from cluster.shard.turn import Turn
from cluster.shardmap.map import MapState, ShardMap, bootstrap
from cluster.storage.bundles import BundleStore
from cluster.storage.engine import Batch, Engine

if TYPE_CHECKING:
    import random


@dataclass(frozen=True, slots=True)
class PumpSurroundings:
    """Everything a pump gets from outside.

    generation: this boot's number, durable before anything is said. first_nodes, shard_count, replication_factor: what the
    first map is computed from, while the cluster has not decided another; no first nodes where what was decided is on the
    disk. peers: the others, until the decisions say who belongs to the cluster; the other first nodes if not given.
    cache_bytes_max: for all shards together. clock: monotonic milliseconds. entropy: n bytes from the operating system. random:
    shared by everything that only needs to spread. commands_max: in one entry of the log.
    """

    node: NodeId
    engine: Engine
    generation: int
    first_nodes: list[NodeId]
    shard_count: int
    replication_factor: int
    loader: Loader
    marker: RunningMarker
    on_failure: Callable[[HandlerFailure], None]
    clock: Callable[[], float]
    entropy: Callable[[int], bytes]
    random: random.Random
    cache_bytes_max: int
    checkpoints: bool = True
    raft: RaftConfig = field(default_factory=RaftConfig)
    pump: PumpConfig = field(default_factory=PumpConfig)
    compaction: CompactionConfig = field(default_factory=CompactionConfig)
    commands_max: int = COMMANDS_MAX
    connection_grace_ms: int = GRACE_MS
    peers: list[NodeId] | None = None


class _Decided:
    """Carries what the system shard decides on this node to its directory, its disk and its pump."""

    def __init__(self, directory: Directory, bundles: BundleStore) -> None:
        self._directory = directory
        self._bundles = bundles
        self.pump: Pump | None = None

    def changed(self, live: LiveDocument, turn: Turn) -> None:
        instance = live.instance
        if not isinstance(instance, SystemInstance):
            return
        for code_hash, bundle in instance.new_bundles:
            self._bundles.put(turn.batch, code_hash, bundle)
            self._directory.missing.discard(code_hash)
        instance.new_bundles.clear()
        assert self.pump is not None, "nothing is applied before the pump is built"
        self.pump.learning.take(instance.decisions)


def open_pump(around: PumpSurroundings) -> Pump:
    """Build the pump with every replica that this node holds. One whose log can not be read is lost, durably, and not opened.
    Raises StorageDamaged when what the node itself remembers can not be read.
    """
    now_ms = around.clock()
    bundles = BundleStore(around.engine)
    directory = Directory(bundles, around.loader, {SYSTEM_CODE: SystemProgram(around.loader)})
    directory.connection_grace_ms = around.connection_grace_ms
    remembered = facts.directory(around.engine)
    if remembered is not None:
        directory.absorb_encoded(remembered)
    decided = directory.decisions.shard_map
    first_map = _first_map(around, decided)
    held = facts.held(around.engine, around.node, first_map)
    holding = [one for one in held.values() if one.replica]
    surroundings = Surroundings(
        node=around.node,
        engine=around.engine,
        directory=directory,
        marker=around.marker,
        random=around.random,
        entropy=around.entropy,
        raft=around.raft,
        on_failure=around.on_failure,
        cache_bytes_max=around.cache_bytes_max // max(1, len(holding)),
        checkpoints=around.checkpoints,
        compaction=around.compaction,
        commands_max=around.commands_max,
    )
    promise_ms = int(around.raft.election_timeout_ms_min) if around.raft.lease_reads else 0
    liveness = NodeLiveness(around.node, around.generation, facts.own_store(around.engine, around.entropy), promise_ms)
    system = _Decided(directory, bundles)

    router = Router(around.node, ShardMap(decided) if decided is not None else first_map)

    def begin(one: Held, now_ms: float) -> ShardReplica:
        number = one.shard.shard
        mapped = router.map.get(number)
        if mapped is not None and mapped == one.shard:
            first = facts.first_configuration(mapped)  # there are thousands: one object each, and not two that are equal
            one = msgspec.structs.replace(one, shard=mapped, first=first if first == one.first else one.first)
        members = Members(one.first)
        watch = system.changed if number == SYSTEM_SHARD else None
        group = GroupLiveness(liveness, number, members)
        return open_replica(one.shard, one.replica, members, one.first, surroundings, group, now_ms, watch)

    system.pump = Pump(
        node=around.node,
        peers=[node for node in around.first_nodes if node != around.node] if around.peers is None else list(around.peers),
        router=router,
        directory=directory,
        liveness=liveness,
        replicas=_opened(held, begin, around.engine, now_ms),
        held=held,
        begin=begin,
        blank=facts.is_blank(around.engine),
        bundles=BundleFetch(bundles, directory),
        transfers=Transfers(
            TransferConfig(
                around.pump.snapshot_bytes_per_second, around.pump.election_timeout_ms, around.pump.snapshot_chunk_bytes
            ),
            now_ms,
        ),
        stores=facts.peer_stores(around.engine),
        remember_store=facts.remember_store,
        config=around.pump,
        clock=around.clock,
        now_ms=now_ms,
    )
    return system.pump


def _first_map(around: PumpSurroundings, decided: MapState | None) -> ShardMap:
    """What an empty directory begins with; a node that joined has begun already, with nothing."""
    if decided is not None and not around.first_nodes:
        return ShardMap(decided)
    return bootstrap(around.first_nodes, around.shard_count, around.replication_factor)


def _opened(
    held: HeldShards, begin: Callable[[Held, float], ShardReplica], engine: Engine, now_ms: float
) -> dict[ShardId, ShardReplica]:
    """The replicas that this node holds; those that do not open are noted as lost in `held`."""
    replicas: dict[ShardId, ShardReplica] = {}
    for shard, one in list(held.items()):
        if one.replica:
            try:
                replicas[shard] = begin(one, now_ms)
            except (StorageDamaged, LogLost) as error:
                held[shard] = _lost(one, error, engine)
    return replicas


def _lost(one: Held, error: OperatorError, engine: Engine) -> Held:
    """A replica that does not open may have acknowledged and promised what is gone: it never speaks again."""
    nothing = Configuration(())
    lost = msgspec.structs.replace(one, replica=ReplicaId(0), first=nothing, lost=one.replica, why=error.message)
    batch = Batch()
    facts.remember_held(batch, lost)
    engine.write(batch)
    engine.sync()
    return lost
