"""A node's data directory: opened, or begun anew when what was stored in it is damaged as a whole.

    store/          everything that the node stores
    IDENTITY        whose directory this is: a copy beside the store, written at each boot before anything is said
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

from cluster.errors import StorageDamaged
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
    """What IDENTITY says. store: the directory's name among its peers."""

    cluster_id: bytes
    node_id: NodeId
    store: bytes
    boot_generation: int


def open_directory(
    path: Path, settings: RocksSettings, cluster_id: bytes, node: NodeId, *, replaceable: bool
) -> tuple[RocksEngine, NodeIdentity]:
    """Open a node's directory and count one more boot, durably.

    replaceable: whether other nodes can give back what is lost here; then a store that is damaged as a whole is set aside, and
    an empty one takes its place. Raises StorageDamaged when it can not be replaced or an earlier one still lies aside, and what
    RocksEngine.open and begin_boot raise; the directory is then as it was.
    """
    os.makedirs(path, exist_ok=True)
    remembered = _remembered(path, cluster_id, node)
    try:
        engine = _open(path, settings)
    except StorageDamaged as error:
        if remembered is None or not replaceable:
            raise
        _set_aside(path, error)
        engine = RocksEngine.open(path / STORE, settings)
    try:
        ensure_format(engine)
        if remembered is not None and load_identity(engine) is None:
            facts.start_over(engine, remembered.store)
            store_identity(engine, NodeIdentity(cluster_id, node, remembered.boot_generation))
        identity = begin_boot(engine, cluster_id, node)
        _remember(path, Remembered(cluster_id, node, facts.own_store(engine, os.urandom), identity.boot_generation))
    except BaseException:
        engine.close()
        raise
    return engine, identity


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


def _remembered(path: Path, cluster_id: bytes, node: NodeId) -> Remembered | None:
    """What IDENTITY says, if it is about this node of this cluster. Another one's is for `begin_boot` to refuse."""
    try:
        found = json.loads((path / IDENTITY_FILE).read_text())
        remembered = Remembered(
            bytes.fromhex(found["cluster_id"]),
            NodeId(str(found["node_id"])),
            bytes.fromhex(found["store"]),
            int(found["boot_generation"]),
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return remembered if (remembered.cluster_id, remembered.node_id) == (cluster_id, node) else None


def _remember(path: Path, what: Remembered) -> None:
    draft = path / (IDENTITY_FILE + ".draft")
    with draft.open("w") as file:
        json.dump(
            {
                "cluster_id": what.cluster_id.hex(),
                "node_id": what.node_id,
                "store": what.store.hex(),
                "boot_generation": what.boot_generation,
            },
            file,
        )
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path / IDENTITY_FILE)
    _sync_directory(path)


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
