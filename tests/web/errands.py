"""A document type that uses what the page has forms for: asks of people, views and windows with arguments, files."""

from datetime import timedelta
from typing import Literal

from cluster import Blob, Command, Document, Maybe, Principal, Record, Table, anyone, field, latest, on, read


class Line(Record):
    who: Principal
    text: str


class Offer(Record):
    what: str
    cents: int


class Reply(Record):
    price: int
    note: str = ""
    when: Literal["now", "later"] = "now"


class Errands(Document):
    """Errands that are offered to somebody, who says what they cost."""

    gate = anyone

    lines: Table[Line] = field.visible(anyone, window=latest(2))
    prices: dict[str, int] = field.public()
    picture: Blob | None = field.public(None)

    @on.message
    def offer(self, ctx: Command, to: Principal, what: str) -> None:
        ctx.ask(to, Offer(what, 500), then=self.settled, within=timedelta(days=1))

    @on.answer
    def settled(self, ctx: Command, reply: Maybe[Reply]) -> str:
        if reply.value is None:
            return "nothing"
        self.prices[ctx.sender.agent] = reply.value.price
        return reply.value.when

    @on.message
    def say(self, ctx: Command, text: str) -> None:
        self.lines.put(Line(ctx.sender, text))

    @on.message
    def hang(self, ctx: Command, picture: Blob) -> str:
        self.picture = picture
        return picture.hash

    @read.view
    def found(self, word: str, limit: int = 2) -> list[str]:
        return [line.text for line in self.lines if word in line.text][:limit]
