"""What a node remembers about itself and its peers, beside its shards: small sealed values in META.

A data directory has a name of its own (`store`), made once at random. Peers remember which store stands behind each node's
name: a wiped node under an old name is a new node, and must not vote as if it remembered (reference trap 11).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from functools import lru_cache

import msgspec
from msgspec import Struct

from cluster.errors import StorageDamaged
from cluster.ids import NodeId, ReplicaId, ShardId, Term
from cluster.raft.messages import Configuration
from cluster.shardmap.map import PLACES_SHARED_MAX, Placement, Shard, ShardMap
from cluster.storage import keys
from cluster.storage.engine import Batch, Engine, Family

STORE_BYTES = 16
_META = Family.META
_STORE = b"\x00store"
_DIRECTORY = b"\x00directory"
_PEER_STORE = b"\x00peer-store/"
_HELD = b"\x00held/"
_BEGUN = b"\x00begun"
_BLANK = b"\x00blank"


class Held(Struct, frozen=True, array_like=True):
    """What a node durably knows of its replica of one shard, present or past.

    shard: as it was when the replica began. replica: the one that it holds, 0 when none any more. highest: the highest id that
        it ever held. first: the configuration that an empty log starts from. term: no leader of a lower term has a say here.
    lost: a replica that lost its log here, until another one votes in its place; else 0. why: what happened to it.
    """

    shard: Shard
    replica: ReplicaId
    highest: ReplicaId
    first: Configuration
    term: Term = Term(0)
    lost: ReplicaId = ReplicaId(0)
    why: str = ""


def own_store(engine: Engine, entropy: Callable[[int], bytes]) -> bytes:
    """This directory's name, made and made durable on first use. `entropy` gives n bytes from the operating system."""
    found = _get(engine, _STORE)
    if found is None:
        found = entropy(STORE_BYTES)
        batch = Batch()
        _put(batch, _STORE, found)
        engine.write(batch)
        engine.sync()
    return found


def verify(engine: Engine) -> None:
    """Raise StorageDamaged unless everything opens that the node remembers of itself and its peers."""
    for key, value in engine.scan(_META, b"\x00", b"\x01"):
        keys.unseal(_META, key, value)


def start_over(engine: Engine, store: bytes) -> None:
    """Make a new, empty engine the successor of one that was lost, durably: it has its name `store`, and holds nothing."""
    batch = Batch()
    _put(batch, _STORE, store)
    _put(batch, _BEGUN, b"")
    _put(batch, _BLANK, b"")
    engine.write(batch)
    engine.sync()


def begin_joined(engine: Engine, store: bytes, decisions: bytes) -> None:
    """Make a new, empty engine that of a node which joined a cluster that is there, durably: its name is `store`, it knows what
    the cluster decided, and it holds nothing and never did.
    """
    batch = Batch()
    _put(batch, _STORE, store)
    _put(batch, _BEGUN, b"")
    _put(batch, _DIRECTORY, decisions)
    engine.write(batch)
    engine.sync()


def is_blank(engine: Engine) -> bool:
    """Whether this engine took the place of one that was lost."""
    return _get(engine, _BLANK) is not None


def peer_stores(engine: Engine) -> dict[NodeId, bytes]:
    """The store that stands behind each peer's name, as far as this node has met them."""
    pairs = engine.scan(_META, _PEER_STORE, keys.after_prefix(_PEER_STORE))
    return {NodeId(key[len(_PEER_STORE) :].decode()): keys.unseal(_META, key, value) for key, value in pairs}


def remember_store(batch: Batch, node: NodeId, store: bytes) -> None:
    _put(batch, _PEER_STORE + node.encode(), store)


class HeldShards(MutableMapping[ShardId, Held]):
    """What is durable of each shard that this node holds or has held. Kept encoded, for it is needed at the birth and death of
    replicas only, and there can be thousands.
    """

    __slots__ = ("_encoded",)

    def __init__(self) -> None:
        self._encoded: dict[ShardId, bytes] = {}

    def __getitem__(self, shard: ShardId) -> Held:
        return msgspec.msgpack.decode(self._encoded[shard], type=Held)

    def __setitem__(self, shard: ShardId, one: Held) -> None:
        self._encoded[shard] = msgspec.msgpack.encode(one)

    def __delitem__(self, shard: ShardId) -> None:
        del self._encoded[shard]

    def __iter__(self) -> Iterator[ShardId]:
        return iter(self._encoded)

    def __len__(self) -> int:
        return len(self._encoded)


def held(engine: Engine, node: NodeId, first_map: ShardMap) -> HeldShards:
    """Every shard of which this node holds or has held a replica. A new directory holds what the first map gives to the node;
    afterwards maps have no say in it. Raises StorageDamaged.
    """
    if _get(engine, _BEGUN) is None:
        batch = Batch()
        for shard in first_map.shards:
            replica = shard.replica_on(node)
            if replica is not None:
                remember_held(batch, Held(shard, replica, replica, first_configuration(shard)))
        _put(batch, _BEGUN, b"")
        engine.write(batch)
        engine.sync()
    found = HeldShards()
    for key, value in engine.scan(_META, _HELD, keys.after_prefix(_HELD)):
        try:
            one = msgspec.msgpack.decode(keys.unseal(_META, key, value), type=Held)
        except msgspec.DecodeError as error:
            raise StorageDamaged(f"what this node holds can not be read: {error}") from error
        found[one.shard.shard] = one
    return found


def first_configuration(shard: Shard) -> Configuration:
    """What the first replicas of a shard start from; shards with equal placements share it."""
    return _configuration_of(shard.replicas)


@lru_cache(maxsize=PLACES_SHARED_MAX)
def _configuration_of(replicas: tuple[Placement, ...]) -> Configuration:
    places = tuple(sorted((place.replica, place.node) for place in replicas))
    return Configuration(tuple([replica for replica, _ in places]), places=places)


def remember_held(batch: Batch, one: Held) -> None:
    _put(batch, _HELD + one.shard.shard.to_bytes(4, "big"), msgspec.msgpack.encode(one))


def directory(engine: Engine) -> bytes | None:
    """The cluster's decisions as this node last knew them."""
    return _get(engine, _DIRECTORY)


def keep_directory(engine: Engine, encoded: bytes) -> None:
    """The cluster's decisions, durably, for a store that had to begin anew and knows none."""
    batch = Batch()
    remember_directory(batch, encoded)
    engine.write(batch)
    engine.sync()


def remember_directory(batch: Batch, encoded: bytes) -> None:
    _put(batch, _DIRECTORY, encoded)


def _get(engine: Engine, key: bytes) -> bytes | None:
    value = engine.get(_META, key)
    return None if value is None else keys.unseal(_META, key, value)


def _put(batch: Batch, key: bytes, body: bytes) -> None:
    batch.put(_META, key, keys.seal(_META, key, body))
