"""What a node remembers about itself and its peers, beside its shards: small sealed values in META.

A data directory has a name of its own (`store`), made once at random. Peers remember which store stands behind each node's
name: a wiped node under an old name is a new node, and must not vote as if it remembered (reference trap 11).
"""

from __future__ import annotations

from collections.abc import Callable

from cluster.ids import NodeId
from cluster.storage import keys
from cluster.storage.engine import Batch, Engine, Family

STORE_BYTES = 16
_META = Family.META
_STORE = b"\x00store"
_DIRECTORY = b"\x00directory"
_PEER_STORE = b"\x00peer-store/"


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


def peer_stores(engine: Engine) -> dict[NodeId, bytes]:
    """The store that stands behind each peer's name, as far as this node has met them."""
    pairs = engine.scan(_META, _PEER_STORE, keys.after_prefix(_PEER_STORE))
    return {NodeId(key[len(_PEER_STORE) :].decode()): keys.unseal(_META, key, value) for key, value in pairs}


def remember_store(batch: Batch, node: NodeId, store: bytes) -> None:
    _put(batch, _PEER_STORE + node.encode(), store)


def directory(engine: Engine) -> bytes | None:
    """The cluster's decisions as this node last knew them."""
    return _get(engine, _DIRECTORY)


def remember_directory(batch: Batch, encoded: bytes) -> None:
    _put(batch, _DIRECTORY, encoded)


def _get(engine: Engine, key: bytes) -> bytes | None:
    value = engine.get(_META, key)
    return None if value is None else keys.unseal(_META, key, value)


def _put(batch: Batch, key: bytes, body: bytes) -> None:
    batch.put(_META, key, keys.seal(_META, key, body))
