"""What a data directory says of itself: the version of its layout, and whose it is.

The version stands in META from creation on; an engine with files keeps a copy beside them, so that a directory of a newer
release is refused before anything in it is opened (cluster/storage/rocks.py).

Invariant: a boot generation is used by one process only: it is durable before `begin_boot` returns it.
"""

from __future__ import annotations

import msgspec

from cluster.errors import FormatTooNew, StorageDamaged, WrongCluster
from cluster.ids import NodeId
from cluster.storage import keys
from cluster.storage.engine import Batch, Engine, Family

FORMAT_VERSION = 1
"""The layout described in cluster/storage/keys.py. Raised by every change that an older release could not read."""

_META = Family.META
_END = b"\xff" * 64


class NodeIdentity(msgspec.Struct, frozen=True, array_like=True):
    """Whose directory this is. boot_generation: 1 for the first process, one more for each that opened it later."""

    cluster_id: bytes
    node_id: NodeId
    boot_generation: int


_encode = msgspec.msgpack.Encoder().encode
_decode_version = msgspec.msgpack.Decoder(int).decode
_decode_identity = msgspec.msgpack.Decoder(NodeIdentity).decode


def check_version(version: int) -> None:
    """Raise FormatTooNew unless this release can read the layout."""
    if version > FORMAT_VERSION:
        raise FormatTooNew(
            f"the data directory has format {version}, this release reads up to {FORMAT_VERSION}: start the newer release",
            found=version,
            supported=FORMAT_VERSION,
        )


def ensure_format(engine: Engine) -> None:
    """Check the layout's version, or mark an empty engine with ours, durably.

    Raises FormatTooNew, or StorageDamaged when there is content but no version; both with nothing touched.
    """
    value = engine.get(_META, keys.META_FORMAT)
    if value is not None:
        check_version(_decode(keys.META_FORMAT, value))
        return
    for family in Family:
        for _ in engine.scan(family, b"", _END, limit=1):
            raise StorageDamaged(f"there is content in {family.value}, but no format version", family=family.value)
    batch = Batch()
    batch.put(_META, keys.META_FORMAT, keys.seal(_META, keys.META_FORMAT, _encode(FORMAT_VERSION)))
    engine.write(batch)
    engine.sync()


def load_identity(engine: Engine) -> NodeIdentity | None:
    """Whose directory this is, None if nobody's yet. Raises StorageDamaged."""
    value = engine.get(_META, keys.META_IDENTITY)
    if value is None:
        return None
    try:
        return _decode_identity(keys.unseal(_META, keys.META_IDENTITY, value))
    except msgspec.DecodeError as error:
        raise StorageDamaged(f"the node's identity does not decode: {error}") from error


def store_identity(engine: Engine, identity: NodeIdentity) -> None:
    """Write the identity durably. Raises as Engine.write and Engine.sync do."""
    assert identity.boot_generation >= 0
    batch = Batch()
    batch.put(_META, keys.META_IDENTITY, keys.seal(_META, keys.META_IDENTITY, _encode(identity)))
    engine.write(batch)
    engine.sync()


def begin_boot(engine: Engine, cluster_id: bytes, node_id: NodeId) -> NodeIdentity:
    """Claim an unclaimed directory, or check that it is this node's; either way count one more boot, durably.

    Raises WrongCluster, with nothing changed, when the directory is another cluster's or another node's.
    """
    found = load_identity(engine)
    if found is None:
        found = NodeIdentity(cluster_id, node_id, 0)
    if found.cluster_id != cluster_id:
        raise WrongCluster(
            f"the data directory belongs to cluster {found.cluster_id.hex()}, not {cluster_id.hex()}",
            found=found.cluster_id.hex(),
        )
    if found.node_id != node_id:
        raise WrongCluster(f"the data directory belongs to node {found.node_id}, not {node_id}", found=found.node_id)
    identity = NodeIdentity(cluster_id, node_id, found.boot_generation + 1)
    store_identity(engine, identity)
    return identity


def _decode(key: bytes, value: bytes) -> int:
    try:
        return _decode_version(keys.unseal(_META, key, value))
    except msgspec.DecodeError as error:
        raise StorageDamaged(f"the format version does not decode: {error}") from error
