"""A cluster without a network: shards whose leaders do what a plan orders, one step at a time, as `next_step` says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from cluster.errors import InvalidRequest
from cluster.ids import SYSTEM_SHARD, LogIndex, NodeId, ReplicaId, ShardId, Term
from cluster.placement.controller import Controller
from cluster.placement.move import CATCH_UP_ENTRIES, Action, ConfigurationStatus, Member, next_step
from cluster.placement.plan import Move, Plan, Transfer
from cluster.placement.rules import PlacementRules
from cluster.placement.view import ClusterView, Liveness, NodeView, ShardReport
from cluster.raft.configuration import entered, highest_of, left
from cluster.raft.messages import Configuration
from cluster.shardmap.nodes import PlacementSettings, Standing

LAST = LogIndex(5_000)
STEP_MS = 1_000.0
RULES = PlacementRules(dead_after_ms=20_000.0, warm_up_ms=10_000.0, balance_after_ms=5_000.0)


@dataclass
class Shard:
    """now: its configuration. leader: None while a majority is away. filled: learners that have everything."""

    id: ShardId
    now: Configuration
    leader: NodeId | None
    index: int = 1
    filled: set[NodeId] = field(default_factory=set)
    held: str = ""

    @property
    def voters(self) -> list[NodeId]:
        return [node for replica, node in self.now.places if replica in self.now.voters]

    @property
    def nodes(self) -> list[NodeId]:
        return [node for _, node in self.now.places]

    def status(self) -> ConfigurationStatus:
        members = []
        for replica, node in self.now.places:
            lag = CATCH_UP_ENTRIES + 1 if replica in self.now.learners and node not in self.filled else 0
            members.append(Member(replica, node, LogIndex(LAST - lag), lag))
        return ConfigurationStatus(
            shard=self.id,
            index=LogIndex(self.index),
            committed=True,
            voters=self.now.voters,
            learners=self.now.learners,
            outgoing=self.now.outgoing,
            highest=highest_of(self.now),
            members=tuple(members),
            leader=self.leader,
            leads=self.leader is not None,
            last_index=LAST,
            transferring_to=None,
        )


class Executor:
    """nodes: changed by tests. `run` lets time pass; after each change it looks that no shard lost its quorum by it, stands
    twice on a node, or is moved in two ways at once.
    """

    def __init__(self, nodes: Mapping[str, NodeView], placements: Mapping[int, list[str]], **settings: object) -> None:
        self.nodes: dict[NodeId, NodeView] = {NodeId(name): view for name, view in nodes.items()}
        self.settings = PlacementSettings(**settings)  # type: ignore[arg-type]
        self.shards: dict[ShardId, Shard] = {}
        for number, names in placements.items():
            places = tuple((ReplicaId(replica), NodeId(name)) for replica, name in enumerate(names, 1))
            now = Configuration(tuple(replica for replica, _ in places), places=places)
            self.shards[ShardId(number)] = Shard(ShardId(number), now, NodeId(names[0]))
        self.controller = Controller(RULES)
        self.now_ms = 0.0
        self.term, self.led_since_ms = Term(1), 0.0
        self.silent: set[ShardId] = set()
        """Shards whose leaders report nothing."""
        self.deaf: set[NodeId] = set()
        """Nodes that hear everybody, whatever gossip says."""
        self.moves: Counter[str] = Counter()
        self.plan = self.controller.step(self.view(), self.now_ms)

    # -- what happens to nodes ---------------------------------------------------------------------------------------

    def change(self, name: str, *, liveness: Liveness | None = None, standing: Standing | None = None) -> None:
        view = self.nodes[NodeId(name)]
        if liveness is not None:
            view = replace(view, liveness=liveness, since_ms=self.now_ms)
        if standing is not None:
            view = replace(view, standing=standing)
        self.nodes[NodeId(name)] = view
        self.elect()

    def kill(self, *names: str) -> None:
        for name in names:
            self.change(name, liveness=Liveness.DEAD)

    def remove(self, name: str) -> None:
        del self.nodes[NodeId(name)]
        self.elect()

    def away(self, node: NodeId) -> bool:
        return node not in self.nodes or self.nodes[node].liveness.away

    def elect(self) -> None:
        """Shards get leaders as Raft would give them some."""
        for shard in self.shards.values():
            there = [node for node in shard.voters if not self.away(node)]
            if len(there) <= len(shard.voters) // 2:
                shard.leader = None
            elif shard.leader not in there:
                shard.leader = min(there)

    # -- time --------------------------------------------------------------------------------------------------------

    def view(self) -> ClusterView:
        reports: dict[ShardId, ShardReport | None] = {}
        for shard in self.shards.values():
            known = shard.leader is not None and shard.id not in self.silent
            reports[shard.id] = ShardReport(shard.status(), self.now_ms, shard.held) if known else None
        unheard = {
            node: {other: view.since_ms for other, view in self.nodes.items() if view.liveness.away}
            for node in self.nodes
            if node not in self.deaf and not self.away(node)
        }
        wall_ms = int(self.now_ms) + 1_000_000
        return ClusterView(self.term, self.led_since_ms, wall_ms, self.nodes, reports, unheard, self.settings)

    def elect_controller(self) -> None:
        """Another node leads the system shard, and knows nothing of what the one before remembered."""
        self.controller = Controller(RULES)
        self.term, self.led_since_ms = Term(self.term + 1), self.now_ms

    def step(self) -> Plan:
        """A second passes: learners receive, a plan is made, and each leader takes one step of what it orders."""
        self.now_ms += STEP_MS
        for shard in self.shards.values():
            shard.filled.update(node for node in shard.nodes if not self.away(node))
        before = self.plan
        self.plan = self.controller.step(self.view(), self.now_ms)
        assert self.plan.again_ms > self.now_ms, "a plan never asks to be made again at once"
        ordered = [order.shard for order in self.plan.orders]
        assert len(ordered) == len(set(ordered)), "one order a shard"
        self._check_room(before)
        for order in self.plan.orders:
            shard = self.shards[order.shard]
            if isinstance(order, Transfer):
                assert order.to in shard.voters
                assert not self.away(order.to)
                shard.leader = order.to
                self.moves["transfers"] += 1
            else:
                self._take(shard, order)
        self.elect()
        return self.plan

    def _check_room(self, before: Plan) -> None:
        """Moves that begin now find room where they go and where they are sent from."""
        begun = [
            order
            for order in self.plan.orders
            if isinstance(order, Move) and order.joining is not None and order.joining not in self.shards[order.shard].nodes
        ]
        joins = Counter(order.joining for order in begun)
        sends = Counter(self.shards[order.shard].leader for order in begun)
        assert all(count <= RULES.moves_in_max for count in joins.values())
        assert all(count <= RULES.moves_out_max for count in sends.values())

    def _take(self, shard: Shard, order: Move) -> None:
        try:
            step = next_step(shard.status(), order.leaving, order.joining)
        except InvalidRequest as refusal:
            raise AssertionError(f"{order} can not be: {refusal}") from refusal
        if step.action is not Action.CHANGE:
            return
        there_before = self._quorum(shard)
        fresh = [node for _, node in step.places]
        shard.filled -= set(fresh)
        shard.now = entered(shard.now, step.voters, step.learners, step.places)
        if shard.now.outgoing:
            assert self._quorum(shard), "an exchange needs a majority of the voters after it"
            shard.now = left(shard.now)
        shard.index += 2
        self.moves["moves"] += bool(fresh)
        assert self._quorum(shard) or not there_before, f"{order} cost shard {shard.id} its quorum"
        assert len(shard.nodes) == len(set(shard.nodes)), "a node holds one replica of a shard"

    def _quorum(self, shard: Shard) -> bool:
        return sum(not self.away(node) for node in shard.voters) > len(shard.voters) // 2

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step()

    def settle(self, steps_max: int = 500) -> int:
        """Step until nothing is ordered and nothing is waited for; says how many steps that took."""
        for count in range(steps_max):
            plan = self.step()
            if not plan.orders and plan.again_ms == float("inf"):
                return count
        raise AssertionError(f"no end after {steps_max} steps: {self.plan.orders[:5]}")

    # -- what came of it ---------------------------------------------------------------------------------------------

    def counts(self) -> Counter[NodeId]:
        """Voters per node, the nodes without any included, the system shard not."""
        counts: Counter[NodeId] = Counter(dict.fromkeys(self.nodes, 0))
        for shard in self.shards.values():
            if shard.id != SYSTEM_SHARD:
                counts.update(shard.voters)
        return counts

    def leads(self) -> Counter[NodeId]:
        counts: Counter[NodeId] = Counter(dict.fromkeys(self.nodes, 0))
        counts.update(shard.leader for shard in self.shards.values() if shard.leader is not None)
        return counts

    def voters(self, number: int) -> set[str]:
        return set(self.shards[ShardId(number)].voters)

    def why(self, number: int) -> str:
        """What is said about a shard."""
        explanation = self.plan.shards.get(ShardId(number))
        return f"{explanation.state.value}: {explanation.why}" if explanation is not None else ""


def node(name: str, zone: str = "", host: str = "", **other: object) -> NodeView:
    view = NodeView(NodeId(name), Standing.ACTIVE, Liveness.ALIVE, 0.0, zone, host)
    return replace(view, **other)  # type: ignore[arg-type]


def nodes(names: str, zones: str = "", hosts: str = "") -> dict[str, NodeView]:
    """One node a letter, with the zones and hosts that the letters in the same places name."""
    return {name: node(name, zones[at] if zones else "", hosts[at] if hosts else "") for at, name in enumerate(names)}
