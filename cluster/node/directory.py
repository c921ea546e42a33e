"""A node's data directory: opened, or begun anew when what was stored in it is damaged as a whole.

    store/          everything that the node stores
    IDENTITY        whose directory this is: a copy beside the store, written at each boot before anything is said
    CLUSTER         how the cluster began and who was there last: see `cluster.node.origin`
    store.damaged/  what was there before the node had to begin anew; kept for people, at most one

One write-ahead log serves all shards, votes included, so damage to it is damage to every replica of the node: none of them may
vote or acknowledge again. The directory itself is not lost, though: it knows its name and its boot generations, and that all
its replicas are lost. So the node begins with an empty store that says so (it is blank), and its peers give it new replicas
(`cluster.pump.losses`). A directory that was wiped has no IDENTITY left, and is a new one: peers refuse it under an old name.

Invariant: a boot generation is in IDENTITY before the process that has it speaks to anybody, so it is never used twice. A store
is set aside before its successor is made, and a successor that was not finished is recognised and made again.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import StorageDamaged, WrongCluster
from cluster.ids import NodeId
from cluster.pump import facts
from cluster.storage.format import NodeIdentity, begin_boot, ensure_format, load_identity, store_identity
from cluster.storage.rocks import RocksEngine, RocksSettings

STORE = "store"
DAMAGED = "store.damaged"
IDENTITY_FILE = "IDENTITY"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Remembered:
    """What IDENTITY says. cluster_id: empty while the node asks to join one. store: the directory's name among its peers.
    boot_generation: 0 until it has belonged to a cluster.
    """

    cluster_id: bytes
    node_id: NodeId
    store: bytes
    boot_generation: int


def open_directory(
    path: Path, settings: RocksSettings, cluster_id: bytes, node: NodeId, *, replaceable: bool, joined: bytes = b""
) -> tuple[RocksEngine, NodeIdentity]:
    """Open a node's directory and count one more boot, durably.

    replaceable: whether other nodes can give back what is lost here; then a store that is damaged as a whole is set aside, and
    an empty one takes its place. joined: what the cluster decided, for a node that has just joined it. Raises StorageDamaged
    when it can not be replaced or an earlier one still lies aside, and what RocksEngine.open and begin_boot raise; the
    directory is then as it was.
    """
    os.makedirs(path, exist_ok=True)
    known = _remembered(path, cluster_id, node)
    try:
        engine = _open(path, settings)
    except StorageDamaged as error:
        if known is None or not replaceable:
            raise
        _set_aside(path, error)
        engine = RocksEngine.open(path / STORE, settings)
    try:
        ensure_format(engine)
        if known is not None and load_identity(engine) is None:
            if joined:
                facts.begin_joined(engine, known.store, joined)
            else:
                facts.start_over(engine, known.store)
            store_identity(engine, NodeIdentity(cluster_id, node, known.boot_generation))
        identity = begin_boot(engine, cluster_id, node)
        _remember(path, Remembered(cluster_id, node, facts.own_store(engine, os.urandom), identity.boot_generation))
    except BaseException:
        engine.close()
        raise
    return engine, identity


def identity_for_joining(path: Path, node: NodeId) -> Remembered:
    """The identity with which an empty directory asks to join, durable before it asks: a repeat after a crash is the same node.
    Raises WrongCluster for a directory that began under another name.
    """
    os.makedirs(path, exist_ok=True)
    found = remembered(path)
    if found is None:
        found = Remembered(b"", node, os.urandom(facts.STORE_BYTES), 0)
        _remember(path, found)
    if found.node_id != node:
        raise WrongCluster(f"the data directory belongs to node {found.node_id}, not {node}", found=found.node_id)
    return found


def claim(path: Path, identity: Remembered, cluster_id: bytes) -> None:
    """The directory belongs to this cluster from now on, durably."""
    assert not identity.boot_generation, "it has belonged to none yet"
    _remember(path, Remembered(cluster_id, identity.node_id, identity.store, 0))


def _open(path: Path, settings: RocksSettings) -> RocksEngine:
    """Raises StorageDamaged also when what the node remembers of itself and its peers can not be read."""
    engine = RocksEngine.open(path / STORE, settings)
    try:
        facts.verify(engine)
    except BaseException:
        engine.close()
        raise
    return engine


def _set_aside(path: Path, error: StorageDamaged) -> None:
    if (path / DAMAGED).exists():
        raise StorageDamaged(
            f"{error.message}; an earlier damaged store lies in {path / DAMAGED}: move it away to let the node begin anew"
        ) from error
    _log.critical("%s is damaged and set aside as %s; this node begins anew: %s", path / STORE, DAMAGED, error.message)
    (path / STORE).rename(path / DAMAGED)
    _sync_directory(path)


def remembered(path: Path) -> Remembered | None:
    """What IDENTITY says, whoever it is about; None if it says nothing."""
    try:
        found = json.loads((path / IDENTITY_FILE).read_text())
        return Remembered(
            bytes.fromhex(found["cluster_id"]),
            NodeId(str(found["node_id"])),
            bytes.fromhex(found["store"]),
            int(found["boot_generation"]),
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _remembered(path: Path, cluster_id: bytes, node: NodeId) -> Remembered | None:
    """What IDENTITY says, if it is about this node of this cluster. Another one's is for `begin_boot` to refuse."""
    found = remembered(path)
    return found if found is not None and (found.cluster_id, found.node_id) == (cluster_id, node) else None


def _remember(path: Path, what: Remembered) -> None:
    write_durably(
        path / IDENTITY_FILE,
        {
            "cluster_id": what.cluster_id.hex(),
            "node_id": what.node_id,
            "store": what.store.hex(),
            "boot_generation": what.boot_generation,
        },
    )


def write_durably(path: Path, value: dict[str, object]) -> None:
    """Replace a file by another one with this content, as JSON, whole or not at all."""
    draft = path.with_name(path.name + ".draft")
    with draft.open("w") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
