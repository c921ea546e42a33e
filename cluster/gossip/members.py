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

Hints and load of a member belong to its generation; the highest sequence counts, and neither touches the incarnation.

Invariants: a member's identity only rises; a suspicion belongs to the identity it was raised against; every change of
opinion is queued as news exactly once; removed ids are never members again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from cluster.gossip.broadcast import BroadcastQueue
from cluster.gossip.chronicle import Episode, Happening, extended
from cluster.gossip.config import MEMBERS_MAX, REMOVED_MAX, GossipConfig, Profile
from cluster.gossip.effects import MemberChange
from cluster.gossip.health import LocalHealth
from cluster.gossip.member import Member, OpinionCounters, identity_of, raised
from cluster.gossip.messages import (
    INCARNATION_MAX,
    Accuser,
    Address,
    Alive,
    Dead,
    Hints,
    Left,
    Load,
    Note,
    Opinion,
    Path,
    Refusal,
    State,
    Suspect,
    SyncRecord,
    Tags,
)
from cluster.gossip.reach import Reach
from cluster.gossip.suspicion import NEVER_MS, Suspicion
from cluster.gossip.tables import BucketHashes, Population, hash_of
from cluster.ids import NodeId

INCARNATION_JUMP_MAX = 1 << 32
"""More restatements than this between two opinions about one process are not plausible (one a second for 136 years). It
keeps a forged or damaged incarnation from using up the range, after which its subject could never refute again."""


class Members:
    """The table of opinions. `changes` and `superseded_by` gather what the caller has to report.

    teller: whose packet is being read, for the record; set by the caller.
    """

    def __init__(self, own: Alive, config: GossipConfig, news: BroadcastQueue, health: LocalHealth) -> None:
        self.own = own
        self.own_hints: Hints | None = None
        self.own_load: Load | None = None
        self.leaving = False
        self.superseded_by = 0
        self.changes: list[MemberChange] = []
        self.refusals: Counter[Refusal] = Counter()
        self.refutations = 0
        self.counters = OpinionCounters()
        self.teller = own.node
        self.profile = Profile()
        self.hashes = BucketHashes()
        self.population = Population()
        self.members_epoch = 0
        self._config = config
        self._news = news
        self._health = health
        self._members: dict[NodeId, Member] = {}
        self._suspects: dict[NodeId, Member] = {}
        self._dead: dict[NodeId, Member] = {}
        self._removed: dict[NodeId, None] = {}
        self._weighed = True
        self._say(own)

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members.values())

    def get(self, node: NodeId) -> Member | None:
        return self._members.get(node)

    def is_removed(self, node: NodeId) -> bool:
        return node in self._removed

    @property
    def known(self) -> int:
        """Others that are remembered, the dead and departed included."""
        return len(self._members)

    @property
    def size(self) -> int:
        """Members that count for timeouts: this node and everybody who is alive or suspect."""
        return len(self.population) + 1

    def suspects(self) -> list[Member]:
        return list(self._suspects.values())

    def dead(self) -> Iterable[Member]:
        return self._dead.values()

    def live(self) -> list[Member]:
        return self.population.live()

    # Our own record.

    def restate(self, *, address: Address | None = None, tags: Tags | None = None) -> None:
        """Say something new about ourselves, in a new incarnation."""
        own = self.own
        address, tags = own.address if address is None else address, own.tags if tags is None else tags
        self._say(Alive(own.node, own.generation, own.incarnation + 1, address, tags))

    def set_hints(self, data: bytes) -> None:
        sequence = self.own_hints.sequence + 1 if self.own_hints is not None else 1
        self.own_hints = Hints(self.own.node, self.own.generation, sequence, data)
        self._news.put(self.own_hints)
        self._hash_own()

    def set_load(self, load: Load) -> None:
        """Whose it is and its sequence are filled in here."""
        sequence = self.own_load.sequence + 1 if self.own_load is not None else 1
        figures = (load.map_version, load.members_epoch, load.leaders, load.replicas, load.cpu_permille, load.disk_permille)
        self.own_load = Load(self.own.node, self.own.generation, sequence, *figures)
        self._news.put(self.own_load)

    def leave(self) -> None:
        """Say good-bye. Accusations are no longer refuted; `restate` afterwards is a return."""
        self.leaving = True
        self._news.put(Left(*identity_of(self.own)))
        self._hash_own()

    def _say(self, own: Alive) -> None:
        self.own = own
        self._news.put(own)
        self._hash_own()

    def _hash_own(self) -> None:
        state = State.LEFT if self.leaving else State.ALIVE
        hints = self.own_hints.sequence if self.own_hints is not None else 0
        self.hashes.put(self.own.node, hash_of(self.own.node, *self.own.identity, state, hints))

    def _accused(self, generation: int, incarnation: int) -> None:
        own = self.own
        if generation > own.generation:
            self.superseded_by = max(self.superseded_by, generation)
        if generation != own.generation or incarnation < own.incarnation or self.leaving:
            return
        if incarnation - own.incarnation > INCARNATION_JUMP_MAX:
            self.refusals[Refusal.IMPLAUSIBLE_INCARNATION] += 1
            return
        self._say(Alive(own.node, own.generation, incarnation + 1, own.address, own.tags))
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

    def note(self, note: Note, *, news: bool = True) -> None:
        """Take what a member says of itself, if it is that process and newer than what is held."""
        member = self._members.get(note.node)
        if member is None or note.generation != member.alive.generation:
            return
        if isinstance(note, Hints):
            if note.sequence <= member.hints_sequence:
                return
            member.hints = note
            self._hash(member)
        elif member.load is None or note.sequence > member.load.sequence:
            member.load = note
        else:
            return
        if news:
            self._news.put(note)
        self.changes.append(MemberChange(member.view(), member.state))

    def _hear_alive(self, alive: Alive, now_ms: int, *, news: bool = True) -> None:
        member = self._members.get(alive.node)
        if member is None:
            self._insert(Member(alive, State.ALIVE, now_ms), news=news)
            return
        if alive.identity <= member.alive.identity or not self._plausible(member, alive.generation, alive.incarnation):
            return
        before, restarted = member.state, alive.generation > member.alive.generation
        changed = (alive.address, alive.tags) != (member.alive.address, member.alive.tags)
        if restarted:
            self._record(member, Happening.RESTARTED, now_ms, alive)
            member.hints = member.load = None
        elif before is State.SUSPECT:
            self._record(member, Happening.REFUTED, now_ms, alive)
            self.counters.refuted += 1
            self.counters.refute_ms += now_ms - member.since_ms
        elif before is not State.ALIVE:
            self._record(member, Happening.RETURNED, now_ms, alive)
            self.counters.returned += before is State.DEAD
        if restarted or alive.address != member.alive.address:
            member.reach = Reach()
        self._become(member, alive, State.ALIVE, now_ms)
        self._news.put(alive)
        if restarted or changed or before is not State.ALIVE:
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
        accusers = [(accuser, self._zone_of(accuser.node)) for accuser in opinion.accusers]
        suspicion = member.suspicion
        if suspicion is not None and opinion.incarnation == member.alive.incarnation:
            if suspicion.confirm(accusers, now_ms):
                self._weighed = False
                self._record(member, Happening.CONFIRMED, now_ms)
                self._news.put(Suspect(*identity_of(member.alive), member.held_accusers))
            return
        before = member.state
        self._become(member, raised(member.alive, opinion.incarnation), State.SUSPECT, now_ms)
        size = self.size
        member.suspicion = Suspicion(
            accusers,
            now_ms=now_ms,
            min_ms=self._config.suspicion_min_ms(size),
            max_ms=self._config.suspicion_max_ms(size),
            expected=max(1, self._config.confirmations_expected(size)),
        )
        self._suspects[opinion.node] = member
        self._record(member, Happening.SUSPECTED, now_ms)
        self.counters.suspected += 1
        self._news.put(Suspect(*identity_of(member.alive), member.held_accusers))
        if before is not State.SUSPECT:
            self.changes.append(MemberChange(member.view(), before))

    def _conclude(self, member: Member, state: State, opinion: Dead | Left, now_ms: int) -> None:
        before = member.state
        self._become(member, raised(member.alive, opinion.incarnation), state, now_ms)
        member.accusers = opinion.accusers if isinstance(opinion, Dead) else ()
        self._record(member, Happening.LEFT if state is State.LEFT else Happening.DIED, now_ms)
        self.counters.died += state is State.DEAD
        self._news.put(opinion)
        self.changes.append(MemberChange(member.view(), before))

    def accuse(self, node: NodeId, generation: int, paths: Path, now_ms: int) -> None:
        """This node's own probe failed. Ignored if the member is another process by now.

        Said again each time: where two have to agree, an accusation that was lost on its way would wait for ever.
        """
        member = self._members.get(node)
        if member is not None and member.alive.generation == generation:
            self.teller = self.own.node
            if member.suspicion is not None and self.own.node in member.suspicion.accusers:
                self._news.put(Suspect(*identity_of(member.alive), member.held_accusers))
                return
            self.hear(Suspect(node, generation, member.alive.incarnation, (Accuser(self.own.node, paths),)), now_ms)

    # Verdicts.

    def expire(self, now_ms: int) -> None:
        """Conclude the suspicions whose time has run out, and those whose time has run out by that: fewer could confirm now."""
        self.teller = self.own.node
        while (due_ms := self.suspicion_deadline_ms()) is not None and due_ms <= now_ms:
            due = [m for m in self._suspects.values() if m.suspicion is not None and m.suspicion.deadline_ms <= now_ms]
            for member in due:
                self.hear(Dead(*identity_of(member.alive), member.held_accusers), now_ms)

    def suspicion_deadline_ms(self) -> int | None:
        """When the next verdict is due; None if none is."""
        if not self._suspects:
            return None
        if not self._weighed:
            self._weigh()
        first_ms = min(m.suspicion.deadline_ms for m in self._suspects.values() if m.suspicion is not None)
        return None if first_ms == NEVER_MS else first_ms

    def _weigh(self) -> None:
        """Who could confirm decides how long a suspicion waits: those who are not suspected themselves, and this node.

        In a small cluster of three or more two have to agree, as long as there are two to ask: one node with a broken link
        must not bury the others.
        """
        size, witnesses = self.size, self.population.unsuspected + 1
        small = self.profile.small
        expected = min(self._config.confirmations_expected(size), 1) if small else self._config.confirmations_expected(size)
        agreement = min(2, witnesses) if small and size >= 3 else 1
        zones = len(self.population.zones.keys() | {self.own.tags.zone})
        for member in self._suspects.values():
            assert member.suspicion is not None
            member.suspicion.weigh(zones=zones, expected=min(expected, witnesses - 1), agreement=agreement)
        self._weighed = True

    def postpone_suspicions(self, stalled_ms: int) -> None:
        for member in self._suspects.values():
            if member.suspicion is not None:
                member.suspicion.postpone(stalled_ms)

    def _zone_of(self, node: NodeId) -> str:
        if node == self.own.node:
            return self.own.tags.zone
        member = self._members.get(node)
        return member.alive.tags.zone if member is not None else ""

    # What was learnt by comparing tables.

    def merge(self, record: SyncRecord, reporter: NodeId, now_ms: int, *, news: bool = True) -> None:
        """Take a record of another table. news: whether a member that was not known is told on.

        A death that we only read about is a suspicion first, so that the subject can refute it: that is how two halves
        of a healed partition, each holding the other dead, come together.
        """
        alive, state = record.alive, record.state
        if alive.node == self.own.node or alive.node in self._removed:
            self.hear(alive if state is State.ALIVE else Dead(*identity_of(alive), ()), now_ms)
            return
        member = self._members.get(alive.node)
        if state >= State.DEAD and (member is None or (member.state >= State.DEAD and alive.identity > member.alive.identity)):
            self._learn_gone(member, record, now_ms)
            return
        self._hear_alive(alive, now_ms, news=news)
        if state is State.LEFT:
            self.hear(Left(*identity_of(alive)), now_ms)
        elif state is not State.ALIVE:
            accusers = record.accusers if state is State.SUSPECT else ()
            self.hear(Suspect(*identity_of(alive), accusers or (Accuser(reporter),)), now_ms)
        for note in (record.hints, record.load):
            if note is not None and note.node == alive.node:
                self.note(note, news=news)

    def _learn_gone(self, member: Member | None, record: SyncRecord, now_ms: int) -> None:
        """Remember somebody who was gone before we heard of it, with the age of its death and without news."""
        since_ms = now_ms - record.age_ms
        if member is None:
            self._insert(Member(record.alive, record.state, since_ms, record.accusers), news=False)
        elif self._plausible(member, record.alive.generation, record.alive.incarnation):
            if record.alive.generation > member.alive.generation:
                member.hints = member.load = None
            member.alive, member.state, member.accusers = record.alive, record.state, record.accusers
            self._index_dead(member)
            self._hash(member)

    def remember(self, alive: Alive, now_ms: int) -> None:
        """Somebody who was there before this process began; no news."""
        if alive.node != self.own.node and alive.node not in self._members and alive.node not in self._removed:
            self._insert(Member(alive, State.ALIVE, now_ms), news=False)

    # Forgetting.

    def remove(self, nodes: Iterable[NodeId], members_epoch: int) -> list[NodeId]:
        """The authoritative list of this epoch says that these ids are gone for good: forget them and never take them back.

        Ids are only ever added, so that a list that comes late, or twice, changes nothing. Returns those that are new here.
        """
        self.members_epoch = max(self.members_epoch, members_epoch)
        fresh = [node for node in dict.fromkeys(nodes) if node not in self._removed]
        for node in fresh:
            self._removed[node] = None
            member = self._members.get(node)
            if member is not None:
                self._drop(member)
        while len(self._removed) > REMOVED_MAX:
            del self._removed[next(iter(self._removed))]
        return fresh

    def forget_dead(self, now_ms: int) -> None:
        """Drop who was gone for as long as we remember it; stop telling others of it half way."""
        retention_ms = self._config.dead_retention_ms
        gone = [member for member in self._members.values() if member.state >= State.DEAD]
        for member in gone:
            if member.since_ms <= now_ms - retention_ms:
                self._drop(member)
            elif member.taught and member.since_ms <= now_ms - retention_ms // 2:
                member.taught = False
                self._hash(member)

    def _drop(self, member: Member) -> None:
        node = member.alive.node
        self.population.forget(member)
        self._weighed = False
        self._suspects.pop(node, None)
        self._dead.pop(node, None)
        self._news.drop(node)
        self.hashes.put(node, 0)
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
        self.population.moved(member, None, "")
        self._index_dead(member)
        self._weighed = False
        self._hash(member)
        self.profile.adapt(self.size)
        if news:
            self._news.put(member.alive)
        self.changes.append(MemberChange(member.view(), None))

    def _make_room(self) -> bool:
        gone = [m for m in self._members.values() if m.state >= State.DEAD]
        if gone:
            self._drop(min(gone, key=lambda member: member.since_ms))
        return bool(gone)

    def _become(self, member: Member, alive: Alive, state: State, now_ms: int) -> None:
        assert alive.identity >= member.alive.identity, "identities only rise"
        before, zone_before = member.state, member.alive.tags.zone
        if state is not before:
            member.since_ms = now_ms
        member.alive = alive
        member.state = state
        member.suspicion = None
        member.accusers = ()
        member.taught = True
        self._suspects.pop(alive.node, None)
        self.population.moved(member, before, zone_before)
        self._index_dead(member)
        self._weighed = False
        self._hash(member)
        self.profile.adapt(self.size)

    def _index_dead(self, member: Member) -> None:
        if member.state is State.DEAD:
            self._dead[member.alive.node] = member
        else:
            self._dead.pop(member.alive.node, None)

    def _hash(self, member: Member) -> None:
        alive, hashed = member.alive, 0
        if member.taught:
            hashed = hash_of(alive.node, *alive.identity, member.state, member.hints_sequence)
        self.hashes.put(alive.node, hashed)

    def _record(self, member: Member, what: Happening, now_ms: int, alive: Alive | None = None) -> None:
        generation, incarnation = (alive or member.alive).identity
        episode = Episode(now_ms, what, self.teller, member.held_accusers, generation, incarnation)
        member.episodes = extended(member.episodes, episode)

    def _plausible(self, member: Member, generation: int, incarnation: int) -> bool:
        floor = member.alive.incarnation if generation == member.alive.generation else 0
        if incarnation - floor <= INCARNATION_JUMP_MAX and incarnation < INCARNATION_MAX:
            return True
        self.refusals[Refusal.IMPLAUSIBLE_INCARNATION] += 1
        return False
