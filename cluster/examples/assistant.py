"""A conversation with an assistant: a document asks a worker, and the worker streams what it has to say into the document.

The worker is any client that is signed in as the assistant. It takes asks from `client.asks("assistant")`, sends the reply
piece by piece through `stream`, and answers the ask when it is done. If it dies, somebody else is handed the same ask and
begins the reply anew; if nobody answers in time, the document says so. What a piece is, and where it comes from, is the
worker's business.
"""

from datetime import timedelta

from cluster import Command, Document, Maybe, Principal, Record, Refused, field, on, read

WITHIN = timedelta(minutes=5)
LIFETIME = timedelta(days=30)


class Busy(Refused):
    """The assistant is still answering."""


class Stale(Refused):
    """This reply is no longer being written."""


class Turn(Record):
    """One line of the conversation."""

    who: Principal
    text: str
    done: bool = True


class Question(Record):
    """What the worker is asked."""

    reply: int
    prompt: str


class Conversation(Document, version=1):
    """One person's conversation with an assistant."""

    owner: Principal = field.public()
    assistant: Principal = field.public()
    turns: list[Turn] = field.public()
    ask: str = field.public("")
    reply: int = field.private(0)

    @on.construct
    def open(self, ctx: Command, assistant: Principal) -> None:
        self.owner, self.assistant = ctx.sender, assistant
        ctx.after(LIFETIME, self.forget, id="forget")

    @read.gate
    def enter(self, who: Principal) -> bool:
        return who in (self.owner, self.assistant)

    @on.message
    def say(self, ctx: Command, text: str) -> str:
        if self.ask:
            raise Busy()
        self.turns.append(Turn(ctx.sender, text))
        self.reply += 1
        self.turns.append(Turn(self.assistant, "", done=False))
        self.ask = ctx.ask(self.assistant, Question(self.reply, text), then=self.answered, within=WITHIN)
        ctx.after(LIFETIME, self.forget, id="forget")
        return self.ask

    @on.message
    def stream(self, ctx: Command, reply: int, at: int, text: str) -> None:
        """A piece of the reply, at this place of its text: a worker that begins anew writes over what another one wrote."""
        if ctx.sender != self.assistant or not self.ask or reply != self.reply:
            raise Stale()
        turn = self.turns[-1]
        turn.text = turn.text[:at] + text

    @on.message
    def stop(self, ctx: Command) -> None:
        """The owner has heard enough."""
        if self.ask:
            ctx.cancel(self.ask)
            self.end("")

    @on.answer
    def answered(self, ctx: Command, text: Maybe[str]) -> None:
        self.end(text.get("(The assistant did not answer in time.)"))

    def end(self, text: str) -> None:
        turn = self.turns[-1]
        turn.done = True
        if text:
            turn.text = text
        self.ask = ""

    @on.alarm
    def forget(self, ctx: Command) -> None:
        """A month after the last word."""
        self.turns.clear()

    @on.delete
    def discard(self, ctx: Command) -> bool:
        return ctx.sender == self.owner
