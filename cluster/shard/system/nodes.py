"""What the system document decides about nodes: who joins, where each is reached, what is wanted of it; and what people told
the placement of replicas.

Here is only what every replica can judge from the decisions alone. Whether a shard would be short of replicas, whose clock is
off, or what is left on a node is for whoever asks.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from cluster.errors import InvalidPayload, InvalidRequest, NodeHolds, StaleRegistry
from cluster.ids import NodeId, ShardId, check_node
from cluster.shardmap import nodes as registry
from cluster.shardmap.map import MapState
from cluster.shardmap.nodes import DIRECTORY_BYTES, Nodes, PlacementSettings, RegisteredNode, Standing

ANY_EPOCH = -1
"""In place of an expected epoch of the members: whatever it is."""
FROZEN_SHARDS_MAX = 1_024
NUMBER_MAX = (1 << 53) - 1

Port = Annotated[int, Meta(ge=1, le=65_535)]
Host = Annotated[str, Meta(min_length=1, max_length=253)]
Label = Annotated[str, Meta(max_length=63)]
Time = Annotated[int, Meta(ge=0, le=NUMBER_MAX)]
Epoch = Annotated[int, Meta(ge=ANY_EPOCH, le=NUMBER_MAX)]
Directory = Annotated[str, Meta(pattern="^([0-9a-f]{32})?$")]


class Register(Struct, forbid_unknown_fields=True, frozen=True, tag_field="do", tag="register"):
    """A node joins, or says where it is now. directory: the identity of its data directory, as hexadecimal digits; only a first
    node in the list that a cluster begins with may leave it out.
    """

    node: str
    directory: Directory
    host: Host
    peer_port: Port
    gossip_port: Port
    client_port: Port
    host_label: Label = ""
    zone: Label = ""

    def node_at(self, now_ms: int) -> RegisteredNode:
        """As it is kept."""
        return RegisteredNode(
            NodeId(self.node),
            Standing.ACTIVE,
            bytes.fromhex(self.directory),
            self.host,
            self.peer_port,
            self.gossip_port,
            self.client_port,
            self.host_label,
            self.zone,
            now_ms,
        )


class SetStanding(Struct, forbid_unknown_fields=True, frozen=True, tag_field="do", tag="standing"):
    """expected: the epoch of the members for which whoever asks has judged this."""

    node: str
    standing: Standing
    expected: Epoch = ANY_EPOCH


NodeRequest = Register | SetStanding


class Settings(Struct, forbid_unknown_fields=True, frozen=True):
    """What is given changes; the rest stays."""

    frozen: bool | None = None
    frozen_shards: Annotated[tuple[ShardId, ...], Meta(max_length=FROZEN_SHARDS_MAX)] | None = None
    replication_factor: Annotated[int, Meta(ge=1, le=7)] | None = None
    maintenance: Label | None = None
    maintenance_until_ms: Time | None = None


def check(request: NodeRequest) -> None:
    """Raises InvalidName or InvalidPayload."""
    check_node(request.node)
    if isinstance(request, Register) and len(request.directory) != 2 * DIRECTORY_BYTES:
        raise InvalidPayload("a node that joins says which data directory it has")


def first_nodes(listed: tuple[Register, ...], now_ms: int) -> Nodes:
    """The registry that a cluster begins with. Raises InvalidPayload or InvalidName."""
    names = sorted(each.node for each in listed)
    if len(set(names)) != len(names):
        raise InvalidPayload("first nodes have different names")
    for each in listed:
        check_node(each.node)
    return tuple(each.node_at(now_ms) for each in sorted(listed, key=lambda each: each.node))


def decide(request: NodeRequest, nodes: Nodes, epoch: int, shard_map: MapState | None, now_ms: int) -> Nodes:
    """The registry after a request; the same one when that changes nothing. Raises what `cluster.shardmap.nodes` raises;
    StaleRegistry when the members changed meanwhile, NodeHolds when replicas are left on a node that should go.
    """
    if isinstance(request, Register):
        return registry.registered(nodes, request.node_at(now_ms))
    if request.expected not in (ANY_EPOCH, epoch):
        raise StaleRegistry("the nodes of the cluster changed meanwhile; look again", members_epoch=epoch)
    after = registry.with_standing(nodes, request.node, request.standing, now_ms)
    if request.standing is Standing.REMOVED and after is not nodes and shard_map is not None:
        left = [shard.shard for shard in shard_map.shards if shard.replica_on(NodeId(request.node)) is not None]
        if left:
            raise NodeHolds(f"node {request.node} still holds replicas of {len(left)} shards", shards=len(left))
        if not any(each.belongs for each in after):
            raise InvalidRequest("the last node of a cluster stays")
    return after


def settle(request: Settings, before: PlacementSettings) -> PlacementSettings:
    """The settings after a request."""
    given = {name: value for name in request.__struct_fields__ if (value := getattr(request, name)) is not None}
    if "frozen_shards" in given:
        given["frozen_shards"] = tuple(sorted(set(given["frozen_shards"])))
    return msgspec.structs.replace(before, **given)
