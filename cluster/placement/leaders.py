"""Who leads: away from nodes that should not, and about as many shards at every node that may.

Leaderships that have to leave go at once, several at a time, for a handover is cheap and can be taken back. For balance one
goes at a time: a cluster in which everybody hands over at once stands still. Where no voter of the fullest node's shards is
on the emptiest node, the way goes through others, and its last leg is done first, so that no node ever leads more than it
did.

A leader whose replica is to leave hands over first, and to whom is decided here and not by the move: a voter that should lead
nothing would hand back, and so on for ever.

Whoever does not take over when he is asked, for reasons that are not seen from here, is asked last for a while.

Invariant: nobody is asked to lead who lacks more than the rules allow, looks dead or suspect, or should lead nothing.
"""

from __future__ import annotations

from collections import deque

from cluster.ids import SYSTEM_SHARD, NodeId, ShardId
from cluster.placement.draft import Draft
from cluster.placement.plan import Cause, State
from cluster.placement.view import Liveness, ShardReport


def hand_over(draft: Draft, shards: list[ShardId]) -> None:
    """Order that what is led by nodes that should lead nothing is led by others."""
    going = 0
    for shard in shards:
        report = draft.known[shard]
        leader = report.status.leader
        assert leader is not None
        why = draft.must_not_lead(leader)
        if not why:
            continue
        to = _successor(draft, report)
        if to is None:
            others = [node for node in report.voters() if node != leader]
            state = State.WAITING if others else State.BLOCKED
            draft.explain(shard, state, f"{why}, and no other voter is there and has what is needed to lead")
        elif going >= draft.rules.handovers_max:
            draft.explain(shard, State.WAITING, f"{why}; as many leaderships are handed over as may be at a time")
        else:
            going += 1
            draft.transfer(shard, to, Cause.LEAVING, why)


def step_down(draft: Draft, shard: ShardId, leaving: NodeId, cause: Cause, why: str) -> bool:
    """If the voter at `leaving` leads, its leadership goes before its replica does; says whether that comes first.

    A voter that had rather not lead takes over only from one that must not either.
    """
    report = draft.known[shard]
    if report.status.leader != leaving or leaving not in report.voters() or len(report.voters()) == 1:
        return False  # the only voter leads until the one that takes its place votes
    to = _successor(draft, report)
    if to is None and draft.must_not_lead(leaving):
        to = next(iter(_voters_there(draft, report)), None)
    if to is None:
        draft.explain(shard, State.WAITING, f"{why}; {leaving} leads it, and no other voter can take over")
    else:
        draft.transfer(shard, to, cause, f"{why}, and {leaving} leads it")
    return True


def balance(draft: Draft, shards: list[ShardId]) -> None:
    """Order one handover that brings numbers of leaderships closer together, if there is one."""
    able = draft.targets
    if len(able) < 2:
        return
    most = max(draft.leads[node] for node in able)
    least = min(draft.leads[node] for node in able)
    if most - least < 2:
        return
    ways = _ways(draft, shards)
    for start in sorted(able, key=lambda node: (-draft.leads[node], node)):
        if draft.leads[start] - least < 2:
            return
        leg = _last_leg(draft, ways, start)
        if leg is not None:
            shard, to = leg
            leader = draft.known[shard].status.leader
            draft.transfer(
                shard, to, Cause.LEADERS, f"{start} leads {draft.leads[start]} shards, others {least}; {leader} leads it"
            )
            return


Ways = dict[NodeId, dict[NodeId, ShardId]]
"""From who leads a shard to who could lead it instead."""


def _ways(draft: Draft, shards: list[ShardId]) -> Ways:
    ways: Ways = {node: {} for node in draft.targets}
    for shard in shards:
        report = draft.known[shard]
        leader = report.status.leader
        if shard == SYSTEM_SHARD:
            continue  # whoever leads it decides, and would have to learn everything anew
        if leader in ways and shard not in draft.orders and _calm(report):
            for to in _able(draft, report):
                if (shard, to) not in draft.avoid:
                    ways[leader].setdefault(to, shard)
    return ways


def _calm(report: ShardReport) -> bool:
    """Whether the replicas of a shard are not being changed."""
    status = report.status
    return status.committed and not status.outgoing and not status.learners and status.transferring_to is None


def _last_leg(draft: Draft, ways: Ways, start: NodeId) -> tuple[ShardId, NodeId] | None:
    """The shortest way from a node to one that leads two fewer; its last leg."""
    came: dict[NodeId, NodeId] = {start: start}
    queue = deque([start])
    while queue:
        node = queue.popleft()
        if draft.leads[start] - draft.leads[node] >= 2:
            before = came[node]
            return ways[before][node], node
        for following in sorted(ways[node], key=lambda each: (draft.leads[each], each)):
            if following not in came:
                came[following] = node
                queue.append(following)
    return None


def _able(draft: Draft, report: ShardReport) -> list[NodeId]:
    """Voters that could take over, those that lead the fewest first."""
    return [
        node
        for node in _voters_there(draft, report)
        if not draft.must_not_lead(node) and draft.view.nodes[node].liveness is Liveness.ALIVE
    ]


def _voters_there(draft: Draft, report: ShardReport) -> list[NodeId]:
    """Voters besides the leader that are not believed to be gone and lack little."""
    status = report.status
    if status.outgoing or status.transferring_to is not None:
        return []
    found = [
        member.node
        for member in status.members
        if member.replica in status.voters
        and member.node != status.leader
        and member.lag <= draft.rules.catch_up_entries
        and not draft.away(member.node)
    ]
    return sorted(found, key=lambda node: ((status.shard, node) in draft.avoid, draft.leads[node], node))


def _successor(draft: Draft, report: ShardReport) -> NodeId | None:
    return next(iter(_able(draft, report)), None)
