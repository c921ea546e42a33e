"""A chat room: anybody may knock and see its title, members alone see who is there and what was said."""

from datetime import datetime

from cluster import Command, Document, OrderedSet, Principal, Record, Refused, Table, anyone, field, on, read

MESSAGES_KEPT = 1_000


class Message(Record):
    author: Principal
    text: str
    sent: datetime


class NotAMember(Refused):
    """Only members may do this."""


class NotTheOwner(Refused):
    """Only the owner of the room may do this."""


class Room(Document, version=1):
    """A room with an owner, members and the latest messages."""

    gate = anyone

    @read.policy
    def is_member(self, who: Principal) -> bool:
        return who in self.members

    title: str = field.public("")
    owner: Principal = field.public()
    members: OrderedSet[Principal] = field.visible(is_member)
    messages: Table[Message] = field.visible(is_member)

    @on.construct
    def open(self, ctx: Command, title: str, members: list[Principal] | None = None) -> None:
        self.owner, self.title = ctx.sender, title
        self.members.add(ctx.sender)
        for member in members or ():
            self.members.add(member)

    @on.message
    def say(self, ctx: Command, text: str) -> None:
        if ctx.sender not in self.members:
            raise NotAMember()
        self.messages.put(Message(ctx.sender, text, ctx.now))
        if len(self.messages) > MESSAGES_KEPT:
            self.messages.remove(next(iter(self.messages)))

    @on.message
    def invite(self, ctx: Command, who: Principal) -> None:
        if ctx.sender not in self.members:
            raise NotAMember()
        self.members.add(who)

    @on.message
    def expel(self, ctx: Command, who: Principal) -> None:
        if ctx.sender != self.owner:
            raise NotTheOwner()
        self.members.discard(who)

    @on.delete
    def close(self, ctx: Command) -> bool:
        return ctx.sender == self.owner

    @read.view
    def people(self) -> int:
        """How many members there are: everybody may know."""
        return len(self.members)
