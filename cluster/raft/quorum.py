"""Majorities, in one place: votes, commits, read acknowledgements and CheckQuorum all ask here (reference trap 36).

`agreed` and `elected` take a configuration, joint ones included; `reached` and `tally` are one majority.

Invariant: any two sets that these functions call a quorum of the same configuration share a member.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from cluster.ids import ReplicaId
from cluster.raft.messages import Configuration

Value = TypeVar("Value", int, float)


class Verdict(enum.Enum):
    WON = "won"
    LOST = "lost"
    PENDING = "pending"


def majority(voters: int) -> int:
    """The size of the smallest quorum of so many voters."""
    assert voters > 0, "a quorum needs voters"
    return voters // 2 + 1


def reached(values: Iterable[Value]) -> Value:
    """The highest value that a majority has reached, given each voter's own."""
    ordered = sorted(values)
    return ordered[len(ordered) - majority(len(ordered))]


def tally(voters: Iterable[ReplicaId], votes: Mapping[ReplicaId, bool]) -> Verdict:
    """Count votes of `voters` only, each once, however often and from whomever they came (reference trap 15)."""
    granted = refused = total = 0
    for voter in voters:
        total += 1
        vote = votes.get(voter)
        if vote is not None:
            granted += vote
            refused += not vote
    needed = majority(total)
    if granted >= needed:
        return Verdict.WON
    return Verdict.LOST if refused > total - needed else Verdict.PENDING


def agreed(configuration: Configuration, value_of: Callable[[ReplicaId], Value]) -> Value:
    """The highest value that a quorum has reached: a majority of the voters, and of the outgoing ones if there are any
    (thesis 4.3)."""
    value = reached(map(value_of, configuration.voters))
    if configuration.outgoing:
        value = min(value, reached(map(value_of, configuration.outgoing)))
    return value


def elected(configuration: Configuration, votes: Mapping[ReplicaId, bool]) -> Verdict:
    """Count votes: a joint configuration is won in both halves and lost in either."""
    verdict = tally(configuration.voters, votes)
    if not configuration.outgoing or verdict is Verdict.LOST:
        return verdict
    other = tally(configuration.outgoing, votes)
    return verdict if other is Verdict.WON else other
