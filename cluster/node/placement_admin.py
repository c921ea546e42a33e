"""Answers to operators about the placement of replicas: what it does and why, and letting shards stand still.

Why is known to the node that decides, the leader of shard 0; whoever is asked passes the question on to it. Standing still is a
decision of the system document, so it outlives every controller.
"""

from __future__ import annotations

from typing import Any

from cluster.config import NodeConfig
from cluster.errors import NotLeader, UnknownShard
from cluster.ids import SYSTEM_SHARD, ShardId
from cluster.node.decisions import Decisions
from cluster.node.leader_calls import LeaderCalls
from cluster.node.loop import monotonic_ms
from cluster.placement.plan import Explanation, Move, Plan, State
from cluster.placement.rules import PlacementRules
from cluster.pump.controlling import Controlling
from cluster.pump.pump import Pump

Row = dict[str, Any]
UNDECIDED = "whoever leads shard 0 has not looked yet"
BY_HAND = "replicas are placed by hand: the setting `placement` is off"


def placement_rules(config: NodeConfig) -> PlacementRules | None:
    """How this node's controller places replicas, None for not at all."""
    if config.placement == "off":
        return None
    return PlacementRules(
        dead_after_ms=config.placement_dead_after_ms,
        warm_up_ms=config.placement_warm_up_ms,
        balance_after_ms=config.placement_balance_after_ms,
        moves_in_max=config.placement_moves_max,
        moves_out_max=config.placement_moves_max,
    )


class PlacementAdministration:
    """One node's part. calls: reach the leader of shard 0. decisions: asks the system document."""

    def __init__(self, pump: Pump, calls: LeaderCalls, decisions: Decisions) -> None:
        self._pump = pump
        self._calls = calls
        self._decisions = decisions
        calls.serve("ExplainPlacement", self._explain)

    async def explain(self, request: Row) -> Row:
        """AdminService.ExplainPlacement. Raises UnknownShard, or NotLeader while nobody leads shard 0."""
        self._check(request["shard_id"])
        return await self._calls.call("ExplainPlacement", SYSTEM_SHARD, request)

    async def _explain(self, request: Row) -> Row:
        """At the leader of shard 0."""
        replica = self._pump.replicas.get(SYSTEM_SHARD)
        if replica is None or not replica.serves:
            leader = self._pump.routes.leader(SYSTEM_SHARD) or ""
            raise NotLeader(f"node {self._pump.node} does not lead shard 0", leader=leader, shard=SYSTEM_SHARD)
        steering, settings = self._pump.steering, self._pump.directory.decisions.placement
        plan = steering.controlling.plan
        row = {
            "node_id": self._pump.node,
            "term": replica.raft.term,
            "automatic": steering.automatic,
            "settled": plan is not None and plan.settled,
            "standstill": plan.standstill if plan is not None else UNDECIDED if steering.automatic else BY_HAND,
            "frozen": settings.frozen,
            "frozen_shards": list(settings.frozen_shards),
        }
        if plan is not None:
            row |= _plan_rows(plan, steering.controlling, request["shard_id"])
        return row

    async def freeze(self, request: Row) -> Row:
        """AdminService.FreezePlacement. Raises UnknownShard; OutcomeUnknown when it may be decided nevertheless."""
        shard, frozen = request["shard_id"], request["frozen"]
        self._check(shard)
        before = self._pump.directory.decisions.placement
        if shard is None:
            change: Row = {"frozen": frozen}
        else:
            shards = {*before.frozen_shards, shard} if frozen else {*before.frozen_shards} - {shard}
            change = {"frozen_shards": sorted(shards)}
        decided = await self._decisions.decide("placement", change)
        await self._decisions.learned(decided["version"])
        now = self._pump.directory.decisions.placement
        return {"frozen": now.frozen, "frozen_shards": list(now.frozen_shards), "changed": decided["changed"]}

    def _check(self, shard: int | None) -> None:
        known = self._pump.router.map
        if shard is not None and known.get(ShardId(shard)) is None:
            raise UnknownShard(f"there is no shard {shard}; there are 0 to {known.shards[-1].shard}")


def _plan_rows(plan: Plan, controlling: Controlling, only: int | None) -> Row:
    running = sum(isinstance(order, Move) for order in plan.orders)
    waiting = sum(each.state is State.WAITING for each in plan.shards.values())
    progress = controlling.progress
    row: Row = {
        "shards": [
            _shard_row(shard, each, controlling) for shard, each in sorted(plan.shards.items()) if only is None or shard == only
        ],
        "nodes": [
            {"node_id": node, "replicas": note.replicas, "leads": note.leads, "why": note.why}
            for node, note in sorted(plan.nodes.items())
        ],
        "moves_running": running,
        "moves_waiting": waiting,
        "moves_finished": progress.finished,
    }
    if progress.finished and running:
        row["remaining_ms"] = int((running + waiting) / running * progress.took_ms / progress.finished)
    return row


def _shard_row(shard: ShardId, explained: Explanation, controlling: Controlling) -> Row:
    row: Row = {"shard_id": shard, "state": explained.state.value, "why": explained.why}
    began_ms = controlling.progress.begun_ms.get(shard)
    if began_ms is not None:
        row["moving_ms"] = int(monotonic_ms() - began_ms)
    report = controlling.view.shards.get(shard) if controlling.view is not None else None
    if report is not None and report.status.learners:
        status = report.status
        row["lag_entries"] = max(member.lag for member in status.members if member.replica in status.learners)
    return row
