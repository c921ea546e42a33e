"""The simulator's own document: a list of numbers, each of which must come out exactly once and in its client's order."""

from cluster import Command, Document, Refused, anyone, field, on


class NotOdd(Refused):
    """Only odd numbers may be doubted."""


class Ledger(Document, version=1):
    """What it was told, in order."""

    gate = anyone

    entries: list[int] = field.public()

    @on.construct
    def open(self, ctx: Command, first: int = 0) -> None:
        self.entries.append(first)

    @on.message
    def append(self, ctx: Command, number: int, weight: int = 1) -> int:
        self.entries.append(number)
        return len(self.entries)

    @on.message
    def doubt(self, ctx: Command, number: int) -> int:
        """Says no after it has written: nothing of that may stay."""
        self.entries.append(number)
        if number % 2 == 0:
            raise NotOdd()
        return len(self.entries)

    @on.delete
    def close(self, ctx: Command) -> bool:
        return True
