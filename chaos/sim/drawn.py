"""Documents that nobody wrote: a class with fields, handlers and views drawn from a seed, and messages for it.

Whatever the programming model allows must be undone, replayed, copied, sent and shown as it was, in combinations of which no
author of tests has thought. Nothing is known of such a document, so it is judged by what must hold of every document.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from chaos.sim.faults import SAFETY_MS
from chaos.sim.workload import Work, Workload
from cluster.documents.bundle import from_source
from cluster.session.operations import Kind

SPACE = "drawn"
SHARE = 0.15
"""Of the seeds that have such a document."""
HANDLERS = (2, 5)
"""Of a class. Who sends does not know how many there are: some channels are unknown."""
STEPS_MAX = 4
"""Of one handler."""
FAULT = 'raise ValueError("meant")'
"""How a handler fails that shall: the only failure that such a document may have."""

HEAD = '''
from decimal import Decimal
from cluster import Command, Document, OrderedSet, Principal, Record, Refused, Table, Tally, Text
from cluster import anyone, field, latest, on, read

class No(Refused):
    """Everything before it is undone."""

class Row(Record):
    name: str
    owner: Principal
    count: int = 0
    tags: OrderedSet[str] = OrderedSet()
    words: list[str] = []

class Drawn(Document, version=1):
    gate = anyone

    @read.policy
    def is_odd(self, who: Principal) -> bool:
        return self.turn % 2 == 1 or who.agent == "c0"

    @read.policy
    def is_owner(self, row: Row, who: Principal) -> bool:
        return row.owner == who

    turn: int = field.public(0)
'''


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of field. declared: type, visibility and default. steps: what handlers do with it, given place and number.
    seen: what a view says of it."""

    declared: tuple[str, str]
    options: str
    steps: tuple[str, ...]
    seen: str


KINDS = (
    _Kind(("int", "0"), "", ("{f} = number", "{f} += place", "{f} -= number % 7"), "{f}"),
    _Kind(("str", "''"), "", ("{f} = str(number)", "{f} = {f}[:6] + str(place)"), "len({f})"),
    _Kind(("Decimal", "Decimal(0)"), "", ("{f} += Decimal(number) / 8", "{f} = -{f}"), "{f}"),
    _Kind(
        ("list[int]", "[]"),
        "",
        (
            "{f}.append(number)",
            "{f}.insert(place, number)",
            "if {f}:\n            {f}.pop(place % len({f}))",
            "if {f}:\n            {f}[place % len({f})] = number",
            "del {f}[place:]",
            "{f}.reverse()",
            "{f}.extend([place, number])",
        ),
        "sum({f})",
    ),
    _Kind(
        ("dict[str, list[int]]", "{{}}"),
        "",
        (
            "{f}[str(place)] = [number]",
            "{f}.pop(str(place), None)",
            "{f}.setdefault(str(place % 3), []).append(number)",
            "if len({f}) > 3:\n            {f}.clear()",
        ),
        "sorted({f})",
    ),
    _Kind(
        ("OrderedSet[int]", "OrderedSet()"),
        "",
        ("{f}.add(place)", "{f}.discard(place)", "{f} ^= OrderedSet([place, number % 5])"),
        "len({f})",
    ),
    _Kind(("Tally", ""), "add=anyone", ("{f}.add(place)", "{f}.add(-number)"), "{f}.value"),
    _Kind(
        ("Text", "''"),
        "",
        ("{f}.splice(min(place, len({f})), 0, str(number))", "{f}.splice(0, min(place, len({f})), '')"),
        "len({f})",
    ),
    _Kind(("Row | None", "None"), "", ("{f} = Row(str(place), ctx.sender, number)", "{f} = None"), "{f} is None"),
    *(
        _Kind(
            ("Table[Row]", ""),
            options,
            (
                "{f}.put(Row(str(place), ctx.sender, number))",
                "{f}.discard(str(place))",
                "for row in {f}.where(owner=ctx.sender):\n            row.count += 1",
                "for row in {f}.latest(1):\n            row.tags.add(str(number % 3))\n            row.words += [str(number)]",
                "{f}.put(Row(str(place), ctx.sender)).words.extend(['a', str(number)])",
            ),
            "[row.count for row in {f}.order_by('count', limit=3)]",
        )
        for options in ('key="name"', 'key="name", index=("owner",)', 'key="name", window=latest(2)')
    ),
)
"""The kinds of fields. In steps and views `{f}` is the field, with `self.` before it."""


def bundle(source: random.Random) -> bytes:
    """The bundle of a class."""
    chosen = [source.choice(KINDS) for _ in range(source.randint(2, 6))]
    lines = [HEAD.rstrip()]
    for number, kind in enumerate(chosen):
        lines.append(f"    f{number}: {kind.declared[0]} = {_declaration(kind, source)}")
    for number in range(source.randint(*HANDLERS)):
        lines += ["", "    @on.message", f"    def h{number}(self, ctx: Command, place: int, number: int) -> int:"]
        lines.append("        self.turn += 1")
        for _ in range(source.randint(1, STEPS_MAX)):
            field = source.randrange(len(chosen))
            lines.append("        " + source.choice(chosen[field].steps).format(f=f"self.f{field}"))
        if source.random() < 0.4:
            lines.append(f"        if number % {source.choice((2, 3, 5))} == 0:")
            lines.append(f"            {source.choice(('raise No()', FAULT))}")
        lines.append("        return self.turn")
    lines += ["", "    @read.view", "    def all_of_it(self) -> list[str]:"]
    lines.append(f"        return [{', '.join(f'str({_seen(kind, number)})' for number, kind in enumerate(chosen))}]")
    place = source.randrange(len(chosen))
    lines += ["", "    @read.view", "    def of_one(self, who: Principal) -> str:"]
    lines.append(f"        return who.agent + str({_seen(chosen[place], place)}) if self.is_odd(who) else ''")
    return from_source("\n".join(lines) + "\n").encode()


def _seen(kind: _Kind, number: int) -> str:
    return kind.seen.format(f=f"self.f{number}")


def _declaration(kind: _Kind, source: random.Random) -> str:
    """A field's visibility, default and options."""
    given = [part for part in (kind.declared[1].format(), kind.options) if part]
    chance = source.random()
    if chance < 0.3 and "add=" not in kind.options and "window=" not in kind.options:
        return f"field.private({', '.join(given)})"
    if chance < 0.5:
        policy = "is_owner" if kind.declared[0] == "Table[Row]" else "is_odd"
        return f"field.visible({', '.join([policy, *given])})"
    return f"field.public({', '.join(given)})"


@dataclass(slots=True)
class DrawnWork(Workload):
    """What clients ask of it."""

    def draw_messages(self) -> tuple[Work, ...]:
        """In some seeds: one such document, created, written, read, watched, now and then deleted and made again."""
        source = self.source
        if source.random() >= SHARE:
            return ()
        place = (SPACE, "d")
        self._add(30.0, source.randrange(self.clients), Kind.CREATE, *place, payload=b"{}")
        at_ms, pace_ms = 70.0, source.choice((10.0, 40.0, 100.0))
        while at_ms < SAFETY_MS:
            client, chance, alone = source.randrange(self.clients), source.random(), source.random() < 0.2
            if chance < 0.75:
                self.number += 1
                payload = b'{"number":%d,"place":%d}' % (self.number, source.randrange(6))
                self._add(
                    at_ms, client, Kind.SEND, *place, f"h{source.randrange(source.randint(*HANDLERS))}", payload, alone=alone
                )
            elif chance < 0.97:
                self._add(at_ms, client, source.choice((Kind.READ, Kind.WATCH, Kind.WATCH, Kind.UNWATCH)), *place)
            elif chance < 0.98:
                self._add(at_ms, client, Kind.DELETE, *place)
                self._add(at_ms + source.uniform(0, 60), client, Kind.CREATE, *place, payload=b"{}")
            at_ms += source.expovariate(1 / pace_ms)
        return tuple(self.work)
