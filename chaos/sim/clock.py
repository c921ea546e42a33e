"""The simulator's document that arms and asks: it keeps what it armed beside what came of it."""

from datetime import UTC, datetime, timedelta

from cluster import Command, Document, Maybe, Principal, anyone, field, on

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)
WORKER = Principal("worker", "sim")


class Clock(Document, version=1):
    """Times are Unix milliseconds, as the document sees them."""

    gate = anyone

    armed: dict[str, int] = field.public()
    cancelled: list[str] = field.public()
    rung: list[str] = field.public()
    times: list[int] = field.public()
    asked: dict[str, int] = field.public()
    concluded: list[str] = field.public()
    answers: list[str] = field.public()

    @on.message
    def arm(self, ctx: Command, number: int, after_ms: int) -> None:
        """Each number once, so that a second ring shows: also when a key that protected it is forgotten, and it comes again."""
        if str(number) in self.armed:
            return
        self.armed[str(number)] = (ctx.now - EPOCH) // MILLISECOND + after_ms
        ctx.after(after_ms * MILLISECOND, self.ring, str(number), id=str(number))

    @on.message
    def disarm(self, ctx: Command, number: int) -> int:
        found = ctx.cancel(str(number))
        if found:
            self.cancelled.append(str(number))
        return found

    @on.message
    def ask(self, ctx: Command, within_ms: int) -> str:
        id = ctx.ask(WORKER, "", self.conclude, within_ms * MILLISECOND)
        self.asked[id] = (ctx.now - EPOCH) // MILLISECOND + within_ms
        return id

    @on.alarm
    def ring(self, ctx: Command, number: str) -> None:
        self.rung.append(number)
        self.times.append((ctx.now - EPOCH) // MILLISECOND)

    @on.answer
    def conclude(self, ctx: Command, value: Maybe[str]) -> int:
        self.concluded.append(ctx.cause)
        self.answers.append(value.get(""))
        return len(self.concluded)
