"""The simulator's own document with what passes by: cursors of those who look on, and words that are heard as they are said."""

from cluster import Command, Document, Event, Presence, Principal, Record, anyone, field, on, read


class Cursor(Record):
    """Where somebody is."""

    number: int


class Said(Event):
    """Every number is said once."""

    by: Principal
    number: int


class Notes(Document, version=1):
    """Who is here, and what was said."""

    gate = anyone

    cursors: Presence[Cursor] = field.public()
    said: int = field.public(0)

    @read.policy
    def is_theirs(self, said: Said, who: Principal) -> bool:
        return said.by == who

    @on.message
    def say(self, ctx: Command, number: int) -> None:
        """Everybody hears it."""
        self.said += 1
        ctx.emit(Said(ctx.sender, number))

    @on.message
    def whisper(self, ctx: Command, number: int) -> None:
        """Nobody else hears it, and nothing of it stays."""
        ctx.emit(Said(ctx.sender, number), to=self.is_theirs)
