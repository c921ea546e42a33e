"""A move as whoever asks for it sees it: whether it is one at all, and how far it is.

`next_step` takes shards to where they should be from anywhere; an operator names two nodes, and may be wrong about both. What
fits nothing that stands there is refused before a first step would turn it into something else (a shard that grows, a shard
that shrinks). What fits the middle or the end of a move is that move, whoever began it.
"""

from __future__ import annotations

import enum

from cluster.errors import InvalidMove
from cluster.ids import NodeId
from cluster.placement.move import CATCH_UP_ENTRIES, ConfigurationStatus, Member


class Stage(enum.Enum):
    """How far a move is; in this order, each skipped when there is nothing to do for it."""

    ADDING = "adding"
    CATCHING_UP = "catching up"
    HANDING_OVER = "handing over"
    EXCHANGING = "exchanging"
    REMOVING = "removing"
    RECORDING = "recording"
    DONE = "done"


def check_move(status: ConfigurationStatus, leaving: NodeId, joining: NodeId) -> None:
    """Raise InvalidMove unless moving the replica at `leaving` to `joining` can begin, go on or be over here."""
    shard, old, new = status.shard, status.on(leaving), status.on(joining)
    if leaving == joining:
        raise InvalidMove(f"{leaving} can not take the place of itself")
    old_votes, new_votes = _votes(status, old), _votes(status, new)
    if new is None:
        if old is None:
            raise InvalidMove(f"{leaving} has no replica of shard {shard}; {_named(status)} have")
        if not old_votes:
            raise InvalidMove(f"{leaving} only learns: it has no place in shard {shard} that {joining} could take")
        learner = next((member for member in status.members if not _votes(status, member)), None)
        if learner is not None:
            raise InvalidMove(
                f"{learner.node} learns already: another move of shard {shard} stands half way. Finish it, or take it back by "
                f"moving from {learner.node} to a node that votes",
                learner=learner.node,
            )
    elif new_votes and old_votes and not status.outgoing:
        raise InvalidMove(f"{joining} has a replica of shard {shard} already; {_named(status)} have")
    elif not new_votes and not old_votes:
        raise InvalidMove(f"{joining} only learns and {leaving} does not vote: no vote can go from one to the other")


def _votes(status: ConfigurationStatus, member: Member | None) -> bool:
    return member is not None and (member.replica in status.voters or member.replica in status.outgoing)


def _named(status: ConfigurationStatus) -> str:
    return ", ".join(sorted(member.node for member in status.members))


def stage_of(status: ConfigurationStatus, leaving: NodeId, joining: NodeId) -> Stage:
    """Where a move that `check_move` takes stands; RECORDING when only the shard map may lack it."""
    old, new = status.on(leaving), status.on(joining)
    if status.outgoing:
        return Stage.EXCHANGING
    if new is None:
        return Stage.ADDING
    if new.replica in status.learners:
        if not status.committed:
            return Stage.ADDING
        if status.transferring_to is not None:
            return Stage.HANDING_OVER
        behind = new.lag > CATCH_UP_ENTRIES or (status.leads and not new.match)
        return Stage.CATCHING_UP if behind else Stage.EXCHANGING
    if old is not None:
        return Stage.REMOVING if status.committed else Stage.EXCHANGING
    return Stage.RECORDING if status.committed else Stage.REMOVING
