"""How a node comes to its cluster: exactly one of a data directory that knows it, a list of first nodes, or a cluster to join.

    the directory knows its cluster    it goes on as it was; list, --init and --join are not needed and only checked
    initial_nodes, or --init           the cluster begins here (and on the other nodes of the list)
    --join                             any member is asked; the node begins without replicas

Invariant: the identity of a directory is durable before anybody is asked, and its cluster before the store is made: a start
that was interrupted anywhere goes on as the same node.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import cluster
from cluster.config import InitialNode, NodeConfig, split_address
from cluster.errors import ClockSkewed, ConfigurationInvalid, NodeRemoved, Unavailable, WrongCluster
from cluster.ids import NodeId
from cluster.node.directory import STORE, Remembered, claim, identity_for_joining, open_directory, remembered
from cluster.node.origin import Origin, load_origin, store_origin, with_peers
from cluster.node.sponsor import wall_ms
from cluster.pump import facts
from cluster.pump.learning import read_decisions
from cluster.session.failures import error_of
from cluster.shard.directory import Decisions
from cluster.shardmap import nodes as registry
from cluster.shardmap.nodes import Nodes
from cluster.storage.format import NodeIdentity
from cluster.storage.rocks import RocksEngine, RocksSettings
from cluster.transport.introduction import introduce
from cluster.transport.peer_wire import PROTOCOL_VERSION_MAX, PROTOCOL_VERSION_MIN, Introduction

ASK_AGAIN_S_MIN = 0.25
ASK_AGAIN_S_MAX = 5.0
SLOW_ANSWER_MS = 500.0
"""A clock is judged by a question that took less: what is on its way for long looks like a clock that is behind."""
_log = logging.getLogger(__name__)

Places = list[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Beginning:
    """What a node starts from."""

    origin: Origin
    engine: RocksEngine
    identity: NodeIdentity


def cluster_identity(nodes: tuple[InitialNode, ...]) -> bytes:
    """The id that all first nodes mint from their common list."""
    text = "\n".join(sorted(str(node) for node in nodes))
    return blake2b(text.encode(), digest_size=16, person=b"moot cluster").digest()


def own_place(config: NodeConfig) -> InitialNode:
    """Where a node is reached, by its own configuration."""
    return InitialNode(NodeId(config.node_id), config.host, config.client_port, config.peer_port, config.gossip_port)


async def begin(config: NodeConfig) -> Beginning:
    """Open a node's directory, joining a cluster before if that is what it is for: then this waits until a member answers.

    Raises OperatorError with the directory as it was found: ConfigurationInvalid for an empty one without any beginning,
    WrongCluster, IdentityFenced, NodeRemoved, ClockSkewed, ReleaseMismatch, and what `open_directory` raises.
    """
    os.makedirs(config.data_dir, exist_ok=True)
    path = Path(config.data_dir)
    origin, identity = load_origin(path), remembered(path)
    joins = identity is not None and not identity.boot_generation
    if origin is None and identity is not None and not joins:
        origin = _listed(config)  # begun by a release that did not write it down
    if origin is None or joins or (not origin.first and identity is None):
        if not joins and not config.join:
            origin = _first(config, path)
            store_origin(path, origin)
        else:
            return await _join(config, path, origin)
    elif config.join:
        await _check_joined(config, path, origin)
    _check_list(config, origin)
    engine, opened = _open(config, origin)
    return await _completed(config, path, Beginning(origin, engine, opened))


def _first(config: NodeConfig, path: Path) -> Origin:
    """A cluster begins. Raises ConfigurationInvalid where nobody said so: an empty directory that begins a cluster of its own
    beside the one that it was meant for looks like data that are lost.
    """
    if not config.initial_nodes and config.init != "on" and not (path / STORE).exists():
        raise ConfigurationInvalid(
            f"{path} is empty, and nothing says which cluster node {config.node_id} belongs to: --join HOST:PEER_PORT of any "
            "node of a cluster that runs, the list initial_nodes on all nodes of a new one, or --init for one of one node",
            field="join",
        )
    return _listed(config)


def _listed(config: NodeConfig) -> Origin:
    listed = config.initial_nodes or (own_place(config),)
    return Origin(cluster_identity(listed), listed, config.shard_count, config.replication_factor, listed)


def _check_list(config: NodeConfig, origin: Origin) -> None:
    """A list of another cluster is a mistake; one with other addresses of the same nodes is old or new, and not needed."""
    listed = config.initial_nodes
    if not listed or cluster_identity(listed) == origin.cluster_id or not origin.first:
        return
    if sorted(each.node_id for each in listed) != sorted(each.node_id for each in origin.first):
        raise WrongCluster(
            f"the data directory belongs to cluster {origin.cluster_id.hex()}, which did not begin with these initial_nodes",
            found=origin.cluster_id.hex(),
        )
    _log.warning("initial_nodes is not the list that the cluster began with; the directory knows its cluster, and that counts")


def _open(config: NodeConfig, origin: Origin, joined: bytes = b"") -> tuple[RocksEngine, NodeIdentity]:
    return open_directory(
        Path(config.data_dir),
        RocksSettings(free_bytes_min=config.disk_free_bytes_min // 2),
        origin.cluster_id,
        NodeId(config.node_id),
        replaceable=len(origin.peers) > 2,
        joined=joined,
    )


async def _completed(config: NodeConfig, path: Path, begun: Beginning) -> Beginning:
    """A node that joined, and whose store had to begin anew, asks once more what was decided: nothing else tells where
    anything is. One that knows of its own removal ends here.
    """
    known = facts.directory(begun.engine)
    own = registry.find(read_decisions(known).nodes, config.node_id) if known is not None else None
    if own is not None and not own.belongs:
        begun.engine.close()
        raise NodeRemoved(f"node {own.node} was removed from the cluster for good", node=own.node)
    if begun.origin.first or known is not None:
        return begun
    identity = remembered(path)
    assert identity is not None, "it was opened"
    try:
        places = [split_address(address) for address in config.join] + places_of(begun.origin, NodeId(config.node_id))
        answer = await _ask(places, config, begun.origin.cluster_id, identity)
        facts.keep_directory(begun.engine, answer.encoded)
    except BaseException:
        begun.engine.close()
        raise
    return begun


# -- joining -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answer:
    """What a member told."""

    cluster_id: bytes
    decisions: Decisions
    encoded: bytes


async def _join(config: NodeConfig, path: Path, origin: Origin | None) -> Beginning:
    if config.initial_nodes or config.init == "on":
        raise ConfigurationInvalid(
            "join and a new cluster (initial_nodes, --init) exclude each other: in an empty data_dir exactly one decides",
            field="join",
        )
    identity = identity_for_joining(path, NodeId(config.node_id))
    places = [split_address(address) for address in config.join]
    if origin is not None:
        places += places_of(origin, NodeId(config.node_id))
    if not places:
        raise ConfigurationInvalid(
            f"{path} was about to join a cluster, and nothing says which: --join HOST:PEER_PORT", field="join"
        )
    answer = await _ask(places, config, identity.cluster_id, identity)
    peers = listed_nodes(answer.decisions.nodes)
    shard_count = max(1, len(answer.decisions.shard_map.shards) - 1) if answer.decisions.shard_map is not None else 1
    origin = Origin(answer.cluster_id, (), shard_count, answer.decisions.placement.replication_factor, peers)
    claim(path, identity, answer.cluster_id)
    store_origin(path, origin)
    _log.info("node %s joined cluster %s of %d nodes", config.node_id, answer.cluster_id.hex(), len(peers))
    engine, opened = _open(config, origin, answer.encoded)
    return Beginning(origin, engine, opened)


async def _ask(places: Places, config: NodeConfig, cluster_id: bytes, identity: Remembered) -> Answer:
    """Ask one after the other until somebody answers, and say so while it takes. Raises what a member refuses with."""
    source, wait_s, asked = random.Random(), ASK_AGAIN_S_MIN, 0
    while True:
        for host, port in places:
            try:
                return await introduce_to(host, port, config, cluster_id, identity.store)
            except Unavailable as error:
                last = error.message
        asked += 1
        if asked in (1, 3) or asked % 10 == 0:
            _log.warning("node %s waits for the cluster that it joins: %s; it goes on asking", config.node_id, last)
        await asyncio.sleep(wait_s * source.uniform(0.75, 1.25))
        wait_s = min(ASK_AGAIN_S_MAX, wait_s * 1.6)


async def introduce_to(host: str, port: int, config: NodeConfig, cluster_id: bytes, store: bytes) -> Answer:
    """One member's answer. Raises Unavailable when there is none now, and what it refuses with."""
    introduction = Introduction(
        PROTOCOL_VERSION_MIN,
        PROTOCOL_VERSION_MAX,
        cluster.__version__,
        cluster_id.hex(),
        config.node_id,
        store.hex(),
        config.host,
        config.peer_port,
        config.gossip_port,
        config.client_port,
        config.labels.get("host", ""),
        config.labels.get("zone", ""),
        wall_ms(),
    )
    answer, took_ms = await introduce(host, port, introduction)
    if answer.failure is not None:
        error = error_of(answer.failure)
        if error.retryable or (isinstance(error, ClockSkewed) and took_ms > SLOW_ANSWER_MS):
            raise Unavailable(f"{host}:{port}: {error.message}")
        raise error
    found = bytes.fromhex(answer.cluster_id)
    if cluster_id and found != cluster_id:
        raise WrongCluster(f"{host}:{port} belongs to cluster {found.hex()}", found=found.hex())
    return Answer(found, read_decisions(answer.decisions), answer.decisions)


async def _check_joined(config: NodeConfig, path: Path, origin: Origin) -> None:
    """--join of a directory that has joined: ignored, but one that leads to another cluster is a mistake. Raises WrongCluster;
    NodeRemoved for a node that was removed meanwhile.
    """
    identity = remembered(path)
    if identity is None:
        return
    for address in config.join:
        try:
            await introduce_to(*split_address(address), config, origin.cluster_id, identity.store)
            return
        except Unavailable as error:
            _log.info("not asked whether this is the cluster: %s", error.message)
        except (WrongCluster, NodeRemoved):
            raise


def listed_nodes(nodes: Nodes) -> tuple[InitialNode, ...]:
    """Those who belong to the cluster, as a list of nodes writes them."""
    return tuple(
        InitialNode(each.node, each.host, each.client_port, each.peer_port, each.gossip_port) for each in nodes if each.belongs
    )


def places_of(origin: Origin, node: NodeId) -> Places:
    """Where the others were reached."""
    return [(each.host, each.peer_port) for each in origin.peers if each.node_id != node]


def note_peers(path: Path, origin: Origin, nodes: Nodes) -> Origin:
    """Keep who is there now, if that changed; the origin with it."""
    peers = listed_nodes(nodes)
    if peers == origin.peers or not peers:
        return origin
    changed = with_peers(origin, peers)
    store_origin(path, changed)
    return changed
