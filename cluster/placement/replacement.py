"""Replacing a replica that lost its log by a new one on the same node: what to do now, from what the configuration is now.

    1. The lost voter becomes a learner, through a joint configuration, and is removed. It votes and acknowledges nothing, so
       the group needed a majority of all from the others before, and needs no more from them now.
    2. Its node gets a learner, under an id that the shard never used.
    3. When that has caught up it becomes a voter.

Level-triggered like a move (`cluster.placement.move`): the node of the lost replica goes on saying which one it lost until it
holds a voter again, and whoever leads takes the next step.

Invariant: every step needs a majority of voters other than the lost one; a node holds one replica of a shard at a time, so the
old one goes first.
"""

from __future__ import annotations

from cluster.errors import InvalidRequest
from cluster.ids import NodeId, ReplicaId
from cluster.placement.move import CATCH_UP_ENTRIES, Action, ConfigurationStatus, Step


def next_replacement(status: ConfigurationStatus, lost: ReplicaId, node: NodeId, *, wanted: bool) -> Step:
    """What replaces `lost`, which `node` held, next. wanted: whether the shard shall have a replica there when it has none.

    Raises InvalidRequest when the lost replica is the only voter: nobody else has what it had.
    """
    if status.outgoing:
        return Step(Action.WAIT, "the joint configuration is being left")
    if not status.committed:
        return Step(Action.WAIT, "the newest configuration is not committed yet")
    voters, learners = set(status.voters), set(status.learners)
    if lost in voters:
        if len(voters) == 1:
            raise InvalidRequest(f"{node} held the only voter of shard {status.shard}")
        return _change(f"replica {lost} lost its log and votes no more", voters - {lost}, learners | {lost})
    if lost in learners:
        return _change(f"replica {lost} lost its log and is removed", voters, learners - {lost})
    member = status.on(node)
    if member is None:
        if not wanted:
            return Step(Action.DONE, "the shard has its replicas elsewhere")
        replica = ReplicaId(status.highest + 1)
        step = _change(f"{node} begins anew in place of replica {lost}", voters, learners | {replica})
        return Step(step.action, step.why, step.voters, step.learners, ((replica, node),))
    if member.replica in learners:
        if member.lag > CATCH_UP_ENTRIES:
            return Step(Action.WAIT, f"{node} lacks {member.lag} entries")
        return _change(
            f"replica {member.replica} votes in place of replica {lost}", voters | {member.replica}, learners - {member.replica}
        )
    return Step(Action.DONE, "the replacement votes")


def _change(why: str, voters: set[ReplicaId], learners: set[ReplicaId]) -> Step:
    return Step(Action.CHANGE, why, tuple(sorted(voters)), tuple(sorted(learners)))
