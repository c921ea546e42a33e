"""A plan while it is being made: what is known of nodes and shards, what is ordered already, and what there is room for.

Counts are of the time after everything ordered so far is done, so that two moves of one plan do not both fill the same hole.

Invariant: no shard is ordered twice; no node receives or sends more than the rules allow, except for what had begun before.
"""

from __future__ import annotations

from collections import Counter

from cluster.ids import SYSTEM_SHARD, NodeId, ShardId
from cluster.placement.plan import NEVER, Cause, Explanation, Move, Order, State, Transfer
from cluster.placement.rules import PlacementRules
from cluster.placement.spread import Crowding, crowding, exchanged
from cluster.placement.view import ClusterView, Liveness, ShardReport
from cluster.shardmap.nodes import Standing


class Draft:
    """known: shards whose leader is there and has reported. replicas: voters per node once the orders are done, without the
    system shard's. leads: shards per node that leads them.
    """

    def __init__(self, view: ClusterView, rules: PlacementRules, now_ms: float) -> None:
        self.view, self.rules, self.now_ms = view, rules, now_ms
        self.orders: dict[ShardId, Order] = {}
        self.explained: dict[ShardId, Explanation] = {}
        self.again_ms = NEVER
        self.avoid: frozenset[tuple[ShardId, NodeId]] = frozenset()
        """To whom a leadership was ordered for long and did not go."""
        self.known: dict[ShardId, ShardReport] = {}
        self.replicas: Counter[NodeId] = Counter()
        self.leads: Counter[NodeId] = Counter()
        self._receiving: Counter[NodeId] = Counter()
        self._sending: Counter[NodeId] = Counter()
        self._improvable: dict[tuple[NodeId, ...], bool] = {}
        self._crowding: dict[tuple[NodeId, ...], Crowding] = {}
        self._sound: dict[tuple[NodeId, ...], bool] = {}
        self._idle: dict[NodeId, str] = {}
        self._maintained = self._under_maintenance()
        for shard, report in view.shards.items():
            if report is None or self._lost_touch(report):
                self.explained[shard] = Explanation(State.UNKNOWN, "its leader has not reported, or it has none")
            else:
                self._note(shard, report)
        self.targets = tuple(sorted(node for node in view.nodes if self.takes_replicas(node)))
        """Nodes that may get replicas."""

    def _note(self, shard: ShardId, report: ShardReport) -> None:
        self.known[shard] = report
        leader = report.status.leader
        assert leader is not None, "only leaders report"
        self.leads[leader] += 1
        if shard != SYSTEM_SHARD:
            self.replicas.update(report.voters())
        for learner in report.learners():
            self._receiving[learner] += 1
            self._sending[leader] += 1

    def _lost_touch(self, report: ShardReport) -> bool:
        leader = report.status.leader
        return leader is None or leader not in self.view.nodes or self.view.nodes[leader].liveness.away

    def _under_maintenance(self) -> NodeId | None:
        settings = self.view.settings
        if not settings.maintenance or self.view.wall_ms >= settings.maintenance_until_ms:
            return None
        self.look_again(self.now_ms + settings.maintenance_until_ms - self.view.wall_ms)
        return NodeId(settings.maintenance)

    # -- nodes -------------------------------------------------------------------------------------------------------

    def takes_replicas(self, node: NodeId) -> bool:
        """Whether a node may get a replica, as far as it is concerned."""
        view = self.view.nodes.get(node)
        return (
            view is not None
            and view.standing is Standing.ACTIVE
            and view.liveness is Liveness.ALIVE
            and node != self._maintained
        )

    def maintained(self, node: NodeId) -> bool:
        """Whether people work on it: it leads nothing, and nothing is rebuilt for its sake."""
        return node == self._maintained

    def away(self, node: NodeId) -> bool:
        """Whether a node is believed to be gone, however short a time ago."""
        view = self.view.nodes.get(node)
        return view is None or view.liveness.away

    def gone(self, node: NodeId, observer: NodeId) -> tuple[bool, str]:
        """Whether the replicas of a node are to be rebuilt elsewhere, or why not, for a shard that is led at `observer`.

        Two have to agree: whoever says that the node is dead, and the shard's leader, who would otherwise still hear it append.
        """
        view = self.view.nodes.get(node)
        if view is None:
            return True, f"{node} does not belong to the cluster any more"
        if not view.liveness.away:
            return False, ""
        if self.maintained(node):
            return False, f"{node} is under maintenance"
        unheard_ms = self.view.unheard.get(observer, {}).get(node)
        if unheard_ms is None:
            return False, f"{node} looks dead, but {observer}, which leads the shard, hears it"
        due_ms = max(view.since_ms, unheard_ms) + self.rules.dead_after_ms
        if self.now_ms < due_ms:
            self.look_again(due_ms)
            return False, f"{node} looks dead; what it holds is rebuilt in {(due_ms - self.now_ms) / 1000:.0f} s"
        return True, f"{node} is dead"

    def must_not_lead(self, node: NodeId) -> str:
        """Why leaderships leave a node, empty when they may stay."""
        found = self._idle.get(node)
        if found is None:
            found = self._idle[node] = self._why_idle(node)
        return found

    def _why_idle(self, node: NodeId) -> str:
        view = self.view.nodes.get(node)
        if view is None:
            return f"{node} does not belong to the cluster any more"
        if self.maintained(node):
            return f"{node} is under maintenance"
        if view.standing is not Standing.ACTIVE:
            return f"{node} is {view.standing.name.lower()}"
        return f"{node} is suspected to be dead" if view.liveness is Liveness.SUSPECT else ""

    # -- room --------------------------------------------------------------------------------------------------------

    def room_at(self, node: NodeId) -> bool:
        """Whether a node may receive one replica more."""
        return self._receiving[node] < self.rules.moves_in_max

    def room_anywhere(self) -> bool:
        """Whether any node may receive one replica more."""
        return any(self.room_at(node) for node in self.targets)

    def room_to_send(self, node: NodeId) -> bool:
        """Whether the leader on a node may send one replica more."""
        return self._sending[node] < self.rules.moves_out_max

    def crowding(self, voters: tuple[NodeId, ...]) -> Crowding:
        """Of voters. Thousands of shards have few sets of them."""
        found = self._crowding.get(voters)
        if found is None:
            found = self._crowding[voters] = crowding(self.view.nodes, voters)
        return found

    def sound(self, voters: tuple[NodeId, ...]) -> bool:
        """Whether nothing can be wished for a shard with these voters. Of thousands of shards most are so, in few ways."""
        found = self._sound.get(voters)
        if found is None:
            views = [self.view.nodes.get(voter) for voter in voters]
            stay = all(view and not view.liveness.away and view.standing <= Standing.DRAINING for view in views)
            whole = len(voters) == self.view.settings.replication_factor
            found = self._sound[voters] = stay and whole and not self.improvable(voters)
        return found

    def improvable(self, voters: tuple[NodeId, ...]) -> bool:
        """Whether these voters would be less crowded if one of them stood elsewhere. Thousands of shards have few sets of
        voters.
        """
        found = self._improvable.get(voters)
        if found is None:
            now = self.crowding(voters)
            free = [node for node in self.targets if node not in voters]
            found = any(self.crowding(exchanged(voters, leaving, node)) < now for leaving in voters for node in free)
            self._improvable[voters] = found
        return found

    def candidates(self, report: ShardReport, leaving: NodeId | None) -> list[NodeId]:
        """Nodes without a replica of a shard that may get one, the best first: the least crowded, then the emptiest."""
        voters = report.voters()
        free = [node for node in self.targets if report.status.on(node) is None]
        if len(free) > 1:
            free.sort(
                key=lambda node: (self.crowding(exchanged(voters, leaving, node)), self.replicas[node], node),
            )
        return free

    # -- what is decided ---------------------------------------------------------------------------------------------

    def move(self, shard: ShardId, leaving: NodeId | None, joining: NodeId | None, cause: Cause, why: str) -> None:
        """Order a move. Whether there is room is for the caller to look at."""
        assert shard not in self.orders, "one order a shard"
        report = self.known[shard]
        self.orders[shard] = Move(shard, leaving, joining, cause, why)
        self.explained[shard] = Explanation(State.MOVING, f"{_way(leaving, joining)}: {why}")
        voters = report.voters()
        if leaving in voters and shard != SYSTEM_SHARD:
            assert leaving is not None
            self.replicas[leaving] -= 1
        if joining is not None and joining not in voters:
            self.replicas[joining] += shard != SYSTEM_SHARD
            if report.status.on(joining) is None:
                assert report.status.leader is not None
                self._receiving[joining] += 1
                self._sending[report.status.leader] += 1

    def transfer(self, shard: ShardId, to: NodeId, cause: Cause, why: str) -> None:
        """Order that `to` leads."""
        assert shard not in self.orders, "one order a shard"
        leader = self.known[shard].status.leader
        assert leader is not None
        self.orders[shard] = Transfer(shard, to, cause, why)
        self.explained[shard] = Explanation(State.MOVING, f"{to} is to lead it: {why}")
        self.leads[leader] -= 1
        self.leads[to] += 1

    def explain(self, shard: ShardId, state: State, why: str) -> None:
        """Say why nothing is ordered for a shard."""
        self.explained[shard] = Explanation(state, why)

    def look_again(self, at_ms: float) -> None:
        """Something changes by itself at that time."""
        self.again_ms = min(self.again_ms, at_ms)


def _way(leaving: NodeId | None, joining: NodeId | None) -> str:
    if leaving is None:
        return f"to {joining}"
    return f"from {leaving} to {joining}" if joining is not None else f"away from {leaving}"
