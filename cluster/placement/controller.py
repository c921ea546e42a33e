"""Where replicas and leaders should be: one decision over the whole cluster, made by the node that leads the system shard.

    1. Leaderships leave nodes that are suspect, draining, decommissioned or under maintenance.
    2. Shards get the voters that they lack: unsafe ones first, then those with a dead voter, then those that crowd a zone or a
       host, then those on nodes that are decommissioned.
    3. When everything has been as it is for a while: numbers of leaderships, then numbers of replicas are evened out.

Level-triggered: a plan follows from what is, and the next controller, on another node, makes the same one. All that is
remembered is how long things have been as they are; whoever forgets it waits again.

Invariants: nothing is ordered before the cluster is known well enough, while too many nodes look dead, or while people said
that everything stands still; and a plan carries the term of the system shard in which it was made, so that nobody follows a
controller that has a successor.
"""

from __future__ import annotations

from collections import Counter

from cluster.ids import SYSTEM_SHARD, NodeId, ShardId, Term
from cluster.placement import balance, leaders
from cluster.placement.draft import Draft
from cluster.placement.plan import Cause, NodeNote, Plan, State, Transfer
from cluster.placement.repair import begin, wish_of
from cluster.placement.rules import PlacementRules
from cluster.placement.view import ClusterView
from cluster.shardmap.nodes import Standing

HAND_OVER_MS = 5_000.0
"""Whoever does not lead after so long is asked last,"""
REFUSED_MS = 60_000.0
"""for so long."""
Fingerprint = tuple[tuple[NodeId, int, int], ...]


class Controller:
    """One of the cluster's; it decides only while its node leads the system shard."""

    def __init__(self, rules: PlacementRules) -> None:
        self._rules = rules
        self._term = Term(0)
        self._warm = False
        self._nodes: Fingerprint = ()
        self._quiet_since_ms = 0.0
        self._handed: dict[tuple[ShardId, NodeId], float] = {}
        """Since when each leadership that is ordered is ordered to whom."""
        self._refusals: dict[tuple[ShardId, NodeId], float] = {}
        """Who did not take over, and until when that is held against him."""

    def step(self, view: ClusterView, now_ms: float) -> Plan:
        """What is to be going on now. Repeating it without news gives the same."""
        self._notice(view, now_ms)
        draft = Draft(view, self._rules, now_ms)
        standstill = self._standstill(draft)
        if not standstill:
            self._refusals = {refused: until for refused, until in self._refusals.items() if until > now_ms}
            draft.avoid = frozenset(self._refusals)
            self._decide(draft)
        self._note_transfers(draft)
        return Plan(
            term=view.term,
            orders=tuple([draft.orders[shard] for shard in sorted(draft.orders)]),
            standstill=standstill,
            shards=draft.explained,
            nodes=_notes(draft),
            again_ms=draft.again_ms,
        )

    def _notice(self, view: ClusterView, now_ms: float) -> None:
        """See what is new since the last step."""
        if view.term != self._term:
            self._term, self._warm, self._nodes = view.term, False, ()
        nodes = tuple(sorted((node.node, int(node.standing), int(node.liveness)) for node in view.nodes.values()))
        if nodes != self._nodes:
            self._nodes, self._quiet_since_ms = nodes, now_ms

    def _note_transfers(self, draft: Draft) -> None:
        """Remember who does not take over."""
        ordered = {(order.shard, order.to) for order in draft.orders.values() if isinstance(order, Transfer)}
        self._handed = {each: self._handed.get(each, draft.now_ms) for each in ordered}
        for each, since_ms in self._handed.items():
            if draft.now_ms < since_ms + HAND_OVER_MS:
                draft.look_again(since_ms + HAND_OVER_MS)
            elif each not in self._refusals:
                self._refusals[each] = draft.now_ms + REFUSED_MS
                draft.look_again(draft.now_ms + 1.0)

    def _standstill(self, draft: Draft) -> str:
        """Why nothing may be ordered at all, empty if it may."""
        view, rules = draft.view, self._rules
        if view.settings.frozen:
            return "everything is frozen: `moot shards thaw` lets replicas move again"
        away = sorted(node for node in view.nodes if draft.away(node))
        if len(away) > rules.away_share_max * len(view.nodes):
            names = ", ".join(away)
            return f"{len(away)} of {len(view.nodes)} nodes look dead ({names}): too many to believe it and move anything"
        if not self._warm:
            due_ms = view.led_since_ms + rules.warm_up_ms
            if len(draft.known) < rules.warm_up_share * len(view.shards) and draft.now_ms < due_ms:
                draft.look_again(due_ms)
                return f"{len(draft.known)} of {len(view.shards)} shards have reported since the election"
            self._warm = True
        return ""

    def _decide(self, draft: Draft) -> None:
        free = [shard for shard, report in sorted(draft.known.items()) if self._may_change(draft, shard, report.held)]
        leaders.hand_over(draft, free)
        wishes = []
        content = []
        for shard in free:
            if shard in draft.orders:
                continue
            wish = wish_of(draft, shard, draft.known[shard])
            if wish is not None:
                wishes.append(wish)
            else:
                content.append(shard)
        for wish in sorted(wishes, key=lambda each: each.urgency):
            begin(draft, wish)
        for shard in content:
            _finish(draft, shard)
        self._even_out(draft, [shard for shard in content if shard not in draft.orders and shard not in draft.explained])

    def _may_change(self, draft: Draft, shard: ShardId, held: str) -> bool:
        if shard in draft.view.settings.frozen_shards:
            draft.explain(shard, State.FROZEN, f"it is frozen: `moot shards thaw {shard}` lets its replicas move again")
            return False
        if held:
            draft.explain(shard, State.WAITING, held)
        return not held

    def _even_out(self, draft: Draft, shards: list[ShardId]) -> None:
        due_ms = self._quiet_since_ms + self._rules.balance_after_ms
        if draft.now_ms < due_ms:
            draft.look_again(due_ms)
            return
        if len(draft.known) < len(draft.view.shards):
            return  # who holds and leads the rest is unknown, which is not nothing
        leaders.balance(draft, shards)
        balance.balance(draft, shards)


def _finish(draft: Draft, shard: ShardId) -> None:
    """A shard whose rules ask for nothing has a learner: it goes on where balance began it, and otherwise it goes."""
    report = draft.known[shard]
    learner = next(iter(report.learners()), None)
    if learner is None or shard in draft.orders:
        return
    able = shard != SYSTEM_SHARD and draft.takes_replicas(learner)
    leaving = balance.justifies(draft, report, learner) if able else None
    if leaving is not None:
        why = f"{leaving} holds more replicas than {learner}"
        if not leaders.step_down(draft, shard, leaving, Cause.REPLICAS, why):
            draft.move(shard, leaving, learner, Cause.REPLICAS, why)
    else:
        draft.move(shard, learner, None, Cause.LEFT_OVER, "no move needs it")


def _notes(draft: Draft) -> dict[NodeId, NodeNote]:
    """What stands on each node as far as it is known, and what keeps it there."""
    replicas: Counter[NodeId] = Counter()
    for shard, report in draft.known.items():
        if shard != SYSTEM_SHARD or len(report.status.members) < len(draft.view.nodes):
            replicas.update([member.node for member in report.status.members])
    leads = Counter([report.status.leader for report in draft.known.values()])
    unknown = len(draft.view.shards) - len(draft.known)
    notes = {}
    for node, view in draft.view.nodes.items():
        why = ""
        if view.standing is Standing.DECOMMISSIONING:
            why = _left(replicas[node], "replicas", unknown)
        elif view.standing is Standing.DRAINING:
            why = _left(leads[node], "leaderships", unknown)
        elif view.liveness.away:
            why = "it looks dead"
        elif draft.maintained(node):
            why = "it is under maintenance"
        notes[node] = NodeNote(replicas[node], leads[node], why)
    return notes


def _left(count: int, what: str, unknown: int) -> str:
    rest = f", and {unknown} shards have not reported" if unknown else ""
    return f"{count} {what} left{rest}" if count or unknown else f"no {what} left"
