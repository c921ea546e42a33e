"""Putting a replica together from what is on disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cluster.ids import NodeId
from cluster.raft.config import RaftConfig
from cluster.raft.core import Raft
from cluster.raft.events import Liveness
from cluster.raft.messages import Configuration
from cluster.shard.apply import Applier, HandlerFailure, RunningMarker
from cluster.shard.cache import DocumentCache
from cluster.shard.directory import Directory
from cluster.shard.document import LiveDocument
from cluster.shard.feed import Feed
from cluster.shard.gathering import Gatherer
from cluster.shard.reading import Reader
from cluster.shard.replica import CompactionConfig, ShardReplica
from cluster.shard.snapshot import StoredShard
from cluster.shard.turn import Turn
from cluster.shardmap.map import Shard
from cluster.storage.engine import Engine
from cluster.storage.history import HistoryStore
from cluster.storage.log import ShardLog
from cluster.storage.records import RecordStore

if TYPE_CHECKING:
    import random


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all replicas of a node share.

    entropy: n bytes from the operating system. cache_bytes_max: for each shard. checkpoints: False leaves records unwritten, so
    that recovery is all replay (a measurement wants that).
    """

    node: NodeId
    engine: Engine
    directory: Directory
    marker: RunningMarker
    random: random.Random
    entropy: Callable[[int], bytes]
    raft: RaftConfig
    on_failure: Callable[[HandlerFailure], None]
    cache_bytes_max: int
    checkpoints: bool = True
    compaction: CompactionConfig = field(default_factory=CompactionConfig)


def open_replica(
    shard: Shard,
    around: Surroundings,
    liveness: Liveness,
    now_ms: float,
    on_changed: Callable[[LiveDocument, Turn], None] | None = None,
) -> ShardReplica:
    """This node's replica of `shard`, as it is on disk; a shard never seen before is empty.

    Raises StorageDamaged when the log can not be read: such a replica may have acknowledged what it no longer has.
    """
    replica = shard.replica_on(around.node)
    assert replica is not None, "only shards that this node holds are opened"
    log = ShardLog.open(around.engine, shard.shard)
    records = RecordStore(around.engine, shard.shard)
    cache = DocumentCache(
        records, around.directory, records.generation, bytes_max=around.cache_bytes_max, checkpoints=around.checkpoints
    )
    feed = Feed()
    applied = log.snapshot.index
    configuration = log.snapshot.configuration if applied else Configuration(tuple(sorted(p.replica for p in shard.replicas)))
    raft = Raft(
        replica=replica,
        configuration=configuration,
        hard_state=log.hard_state,
        log=log,
        liveness=liveness,
        random=around.random,
        config=around.raft,
        applied=applied,
        shard=shard.shard,
        now_ms=now_ms,
    )
    history = HistoryStore(around.engine, shard.shard)
    applier = Applier(shard.shard, cache, history, around.directory, around.marker, around.on_failure)
    return ShardReplica(
        shard=shard,
        replica=replica,
        node=around.node,
        raft=raft,
        log=log,
        stored=StoredShard(records, history, log, cache),
        cache=cache,
        gatherer=Gatherer(cache, around.directory, around.entropy),
        applier=applier,
        reader=Reader(cache, records, feed),
        feed=feed,
        applied=applied,
        compaction=around.compaction,
        on_changed=on_changed,
    )
