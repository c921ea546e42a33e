"""Running the controller of placement: at the node that leads the system shard, and nowhere else.

It gathers what leaders report, lets the controller decide when anything is new, and repeats the orders of the last plan to the
nodes that lead the ordered shards. All of it is of one term of the system shard; the next term, here or elsewhere, begins
with nothing and asks everybody.

Who is there is gossip's opinion where the owner hands it in. Without it a node is dead when most of those who report do not
hear it: one observer may be the one that is cut off.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cluster.ids import SYSTEM_SHARD, NodeId, ShardId, Term
from cluster.placement.controller import Controller
from cluster.placement.move import ConfigurationStatus, Member
from cluster.placement.plan import Move, Order, Plan
from cluster.placement.rules import PlacementRules
from cluster.placement.view import ClusterView, Liveness, NodeView, ShardReport
from cluster.pump.reporting import Holder
from cluster.router.router import Router
from cluster.shard.directory import Directory
from cluster.shard.steering import OrderedMove, OrderedTransfer, OrderItem, ReportItem, ShardState

Opinion = tuple[Liveness, float]
"""What gossip believes of a node, and since when, ms."""
NOBODY = NodeId("")


@dataclass(slots=True)
class _Reporter:
    """What a node said: its version, the shards that it leads, and whom it does not hear since when."""

    version: int = 0
    led: set[ShardId] = field(default_factory=set)
    unheard: dict[NodeId, float] = field(default_factory=dict)


@dataclass(slots=True)
class Progress:
    """Moves of this term, for people. begun_ms: of the moves under way. took_ms: all that the finished ones took together."""

    begun_ms: dict[ShardId, float] = field(default_factory=dict)
    finished: int = 0
    took_ms: float = 0.0

    def note(self, plan: Plan, now_ms: float) -> None:
        """A plan was made: what it does not order any more is over."""
        moving = {order.shard for order in plan.orders if isinstance(order, Move)}
        for shard in list(self.begun_ms):
            if shard not in moving:
                self.finished += 1
                self.took_ms += now_ms - self.begun_ms.pop(shard)
        for shard in moving:
            self.begun_ms.setdefault(shard, now_ms)


class Controlling:
    """send: how orders get to a node, which may be this one. opinions: set by the owner, where there is gossip."""

    def __init__(
        self,
        holder: Holder,
        router: Router,
        directory: Directory,
        rules: PlacementRules,
        send: Callable[[NodeId, OrderItem, float], None],
    ) -> None:
        self._holder, self._router, self._directory, self._send = holder, router, directory, send
        self._rules = rules
        self.opinions: Callable[[], Mapping[NodeId, Opinion]] | None = None
        self.wall_ms = 0
        self.plan: Plan | None = None
        """The last one; None while this node does not lead the system shard."""
        self.view: ClusterView | None = None
        """What it was made from."""
        self.progress = Progress()
        self._controller = Controller(rules)
        self._term = Term(0)
        self._led_since_ms = 0.0
        self._reporters: dict[NodeId, _Reporter] = {}
        self._shards: dict[ShardId, ShardReport] = {}
        self._terms: dict[ShardId, Term] = {}
        self._unconfirmed: set[NodeId] = set()
        self._ordered: set[NodeId] = set()
        self._news = True
        self._seen: tuple[object, ...] = ()

    # -- what arrives ------------------------------------------------------------------------------------------------

    def on_report(self, node: NodeId, item: ReportItem, now_ms: float) -> None:
        """A node says what it leads. What does not fit to what is known is asked for again, whole."""
        if not self._lead(now_ms):
            return
        known = self._reporters.setdefault(node, _Reporter())
        self._unconfirmed.add(node)
        if item.base == 0:
            for shard in known.led - {state.shard for state in item.led}:
                self._forget(shard, node)
            known.led.clear()
        elif item.base != known.version:
            known.version = 0
            return
        known.version = item.version
        known.unheard = {other: now_ms - for_ms for other, for_ms in item.unheard}
        for shard in item.lost:
            known.led.discard(shard)
            self._forget(shard, node)
        for state in item.led:
            known.led.add(state.shard)
            if state.term >= self._terms.get(state.shard, 0) and self._router.map.get(state.shard) is not None:
                self._terms[state.shard] = state.term
                self._shards[state.shard] = ShardReport(_status(node, state), now_ms, state.held)
        self._news = True

    def _forget(self, shard: ShardId, node: NodeId) -> None:
        report = self._shards.get(shard)
        if report is not None and report.status.leader == node:
            del self._shards[shard]

    # -- what is decided ---------------------------------------------------------------------------------------------

    def beat(self, now_ms: float) -> None:
        """Once a second or so: decide if there is news, and say what is to be going on."""
        if not self._lead(now_ms):
            return
        nodes = self._nodes(now_ms)
        seen = (self._directory.decisions.version, tuple([(node.node, node.liveness) for node in nodes.values()]))
        if self._news or seen != self._seen or self.plan is None or now_ms >= self.plan.again_ms:
            self._news, self._seen = False, seen
            self._decide(nodes, now_ms)
        assert self.plan is not None
        self._tell(self.plan, now_ms)

    def _lead(self, now_ms: float) -> bool:
        """Whether this node leads the system shard; what was known in another term is forgotten."""
        replica = self._holder.replicas.get(SYSTEM_SHARD)
        if replica is None or not replica.serves or not self._directory.decisions.nodes:
            self.plan = self.view = None
            self._term = Term(0)
            return False
        if replica.raft.term != self._term:
            self._term, self._led_since_ms = replica.raft.term, now_ms
            self._reporters, self._shards, self._terms = {}, {}, {}
            self._unconfirmed, self._ordered = set(self._holder.peers), set()
            self.plan, self.progress, self._news = None, Progress(), True
        return True

    def _decide(self, nodes: Mapping[NodeId, NodeView], now_ms: float) -> None:
        self.view = ClusterView(
            term=self._term,
            led_since_ms=self._led_since_ms,
            wall_ms=self.wall_ms,
            nodes=nodes,
            shards={shard.shard: self._shards.get(shard.shard) for shard in self._router.map.shards},
            unheard={node: reporter.unheard for node, reporter in self._reporters.items()},
            settings=self._directory.decisions.placement,
        )
        self.plan = self._controller.step(self.view, now_ms)
        self.progress.note(self.plan, now_ms)

    def _tell(self, plan: Plan, now_ms: float) -> None:
        orders: dict[NodeId, list[OrderedMove | OrderedTransfer]] = {}
        for order in plan.orders:
            report = self._shards.get(order.shard)
            if report is not None and report.status.leader is not None:
                orders.setdefault(report.status.leader, []).append(_ordered(order))
        for node in sorted(orders.keys() | self._ordered | self._unconfirmed):
            reporter = self._reporters.get(node)
            version = reporter.version if reporter is not None else 0
            self._send(node, OrderItem(plan.term, version, orders.get(node, [])), now_ms)
        self._ordered = set(orders)
        self._unconfirmed = set()

    # -- who is there ------------------------------------------------------------------------------------------------

    def _nodes(self, now_ms: float) -> dict[NodeId, NodeView]:
        opinions = self.opinions() if self.opinions is not None else {}
        views = {}
        for one in self._directory.decisions.nodes:
            if one.belongs:
                liveness, since_ms = opinions.get(one.node) or self._heard(one.node, now_ms)
                if one.node == self._holder.node:
                    liveness = Liveness.ALIVE
                views[one.node] = NodeView(one.node, one.standing, liveness, since_ms, one.zone, one.host_label)
        return views

    def _heard(self, node: NodeId, now_ms: float) -> Opinion:
        """What those who report say of a node: dead once most of them do not hear it."""
        own = self._holder.node
        observers = [
            reporter
            for name, reporter in self._reporters.items()
            if name != node and (name == own or self._holder.liveness.acknowledges(name))
        ]
        since_ms = sorted([reporter.unheard[node] for reporter in observers if node in reporter.unheard])
        majority = len(observers) // 2 + 1
        if not observers:
            return Liveness.UNKNOWN, self._led_since_ms
        return (Liveness.DEAD, since_ms[majority - 1]) if len(since_ms) >= majority else (Liveness.ALIVE, self._led_since_ms)


def _status(node: NodeId, state: ShardState) -> ConfigurationStatus:
    members = [
        Member(replica, place, max(0, state.last_index - lag), lag)  # type: ignore[arg-type]
        for (replica, place), lag in zip(state.places, state.lags, strict=False)
    ]
    return ConfigurationStatus(
        shard=state.shard,
        index=state.index,
        committed=state.committed,
        voters=state.voters,
        learners=state.learners,
        outgoing=state.outgoing,
        highest=state.highest,
        members=tuple(members),
        leader=node,
        leads=True,
        last_index=state.last_index,
        transferring_to=None,
    )


def _ordered(order: Order) -> OrderedMove | OrderedTransfer:
    if isinstance(order, Move):
        return OrderedMove(order.shard, order.leaving or NOBODY, order.joining or NOBODY)
    return OrderedTransfer(order.shard, order.to)
