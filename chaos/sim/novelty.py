"""The simulator's own document whose code is deployed while things fail: a number that is raised."""

from cluster import Command, Document, anyone, field, on


class Novelty(Document, version=1):
    """How often it was raised."""

    gate = anyone

    count: int = field.public(0)

    @on.message
    def raise_it(self, ctx: Command) -> int:
        self.count += 1
        return self.count
