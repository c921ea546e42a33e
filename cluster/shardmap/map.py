"""The shard map: contiguous intervals of the key-hash space and the replicas of each.

Invariant: the intervals of shards 1.. are sorted, do not overlap, and cover [0, 2**32) whole. The system shard owns no
interval: it holds the documents of the reserved space `system`. A map with a higher version replaces a lower one.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from functools import lru_cache

import msgspec
from msgspec import Struct

from cluster.config import SHARDS_MAX
from cluster.errors import ConfigurationInvalid
from cluster.ids import SYSTEM_SHARD, LogIndex, NodeId, ReplicaId, ShardId
from cluster.shardmap.hashing import HASH_SPACE, key_hash

SYSTEM_SPACE = "system"
SYSTEM_KEY = "cluster"
BOOTSTRAP_NODES_MAX = 7
PLACES_SHARED_MAX = 1024
"""Different sets of placements that are shared between shards. Thousands of shards stand on a few nodes."""


class Placement(Struct, frozen=True, array_like=True, gc=False):
    """One replica of a shard and the node that holds it."""

    replica: ReplicaId
    node: NodeId


@lru_cache(maxsize=PLACES_SHARED_MAX)
def _shared(replicas: tuple[Placement, ...]) -> tuple[Placement, ...]:
    return replicas


class Shard(Struct, frozen=True, array_like=True):
    """One shard. `start` is inclusive and `end` exclusive; both 0 for the system shard. `epoch` rises with every change of
    it.

    replicas: where its voters are, sorted by replica. configured: the entry of the shard's own log that made it so; 0 at first.
    """

    shard: ShardId
    start: int
    end: int
    epoch: int
    replicas: tuple[Placement, ...]
    configured: LogIndex = LogIndex(0)

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "replicas", _shared(self.replicas))

    def replica_on(self, node: NodeId) -> ReplicaId | None:
        """This shard's replica on `node`, if it has one."""
        return next((place.replica for place in self.replicas if place.node == node), None)


class MapState(Struct, frozen=True, array_like=True):
    """The map as it is stored and sent. `next_replica` is above every replica id that it ever named; an id is one of its
    shard's, and other shards may have the same.
    """

    version: int
    next_replica: int
    shards: tuple[Shard, ...]


@dataclass(slots=True)
class ShardMap:
    """A validated map with its lookup index. Immutable by convention: a change makes a new one."""

    state: MapState
    _starts: list[int] = field(init=False)
    _by_id: dict[ShardId, Shard] = field(init=False)

    def __post_init__(self) -> None:
        ranged = [shard for shard in self.state.shards if shard.shard != SYSTEM_SHARD]
        edge = 0
        for shard in ranged:
            assert shard.start == edge, "intervals are contiguous and sorted"
            edge = shard.end
        assert edge == HASH_SPACE, "intervals cover the hash space"
        self._starts = [shard.start for shard in ranged]
        self._by_id = {shard.shard: shard for shard in self.state.shards}
        assert self.state.shards[:1] == (self._by_id.get(SYSTEM_SHARD),), "the system shard is in every map, first"
        assert len(self._by_id) == len(self.state.shards), "shard ids are unique"

    @property
    def version(self) -> int:
        return self.state.version

    @property
    def shards(self) -> tuple[Shard, ...]:
        return self.state.shards

    def shard(self, shard: ShardId) -> Shard:
        """The shard by id. Raises KeyError when the map has none."""
        return self._by_id[shard]

    def get(self, shard: ShardId) -> Shard | None:
        return self._by_id.get(shard)

    def shard_of(self, space: str, key: str) -> ShardId:
        """The shard that owns a document."""
        if space == SYSTEM_SPACE:
            return SYSTEM_SHARD
        ranged = self.state.shards[bisect_right(self._starts, key_hash(space, key))]  # the system shard stands first
        return ranged.shard

    def encode(self) -> bytes:
        return msgspec.msgpack.encode(self.state)

    @classmethod
    def decode(cls, data: bytes) -> ShardMap:
        """Read an encoded map. Raises msgspec.ValidationError or AssertionError on damage; callers hold checksummed bytes."""
        return cls(msgspec.msgpack.decode(data, type=MapState))


def placed(state: MapState, shard: ShardId, configured: LogIndex, replicas: tuple[Placement, ...]) -> MapState:
    """The map after a shard's voters became `replicas`, as entry `configured` of its log says; the same map when it knows that
    or something newer. Raises KeyError for a shard that it has not.
    """
    before = ShardMap(state).shard(shard)
    if configured <= before.configured:
        return state
    after = msgspec.structs.replace(before, epoch=before.epoch + 1, replicas=replicas, configured=configured)
    shards = tuple([after if item.shard == shard else item for item in state.shards])
    next_replica = max(state.next_replica, *[place.replica + 1 for place in replicas])
    return MapState(state.version + 1, next_replica, shards)


def bootstrap(nodes: list[NodeId], shard_count: int, replication_factor: int) -> ShardMap:
    """The first map of a cluster: equal intervals, replicas dealt round-robin, the system shard on every node.

    Every node computes it from the same list, so a cold cluster needs nobody to agree with. Raises ConfigurationInvalid.
    """
    if not 1 <= len(nodes) <= BOOTSTRAP_NODES_MAX or len(set(nodes)) != len(nodes):
        raise ConfigurationInvalid(f"a cluster starts with 1 to {BOOTSTRAP_NODES_MAX} different nodes, not {nodes}")
    if not 1 <= shard_count <= SHARDS_MAX:
        raise ConfigurationInvalid(f"shards must be 1 to {SHARDS_MAX}, not {shard_count}")
    if not replication_factor >= 1:
        raise ConfigurationInvalid("replication factor must be at least 1")
    ordered = sorted(nodes)
    copies = min(replication_factor, len(ordered))
    shards = []
    for number in range(shard_count + 1):
        start, end = (0, 0)
        holders = ordered
        if number != SYSTEM_SHARD:
            start = HASH_SPACE * (number - 1) // shard_count
            end = HASH_SPACE * number // shard_count
            holders = [ordered[(number - 1 + step) % len(ordered)] for step in range(copies)]
        places = tuple(Placement(ReplicaId(step), node) for step, node in enumerate(holders, 1))
        shards.append(Shard(ShardId(number), start, end, 1, places))
    return ShardMap(MapState(1, len(ordered) + 1, tuple(shards)))
