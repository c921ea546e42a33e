"""What clients ask: pipelined sends, reads, watches, unary calls, now and then a deletion and a new creation."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from chaos.sim.faults import SAFETY_MS
from cluster.session.operations import Consistency, Kind

HANDS_SHARE = 0.3
"""Share of seeds with a document of secrets."""
HANDS_DEALT = 60
NOTES_SHARE = 0.15
"""Share of seeds with a document of what passes by."""
REMADE_SHARE = 0.3
"""Share of seeds with new code in which ledgers are made anew while it spreads."""
REMADE = 12
"""How many for each deployment."""
SPREADING_MS = (15.0, 250.0, SAFETY_MS)
"""Within a time after new code came each of them is made anew: while nodes tell each other that they have it, while those hear
of it who did not decide it, or once a leader may have to ask again.
"""
LOBBY_SHARE = 0.2
"""Share of seeds with a document that is told who watches it."""


@dataclass(frozen=True, slots=True)
class Work:
    """Something a client does at at_ms. kind: of the operation; WATCH and UNWATCH too. alone: a unary call with an idempotency
    key instead of a place in the client's session. keyless: without one, so it is tried once only."""

    at_ms: float
    client: int
    kind: Kind
    space: str
    key: str
    channel: str = ""
    payload: bytes = b""
    consistency: Consistency = Consistency.LINEARIZABLE
    alone: bool = False
    keyless: bool = False

    @property
    def writes(self) -> bool:
        return self.kind in (Kind.SEND, Kind.CREATE, Kind.DELETE)

    def __str__(self) -> str:
        how = "alone " if self.alone else ""
        what = f"{self.channel} {self.payload.decode()}" if self.payload or self.channel else ""
        return f"{self.at_ms:7.0f} c{self.client} {how}{self.kind.name.lower()} {self.space}/{self.key} {what}".rstrip()


@dataclass(slots=True)
class Workload:
    """What clients ask. Every number appended to a ledger is its own, so a repeat shows."""

    source: random.Random
    clients: int
    number: int = 0
    work: list[Work] = field(default_factory=list)

    def draw(self, *, read_often: bool, pauses_ms: tuple[tuple[float, float], ...] = ()) -> tuple[Work, ...]:
        """read_often: one document is read and written all the time. pauses_ms: from when to when nothing is written."""
        source = self.source
        documents = [("ledger", "a"), ("ledger", "b"), ("counter", "c"), ("text", "t"), ("chat", "r")]
        documents = documents[:2] + source.sample(documents[2:], source.randint(1, 3))
        for place, (space, key) in enumerate(documents):
            self._add(10.0 + place, source.randrange(self.clients), Kind.CREATE, space, key, payload=_construct(space))
        at_ms = 60.0
        pace_ms = source.choice((20.0, 50.0, 120.0))
        deletes = source.random() < 0.3
        while at_ms < SAFETY_MS and len(self.work) < 260:
            self._act(at_ms, *source.choice(documents), deletes)
            at_ms += source.expovariate(1 / pace_ms)
        self._list_and_create()
        if read_often:
            self._read_often(*documents[0])
        if source.random() < HANDS_SHARE:
            self._hands()
        asked = (
            work for work in self.work if not work.writes or not any(begins <= work.at_ms < ends for begins, ends in pauses_ms)
        )
        return tuple(sorted(asked, key=lambda work: work.at_ms))

    def _list_and_create(self) -> None:
        """Many small documents come, and somebody asks again and again which there are."""
        source = self.source
        for number in range(source.choice((0, 3, 12))):
            at_ms = source.uniform(60, SAFETY_MS)
            key, alone = f"x{number:02}", source.random() < 0.5
            self._add(at_ms, source.randrange(self.clients), Kind.CREATE, "counter", key, payload=b"{}", alone=alone)
        for _ in range(source.randint(1, 6)):
            at_ms, space = source.uniform(60, SAFETY_MS), source.choice(("counter", "ledger"))
            self._add(at_ms, source.randrange(self.clients), Kind.LIST, space, "", alone=True)

    def _hands(self) -> None:
        """Cards go from hand to hand while those whose they are not look on."""
        source = self.source
        self._add(15.0, 0, Kind.CREATE, "hands", "h", payload=b"{}")
        for client in range(self.clients):
            self._add(50.0 + client, client, Kind.WATCH, "hands", "h")
        at_ms = 80.0
        pace_ms = source.choice((15.0, 60.0))
        for number in range(HANDS_DEALT):
            at_ms += source.expovariate(1 / pace_ms)
            if at_ms >= SAFETY_MS:
                break
            client, name = source.randrange(self.clients), source.randrange(5)
            if source.random() < 0.2:
                self._add(at_ms, client, Kind.SEND, "hands", "h", "drop", b'{"name":"%d"}' % name)
            else:
                owner = b"c%d@sim" % source.randrange(3)
                card = b'{"name":"%d","owner":"%s","text":"for %s %d"}' % (name, owner, owner, number)
                self._add(at_ms, client, Kind.SEND, "hands", "h", "bluff" if source.random() < 0.2 else "deal", card)
            if source.random() < 0.2:
                self._add(
                    at_ms, source.randrange(self.clients), source.choice((Kind.READ, Kind.WATCH, Kind.UNWATCH)), "hands", "h"
                )

    def _read_often(self, space: str, key: str) -> None:
        """Everybody reads and writes one document all the time: what is stale for a moment only shows to who looks then."""
        at_ms = 100.0
        while at_ms < SAFETY_MS:
            for client in range(self.clients):
                self._add(at_ms + client, client, Kind.READ, space, key)
            channel, payload = self._message(space)
            self._add(at_ms, self.source.randrange(self.clients), Kind.SEND, space, key, channel, payload)
            at_ms += 15.0

    def _act(self, at_ms: float, space: str, key: str, deletes: bool) -> None:
        source = self.source
        client = source.randrange(self.clients)
        chance = source.random()
        if chance < 0.02:
            self._add(at_ms, client, Kind.CREATE, space, key, payload=_construct(space), alone=True)
        elif chance < 0.5:
            for _ in range(source.choice((1, 1, 2, 6))):
                channel, payload = self._message(space)
                self._add(at_ms, client, Kind.SEND, space, key, channel, payload)
        elif chance < 0.6:
            channel, payload = self._message(space)
            self._add(at_ms, client, Kind.SEND, space, key, channel, payload, alone=True, keyless=source.random() < 0.3)
        elif chance < 0.8:
            level = source.choice((Consistency.LINEARIZABLE, Consistency.LINEARIZABLE, Consistency.AT_LEAST))
            self._add(at_ms, client, Kind.READ, space, key, consistency=level, alone=source.random() < 0.3)
        elif chance < 0.92:
            self._add(at_ms, client, Kind.WATCH, space, key)
        elif chance < 0.95:
            self._add(at_ms, client, Kind.UNWATCH, space, key)
        elif deletes and space == "ledger" and key == "b":
            self._add(at_ms, client, Kind.DELETE, space, key)
            self._add(at_ms + source.uniform(0, 60), client, Kind.CREATE, space, key, payload=_construct(space))

    def _message(self, space: str) -> tuple[str, bytes]:
        self.number += 1
        number = self.number
        if space == "ledger":
            channel = "doubt" if self.source.random() < 0.1 else "append"
            if channel == "append" and number % 3:
                return channel, b'{"number":%d,"weight":2}' % number  # versions of the ledger spell this in different order
            return channel, b'{"number":%d}' % number
        if space == "counter":
            return ("add", b'{"amount":%d}' % number) if self.source.random() < 0.8 else ("put", b'{"value":"v%d"}' % number)
        if space == "text":
            return "edit", b'{"patches":[{"at":0,"delete":0,"insert":"%d "}]}' % number
        if self.source.random() < 0.3:
            who = b'{"who":"c%d@sim"}' % self.source.randrange(4)
            return ("invite" if self.source.random() < 0.5 else "expel"), who
        return "say", b'{"text":"%d"}' % number

    def _add(
        self,
        at_ms: float,
        client: int,
        kind: Kind,
        space: str,
        key: str,
        channel: str = "",
        payload: bytes = b"",
        **more: object,
    ) -> None:
        self.work.append(Work(round(at_ms, 1), client, kind, space, key, channel, payload, **more))  # type: ignore[arg-type]


def _construct(space: str) -> bytes:
    if space == "ledger":
        return b'{"first":0}'
    if space == "chat":
        return b'{"title":"room","members":["c0@sim","c1@sim"]}'
    return b"{}"


@dataclass(slots=True)
class ClockWork(Workload):
    """What clients ask of documents that arm alarms and ask workers. Every alarm has a number of its own."""

    def draw_clocks(self) -> tuple[Work, ...]:
        """In most seeds one or a few such documents."""
        source = self.source
        keys = [f"k{number}" for number in range(source.choice((0, 1, 1, 2, 6)))]
        for place, key in enumerate(keys):
            self._add(20.0 + place, source.randrange(self.clients), Kind.CREATE, "clock", key, payload=b"{}")
        at_ms = 80.0
        while keys and at_ms < SAFETY_MS:
            self._clock(at_ms, source.choice(keys))
            at_ms += source.expovariate(1 / source.choice((30.0, 120.0)))
        return tuple(self.work)

    def _clock(self, at_ms: float, key: str) -> None:
        source = self.source
        client, alone = source.randrange(self.clients), source.random() < 0.3
        chance = source.random()
        if chance < 0.6:
            self.number += 1
            after_ms = source.choice((0, 1, 20, 200, 1_000, 3_000))
            payload = b'{"number":%d,"after_ms":%d}' % (self.number, after_ms)
            self._add(at_ms, client, Kind.SEND, "clock", key, "arm", payload, alone=alone)
        elif chance < 0.8:
            payload = b'{"number":%d}' % source.randint(max(1, self.number - 3), self.number + 1)
            self._add(at_ms, client, Kind.SEND, "clock", key, "disarm", payload, alone=alone)
        elif chance < 0.95:
            payload = b'{"within_ms":%d}' % source.choice((1, 100, 800, 2_500))
            self._add(at_ms, client, Kind.SEND, "clock", key, "ask", payload, alone=alone)
        else:
            self._add(at_ms, client, Kind.WATCH, "clock", key)


@dataclass(slots=True)
class PassingWork(Workload):
    """What clients show and say to those who look on at the same time."""

    def draw_notes(self) -> tuple[Work, ...]:
        """In a few seeds one such document, which everybody comes to and leaves again."""
        source = self.source
        if source.random() >= NOTES_SHARE:
            return ()
        place = ("notes", "n")
        self._add(25.0, source.randrange(self.clients), Kind.CREATE, *place, payload=b"{}")
        at_ms, pace_ms = 60.0, source.choice((10.0, 40.0, 120.0))
        while at_ms < SAFETY_MS:
            self._pass(at_ms, place)
            at_ms += source.expovariate(1 / pace_ms)
        return tuple(self.work)

    def _pass(self, at_ms: float, place: tuple[str, str]) -> None:
        source = self.source
        client, chance = source.randrange(self.clients), source.random()
        self.number += 1
        number = b'{"number":%d}' % self.number
        if chance < 0.2:
            self._add(at_ms, client, Kind.WATCH, *place)
        elif chance < 0.25:
            self._add(at_ms, client, Kind.UNWATCH, *place)
        elif chance < 0.7:
            self._add(at_ms, client, Kind.PRESENT, *place, payload=b"" if chance < 0.3 else number)
        else:
            channel, alone = "whisper" if source.random() < 0.3 else "say", source.random() < 0.2
            self._add(at_ms, client, Kind.SEND, *place, channel, number, alone=alone)


@dataclass(slots=True)
class LobbyWork(Workload):
    """Who comes to a document that wants to know, and leaves it again."""

    def draw_lobby(self) -> tuple[Work, ...]:
        """In a few seeds one such document, or two. It keeps its door shut now and then, and may be deleted and made again."""
        source = self.source
        if source.random() >= LOBBY_SHARE:
            return ()
        places = [("lobby", f"l{number}") for number in range(source.choice((1, 1, 2)))]
        for number, place in enumerate(places):
            self._add(30.0 + number, source.randrange(self.clients), Kind.CREATE, *place, payload=b"{}")
        at_ms, pace_ms, deleted = 60.0, source.choice((10.0, 40.0, 120.0)), source.random() < 0.3
        while at_ms < SAFETY_MS:
            self._visit(at_ms, source.choice(places), deleted=deleted)
            at_ms += source.expovariate(1 / pace_ms)
        return tuple(self.work)

    def _visit(self, at_ms: float, place: tuple[str, str], *, deleted: bool) -> None:
        source = self.source
        client, chance = source.randrange(self.clients), source.random()
        if chance < 0.5:
            self._add(at_ms, client, Kind.WATCH, *place)
        elif chance < 0.75:
            self._add(at_ms, client, Kind.UNWATCH, *place)
            if source.random() < 0.3:
                self._add(at_ms + source.uniform(0, 3), client, Kind.WATCH, *place)
        elif chance < 0.97 or not deleted:
            shut = source.random() < 0.15
            self._add(at_ms, client, Kind.SEND, *place, "door", b'{"shut":true}' if shut else b'{"shut":false}')
            if shut:
                opens_ms = at_ms + source.uniform(1, 200)
                self._add(opens_ms, source.randrange(self.clients), Kind.SEND, *place, "door", b'{"shut":false}')
        else:
            self._add(at_ms, client, Kind.DELETE, *place)
            self._add(at_ms + source.uniform(0, 60), client, Kind.CREATE, *place, payload=b"{}")


@dataclass(slots=True)
class RemadeWork(Workload):
    """What clients ask of ledgers that end and begin again while new code spreads: for a moment what is on its way behind the
    new beginning was checked against the code of the old ledger, and runs on the new one's.
    """

    def draw_remade(self, upgrades_ms: tuple[float, ...], *, pipelined: bool, remembered: bool) -> tuple[Work, ...]:
        """In some of the seeds with new code a few ledgers for each deployment. Each has one such moment, so it is used once.

        pipelined: whether clients have more than one write to a document on its way. remembered: whether a document knows a key
        again for as long as somebody may repeat it; a deletion that is forgotten ends the next life too.
        """
        source = self.source
        if source.random() >= REMADE_SHARE:
            return ()
        for deployment, deployed_ms in enumerate(upgrades_ms):
            for place in range(REMADE):
                key, client = f"u{deployment}.{place}", source.randrange(self.clients)
                self._add(40.0 + place, client, Kind.CREATE, "ledger", key, payload=_construct("ledger"))
                at_ms = deployed_ms + source.uniform(0, SPREADING_MS[place % len(SPREADING_MS)])
                apart = source.random() < (0.1 if pipelined else 0.7)
                if at_ms < SAFETY_MS:
                    self._remake(at_ms, client, key, apart=apart and remembered)
        return tuple(self.work)

    def _remake(self, at_ms: float, client: int, key: str, *, apart: bool) -> None:
        self._add(at_ms, client, Kind.DELETE, "ledger", key, alone=apart)
        self._add(at_ms, client, Kind.CREATE, "ledger", key, payload=_construct("ledger"), alone=apart)
        for _ in range(self.source.randint(1, 4)):
            channel, payload = self._message("ledger")
            self._add(at_ms, client, Kind.SEND, "ledger", key, channel, payload, alone=apart)
