"""What this node holds of every member, and the rules by which one opinion beats another.

Identity is (node id, boot generation, incarnation). A newer generation is a newer process and beats everything about older
ones. Within a generation only the subject raises its incarnation, to refute; at equal incarnation left > dead > suspect >
alive. An alive of a higher incarnation brings a member back from the dead: a dead opinion may be wrong.

    heard \\ held     alive(j)              suspect(j)                     dead(j), left(j)
    alive(i)         i > j                 i > j, ends the suspicion      i > j
    suspect(i)       i >= j, starts timer  i > j anew, i = j confirms     never
    dead(i)          i >= j                i >= j                         never
    left(i)          i >= j                i >= j                         i >= j if dead
    about ourselves  any accusation of our process at >= our incarnation: refuted with one above it, unless leaving

Invariants: a member's identity only rises; a suspicion belongs to the identity it was raised against; every change of
opinion is queued as news exactly once; removed ids are never members again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from cluster.gossip.broadcast import BroadcastQueue
from cluster.gossip.config import MEMBERS_MAX, REMOVED_MAX, GossipConfig
from cluster.gossip.effects import MemberChange, MemberView
from cluster.gossip.health import LocalHealth
from cluster.gossip.messages import (
    ACCUSERS_MAX,
    INCARNATION_MAX,
    Address,
    Alive,
    Dead,
    Labels,
    Left,
    Opinion,
    Refusal,
    State,
    Suspect,
    SyncRecord,
)
from cluster.gossip.suspicion import Suspicion
from cluster.ids import NodeId

INCARNATION_JUMP_MAX = 1 << 32
"""More restatements than this between two opinions about one process are not plausible (one a second for 136 years). It
keeps a forged or damaged incarnation from using up the range, after which its subject could never refute again."""


@dataclass(slots=True)
class Member:
    """Another node as this one holds it. `suspicion` is set exactly while the state is SUSPECT."""

    alive: Alive
    state: State
    since_ms: int
    accusers: tuple[NodeId, ...] = ()
    suspicion: Suspicion | None = None

    def view(self) -> MemberView:
        alive = self.alive
        return MemberView(
            alive.node,
            alive.generation,
            alive.incarnation,
            self.state,
            alive.address,
            alive.labels,
            alive.hints,
            self.since_ms,
            self.suspicion.accusers if self.suspicion is not None else self.accusers,
        )


class Members:
    """The table of opinions. `changes` and `superseded_by` gather what the caller has to report."""

    def __init__(self, own: Alive, config: GossipConfig, news: BroadcastQueue, health: LocalHealth) -> None:
        self.own = own
        self.leaving = False
        self.superseded_by = 0
        self.changes: list[MemberChange] = []
        self.refusals: Counter[Refusal] = Counter()
        self.refutations = 0
        self._config = config
        self._news = news
        self._health = health
        self._members: dict[NodeId, Member] = {}
        self._suspects: dict[NodeId, Member] = {}
        self._removed: dict[NodeId, None] = {}
        self._live = 0
        news.put(own)

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members.values())

    def get(self, node: NodeId) -> Member | None:
        return self._members.get(node)

    def is_removed(self, node: NodeId) -> bool:
        return node in self._removed

    @property
    def size(self) -> int:
        """Members that count for timeouts: this node and everybody who is alive or suspect."""
        return self._live + 1

    def suspects(self) -> list[Member]:
        return list(self._suspects.values())

    def live(self) -> list[Member]:
        return [member for member in self._members.values() if member.state <= State.SUSPECT]

    # Our own record.

    def restate(self, *, address: Address | None = None, labels: Labels | None = None, hints: bytes | None = None) -> None:
        """Say something new about ourselves, in a new incarnation."""
        own = self.own
        self.own = Alive(
            own.node,
            own.generation,
            own.incarnation + 1,
            own.address if address is None else address,
            own.labels if labels is None else labels,
            own.hints if hints is None else hints,
        )
        self._news.put(self.own)

    def leave(self) -> None:
        """Say good-bye. Accusations are no longer refuted; `restate` afterwards is a return."""
        self.leaving = True
        self._news.put(Left(*_identity(self.own)))

    def _accused(self, generation: int, incarnation: int) -> None:
        own = self.own
        if generation > own.generation:
            self.superseded_by = max(self.superseded_by, generation)
        if generation != own.generation or incarnation < own.incarnation or self.leaving:
            return
        if incarnation - own.incarnation > INCARNATION_JUMP_MAX:
            self.refusals[Refusal.IMPLAUSIBLE_INCARNATION] += 1
            return
        self.own = Alive(own.node, own.generation, incarnation + 1, own.address, own.labels, own.hints)
        self._news.put(self.own)
        self.refutations += 1
        self._health.adjust(1)

    # Opinions about others.

    def hear(self, opinion: Opinion, now_ms: int) -> None:
        """Take an opinion for what it is worth by the table of this module."""
        if opinion.node in self._removed:
            self.refusals[Refusal.REMOVED] += 1
        elif opinion.node == self.own.node:
            if not isinstance(opinion, Alive) or opinion.identity > self.own.identity:
                self._accused(opinion.generation, opinion.incarnation)
        elif isinstance(opinion, Alive):
            self._hear_alive(opinion, now_ms)
        else:
            self._hear_against(opinion, now_ms)

    def _hear_alive(self, alive: Alive, now_ms: int) -> None:
        member = self._members.get(alive.node)
        if member is None:
            self._insert(Member(alive, State.ALIVE, now_ms))
            return
        if alive.identity <= member.alive.identity or not self._plausible(member, alive.generation, alive.incarnation):
            return
        before, restarted = member.state, alive.generation > member.alive.generation
        news = (alive.address, alive.labels, alive.hints) != (member.alive.address, member.alive.labels, member.alive.hints)
        member.alive = alive
        self._become(member, State.ALIVE, now_ms)
        self._news.put(alive)
        if restarted or news or before is not State.ALIVE:
            self.changes.append(MemberChange(member.view(), before))

    def _hear_against(self, opinion: Suspect | Dead | Left, now_ms: int) -> None:
        member = self._members.get(opinion.node)
        if member is None or opinion.generation != member.alive.generation:
            return  # about nobody we know, about a former process, or about one whose birth we have not heard of yet
        if opinion.incarnation < member.alive.incarnation:
            return
        if not self._plausible(member, opinion.generation, opinion.incarnation):
            return
        if member.state >= State.DEAD:
            if member.state is State.DEAD and isinstance(opinion, Left):
                self._conclude(member, State.LEFT, opinion, now_ms)
        elif isinstance(opinion, Suspect):
            self._suspect(member, opinion, now_ms)
        else:
            self._conclude(member, State.LEFT if isinstance(opinion, Left) else State.DEAD, opinion, now_ms)

    def _suspect(self, member: Member, opinion: Suspect, now_ms: int) -> None:
        if not opinion.accusers:
            return
        suspicion = member.suspicion
        if suspicion is not None and opinion.incarnation == member.alive.incarnation:
            if suspicion.confirm(opinion.accusers):
                self._news.put(Suspect(*_identity(member.alive), suspicion.accusers))
            return
        before = member.state
        self._raise_incarnation(member, opinion.incarnation)
        self._become(member, State.SUSPECT, now_ms)
        size = self.size
        member.suspicion = Suspicion(
            opinion.accusers,
            now_ms=now_ms,
            min_ms=self._config.suspicion_min_ms(size),
            max_ms=self._config.suspicion_max_ms(size),
            expected=self._config.confirmations_expected(size),
        )
        self._suspects[opinion.node] = member
        self._news.put(Suspect(*_identity(member.alive), member.suspicion.accusers))
        if before is not State.SUSPECT:
            self.changes.append(MemberChange(member.view(), before))

    def _conclude(self, member: Member, state: State, opinion: Dead | Left, now_ms: int) -> None:
        before = member.state
        self._raise_incarnation(member, opinion.incarnation)
        self._become(member, state, now_ms)
        member.accusers = opinion.accusers if isinstance(opinion, Dead) else ()
        self._news.put(opinion)
        self.changes.append(MemberChange(member.view(), before))

    def accuse(self, node: NodeId, generation: int, now_ms: int) -> None:
        """This node's own probe failed. Ignored if the member is another process by now."""
        member = self._members.get(node)
        if member is not None and member.alive.generation == generation:
            self.hear(Suspect(node, generation, member.alive.incarnation, (self.own.node,)), now_ms)

    def expire(self, now_ms: int) -> None:
        """Conclude the suspicions whose time has run out."""
        due = [m for m in self._suspects.values() if m.suspicion is not None and m.suspicion.deadline_ms <= now_ms]
        for member in due:
            assert member.suspicion is not None
            self.hear(Dead(*_identity(member.alive), member.suspicion.accusers), now_ms)

    def suspicion_deadline_ms(self) -> int | None:
        return min((m.suspicion.deadline_ms for m in self._suspects.values() if m.suspicion is not None), default=None)

    def postpone_suspicions(self, stalled_ms: int) -> None:
        for member in self._suspects.values():
            if member.suspicion is not None:
                member.suspicion.postpone(stalled_ms)

    # What was learnt by comparing tables.

    def merge(self, record: SyncRecord, reporter: NodeId, now_ms: int) -> None:
        """Take a record of another table.

        A death that we only read about is a suspicion first, so that the subject can refute it: that is how two halves
        of a healed partition, each holding the other dead, come together.
        """
        alive, state = record.alive, record.state
        if alive.node == self.own.node or alive.node in self._removed:
            self.hear(alive if state is State.ALIVE else Dead(*_identity(alive), ()), now_ms)
            return
        member = self._members.get(alive.node)
        if state >= State.DEAD and (member is None or (member.state >= State.DEAD and alive.identity > member.alive.identity)):
            self._learn_gone(member, record, now_ms)
            return
        self._hear_alive(alive, now_ms)
        if state is State.LEFT:
            self.hear(Left(*_identity(alive)), now_ms)
        elif state is not State.ALIVE:
            accusers = record.accusers if state is State.SUSPECT else ()
            self.hear(Suspect(*_identity(alive), accusers or (reporter,)), now_ms)

    def _learn_gone(self, member: Member | None, record: SyncRecord, now_ms: int) -> None:
        """Remember somebody who was gone before we heard of it, with the age of its death and without news."""
        since_ms = now_ms - record.age_ms
        if member is None:
            self._insert(Member(record.alive, record.state, since_ms, record.accusers), news=False)
        elif self._plausible(member, record.alive.generation, record.alive.incarnation):
            member.alive, member.state, member.accusers = record.alive, record.state, record.accusers

    # Forgetting.

    def remove(self, node: NodeId) -> None:
        """The authoritative list says that this id is gone for good: forget it and never take it back."""
        self._removed[node] = None
        if len(self._removed) > REMOVED_MAX:
            del self._removed[next(iter(self._removed))]
        member = self._members.get(node)
        if member is not None:
            self._drop(member)

    def forget_dead(self, before_ms: int) -> None:
        for member in [m for m in self._members.values() if m.state >= State.DEAD and m.since_ms <= before_ms]:
            self._drop(member)

    def _drop(self, member: Member) -> None:
        node = member.alive.node
        if member.state <= State.SUSPECT:
            self._live -= 1
        self._suspects.pop(node, None)
        self._news.drop(node)
        del self._members[node]

    # The only places that change a member.

    def _insert(self, member: Member, *, news: bool = True) -> None:
        if member.alive.incarnation > INCARNATION_JUMP_MAX:
            self.refusals[Refusal.IMPLAUSIBLE_INCARNATION] += 1
            return
        if len(self._members) >= MEMBERS_MAX and not self._make_room():
            self.refusals[Refusal.TOO_MANY_MEMBERS] += 1
            return
        self._members[member.alive.node] = member
        if member.state <= State.SUSPECT:
            self._live += 1
        if news:
            self._news.put(member.alive)
        self.changes.append(MemberChange(member.view(), None))

    def _make_room(self) -> bool:
        gone = [m for m in self._members.values() if m.state >= State.DEAD]
        if gone:
            self._drop(min(gone, key=lambda member: member.since_ms))
        return bool(gone)

    def _become(self, member: Member, state: State, now_ms: int) -> None:
        self._live += (state <= State.SUSPECT) - (member.state <= State.SUSPECT)
        if state is not member.state:
            member.since_ms = now_ms
        member.state = state
        member.suspicion = None
        member.accusers = ()
        self._suspects.pop(member.alive.node, None)

    def _raise_incarnation(self, member: Member, incarnation: int) -> None:
        alive = member.alive
        assert incarnation >= alive.incarnation, "identities only rise"
        if incarnation > alive.incarnation:
            member.alive = Alive(alive.node, alive.generation, incarnation, alive.address, alive.labels, alive.hints)

    def _plausible(self, member: Member, generation: int, incarnation: int) -> bool:
        floor = member.alive.incarnation if generation == member.alive.generation else 0
        if incarnation - floor <= INCARNATION_JUMP_MAX and incarnation < INCARNATION_MAX:
            return True
        self.refusals[Refusal.IMPLAUSIBLE_INCARNATION] += 1
        return False


def accusation(member: Member) -> Opinion:
    """What to answer somebody who is not what we hold it to be: its newer process, or the charge it may refute."""
    if member.state is State.SUSPECT:
        assert member.suspicion is not None
        return Suspect(*_identity(member.alive), member.suspicion.accusers)
    if member.state is State.DEAD:
        return Dead(*_identity(member.alive), member.accusers[:ACCUSERS_MAX])
    if member.state is State.LEFT:
        return Left(*_identity(member.alive))
    return member.alive


def _identity(alive: Alive) -> tuple[NodeId, int, int]:
    return alive.node, alive.generation, alive.incarnation
