"""Who leads a shard, as far as this node can tell, and how what client streams say gets there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from cluster.ids import NodeId, ShardId
from cluster.pump.liveness import NodeLiveness
from cluster.router.router import Router
from cluster.session.operations import Operation
from cluster.shard.replica import ShardReplica
from cluster.shard.turn import ForwardItem, GrantItem, StreamKey, Turn

STREAM_BITS = 32


def first_stream(generation: int) -> int:
    """The number above which the streams of a process are numbered, by its boot generation."""
    return generation << STREAM_BITS


class Holder(Protocol):
    """The pump, as far as ways to leaders concern it."""

    replicas: dict[ShardId, ShardReplica]
    liveness: NodeLiveness
    connected: set[NodeId]

    def submit_to_replica(self, shard: ShardId, stream: StreamKey, operations: list[Operation]) -> None: ...


class Routes:
    """used: told of each shard that somebody wants to use and of which there is a replica here."""

    def __init__(self, holder: Holder, router: Router, turn: Turn, used: Callable[[ShardId], None]) -> None:
        self._router, self._turn, self._used = router, turn, used
        self._liveness, self._replicas, self._connected = holder.liveness, holder.replicas, holder.connected
        self._here = holder.submit_to_replica

    def leader(self, shard: ShardId) -> NodeId | None:
        """Who leads a shard, as far as a local replica tells, or else what its leader tells all peers."""
        replica = self._replicas.get(shard)
        if replica is not None:
            return self._router.node if replica.leads else replica.leader_node
        return self._liveness.leader_of(shard, self._connected) or self._router.hinted(shard)

    def locate(self, shard: ShardId) -> NodeId | None:
        """Where the leader of a shard is believed to be, for somebody who wants to use it."""
        replica = self._replicas.get(shard)
        if replica is not None and replica.leads:
            return self._router.node
        silent = self._liveness.silent
        there = self._connected - silent if silent else self._connected
        if replica is not None:
            self._used(shard)
            return self._router.node_for(shard, replica.leader_node, there)
        return self._liveness.leader_of(shard, there) or self._router.elsewhere(shard, there)

    def forward(self, node: NodeId, shard: ShardId, stream: int, operations: list[Operation]) -> None:
        """Hand operations of a stream to a node, this one included."""
        if node == self._router.node:
            self._here(shard, (node, stream), operations)
        elif node in self._connected:
            self._turn.send_now(node, ForwardItem(shard, stream, operations))

    def grant(self, node: NodeId, shard: ShardId, stream: int, watch: int, credit_bytes: int) -> None:
        """Hand credit of a watch likewise."""
        if node != self._router.node:
            self._turn.send_now(node, GrantItem(shard, stream, watch, credit_bytes))
            return
        replica = self._replicas.get(shard)
        if replica is not None:
            replica.feed.grant((node, stream), watch, credit_bytes, self._turn)
