"""The smallest document: a number that everybody may raise, and a word that everybody may set."""

from cluster import Command, Document, anyone, field, on


class Counter(Document, version=1):
    """A shared counter."""

    gate = anyone

    total: int = field.public(0)
    value: str = field.public("")

    @on.message
    def add(self, ctx: Command, amount: int = 1) -> int:
        self.total += amount
        return self.total

    @on.message
    def put(self, ctx: Command, value: str) -> None:
        self.value = value
