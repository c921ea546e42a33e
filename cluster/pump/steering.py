"""The part of a pump that placement steers: this node's reports, the orders that it follows, and the controller while the
system shard is led here. Messages to this node itself do not travel.
"""

from __future__ import annotations

from typing import Protocol

from cluster.ids import NodeId, ShardId
from cluster.placement.rules import PlacementRules
from cluster.pump.changes import Changes
from cluster.pump.controlling import Controlling
from cluster.pump.obeying import Obeying
from cluster.pump.placing import Placing
from cluster.pump.reporting import Holder, Reporting
from cluster.pump.streams import Streams
from cluster.router.router import Router
from cluster.shard.directory import Directory
from cluster.shard.replica import ShardReplica
from cluster.shard.steering import OrderItem, ReportItem, SteeringItem
from cluster.shard.turn import Turn

BEAT_MS = 1_000.0
"""Between two reports or decisions."""


class Steered(Holder, Protocol):
    """The pump, as far as placement steers it."""

    streams: Streams


class Steering:
    """rules: None if this cluster's replicas are placed by hand: nothing is reported, ordered or followed then."""

    def __init__(
        self,
        holder: Steered,
        changes: Changes,
        router: Router,
        directory: Directory,
        rules: PlacementRules | None,
        turn: Turn,
    ) -> None:
        self._node, self._turn = holder.node, turn
        self._placing = Placing(holder.streams, router)
        self._due_ms = 0.0
        self.automatic = rules is not None
        rules = rules or PlacementRules()
        self.reporting = Reporting(holder, changes, self._report)
        self.obeying = Obeying(changes, self.reporting, rules)
        self.controlling = Controlling(holder, router, directory, rules, self._order)

    def look_at(self, replica: ShardReplica, now_ms: float) -> bool:
        """At a housekeeping, of a shard that did something. Says whether to come back to it."""
        if self.automatic:
            self.reporting.look_at(replica.id)
        return self._placing.look_at(replica, now_ms)

    def leader_changed(self, shard: ShardId) -> None:
        """This node believes that a shard is led by another than before."""
        if self.automatic:
            self.reporting.look_at(shard)

    def tick(self, now_ms: float, wall_ms: int) -> None:
        """At every turn: follow orders, and now and then report, decide and order."""
        if now_ms >= self._due_ms and self.automatic:
            self._due_ms = now_ms + BEAT_MS
            self.controlling.wall_ms = wall_ms
            self.reporting.beat(now_ms)
            self.controlling.beat(now_ms)
        self.obeying.tick(now_ms)

    def on_item(self, node: NodeId, item: SteeringItem, now_ms: float) -> None:
        """From another node. Raises nothing: what does not fit is dropped, and comes again."""
        if not self.automatic:
            return
        if isinstance(item, ReportItem):
            self.controlling.on_report(node, item, now_ms)
        elif self.obeying.on_orders(item, now_ms):
            self.reporting.on_taken(node, item.version)

    def _report(self, controller: NodeId, item: ReportItem, now_ms: float) -> None:
        if controller == self._node:
            self.controlling.on_report(controller, item, now_ms)
        else:
            self._turn.send_now(controller, item)

    def _order(self, node: NodeId, item: OrderItem, now_ms: float) -> None:
        if node == self._node:
            self.on_item(node, item, now_ms)
        else:
            self._turn.send_now(node, item)
