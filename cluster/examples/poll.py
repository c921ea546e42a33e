"""A poll: one vote each, which may be changed until it is closed; who chose what stays secret for good."""

from cluster import Command, Document, Principal, Refused, anyone, field, on, read


class Closed(Refused):
    """The poll takes no more votes."""


class NoSuchOption(Refused):
    """The poll has no such option."""


class NotYours(Refused):
    """Only who opened the poll may close it."""


class Poll(Document, version=1):
    """A question and its options. While it is open everybody sees how many have voted, afterwards also how."""

    gate = anyone

    owner: Principal = field.public()
    question: str = field.public()
    options: list[str] = field.public()
    closed: bool = field.public(False)
    votes: dict[Principal, str] = field.private()

    @on.construct
    def open(self, ctx: Command, question: str, options: list[str]) -> None:
        if len(options) < 2 or len(options) != len(dict.fromkeys(options)):
            raise NoSuchOption("a poll has two options or more, and none twice")
        self.owner, self.question, self.options = ctx.sender, question, options

    @on.message
    def vote(self, ctx: Command, option: str) -> None:
        if self.closed:
            raise Closed()
        if option not in self.options:
            raise NoSuchOption(option)
        self.votes[ctx.sender] = option

    @on.message
    def close(self, ctx: Command) -> None:
        if ctx.sender != self.owner:
            raise NotYours()
        self.closed = True

    @read.view
    def voters(self) -> int:
        return len(self.votes)

    @read.view
    def result(self) -> dict[str, int]:
        """Votes for each option; empty while the poll is open."""
        if not self.closed:
            return {}
        counts = dict.fromkeys(self.options, 0)
        for option in self.votes.values():
            counts[option] += 1
        return counts

    @read.view
    def mine(self, who: Principal) -> str:
        """What this viewer has voted for."""
        return self.votes.get(who, "")
