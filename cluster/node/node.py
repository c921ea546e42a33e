"""One node: a process that holds replicas, serves clients and talks to its peers.

Start order: the cluster (`beginning`: an empty directory joins or begins one), directory (locked, format checked), identity
(one more boot, durable), what the cluster decided, replicas from disk, then the outside: peers, gossip, gateway. Stop is the
reverse, after what it leads is handed over. A node that can not go on says why and exits; it never limps.

A cold start needs neither gossip nor the system shard: the first map is computed from the first nodes, the newest one is
remembered on disk.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import logging
import os
import random
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from cluster.config import NodeConfig
from cluster.errors import ClusterError
from cluster.gateway.server import Gateway
from cluster.gossip.messages import Load
from cluster.ids import SYSTEM_SHARD, NodeId, ShardId
from cluster.node.admin import Administration
from cluster.node.backend import NodeBackend, OneAnswer
from cluster.node.beginning import begin
from cluster.node.decisions import Decisions
from cluster.node.divergence_hook import loader_for
from cluster.node.errors_log import ErrorsLog
from cluster.node.gossiping import NodeGossip
from cluster.node.handing_over import hand_over_all, keep_drained
from cluster.node.loop import NodeLoop, monotonic_ms
from cluster.node.marker import PageMarker
from cluster.node.membership import Membership
from cluster.node.placement_admin import placement_rules
from cluster.node.registering import as_listed, first_node
from cluster.node.sponsor import Sponsor
from cluster.node.standings import StandingAdministration
from cluster.node.watchdog import Watchdog
from cluster.pump.assembly import PumpSurroundings, open_pump
from cluster.pump.lanes import Lane
from cluster.pump.pump import Pump, PumpConfig
from cluster.raft.config import RaftConfig
from cluster.session.operations import Kind, Operation, Reply
from cluster.shard.system.program import OPERATOR
from cluster.shard.turn import Turn
from cluster.shardmap.map import SYSTEM_KEY, SYSTEM_SPACE
from cluster.transport.introduction import Introduced
from cluster.transport.peer_wire import Introduction
from cluster.transport.tcp import TcpPeerTransport

if TYPE_CHECKING:
    from cluster.gateway.http_server import HttpGateway

BOOTSTRAP_RETRY_MS = 200
_log = logging.getLogger(__name__)


class Node:
    """Build with a configuration, `start`, then `wait` until it is stopped or can not go on."""

    def __init__(self, config: NodeConfig) -> None:
        self.config = config
        self.node = NodeId(config.node_id)
        self._ended: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Open the directory, joining a cluster first if that is what it is for, and serve. Raises OperatorError with the
        directory as it was found, OSError for a taken port. A store that is damaged as a whole is no error where other nodes
        can replace it: see `cluster.node.directory`.
        """
        config = self.config
        self._ended = asyncio.get_running_loop().create_future()
        directory_path = Path(config.data_dir)
        begun = await begin(config)
        self._origin, self._engine, self._identity = begun.origin, begun.engine, begun.identity
        self._cluster_id = self._origin.cluster_id
        self._marker = PageMarker(directory_path, config.poison_hook)
        self._watchdog = Watchdog(self._marker, config.watchdog_ms)
        self.pump = self._build_pump()
        self.transport = TcpPeerTransport(
            cluster_id=self._cluster_id.hex(),
            node=self.node,
            boot_generation=self._identity.boot_generation,
            host=config.host,
            port=config.peer_port,
            events=self,
            source=random.Random(),
            on_introduction=self._on_introduction,
        )
        self.loop = NodeLoop(
            self.pump, self._engine, self.transport, self._marker, config.fsync_mode, self._disk_full, self._fail
        )
        self.gossip = NodeGossip(
            config,
            cluster_id=self._cluster_id.hex(),
            generation=self.generation,
            first_nodes=self._origin.peers,
            load=self._load,
            map_version=lambda: self.pump.router.map.version,
            heard_ago_ms=lambda node: monotonic_ms() - self.pump.liveness.heard_ms(node),
        )
        self.pump.steering.controlling.opinions = self.gossip.opinions
        self._members = Membership(
            config=config,
            pump=self.pump,
            origin=self._origin,
            store=self.pump.liveness.store,
            transport=self.transport,
            gossip=self.gossip,
            gone=lambda node: self.on_disconnected(node, True),
            fail=self._fail,
        )
        self._decisions = Decisions(self.pump, self._ask)
        self._standings = StandingAdministration(self.pump, self._members.views, self._decisions)
        self._sponsor = Sponsor(self._cluster_id, self.pump, self._decisions)
        self._members.follow()
        await self.transport.start()
        await self.gossip.start()
        self.loop.on_beat = self.gossip.on_beat
        self.loop.on_stall = self.gossip.on_stall
        self.loop.on_decisions = self._members.follow
        backend = self._build_backend()
        self._gateway = Gateway(backend, config.client_host, config.client_port)
        await self._gateway.start()
        await self._start_http(backend)
        self._watchdog.start()
        self._tasks = self._begin_tasks()
        gc.disable()
        gc.collect()
        gc.freeze()
        self.loop.wake()
        _log.info("node %s serves on %s:%d (boot %d)", self.node, config.client_host, config.client_port, self.generation)

    async def _start_http(self, backend: NodeBackend) -> None:
        """Serve HTTP, if that is wanted; a node that does not loads none of it."""
        self._http: HttpGateway | None = None
        if self.config.http_port:
            from cluster.gateway.http_server import HttpGateway

            self._http = HttpGateway(backend, self.config.http_port)
            await self._http.start()

    def _begin_tasks(self) -> list[asyncio.Task[None]]:
        """What goes on beside the turns. One that fails ends the node."""
        members, loop = self._members, self.loop
        tasks = [
            asyncio.create_task(self._create_system_document()),
            asyncio.create_task(members.present(loop.wake, lambda own: self._decisions.decide("node", own))),
            asyncio.create_task(self._standings.remove_the_empty()),
            asyncio.create_task(keep_drained(loop, lambda: members.drained, lambda: members.not_to_lead)),
        ]
        for task in tasks:
            task.add_done_callback(self._on_task_ended)
        return tasks

    def _on_task_ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._fail(error)

    @property
    def generation(self) -> int:
        return self._identity.boot_generation

    async def wait(self) -> None:
        """Until the node is stopped; raises what ended it."""
        assert self._ended is not None
        await self._ended

    async def stop(self) -> None:
        """Hand over what this node leads, stop serving, and leave the directory clean."""
        for task in self._tasks:
            task.cancel()
        await hand_over_all(self.loop, self._members.not_to_lead)
        if self._http is not None:
            await self._http.stop()
        await self._gateway.stop()
        await self.gossip.stop()
        self.loop.stop()
        await self.transport.stop()
        self._watchdog.stop()
        turn = Turn()
        for replica in self.pump.replicas.values():
            if not replica.damaged:
                replica.save_all(turn)
        self._engine.write(turn.batch)
        self._engine.sync()
        self._engine.close()
        self._marker.close()
        gc.enable()
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    # -- PeerEvents: the transport is built before the loop that takes its events -----------------------------------

    def on_frame(self, node: NodeId, lane: Lane, frame: bytes) -> None:
        self.loop.on_frame(node, lane, frame)

    def on_connected(self, node: NodeId, boot_generation: int) -> None:
        self.gossip.on_connected(node, boot_generation)
        self.loop.on_connected(node, boot_generation)

    def on_disconnected(self, node: NodeId, refused: bool) -> None:
        self.gossip.on_disconnected(node)
        self.loop.on_disconnected(node, refused)

    # -- building ----------------------------------------------------------------------------------------------------

    def _build_pump(self) -> Pump:
        config = self.config
        self._errors_log = ErrorsLog()
        return open_pump(
            PumpSurroundings(
                node=self.node,
                engine=self._engine,
                generation=self.generation,
                first_nodes=[peer.node_id for peer in self._origin.first],
                shard_count=self._origin.shard_count,
                replication_factor=self._origin.replication_factor,
                peers=[peer.node_id for peer in self._origin.peers],
                loader=loader_for(self.node, config.divergence_hook),
                marker=self._marker,
                on_failure=self._errors_log.add,
                clock=monotonic_ms,
                entropy=os.urandom,
                random=random.Random(),
                cache_bytes_max=config.cache_bytes_max,
                checkpoints=config.checkpoints == "on",
                raft=RaftConfig(
                    election_timeout_ms_min=config.election_timeout_ms,
                    election_timeout_ms_max=config.election_timeout_ms * 2,
                    resend_timeout_ms=min(200.0, config.election_timeout_ms / 3),
                    lease_reads=config.lease_reads == "on",
                    lease_drift_ms=config.lease_drift_ms,
                ),
                pump=PumpConfig(
                    config.heartbeat_interval_ms,
                    config.election_timeout_ms,
                    apply_slice_ms=config.apply_slice_ms,
                    snapshot_bytes_per_second=config.snapshot_bytes_per_second,
                    placement=placement_rules(config),
                ),
            )
        )

    def _build_backend(self) -> NodeBackend:
        administration = Administration(
            loop=self.loop,
            engine=self._engine,
            cluster_id=self._cluster_id.hex(),
            nodes=self._members.views,
            explain=self.gossip.explain,
            decisions=self._decisions,
            standings=self._standings,
            ask=self._ask,
            ask_leader=self._ask,
            errors_log=self._errors_log,
        )
        return NodeBackend(self.loop, administration, lambda: self.pump.directory.decisions.version > 0)

    def _disk_full(self) -> str:
        """Commands are refused well before the engine has to refuse what Raft must write."""
        free = shutil.disk_usage(self.config.data_dir).free
        if free >= self.config.disk_free_bytes_min:
            return ""
        return (
            f"node {self.node} has {free} bytes of disk left; it takes commands again above {self.config.disk_free_bytes_min}"
        )

    async def _on_introduction(self, introduction: Introduction) -> Introduced:
        return await self._sponsor.answer(introduction)

    async def _ask(self, operation: Operation, timeout_ms: float, shard: ShardId | None = None) -> Reply:
        return await OneAnswer(self.loop).ask(operation, timeout_ms, shard)

    def _load(self) -> Load:
        """What this node tells the others of its work."""
        leaders = sum(1 for replica in self.pump.replicas.values() if replica.serves)
        return Load(self.node, 0, 0, self.pump.router.map.version, leaders=leaders, replicas=len(self.pump.replicas))

    # -- the system document -----------------------------------------------------------------------------------------

    async def _create_system_document(self) -> None:
        """Whoever leads shard 0 first writes the map that everybody computed."""
        shard_map = base64.b64encode(self.pump.router.map.encode()).decode()
        listed = [as_listed(first_node(each)) for each in self._origin.first]
        factor = self._origin.replication_factor
        payload = msgspec.json.encode({"shard_map": shard_map, "nodes": listed, "replication_factor": factor})
        while self.pump.directory.decisions.version == 0:
            replica = self.pump.replicas.get(SYSTEM_SHARD)
            if replica is not None and replica.serves:
                operation = Operation(1, Kind.CREATE, SYSTEM_SPACE, SYSTEM_KEY, str(OPERATOR), "", payload)
                try:
                    await self._ask(operation, 5_000.0)
                except TimeoutError:
                    _log.warning("the system document is not created yet")
            await asyncio.sleep(BOOTSTRAP_RETRY_MS / 1000)

    # -- the end -----------------------------------------------------------------------------------------------------

    def _fail(self, error: BaseException) -> None:
        if self._ended is not None and self._ended.done():
            return
        reason = error.reason if isinstance(error, ClusterError) else type(error).__name__
        _log.critical("node %s stops: %s: %s", self.node, reason, error, exc_info=error)
        if self._ended is not None and not self._ended.done():
            self._ended.set_exception(error)
