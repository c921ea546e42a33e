"""Gossip on this node: what it is fed from the other layers, and why it holds what it holds.

Fed in: stalls of the event loop, whether the data path reaches a peer, how busy this node is, removed ids. What comes out is
an opinion; it never bypasses a vote.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import Any, Final

import cluster
from cluster.config import InitialNode, NodeConfig
from cluster.errors import UnknownNode
from cluster.gossip.config import GossipConfig
from cluster.gossip.core import Gossip
from cluster.gossip.effects import Cut, DataPath, MemberChange, Stalled
from cluster.gossip.messages import Address, Load, Path, State, Tags
from cluster.ids import NodeId
from cluster.node.opinions import Opinions
from cluster.transport.gossip import GossipTransport, clock_ms

LOAD_EVERY_MS: Final = 5_000
"""How often changed figures of load are told; a new shard map at once."""
CPU_STEP_PERMILLE: Final = 50
"""Smaller changes of processor use are no news."""
DATA_PATH_FRESH_MS: Final = 1_000
"""Whoever was heard on the data path within this time is reached by it."""
_log = logging.getLogger(__name__)
Row = dict[str, Any]


class NodeGossip:
    """The gossip of one node.

    load: how busy this node is now, as far as the pump knows; the processor is measured here. map_version: what it costs
        nothing to ask at each beat.
    heard_ago_ms: since when nothing was heard of a node on the data path; infinite if never.
    """

    def __init__(
        self,
        config: NodeConfig,
        *,
        cluster_id: str,
        generation: int,
        first_nodes: tuple[InitialNode, ...],
        load: Callable[[], Load],
        map_version: Callable[[], int],
        heard_ago_ms: Callable[[NodeId], float],
    ) -> None:
        self.node = NodeId(config.node_id)
        self.generation = generation
        self._load = load
        self._map_version = map_version
        self._heard_ago_ms = heard_ago_ms
        self._told = Load(self.node, 0, 0)
        self._told_ms = 0
        self._cpu = (time.monotonic(), time.process_time())
        self._data_paths: dict[NodeId, tuple[int, bool]] = {}
        """Of each peer, the process that was last connected, and whether it still is."""
        self.core = Gossip(
            cluster_id=cluster_id,
            node=self.node,
            boot_generation=generation,
            address=Address(config.host, config.gossip_port, config.peer_port, config.client_port),
            tags=Tags(config.labels.get("host", ""), config.labels.get("zone", ""), cluster.__version__),
            seeds=tuple((peer.host, peer.gossip_port) for peer in first_nodes if peer.node_id != self.node),
            config=GossipConfig(),
            source=random.Random(),
            now_ms=clock_ms(),
        )
        self.opinions = Opinions(self.core)
        self.transport = GossipTransport(
            self.core,
            host=config.host,
            port=config.gossip_port,
            on_changes=self._on_opinions,
            on_cut=self._on_cut,
            data_path=self._data_path,
        )

    async def start(self) -> None:
        """Raises OSError if the gossip port is taken."""
        await self.transport.start()

    async def stop(self) -> None:
        """Say good-bye, then close."""
        await self.transport.leave()
        await self.transport.stop()

    # What other layers tell.

    def on_beat(self) -> None:
        """A liveness round has left: the process is awake anyway."""
        self.transport.awake()
        self._tell_load(clock_ms())

    def on_stall(self, duration_ms: float) -> None:
        """The event loop did nothing else for this long."""
        self.transport.step(Stalled(int(duration_ms)))

    def on_connected(self, node: NodeId, generation: int) -> None:
        self._data_paths[node] = (generation, True)
        self.transport.step(DataPath(node, generation, True))

    def on_disconnected(self, node: NodeId) -> None:
        generation, _ = self._data_paths.get(node, (0, False))
        self._data_paths[node] = (generation, False)
        self.transport.step(DataPath(node, generation, False))

    def remove(self, nodes: list[NodeId], members_epoch: int) -> None:
        """The system shard's list of members, as of this epoch, has these ids no longer."""
        self.transport.remove(nodes, members_epoch)

    def _data_path(self, node: NodeId) -> tuple[int, bool] | None:
        known = self._data_paths.get(node)
        if known is None:
            return None
        generation, connected = known
        return generation, connected and self._heard_ago_ms(node) < DATA_PATH_FRESH_MS

    def _tell_load(self, now_ms: int) -> None:
        due = now_ms - self._told_ms >= LOAD_EVERY_MS
        if not due and self._map_version() == self._told.map_version:
            return
        load = self._load()
        cpu_permille = self._told.cpu_permille
        if due:
            self._told_ms = now_ms
            (wall, busy), self._cpu = self._cpu, (time.monotonic(), time.process_time())
            measured = 1000 * (self._cpu[1] - busy) / max(1e-3, self._cpu[0] - wall)
            cpu_permille = min(1000, round(measured / CPU_STEP_PERMILLE) * CPU_STEP_PERMILLE)
        epoch = self.core.members_epoch
        load = Load(self.node, 0, 0, load.map_version, epoch, load.leaders, load.replicas, cpu_permille, load.disk_permille)
        if load != self._told:
            self._told = load
            self.transport.set_load(load)

    # What gossip tells.

    def _on_opinions(self, changes: list[MemberChange]) -> None:
        self.opinions.note()
        for change in changes:
            view = change.member
            if view.state is change.before:
                continue
            if view.state is State.ALIVE and view.node in self._data_paths:
                self.transport.step(DataPath(view.node, *self._data_paths[view.node]))
            accused = f", accused by {', '.join(view.accusers)}" if view.accusers else ""
            _log.info("gossip: %s is %s%s", view.node, view.state.name.lower(), accused)

    def _on_cut(self, cut: Cut) -> None:
        self.opinions.note()
        if len(cut.down) > 1:
            _log.warning("gossip: %d nodes went down together: %s", len(cut.down), ", ".join(view.node for view in cut.down))

    # What operators are shown.

    def explain(self, node: NodeId) -> Row:
        """Why this node holds of `node` what it does, in the shape of admin.proto. Raises UnknownNode."""
        core, now_ms = self.core, clock_ms()
        row: Row = {
            "observer": self.node,
            "node_id": node,
            "local_health": core.health,
            "stalls": core.stalls,
            "refutations": core.refutations,
            "paths": [],
            "episodes": [],
            "accusers": [],
        }
        if node == self.node:
            state = f"NODE_STATE_{State.ALIVE.name}"
            return {**row, "state": state, "published": state, "boot_generation": self.generation,
                    "incarnation": core.own.incarnation, "in_state_ms": 0, "rtt_us": None}  # fmt: skip
        view, why = core.member(node), core.why(node)
        if view is None or why is None:
            raise UnknownNode(f"gossip on {self.node} has not met {node}")
        paths, episodes = why
        published = core.published(node)
        return {
            **row,
            "state": f"NODE_STATE_{view.state.name}",
            "published": f"NODE_STATE_{(published if published is not None else view.state).name}",
            "boot_generation": view.generation,
            "incarnation": view.incarnation,
            "in_state_ms": max(0, now_ms - view.since_ms),
            "rtt_us": None if paths.rtt_ms is None else round(paths.rtt_ms * 1000),
            "accusers": list(view.accusers),
            "paths": [
                {"path": name, "works": works}
                for name, works in (("datagram", paths.datagram), ("stream", paths.stream), ("data", paths.data))
                if works is not None
            ],
            "episodes": [
                {
                    "ago_ms": max(0, now_ms - episode.at_ms),
                    "what": episode.what.value,
                    "teller": episode.teller,
                    "accusers": [{"node_id": accuser.node, "paths": Path(accuser.paths).names} for accuser in episode.accusers],
                    "boot_generation": episode.generation,
                    "incarnation": episode.incarnation,
                }
                for episode in episodes
            ],
        }
