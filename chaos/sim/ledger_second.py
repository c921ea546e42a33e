"""The ledger's second version: it notes how many entries there were when it came, and takes the same messages spelt
otherwise.
"""

from cluster import Before, Command, Document, Refused, anyone, field, on


class NotOdd(Refused):
    """Only odd numbers may be doubted."""


class Ledger(Document, version=2):
    """What it was told, in order, and at which length each new version came."""

    gate = anyone

    entries: list[int] = field.public()
    steps: list[int] = field.public()

    @on.construct
    def open(self, ctx: Command, first: int = 0) -> None:
        self.entries.append(first)

    @on.upgrade(since=1)
    def second(self, ctx: Command, before: Before) -> None:
        self.steps.append(len(before.entries))

    @on.message
    def append(self, ctx: Command, *, weight: int = 1, number: int) -> int:
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
