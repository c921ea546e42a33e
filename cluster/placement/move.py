"""Moving a replica from node to node: what to do now, from what the shard's configuration is now.

    1. The joining node gets a learner, under an id that the shard never used.
    2. When that has caught up and the leader is on the leaving node, leadership goes to the best other voter.
    3. Learner and leaving voter change places, through a joint configuration that the leader leaves by itself.
    4. The leaving replica, a learner now, is removed.

Level-triggered: nothing is remembered between steps but the configuration itself, so whoever asks, again and from whatever
point a dead leader or driver left behind, is told the rest of the same move.

Invariant: no step removes a voter before its replacement votes, and a step never changes more than one voter each way.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from cluster.errors import InvalidRequest
from cluster.ids import LogIndex, NodeId, ReplicaId, ShardId
from cluster.raft.messages import Places

CATCH_UP_ENTRIES = 1_000
"""A learner that lacks more than this is not tried as a voter yet; Raft judges more strictly (see LearnerBehind)."""


@dataclass(frozen=True, slots=True)
class Member:
    """One replica of a shard, as its leader sees it.

    match: entries up to here are durably there, 0 where that is not known. lag: entries that it lacks. Both are 0 where the one
    who tells does not lead.
    """

    replica: ReplicaId
    node: NodeId
    match: LogIndex
    lag: int


@dataclass(frozen=True, slots=True)
class ConfigurationStatus:
    """Who belongs to a shard, by the newest configuration in the log of the replica that tells.

    index: of the entry that made it, 0 for the first; what `Pump.change_configuration` compares. committed: whether that entry
        is. outgoing: the voters before, inside a joint configuration. highest: no id up to this one can be given again.
    members: all of them, sorted by replica. leader: its node, None when not known. leads: whether the one who tells is it.
    transferring_to: to whom leadership is being handed over.
    """

    shard: ShardId
    index: LogIndex
    committed: bool
    voters: tuple[ReplicaId, ...]
    learners: tuple[ReplicaId, ...]
    outgoing: tuple[ReplicaId, ...]
    highest: ReplicaId
    members: tuple[Member, ...]
    leader: NodeId | None
    leads: bool
    last_index: LogIndex
    transferring_to: ReplicaId | None

    def on(self, node: NodeId | None) -> Member | None:
        """The member that a node holds."""
        return next((member for member in self.members if member.node == node), None)


class Action(enum.Enum):
    CHANGE = "change"
    TRANSFER = "transfer"
    WAIT = "wait"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Step:
    """What a move needs now. why: for people.

    CHANGE: voters, learners and places are those of the next configuration. TRANSFER: leadership goes `to` that node. WAIT: ask
    again later. DONE: the move is complete.
    """

    action: Action
    why: str
    voters: tuple[ReplicaId, ...] = ()
    learners: tuple[ReplicaId, ...] = ()
    places: Places = ()
    to: NodeId | None = None


def next_step(status: ConfigurationStatus, leaving: NodeId | None, joining: NodeId | None) -> Step:
    """What moves the replica at `leaving` to `joining` next. Without `joining` the shard shrinks, without `leaving` it grows.

    Raises InvalidRequest when that can not be: nothing to move, a voter at both nodes or at neither (no interrupted move leaves
    that behind: somebody else moved one of them), or no voter would be left.
    """
    if leaving == joining:
        raise InvalidRequest("a move goes from one node to another")
    if status.outgoing:
        return Step(Action.WAIT, "the joint configuration is being left")
    if not status.committed:
        return Step(Action.WAIT, "the newest configuration is not committed yet")
    old, new = status.on(leaving), status.on(joining)
    if leaving is not None and old is None and joining is not None and (new is None or new.replica not in status.voters):
        raise InvalidRequest(f"{leaving} holds no replica of shard {status.shard}: the shard would grow")
    if joining is not None and new is None:
        replica = ReplicaId(status.highest + 1)
        more = tuple(sorted((*status.learners, replica)))
        return Step(Action.CHANGE, f"{joining} begins to learn", status.voters, more, ((replica, joining),))
    voters, learners = set(status.voters), set(status.learners)
    if new is not None and new.replica in learners:
        if new.lag > CATCH_UP_ENTRIES or (status.leads and not new.match):  # one that has nothing yet may never answer
            return Step(Action.WAIT, f"{new.node} lacks {new.lag} entries")
        learners.discard(new.replica)
        voters.add(new.replica)
    elif new is not None and old is not None and old.replica in voters:
        raise InvalidRequest(f"{new.node} holds a voter of shard {status.shard} already: the shard would shrink")
    if old is not None and old.replica in voters:
        voters.discard(old.replica)
        learners.add(old.replica)
        if not voters:
            raise InvalidRequest(f"{old.node} holds the only voter of shard {status.shard}")
        successor = _successor(status, old)
        if status.leader == old.node and successor is not None:
            return Step(Action.TRANSFER, f"{old.node} leads and is to leave", to=successor.node)
    if voters != set(status.voters):
        return Step(Action.CHANGE, "voters change", tuple(sorted(voters)), tuple(sorted(learners)))
    if old is not None and old.replica in learners:
        learners.discard(old.replica)
        return Step(Action.CHANGE, f"{old.node} is removed", status.voters, tuple(sorted(learners)))
    return Step(Action.DONE, "every replica is where it should be")


def _successor(status: ConfigurationStatus, leaving: Member) -> Member | None:
    """The voter that lacks least, other than the one that leaves."""
    others = [member for member in status.members if member.replica in status.voters and member.replica != leaving.replica]
    return max(others, key=lambda member: (member.match, -member.replica), default=None)
