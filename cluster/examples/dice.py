"""A table with dice: everybody hears a roll as it falls, one behind the screen is heard by its roller alone; sixes stay."""

from cluster import Command, Document, Event, Principal, anyone, field, on, read

SIDES = 6


class Rolled(Event):
    """A die has fallen."""

    by: Principal
    face: int


class Dice(Document, version=1):
    """A table that anybody may sit at."""

    gate = anyone

    sixes: dict[Principal, int] = field.public()

    @read.policy
    def is_theirs(self, rolled: Rolled, who: Principal) -> bool:
        return rolled.by == who

    @on.message
    def roll(self, ctx: Command) -> None:
        """Roll in the open."""
        rolled = Rolled(ctx.sender, ctx.random.integer(1, SIDES))
        ctx.emit(rolled)
        if rolled.face == SIDES:
            self.sixes[ctx.sender] = self.sixes.get(ctx.sender, 0) + 1

    @on.message
    def roll_hidden(self, ctx: Command) -> None:
        """Roll behind the screen: it counts for nothing."""
        ctx.emit(Rolled(ctx.sender, ctx.random.integer(1, SIDES)), to=self.is_theirs)
