"""A leader that is unwell lets another lead, instead of being found out by a timeout.

It serves nobody, so every moment that it leads is lost. It hands over to one voter after the other, those first that lack least
and were tried least, until one takes over; each attempt that comes to nothing costs an election timeout (Raft's Transfer).

Invariant: only asks; who may lead, and whether the successor's log suffices, stays Raft's decision.
"""

from __future__ import annotations

from typing import Protocol

from cluster.empty import NO_ENTRIES
from cluster.ids import ReplicaId, Term
from cluster.raft.core import Raft
from cluster.raft.effects import Effects
from cluster.raft.events import Event, Transfer
from cluster.shard.turn import Turn


class Leading(Protocol):
    """The replica that leads and is unwell."""

    raft: Raft

    def handle(self, event: Event, now_ms: float, turn: Turn) -> Effects: ...


class Handover:
    """Whom an unwell leader tries next. Forgets with every term what it tried before."""

    __slots__ = ("_term", "_tried")

    def __init__(self) -> None:
        self._term = Term(0)
        self._tried: dict[ReplicaId, int] = NO_ENTRIES

    def attempt(self, replica: Leading, now_ms: float, turn: Turn) -> None:
        """Hand over now, unless that is under way or there is nobody."""
        successor = self.successor(replica.raft)
        if successor is not None:
            replica.handle(Transfer(successor), now_ms, turn)

    def successor(self, raft: Raft) -> ReplicaId | None:
        """The voter to hand over to now; None while an attempt is under way, or when there is no other voter."""
        if raft.transferring_to is not None:
            return None
        if raft.term != self._term:
            self._term = raft.term
            self._tried = {}
        matches = raft.progress
        others = [voter for voter in raft.configuration.voters if voter != raft.replica and voter in matches]
        if not others:
            return None
        chosen = min(others, key=lambda voter: (self._tried.get(voter, 0), -matches[voter], voter))
        self._tried[chosen] = self._tried.get(chosen, 0) + 1
        return chosen
