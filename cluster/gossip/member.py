"""One member as this node holds it."""

from __future__ import annotations

from dataclasses import dataclass, field

from cluster.gossip.chronicle import Episode
from cluster.gossip.effects import MemberView
from cluster.gossip.messages import ACCUSERS_MAX, Accuser, Alive, Dead, Hints, Left, Load, Opinion, State, Suspect
from cluster.gossip.reach import Reach
from cluster.gossip.suspicion import Suspicion
from cluster.ids import NodeId


@dataclass(slots=True)
class Member:
    """Another node as this one holds it. `suspicion` is set exactly while the state is SUSPECT.

    taught: whether others are told of it; deaths of long ago are kept to ourselves. place: belongs to `Population`.
    """

    alive: Alive
    state: State
    since_ms: int
    accusers: tuple[Accuser, ...] = ()
    suspicion: Suspicion | None = None
    hints: Hints | None = None
    load: Load | None = None
    reach: Reach = field(default_factory=Reach)
    episodes: tuple[Episode, ...] = ()
    taught: bool = True
    place: int = -1

    @property
    def held_accusers(self) -> tuple[Accuser, ...]:
        return tuple(self.suspicion.accusers.values()) if self.suspicion is not None else self.accusers

    @property
    def hints_sequence(self) -> int:
        return self.hints.sequence if self.hints is not None else 0

    def view(self) -> MemberView:
        alive = self.alive
        return MemberView(
            alive.node,
            alive.generation,
            alive.incarnation,
            self.state,
            alive.address,
            alive.tags,
            self.hints.data if self.hints is not None else b"",
            self.load,
            self.since_ms,
            tuple(accuser.node for accuser in self.held_accusers),
        )


@dataclass(slots=True)
class OpinionCounters:
    """Totals since start. returned: dead members that turned out to be alive, as the same process: false verdicts."""

    suspected: int = 0
    refuted: int = 0
    died: int = 0
    returned: int = 0
    refute_ms: int = 0
    """Of all refuted suspicions together."""


def accusation(member: Member) -> Opinion:
    """What to answer somebody who is not what we hold it to be: its newer process, or the charge it may refute."""
    if member.state is State.SUSPECT:
        return Suspect(*identity_of(member.alive), member.held_accusers)
    if member.state is State.DEAD:
        return Dead(*identity_of(member.alive), member.accusers[:ACCUSERS_MAX])
    if member.state is State.LEFT:
        return Left(*identity_of(member.alive))
    return member.alive


def identity_of(alive: Alive) -> tuple[NodeId, int, int]:
    return alive.node, alive.generation, alive.incarnation


def raised(alive: Alive, incarnation: int) -> Alive:
    if incarnation <= alive.incarnation:
        return alive
    return Alive(alive.node, alive.generation, incarnation, alive.address, alive.tags)
