"""The controller of placement at work: a node that stays dead for long, one that people want empty or idle, and spare nodes.

Drawn for seeds with more nodes than replicas. Timers are short, so that what takes minutes happens within a run; who is dead is
what most nodes say, since there is no gossip here. Once everything is healed the controller must come to an end: every shard
has the voters that it should have, nothing learns, and who is decommissioned holds nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from chaos.sim.faults import SAFETY_MS
from chaos.sim.randomness import Streams
from cluster.ids import SYSTEM_SHARD, NodeId
from cluster.placement.plan import Cause, Move, Plan, State
from cluster.placement.rules import PlacementRules
from cluster.session.operations import Kind, Reply
from cluster.shardmap.nodes import Standing

if TYPE_CHECKING:
    from chaos.sim.world import World

PLACED = 0.6
"""Share of seeds with spare nodes in which replicas are placed by the controller."""
DRAINED = 0.6
"""Share of these in which a node is drained or decommissioned."""
LOOK_MS = 100.0
NEVER_MS = float("inf")


@dataclass(frozen=True, slots=True)
class Placed:
    """dies_ms: when the node `dying`, counted from the first, ends and stays away until all is healed. told_ms: when people
    tell the standing of the node `told`; None if they do not.
    """

    rules: PlacementRules
    dies_ms: float
    dying: int
    told_ms: float
    told: int
    standing: Standing | None


def draw_placed(streams: Streams, nodes: int, factor: int) -> Placed | None:
    """What a seed has of it, if anything."""
    source = streams.named("placement")
    if nodes <= factor or source.random() >= PLACED:
        return None
    rules = PlacementRules(
        dead_after_ms=source.choice((200.0, 900.0)),
        warm_up_ms=2_000.0,
        moves_in_max=source.choice((1, 2)),
        moves_out_max=source.choice((1, 2)),
        handovers_max=source.choice((1, 8)),
        balance_after_ms=source.choice((300.0, 1_500.0)),
        away_share_max=0.4,
    )
    standing = source.choice((Standing.DRAINING, Standing.DECOMMISSIONING)) if source.random() < DRAINED else None
    dies_ms, told_ms = round(source.uniform(50, SAFETY_MS * 0.4)), round(source.uniform(50, SAFETY_MS * 0.8))
    return Placed(rules, dies_ms, source.randrange(nodes), told_ms, source.randrange(nodes), standing)


class Placing:
    """Makes it happen, and looks at what comes of it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._placed = world.scenario.placed
        self._terms: set[int] = set()
        self._counted: set[tuple[int, int, str]] = set()
        self._told = True

    def registry(self) -> dict[str, Any]:
        """What the system document is told at first, besides the map."""
        if self._placed is None:
            return {}
        ports = {"peer_port": 7401, "gossip_port": 7402, "client_port": 7400}
        nodes = [{"do": "register", "node": name, "directory": "", "host": name, **ports} for name in self._world.names]
        return {"nodes": nodes, "replication_factor": self._world.scenario.limits.replication_factor}

    def begin(self) -> None:
        """At the beginning of the faults."""
        placed, world = self._placed, self._world
        if placed is None:
            return
        world.after(placed.dies_ms, "call", self._end_one, world.names[placed.dying])
        if placed.standing is not None:
            self._told = False
            world.after(placed.told_ms, "call", self._tell)
        world.after(LOOK_MS, "call", self._look)

    def _end_one(self, name: NodeId) -> None:
        node = self._world.nodes[name]
        self._world.note("dies", name, "for long")
        node.down_until_ms = NEVER_MS
        node.kill(1.0)

    def _tell(self) -> None:
        placed = self._placed
        assert placed is not None
        assert placed.standing is not None
        name = self._world.names[placed.told]
        self._world.note("told", name, placed.standing.name.lower())
        payload = msgspec.json.encode({"do": "standing", "node": name, "standing": int(placed.standing)})
        self._world.operate("node", Kind.SEND, payload, self._on_told)

    def _on_told(self, reply: Reply) -> None:
        self._told = True

    def _plan(self) -> Plan | None:
        for node in self._world.running():
            replica = node.pump.replicas.get(SYSTEM_SHARD)
            if replica is not None and replica.serves:
                return node.pump.steering.controlling.plan
        return None

    def _look(self) -> None:
        """Count what is rare, each once a term."""
        self._world.after(LOOK_MS, "call", self._look)
        plan = self._plan()
        if plan is None:
            return
        for order in plan.orders:
            name = _MARKS.get(order.cause, "")
            inherited = isinstance(order, Move) and plan.term not in self._terms and bool(self._terms)
            for mark in (name, "placement_inherited" if inherited and order.cause is not Cause.LEFT_OVER else ""):
                if mark and (plan.term, order.shard, mark) not in self._counted:
                    self._counted.add((plan.term, order.shard, mark))
                    self._world.marks[mark] += 1
        self._terms.add(plan.term)

    def unfinished(self) -> list[str]:
        """What the placement still owes."""
        placed = self._placed
        if placed is None or self._world.shunned is not None:
            return []  # a node that is ill and does not look it may be asked to take part
        plan = self._plan()
        if not self._told or plan is None:
            return ["the placement has not been told or has no plan yet"]
        if plan.standstill:
            return [f"placement stands still: {plan.standstill}"]
        owed = [f"placement orders {order}" for order in plan.orders]
        owed += [
            f"placement of shard {shard} is {each.state.value}: {each.why}"
            for shard, each in plan.shards.items()
            if each.state in (State.WAITING, State.UNKNOWN)
        ]
        return owed or self._wrong(plan)

    def _wrong(self, plan: Plan) -> list[str]:
        """Where replicas are not as the rules say although the controller is content. What is blocked says so itself."""
        placed, world = self._placed, self._world
        assert placed is not None
        leaving = world.names[placed.told] if placed.standing is Standing.DECOMMISSIONING else None
        factor, found = world.scenario.limits.replication_factor, []
        for node in world.running():
            for shard, replica in node.pump.replicas.items():
                if not replica.serves or shard in plan.shards:
                    continue
                now = replica.raft.configuration
                places = dict(now.places)
                if now.learners:
                    found.append(f"in shard {shard} somebody learns for nothing: {[places[each] for each in now.learners]}")
                if shard != SYSTEM_SHARD and len(now.voters) != factor:
                    found.append(f"shard {shard} has {len(now.voters)} voters and not {factor}")
                if leaving in places.values():
                    found.append(f"{leaving} was decommissioned and holds a replica of shard {shard}")
        return found


_MARKS = {
    Cause.UNSAFE: "placement_rebuilds",
    Cause.DEAD: "placement_rebuilds",
    Cause.LEAVING: "placement_empties",
    Cause.LEADERS: "placement_evens_out",
    Cause.REPLICAS: "placement_evens_out",
    Cause.LEFT_OVER: "placement_takes_back",
}
