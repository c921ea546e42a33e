"""How the cluster of a data directory began, and who was there last: the file CLUSTER beside the store.

A later start needs neither the list of first nodes nor an address to join, also when the store itself was damaged and begins
anew. It is what a node goes by until it has the registry of the cluster, which is newer and counts.

Invariant: it is written before the node says anything to anybody, and never names another cluster later.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.config import InitialNode
from cluster.errors import ConfigurationInvalid, StorageDamaged
from cluster.node.directory import write_durably

CLUSTER_FILE = "CLUSTER"


@dataclass(frozen=True, slots=True)
class Origin:
    """first: the nodes that the cluster began with; empty in the directory of a node that joined later. peers: the cluster's
    nodes as they were registered when this was written, this one included.
    """

    cluster_id: bytes
    first: tuple[InitialNode, ...]
    shard_count: int
    replication_factor: int
    peers: tuple[InitialNode, ...]


def load_origin(path: Path) -> Origin | None:
    """What the directory at `path` says; None if it says nothing. Raises StorageDamaged."""
    try:
        found = json.loads((path / CLUSTER_FILE).read_text())
        return Origin(
            bytes.fromhex(found["cluster_id"]),
            tuple(InitialNode.parse(each) for each in found["first"]),
            int(found["shard_count"]),
            int(found["replication_factor"]),
            tuple(InitialNode.parse(each) for each in found["peers"]),
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, ConfigurationInvalid) as error:
        raise StorageDamaged(f"{path / CLUSTER_FILE} can not be read: {error}") from error


def store_origin(path: Path, origin: Origin) -> None:
    """Write it durably."""
    write_durably(
        path / CLUSTER_FILE,
        {
            "cluster_id": origin.cluster_id.hex(),
            "first": [str(each) for each in origin.first],
            "shard_count": origin.shard_count,
            "replication_factor": origin.replication_factor,
            "peers": [str(each) for each in origin.peers],
        },
    )


def with_peers(origin: Origin, peers: tuple[InitialNode, ...]) -> Origin:
    """The same with who is there now."""
    return replace(origin, peers=peers)
