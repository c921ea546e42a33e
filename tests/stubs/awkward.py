"""A document whose author has chosen the names and types that are hardest to generate code for."""

import datetime as moments
from decimal import Decimal
from enum import Enum
from typing import Literal
from uuid import UUID

from cluster import Command, Document, Event, Maybe, Principal, Record, Refused, Table, anyone, field, on, read


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class View(Record):
    """A record that calls its fields as types are called."""

    int: str
    str: int  # type: ignore[valid-type]  # what a type checker minds in a class body, the runtime does not
    list: bool = True


class Literal2(Record):
    when: moments.datetime
    span: moments.timedelta
    price: Decimal
    id: UUID
    raw: bytes
    inner: View | None = None


class Position(Event):
    """An event that is called as its place is."""

    name: str
    value: int
    when: moments.datetime


class Exact(Refused):
    '''It says "no" and means """it""", even with a \\ at the end: \\'''

    def __init__(self, minimum: int, reason: str = "") -> None:
        super().__init__(minimum, reason)
        self.minimum = minimum
        self.reason = reason


class Handle(Document, version=1):
    """Ends with a quote: "so\""""

    gate = anyone

    @read.policy
    def sees(self, row: Literal2, who: Principal) -> bool:
        return True

    rows: Table[Literal2] = field.visible(sees)
    counts: dict[int, dict[Colour, int]] = field.public({})
    flag: Literal[1, 2] | None = field.public(None)

    @on.construct
    def open(self, ctx: Command, size: int = 3, note: str | None = "none") -> None:
        """*/ ends a comment of another language."""

    @on.message
    def watch(self, ctx: Command, rows: list[Literal2], by: moments.timedelta | None = None) -> list[Literal2]:
        if not rows:
            raise Exact(1, "none")
        for row in rows:
            self.rows.put(row)
        return rows

    @on.message
    def count(self, ctx: Command, number: int, colour: Colour) -> int | None:
        self.counts[number] = {colour: 9_007_199_254_740_993}
        return 9_007_199_254_740_993

    @read.view
    def newest(self, who: Principal, at_most: int = 3) -> list[Literal2]:
        return list(self.rows)[-at_most:]

    @on.message
    def wonder(self, ctx: Command, self_: str = "") -> None:
        ctx.ask(ctx.sender, "how many?", then=self.answer, within=moments.timedelta(days=1))
        ctx.emit(Position("here", 2**60, ctx.now))

    @on.answer
    def answer(self, ctx: Command, ask: Maybe[moments.timedelta]) -> Decimal:
        """A worker says how long."""
        return Decimal(ask.get(moments.timedelta(0)).total_seconds())

    @on.message
    def create(self, ctx: Command, answer: int, from_: str = "x") -> int:
        return answer

    @on.message
    def list(self, ctx: Command, when: moments.datetime, colours: list[Colour]) -> moments.datetime:
        return when
