"""A node among the others: it follows the registry of the cluster.

The registry says who belongs to the cluster and where each is reached; gossip says who seems to be there. The one decides, the
other is shown beside it. Until the system document is made, the first nodes of the configured list stand in for the registry.

Invariant: after `follow` this node dials exactly the nodes that belong to the cluster, at the addresses that are registered.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from cluster.config import NodeConfig
from cluster.errors import ClusterError, IdentityFenced, NodeRemoved, Unavailable
from cluster.gossip.messages import Address, Alive, State, Tags
from cluster.ids import NodeId
from cluster.node.beginning import introduce_to, note_peers, own_place
from cluster.node.gossiping import NodeGossip
from cluster.node.origin import Origin
from cluster.node.registering import as_listed, first_node
from cluster.node.views import NodeView
from cluster.pump.pump import Pump
from cluster.shardmap import nodes as registry
from cluster.shardmap.nodes import RegisteredNode, Standing
from cluster.transport.peer import PeerTransport

PRESENT_RETRY_S = 0.5
PRESENT_AGAIN_S = 5.0
_log = logging.getLogger(__name__)


class Membership:
    """One node among the others.

    path, origin: its data directory and what that says of the cluster. store: the identity of the directory. gone: told of each
        node that belongs to the cluster no more. fail: ends this node.
    """

    def __init__(
        self,
        *,
        config: NodeConfig,
        pump: Pump,
        origin: Origin,
        store: bytes,
        transport: PeerTransport,
        gossip: NodeGossip,
        gone: Callable[[NodeId], None],
        fail: Callable[[BaseException], None],
    ) -> None:
        self._config = config
        self._path = Path(config.data_dir)
        self._pump = pump
        self._origin = origin
        self._store = store
        self._first = tuple(first_node(each) for each in origin.peers)
        self._transport = transport
        self._gossip = gossip
        self._gone = gone
        self._fail = fail
        self._dialled: set[NodeId] = set()
        self._source = random.Random()

    def follow(self) -> None:
        """Dial who belongs to the cluster and nobody else. At start, and whenever something was decided."""
        nodes, epoch = self.nodes, self._pump.directory.decisions.members_epoch
        own = registry.find(nodes, self._pump.node)
        if own is not None and not own.belongs:
            self._fail(NodeRemoved(f"node {own.node} was removed from the cluster for good", node=own.node))
            return
        others = [each for each in nodes if each.node != self._pump.node]
        for each in others:
            if each.belongs:
                self._transport.connect(each.node, each.host, each.peer_port)
                self._dialled.add(each.node)
        removed = [each.node for each in others if not each.belongs]
        for node in removed:
            self._transport.bar(node)
            if node in self._dialled:
                self._dialled.discard(node)
                self._gone(node)
        if removed:
            self._gossip.remove(removed, epoch)
        self._origin = note_peers(self._path, self._origin, self._pump.directory.decisions.nodes)

    @property
    def drained(self) -> bool:
        """Whether this node is to lead nothing."""
        own = registry.find(self.nodes, self._pump.node)
        return own is not None and own.standing in (Standing.DRAINING, Standing.DECOMMISSIONING)

    @property
    def not_to_lead(self) -> frozenset[NodeId]:
        """The nodes that nothing is handed over to."""
        return frozenset(each.node for each in self.nodes if each.standing is not Standing.ACTIVE)

    async def present(self, wake: Callable[[], None], register: Callable[[dict[str, object]], Awaitable[object]]) -> None:
        """Say where this node is now, once after each start, and ask again whenever nobody is connected: who moved or was
        removed while this node was away is told so then. wake: the pump has news. register: asks the system shard, for a node
        alone.
        """
        presented = False
        while True:
            others = [each for each in self.nodes if each.belongs and each.node != self._pump.node]
            if not others:
                presented = presented or await self._register_alone(register)
            elif not presented or not self._pump.connected:
                presented = await self._present_to(others, wake)
            await asyncio.sleep(PRESENT_AGAIN_S if presented else PRESENT_RETRY_S)

    async def _register_alone(self, register: Callable[[dict[str, object]], Awaitable[object]]) -> bool:
        config = self._config
        if not self._pump.directory.decisions.nodes:
            return False
        own = msgspec.structs.replace(
            first_node(own_place(config)),
            directory=self._store,
            host_label=config.labels.get("host", ""),
            zone=config.labels.get("zone", ""),
        )
        nodes = self._pump.directory.decisions.nodes
        try:
            if registry.registered(nodes, own) is not nodes:
                await register(as_listed(own))
        except ClusterError as error:
            _log.warning("where this node is could not be registered: %s", error.message)
            return False
        return True

    async def _present_to(self, others: list[RegisteredNode], wake: Callable[[], None]) -> bool:
        """Whether somebody took note."""
        for each in self._source.sample(others, len(others)):
            try:
                answer = await introduce_to(each.host, each.peer_port, self._config, self._origin.cluster_id, self._store)
            except Unavailable as error:
                _log.debug("not introduced: %s", error.message)
            except (NodeRemoved, IdentityFenced) as error:
                self._fail(error)
                return False
            except ClusterError as error:
                _log.warning("%s at %s:%d does not know this node: %s", each.node, each.host, each.peer_port, error.message)
            else:
                if self._pump.learning.take(answer.decisions):
                    wake()
                return True
        return False

    @property
    def nodes(self) -> tuple[RegisteredNode, ...]:
        """Every node that ever was of the cluster, as far as this one knows."""
        return self._pump.directory.decisions.nodes or self._first

    def views(self) -> list[NodeView]:
        """Every node of the cluster as this one sees it: gossip's opinion, or silence about one that was never met."""
        core = self._gossip.core
        registered = {each.node: each for each in self.nodes}
        rows = [self._own(core.own, registered.get(self._pump.node))]
        met = {view.node for view in core.members()}
        rows += [
            NodeView(each.node, _address(each), Tags(each.host_label, each.zone), State.DEAD, 0, each)
            for each in registered.values()
            if each.node not in met and each.node != self._pump.node and each.belongs
        ]
        for view in core.members():
            known = registered.get(view.node)
            if known is None or known.belongs:
                rows.append(NodeView(view.node, view.address, view.tags, view.state, view.generation, known))
        return sorted(rows, key=lambda row: row.node)

    def _own(self, own: Alive, registered: RegisteredNode | None) -> NodeView:
        return NodeView(self._pump.node, own.address, own.tags, State.ALIVE, own.generation, registered)


def _address(node: RegisteredNode) -> Address:
    return Address(node.host, node.gossip_port, node.peer_port, node.client_port)
