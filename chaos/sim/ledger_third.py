"""The ledger's third version: its entries have another name, and what is shown of them is computed."""

from cluster import Command, Document, Refused, anyone, field, on, read


class NotOdd(Refused):
    """Only odd numbers may be doubted."""


class Ledger(Document, version=3):
    """What it was told, in order, and at which length each new version came."""

    gate = anyone

    numbers: list[int] = field.private(was="entries")
    steps: list[int] = field.public()

    @read.view
    def entries(self) -> list[int]:
        return list(self.numbers)

    @on.construct
    def open(self, ctx: Command, first: int = 0) -> None:
        self.numbers.append(first)

    @on.upgrade(since=2)
    def third(self, ctx: Command) -> None:
        self.steps.append(len(self.numbers))

    @on.message
    def append(self, ctx: Command, number: int, weight: int = 1) -> int:
        self.numbers.append(number)
        return len(self.numbers)

    @on.message
    def doubt(self, ctx: Command, number: int) -> int:
        """Says no after it has written: nothing of that may stay."""
        self.numbers.append(number)
        if number % 2 == 0:
            raise NotOdd()
        return len(self.numbers)

    @on.delete
    def close(self, ctx: Command) -> bool:
        return True
