"""A sealed-bid auction: bids are secret until the clock opens them; then a worker charges the winner."""

from datetime import timedelta

from cluster import Command, Document, Maybe, Principal, Record, Refused, Table, field, on, read


class Bid(Record):
    bidder: Principal
    cents: int


class Sale(Record):
    title: str
    closed: bool
    cents: int


class Closed(Refused):
    """Too late."""


class Auction(Document, version=1):
    """One thing for sale. Whoever opens the auction sells it."""

    @read.policy
    def may_see(self, bid: Bid, who: Principal) -> bool:
        return self.closed or who == bid.bidder

    seller: Principal = field.public()
    title: str = field.public("")
    closed: bool = field.public(False)
    paid: bool = field.private(False)
    bids: Table[Bid] = field.visible(may_see, key="bidder")

    @on.construct
    def open(self, ctx: Command, title: str, minutes: int = 10) -> None:
        self.seller, self.title = ctx.sender, title
        ctx.at(ctx.now + timedelta(minutes=minutes), self.close)

    @read.gate
    def enter(self, who: Principal) -> bool:
        return who.authority == "acme"

    @on.message
    def bid(self, ctx: Command, cents: int) -> int:
        if self.closed:
            raise Closed()
        self.bids.put(Bid(ctx.sender, cents))
        return len(self.bids)

    @on.alarm
    def close(self, ctx: Command) -> None:
        self.closed = True
        if best := self.best():
            ctx.ask(Principal("payments", "acme"), best, then=self.charged, within=timedelta(days=1))

    @on.answer
    def charged(self, ctx: Command, receipt: Maybe[str]) -> None:
        self.paid = receipt.value is not None

    def best(self) -> Bid | None:
        return max(self.bids, key=lambda bid: bid.cents, default=None)

    @read.view
    def bidders(self) -> int:
        return len(self.bids)

    @read.export
    def sale(self) -> Sale:
        best = self.best()
        return Sale(self.title, self.closed, best.cents if self.closed and best else 0)
