"""The simulator's own document that is told of connections: it writes down who comes and goes, and may keep its door shut."""

from cluster import Command, Document, Principal, Refused, anyone, field, on


class Shut(Refused):
    """Nobody comes in at the moment."""


class Lobby(Document, version=1):
    """Who is here, and everybody who ever came or went, in order."""

    gate = anyone

    shut: bool = field.public(False)
    here: dict[str, Principal] = field.public()
    heard: list[str] = field.public()

    @on.connect
    def arrive(self, ctx: Command) -> None:
        """Says no after it has written: nothing of that may stay."""
        self.here[ctx.cause] = ctx.sender
        self.heard.append("+" + ctx.cause)
        if self.shut:
            raise Shut()

    @on.disconnect
    def leave(self, ctx: Command) -> None:
        del self.here[ctx.cause]
        self.heard.append("-" + ctx.cause)

    @on.message
    def door(self, ctx: Command, shut: bool) -> int:
        self.shut = shut
        return len(self.here)

    @on.delete
    def close(self, ctx: Command) -> bool:
        return True
