"""Doing what the controller of placement ordered, for the shards that this node leads.

An order is what is to be going on. It is followed step by step until it is done, the next list does not name it any more, or
nothing was heard of the controller for a while: whoever takes over decides anew, from what the shards say of themselves.

Invariant: orders of an older term of the system shard than one that was heard are void.
"""

from __future__ import annotations

import contextlib

from cluster.errors import ClusterError
from cluster.ids import ShardId, Term
from cluster.placement.move import Action
from cluster.placement.rules import PlacementRules
from cluster.pump.changes import Changes
from cluster.pump.reporting import Reporting
from cluster.shard.steering import OrderedMove, OrderedTransfer, OrderItem

ORDERS_LAST_MS = 5_000.0
"""A list of orders that is not repeated within this time is over."""
STEP_MS = 100.0
"""Between two looks at how far ordered moves are."""
NEVER = float("inf")


class Obeying:
    """changes: what is done here is done as if asked for, without being by hand."""

    def __init__(self, changes: Changes, reporting: Reporting, rules: PlacementRules) -> None:
        self._changes, self._reporting, self._rules = changes, reporting, rules
        self.term = Term(0)
        self.moves: dict[ShardId, OrderedMove] = {}
        self._transfers: dict[ShardId, OrderedTransfer] = {}
        self._end_ms = 0.0
        self.due_ms = NEVER

    def on_orders(self, item: OrderItem, now_ms: float) -> bool:
        """A list of orders. False if whoever sent it has a successor."""
        if item.term < self.term:
            return False
        self.term = item.term
        self.moves = {order.shard: order for order in item.orders if isinstance(order, OrderedMove)}
        self._transfers = {order.shard: order for order in item.orders if isinstance(order, OrderedTransfer)}
        self._end_ms = now_ms + ORDERS_LAST_MS
        self.due_ms = now_ms if item.orders else NEVER
        return True

    def tick(self, now_ms: float) -> None:
        """Take the steps that can be taken now."""
        if now_ms < self.due_ms:
            return
        if now_ms >= self._end_ms:
            self.moves, self._transfers = {}, {}
        transfers, self._transfers = self._transfers, {}
        for shard, transfer in transfers.items():
            if not self._changes.held(shard, now_ms):
                self._transfer(transfer, now_ms)
        for shard, move in list(self.moves.items()):
            if not self._changes.held(shard, now_ms):
                self._move(shard, move, now_ms)
        self.due_ms = now_ms + STEP_MS if self.moves else NEVER

    def _transfer(self, order: OrderedTransfer, now_ms: float) -> None:
        with contextlib.suppress(ClusterError):  # it is not led here any more, or the next list asks again
            self._changes.ordered_transfer(order.shard, order.to, self._rules.catch_up_entries, now_ms)
        self._reporting.watch(order.shard)

    def _move(self, shard: ShardId, order: OrderedMove, now_ms: float) -> None:
        leaving, joining = order.leaving or None, order.joining or None
        try:
            step = self._changes.ordered_move(shard, leaving, joining, now_ms)
        except ClusterError:
            del self.moves[shard]  # the controller sees what stands there now, and decides anew
        else:
            if step.action is Action.DONE:
                del self.moves[shard]
        self._reporting.watch(shard)
