"""What the replicas of one shard lack, and the move that gives it to them.

Each rule looks at one shard alone. The first that finds something wins, in this order: voters that are lost or missing,
voters that are too many, voters that crowd a zone or a host, voters on nodes that are decommissioned. What a shard needs
follows from where its replicas are now and not from what was begun: a learner that a former plan left behind is used if it
helps, else removed.

Invariant: a wish never takes a shard below a majority of voters that are there.
"""

from __future__ import annotations

from dataclasses import dataclass

from cluster.ids import SYSTEM_SHARD, NodeId, ShardId
from cluster.placement.draft import Draft
from cluster.placement.leaders import step_down
from cluster.placement.plan import Cause, State
from cluster.placement.spread import APART, exchanged
from cluster.placement.view import Liveness, ShardReport
from cluster.shardmap.nodes import Standing

SYSTEM_VOTERS_MIN = 3
SYSTEM_VOTERS_MAX = 5


@dataclass(frozen=True, slots=True)
class Wish:
    """A move that a shard needs. leaving: who is replaced, None to grow. joins: whether somebody takes the place. begun:
    whether a replica was already placed for it.
    """

    shard: ShardId
    cause: Cause
    leaving: NodeId | None
    joins: bool
    begun: NodeId | None
    why: str

    @property
    def urgency(self) -> tuple[bool, Cause, ShardId]:
        """Sorts: what has begun holds its room, then the most urgent."""
        return self.begun is None, self.cause, self.shard


def wish_of(draft: Draft, shard: ShardId, report: ShardReport) -> Wish | None:
    """What a shard needs. While a voter is away without being lost, nothing else is wished; `draft` is told why."""
    voters = report.voters()
    if shard != SYSTEM_SHARD and draft.sound(voters):
        return None
    found = _lost(draft, shard, report, voters) or _missing(draft, shard, report, voters)
    found = found or _too_many(draft, shard, report, voters)
    if found is None and there(draft, voters) == len(voters):
        found = _crowded(draft, shard, report, voters) or _decommissioned(draft, shard, report, voters)
    return found


def wanted_voters(draft: Draft, shard: ShardId) -> tuple[int, int]:
    """How many voters a shard should have at least and at most: as many as the replication factor says. The system shard has
    what everything else depends on: 3 to 5.
    """
    factor = draft.view.settings.replication_factor
    return (max(factor, SYSTEM_VOTERS_MIN), max(factor, SYSTEM_VOTERS_MAX)) if shard == SYSTEM_SHARD else (factor, factor)


def possible_voters(draft: Draft, shard: ShardId) -> int:
    """How many of these it can have at least: one a node that keeps replicas."""
    keep = (Standing.ACTIVE, Standing.DRAINING)
    nodes = sum(node.standing in keep for node in draft.view.nodes.values())
    return max(1, min(wanted_voters(draft, shard)[0], nodes))


def there(draft: Draft, voters: tuple[NodeId, ...]) -> int:
    """How many of these nodes are not believed to be gone."""
    return sum(not draft.away(voter) for voter in voters)


def begin(draft: Draft, wish: Wish) -> None:
    """Order what a shard needs, if there is room and somebody to take it; else say what it waits for."""
    report = draft.known[wish.shard]
    begun = wish.begun
    if not wish.joins:
        _go(draft, wish, None)
        return
    useless = next(iter(report.learners()), None) if begun is None else None
    if useless is not None:  # it would hold the room that this shard waits for
        draft.move(wish.shard, useless, None, Cause.LEFT_OVER, "no move needs it")
        return
    if begun is None and draft.targets and not draft.room_anywhere():
        draft.explain(wish.shard, State.WAITING, f"{wish.why}; nodes receive as much as they may")
        return
    free = draft.candidates(report, wish.leaving)
    if begun is not None and not _still_best(draft, report, wish, free):
        draft.move(wish.shard, begun, None, Cause.LEFT_OVER, f"{begun} is no good place for it any more")
    elif begun is not None:
        _go(draft, wish, begun)
    elif free:
        _place(draft, wish, report, free)
    elif wish.leaving is not None and _spare(draft, wish, report):
        _go(draft, wish, None)
    else:
        draft.explain(wish.shard, State.BLOCKED, f"{wish.why}, and no other node can take a replica: {_why_none(draft)}")


def _go(draft: Draft, wish: Wish, begun: NodeId | None) -> None:
    """The replica that leaves can go now: after its leadership."""
    members = draft.known[wish.shard].status.members
    caught_up = all(member.lag <= draft.rules.catch_up_entries for member in members if member.node == begun)
    if wish.leaving is not None and caught_up and step_down(draft, wish.shard, wish.leaving, wish.cause, wish.why):
        return
    draft.move(wish.shard, wish.leaving, begun, wish.cause, wish.why)


def _spare(draft: Draft, wish: Wish, report: ShardReport) -> bool:
    """Whether a shard has enough voters without the one that leaves."""
    voters = report.voters()
    return len(voters) > wanted_voters(draft, wish.shard)[0] and _safe(draft, voters, wish.leaving, None)


def _place(draft: Draft, wish: Wish, report: ShardReport, free: list[NodeId]) -> None:
    """Begin at the best node that has room."""
    assert report.status.leader is not None
    joining = next((node for node in free if draft.room_at(node)), None)
    if joining is None:
        draft.explain(wish.shard, State.WAITING, f"{wish.why}; nodes receive as much as they may")
    elif not draft.room_to_send(report.status.leader):
        draft.explain(wish.shard, State.WAITING, f"{wish.why}; {report.status.leader} sends as much as it may")
    elif wish.cause is Cause.SPREAD and not _helps(draft, report, wish.leaving, joining):
        draft.explain(wish.shard, State.WAITING, f"{wish.why}; nodes that are better places receive as much as they may")
    else:
        draft.move(wish.shard, wish.leaving, joining, wish.cause, wish.why)


# -- the rules -------------------------------------------------------------------------------------------------------


def _lost(draft: Draft, shard: ShardId, report: ShardReport, voters: tuple[NodeId, ...]) -> Wish | None:
    leader = report.status.leader
    assert leader is not None
    found = None
    for voter in voters:
        gone, why = draft.gone(voter, leader)
        if not gone:
            if why:
                draft.explain(shard, State.WAITING, why)
            continue
        unsafe = there(draft, voters) <= len(voters) // 2 + 1
        cause = Cause.UNSAFE if unsafe else Cause.DEAD
        joins = len(voters) <= wanted_voters(draft, shard)[1]
        found = found or Wish(shard, cause, voter, joins, _begun(draft, report), why)
    return found


def _missing(draft: Draft, shard: ShardId, report: ShardReport, voters: tuple[NodeId, ...]) -> Wish | None:
    wanted = possible_voters(draft, shard)
    if len(voters) >= wanted:
        return None
    return Wish(shard, Cause.UNSAFE, None, True, _begun(draft, report), f"it has {len(voters)} voters and should have {wanted}")


def _too_many(draft: Draft, shard: ShardId, report: ShardReport, voters: tuple[NodeId, ...]) -> Wish | None:
    _, wanted = wanted_voters(draft, shard)
    if len(voters) <= wanted:
        return None
    leaving = min(voters, key=lambda voter: _keep(draft, report, voter))
    why = f"it has {len(voters)} voters and should have {wanted}"
    if not _safe(draft, voters, leaving, None):
        draft.explain(shard, State.BLOCKED, f"{why}, but a majority of the rest is away")
        return None
    return Wish(shard, Cause.LEAVING, leaving, False, None, why)


def _keep(draft: Draft, report: ShardReport, voter: NodeId) -> tuple[bool, bool, tuple[int, int], bool, int, NodeId]:
    """Sorts voters: the one to go first comes first."""
    view = draft.view.nodes.get(voter)
    active = view is not None and view.standing is not Standing.DECOMMISSIONING
    rest = draft.crowding(exchanged(report.voters(), voter, None))
    return not draft.away(voter), active, rest, report.status.leader == voter, -draft.replicas[voter], voter


def _crowded(draft: Draft, shard: ShardId, report: ShardReport, voters: tuple[NodeId, ...]) -> Wish | None:
    now = draft.crowding(voters)
    if now == APART or not draft.improvable(voters):
        return None
    begun = _begun(draft, report)
    free = draft.candidates(report, None) + ([begun] if begun is not None else [])
    best = min(
        (
            (draft.crowding(exchanged(voters, leaving, joining)), -draft.replicas[leaving], leaving)
            for leaving in voters
            for joining in free
        ),
        default=None,
    )
    if best is None or best[0] >= now:
        return None
    leaving = best[2]
    if not _safe(draft, voters, leaving, free[0]):
        return None
    what = "zone" if best[0][0] < now[0] else "host"
    return Wish(shard, Cause.SPREAD, leaving, True, begun, f"two voters share a {what}")


def _decommissioned(draft: Draft, shard: ShardId, report: ShardReport, voters: tuple[NodeId, ...]) -> Wish | None:
    for voter in voters:
        view = draft.view.nodes.get(voter)
        if view is not None and view.standing is Standing.DECOMMISSIONING:
            return Wish(shard, Cause.LEAVING, voter, True, _begun(draft, report), f"{voter} is decommissioned")
    return None


# -- what they share -------------------------------------------------------------------------------------------------


def _begun(draft: Draft, report: ShardReport) -> NodeId | None:
    """A learner that a move may use: on a node that may get replicas, or that may soon be heard again."""
    for learner in report.learners():
        view = draft.view.nodes.get(learner)
        if draft.takes_replicas(learner) or (
            view is not None and view.standing is Standing.ACTIVE and view.liveness in (Liveness.SUSPECT, Liveness.UNKNOWN)
        ):
            return learner
    return None


def _still_best(draft: Draft, report: ShardReport, wish: Wish, free: list[NodeId]) -> bool:
    """Whether no other node would be a less crowded place than the learner that is there already."""
    assert wish.begun is not None
    voters = report.voters()
    there_now = draft.crowding(exchanged(voters, wish.leaving, wish.begun))
    return not free or there_now <= draft.crowding(exchanged(voters, wish.leaving, free[0]))


def _helps(draft: Draft, report: ShardReport, leaving: NodeId | None, joining: NodeId) -> bool:
    voters = report.voters()
    return draft.crowding(exchanged(voters, leaving, joining)) < draft.crowding(voters)


def _safe(draft: Draft, voters: tuple[NodeId, ...], leaving: NodeId | None, joining: NodeId | None) -> bool:
    """Whether a majority of the voters after a move is there."""
    after = exchanged(voters, leaving, joining)
    return there(draft, after) > len(after) // 2


def _why_none(draft: Draft) -> str:
    if not draft.targets:
        return "none is active and alive"
    return f"{', '.join(draft.targets)} hold one already"
