"""Carries out faults: what begins, and what is over when it ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from chaos.sim import faults
from chaos.sim.faults import Fault, Link
from cluster.errors import StorageError, StorageFull
from cluster.ids import NodeId, ShardId
from cluster.storage.engine import Family

if TYPE_CHECKING:
    from chaos.sim.node import SimulatedNode
    from chaos.sim.world import World


def _between(leader: NodeId, others: list[NodeId], way: str = "both") -> tuple[Link, ...]:
    """The links from a leader to others, and towards it."""
    pairs = [((leader, other), (other, leader)) for other in others]
    return tuple(link for outward, inward in pairs for link in _ways(outward, inward, way))


def _ways(outward: Link, inward: Link, way: str) -> tuple[Link, ...]:
    return (inward,) if way == "inward" else (outward,) if way == "outward" else (outward, inward)


class Injector:
    """Begins and ends the faults of one run. `counts`: how many of each kind took effect."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._frozen: dict[int, int] = {}
        self._flapping: dict[int, bool] = {}
        self._found: dict[int, Fault] = {}
        self._slewed: dict[int, SimulatedNode] = {}
        self._stopped: dict[int, SimulatedNode] = {}
        self.counts: Counter[str] = Counter()

    def begin(self, fault: Fault) -> None:
        """The time of a fault has come."""
        world = self._world
        world.note("fault", fault.kind, str(fault))
        self.counts[fault.kind] += 1
        if isinstance(
            fault, faults.Partition | faults.Flapping | faults.Slow | faults.Congested | faults.Unruly | faults.Break
        ):
            self._begin_network(fault)
        elif isinstance(fault, faults.PowerLoss):
            for node in world.nodes.values():
                node.down_until_ms = max(node.down_until_ms, world.safety_ms(fault.end_ms))
                node.kill(fault.keep, host_down=True)
        elif isinstance(fault, faults.LeaderCrash | faults.LeaderCut | faults.LeaderPause | faults.LeaderSlow):
            self._begin_leader(fault)
        elif isinstance(fault, faults.Divergence):
            world.planted.begin(fault)
        elif isinstance(fault, faults.ClientBreak):
            stream = world.clients[fault.client].stream
            if stream is not None:
                stream.broken()
        elif isinstance(fault, faults.ClientRestart):
            world.clients[fault.client].restart()
        else:
            self._begin_node(fault, world.nodes[fault.node])  # type: ignore[attr-defined]

    def _begin_network(self, fault: Fault) -> None:
        network = self._world.network
        if isinstance(fault, faults.Partition):
            for link in fault.links:
                network.cut(link, fault.delay_ms)
        elif isinstance(fault, faults.Flapping):
            self._flapping[id(fault)] = False
            self.flap(fault)
        elif isinstance(fault, faults.Slow):
            for link in fault.links:
                network.links[link].slow_ms += fault.delay_ms
        elif isinstance(fault, faults.Congested):
            self._congest(fault.links, 1)
        elif isinstance(fault, faults.Unruly):
            for link in fault.links:
                network.links[link].unruly = fault
        elif isinstance(fault, faults.Break):
            for link in fault.links:
                network.break_off(network.links[link])

    def _begin_leader(self, fault: faults.LeaderCrash | faults.LeaderCut | faults.LeaderPause | faults.LeaderSlow) -> None:
        """Make the fault one of the node that leads; nobody may."""
        leaders = [
            node
            for node in self._world.nodes.values()
            if node.up and ShardId(fault.shard) in node.pump.replicas and node.pump.replicas[ShardId(fault.shard)].leads
        ]
        if not leaders:
            return
        leader, now_ms = leaders[0].name, fault.start_ms
        if isinstance(fault, faults.LeaderCrash):
            self._begin_at_leader(
                fault, faults.Crash(now_ms, fault.end_ms, leader, fault.point, fault.keep, False, fault.passes)
            )
        elif isinstance(fault, faults.LeaderPause):
            self._frozen[id(fault)] = leaders[0].lives
            self._stopped[id(fault)] = leaders[0]
            leaders[0].stop()
        elif isinstance(fault, faults.LeaderSlow):
            links = _between(leader, [name for name in self._world.names if name != leader])
            self._begin_at_leader(fault, faults.Slow(now_ms, fault.end_ms, links, fault.delay_ms))
        else:
            others = [name for name in self._world.names if name != leader]
            leaders[0].slew(fault.rate)
            self._slewed[id(fault)] = leaders[0]
            links = _between(leader, others[fault.partly :], fault.way)
            self._begin_at_leader(fault, faults.Partition(now_ms, fault.end_ms, links, 5_000.0))
            if fault.refused:
                for other in others[fault.partly :]:
                    self._world.network.refuse((other, leader))
            if fault.partly and fault.last_ms:
                self._world.after(fault.last_ms, "call", self._lose_last, fault, leader, others[0])

    def _lose_last(self, fault: faults.LeaderCut, leader: NodeId, last: NodeId) -> None:
        """Who was left to a leader restarts, and does not reach it any more."""
        found, node = self._found.get(id(fault)), self._world.nodes[last]
        if isinstance(found, faults.Partition):
            more = _between(leader, [last], fault.way)
            self._found[id(fault)] = replace(found, links=found.links + more)
            for link in more:
                self._world.network.cut(link, 5_000.0)
            node.kill(1.0)
            node.restart()

    def _begin_at_leader(self, fault: Fault, found: Fault) -> None:
        self._found[id(fault)] = found
        self._world.note("fault", "at leader", str(found))
        if isinstance(found, faults.Crash):
            self._begin_node(found, self._world.nodes[found.node])
        else:
            self._begin_network(found)

    def _congest(self, links: Iterable[Link], more: int) -> None:
        for link in links:
            self._world.network.links[link].congested += more

    def flap(self, fault: faults.Flapping) -> None:
        """Half a period is over."""
        if id(fault) not in self._flapping:
            return
        network = self._world.network
        cut = self._flapping[id(fault)] = not self._flapping[id(fault)]
        for link in fault.links:
            if cut:
                network.cut(link, 1_000.0)
            else:
                network.mend(link)
        self._world.after(fault.period_ms / 2, "call", self.flap, fault)

    def _begin_node(self, fault: Fault, node: SimulatedNode) -> None:
        world = self._world
        if isinstance(fault, faults.Crash):
            self._keep_down(node, fault)
            if fault.point == "anywhere":
                node.kill(fault.keep, host_down=fault.host_down)
            else:
                node.arm(fault)
        elif isinstance(fault, faults.TornCrash):
            self._keep_down(node, fault)
            node.disk.tear()
            node.kill(0.0, host_down=True)
        elif isinstance(fault, faults.Wipe):
            self._keep_down(node, fault)
            node.wipe()
        elif isinstance(fault, faults.Pause | faults.DiskStalls):
            if node.up:
                self._frozen[id(fault)] = node.lives
                node.freeze()
        elif isinstance(fault, faults.SlowSync):
            node.sync_slow_ms += fault.delay_ms
        elif isinstance(fault, faults.SyncFails):
            self._keep_down(node, fault)
            node.sync_fails = True
        elif isinstance(fault, faults.ReadsFail):
            node.reads_fail = frozenset((fault.family,)) if fault.family is not None else frozenset(Family)
            node.disk.fail_reads(node.reads_fail)
        elif isinstance(fault, faults.WritesFail):
            self._keep_down(node, fault)
            node.writes_fail = True
            node.disk.refuse_writes(StorageError("input/output error (asked for by the simulation)"))
        elif isinstance(fault, faults.DiskFull):
            self._keep_down(node, fault)
            node.disk_full = True
            node.disk.refuse_writes(StorageFull("the disk is full (asked for by the simulation)"))
        elif isinstance(fault, faults.HighWater):
            node.storage_full = "the disk is nearly full (asked for by the simulation)"
        elif isinstance(fault, faults.ClockSlew):
            node.slew(fault.rate)
        elif isinstance(fault, faults.BitFlip | faults.Misdirected):
            spoil = node.disk.flip_bit if isinstance(fault, faults.BitFlip) else node.disk.misdirect
            key = spoil(fault.family, world.streams.named(f"rot/{fault.start_ms}"))
            world.note("rot", node.name, key.hex() if key else "nothing there")
        else:
            assert isinstance(fault, faults.ClockJump)
            node.wall_jump_ms += fault.by_ms

    def _keep_down(self, node: SimulatedNode, fault: Fault) -> None:
        node.down_until_ms = max(node.down_until_ms, self._world.safety_ms(fault.end_ms))

    def end(self, fault: Fault) -> None:
        """A fault is over."""
        network = self._world.network
        if isinstance(fault, faults.LeaderCrash | faults.LeaderCut | faults.LeaderSlow):
            found = self._found.pop(id(fault), None)
            if found is not None:
                self.end(found)
            if isinstance(fault, faults.LeaderCut) and isinstance(found, faults.Partition) and fault.lag_ms:
                inward = [link for link in found.links if link[1] == found.links[-1][1]]
                self._congest(inward, 1)
                self._world.after(fault.lag_ms, "call", self._congest, inward, -1)
            node = self._slewed.pop(id(fault), None)
            if node is not None:
                node.slew(1.0)
        elif isinstance(fault, faults.LeaderPause):
            node, life = self._stopped.pop(id(fault), None), self._frozen.pop(id(fault), None)
            if node is not None and life is not None:
                node.thaw(life)
        elif isinstance(fault, faults.Partition):
            for link in fault.links:
                network.mend(link)
        elif isinstance(fault, faults.Flapping):
            if self._flapping.pop(id(fault), False):
                for link in fault.links:
                    network.mend(link)
        elif isinstance(fault, faults.Slow):
            for link in fault.links:
                network.links[link].slow_ms = max(0.0, network.links[link].slow_ms - fault.delay_ms)
        elif isinstance(fault, faults.Congested):
            self._congest(fault.links, -1)
        elif isinstance(fault, faults.Unruly):
            for link in fault.links:
                network.links[link].unruly = None
                if fault.breaks:
                    network.break_off(network.links[link])
        elif isinstance(fault, faults.PowerLoss):
            for node in self._world.nodes.values():
                node.restart()
        elif isinstance(fault, faults.Divergence):
            self._world.planted.end(fault)
        elif isinstance(fault, faults.Break | faults.ClientBreak | faults.ClientRestart):
            pass  # over when it began
        else:
            self._end_node(fault, self._world.nodes[fault.node])  # type: ignore[attr-defined]

    def _end_node(self, fault: Fault, node: SimulatedNode) -> None:
        if isinstance(fault, faults.Crash):
            if node.armed is fault:
                node.armed = None  # it never came to that point
                node.kill(fault.keep, host_down=fault.host_down)
            node.restart()
        elif isinstance(fault, faults.Wipe | faults.TornCrash):
            node.restart()
        elif isinstance(fault, faults.ClockSlew):
            node.slew(1.0)
        elif isinstance(fault, faults.Pause | faults.DiskStalls):
            life = self._frozen.pop(id(fault), None)
            if life is not None:
                node.thaw(life)
        elif isinstance(fault, faults.SlowSync):
            node.sync_slow_ms = max(0.0, node.sync_slow_ms - fault.delay_ms)
        elif isinstance(fault, faults.SyncFails):
            node.sync_fails = False
            node.restart()
        elif isinstance(fault, faults.ReadsFail):
            node.reads_fail = frozenset()
            node.disk.fail_reads(node.reads_fail)
            node.restart()
        elif isinstance(fault, faults.WritesFail):
            node.writes_fail = False
            node.disk.refuse_writes(None)
            node.restart()
        elif isinstance(fault, faults.DiskFull):
            node.disk_full = False
            node.disk.refuse_writes(None)
            node.restart()
        elif isinstance(fault, faults.HighWater):
            node.storage_full = ""
