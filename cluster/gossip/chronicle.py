"""What happened to a member, for whoever asks why: who accused it, when, by which ways, who passed that on.

Logs at the victim name no accuser, and the accuser's log is on another machine; every node therefore keeps the last opinions
that it took about each member, with their origin.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from cluster.gossip.messages import Accuser
from cluster.ids import NodeId

EPISODES_MAX: Final = 16
"""Of one member; the oldest goes first."""


class Happening(enum.StrEnum):
    """What changed in this node's opinion."""

    SUSPECTED = "suspected"
    CONFIRMED = "confirmed"
    REFUTED = "refuted"
    DIED = "died"
    LEFT = "left"
    RETURNED = "returned"
    RESTARTED = "restarted"


@dataclass(frozen=True, slots=True)
class Episode:
    """at_ms: on this node's clock. teller: whose packet brought it; this node itself for its own probes and timers.
    accusers: the original ones, with the ways by which each did not reach the member. generation, incarnation: of the member.
    """

    at_ms: int
    what: Happening
    teller: NodeId
    accusers: tuple[Accuser, ...]
    generation: int
    incarnation: int


def extended(episodes: tuple[Episode, ...], episode: Episode) -> tuple[Episode, ...]:
    return (*episodes[1 - EPISODES_MAX :], episode)
