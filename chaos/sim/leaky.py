"""The document that the simulator lets diverge: what `seen` holds is what the handler saw, and one node may see something
else.
"""

from cluster import Command, Document, anyone, field, on


class Leaky(Document, version=1):
    """Numbers that it was told, and what the last of them brought."""

    gate = anyone

    numbers: list[int] = field.public()
    seen: str = field.private("")

    @on.message
    def note(self, ctx: Command, number: int, seen: str) -> int:
        self.numbers.append(number)
        self.seen = seen
        return len(self.numbers)
