"""Putting a replica together from what is on disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cluster.ids import NodeId, ReplicaId
from cluster.raft.config import RaftConfig
from cluster.raft.core import Raft
from cluster.raft.events import Liveness
from cluster.raft.messages import Configuration
from cluster.shard.apply import Applier, HandlerFailure, RunningMarker
from cluster.shard.cache import DocumentCache
from cluster.shard.commands import COMMANDS_MAX
from cluster.shard.digest import AppliedDigest
from cluster.shard.directory import Directory
from cluster.shard.document import LiveDocument
from cluster.shard.feed import Feed
from cluster.shard.gathering import Gatherer
from cluster.shard.members import Members
from cluster.shard.read_failures import ReadFailures
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
    that recovery is all replay (a measurement wants that). commands_max: in one entry of the log.
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
    commands_max: int = COMMANDS_MAX


class _Compiled:
    """Whether a quorum of a shard's voters could run a code. No closure: a node has thousands of these."""

    __slots__ = ("_directory", "_members", "_raft")

    def __init__(self, raft: Raft, members: Members, directory: Directory) -> None:
        self._raft = raft
        self._members = members
        self._directory = directory

    def __call__(self, code_hash: bytes) -> bool:
        """In both halves of a joint configuration."""
        compilations, configuration = self._directory.compilations, self._raft.configuration
        for voters in (configuration.voters, configuration.outgoing):
            nodes = [node for node in map(self._members.node_of, voters) if node is not None]
            ready = sum(compilations.has(node, code_hash) for node in nodes)
            if voters and 2 * ready <= len(voters):
                return False
        return True


def open_replica(
    shard: Shard,
    replica: ReplicaId,
    members: Members,
    first: Configuration,
    around: Surroundings,
    liveness: Liveness,
    now_ms: float,
    on_changed: Callable[[LiveDocument, Turn], None] | None = None,
) -> ShardReplica:
    """This node's replica of `shard`, as it is on disk; one never seen before is empty.

    members: as of nothing yet; the log's configuration is put there. first: what counts while neither log nor snapshot has
    another one. A replica that was invited begins with none: it does not campaign, and takes the log from whoever leads.

    Raises StorageDamaged when the log can not be read: such a replica may have acknowledged what it no longer has.
    """
    log = ShardLog.open(around.engine, shard.shard)
    records = RecordStore(around.engine, shard.shard)
    cache = DocumentCache(
        records, around.directory, records.generation, bytes_max=around.cache_bytes_max, checkpoints=around.checkpoints
    )
    applied = log.snapshot.index
    raft = Raft(
        replica=replica,
        configuration=log.snapshot.configuration if applied else first,
        hard_state=log.hard_state,
        log=log,
        liveness=liveness,
        random=around.random,
        config=around.raft,
        applied=applied,
        shard=shard.shard,
        now_ms=now_ms,
    )
    members.adopt(raft.committed_configuration)
    history = HistoryStore(around.engine, shard.shard)
    applier = Applier(shard.shard, cache, history, around.directory, around.marker, around.on_failure, AppliedDigest(applied))
    told = ReadFailures(around.on_failure, applier)
    feed = Feed(told)
    return ShardReplica(
        shard=shard,
        replica=replica,
        node=around.node,
        raft=raft,
        members=members,
        log=log,
        stored=StoredShard(records, history, log, cache),
        cache=cache,
        gatherer=Gatherer(
            cache, around.directory, around.entropy, around.commands_max, _Compiled(raft, members, around.directory)
        ),
        applier=applier,
        reader=Reader(cache, records, feed, told),
        feed=feed,
        applied=applied,
        compaction=around.compaction,
        on_changed=on_changed,
    )
