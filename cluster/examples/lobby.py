"""A lobby with few seats: whoever watches has one, and whoever is gone has left it."""

from cluster import Command, Document, Principal, Record, Refused, Table, anyone, field, on, read


class Full(Refused):
    """There is no seat left."""


class Seat(Record):
    """Taken by one connection: somebody who has two windows open has two."""

    connection: str
    who: Principal


class Lobby(Document, version=1):
    """Seats are state, so they outlive leaders; nobody has to remember to leave."""

    gate = anyone

    size: int = field.public()
    seats: Table[Seat] = field.public(key="connection")

    @on.construct
    def open(self, ctx: Command, size: int = 2) -> None:
        self.size = size

    @on.connect
    def arrive(self, ctx: Command) -> None:
        """Whoever begins to watch. A refusal refuses the watch."""
        if len(self.seats) >= self.size:
            raise Full()
        self.seats.put(Seat(ctx.cause, ctx.sender))

    @on.disconnect
    def leave(self, ctx: Command) -> None:
        """Whoever is gone: left, lost its connection, or its node died."""
        self.seats.discard(ctx.cause)

    @on.message
    def resize(self, ctx: Command, size: int) -> None:
        """Nobody is sent away."""
        self.size = size

    @read.view
    def free(self) -> int:
        return max(self.size - len(self.seats), 0)
