"""Crazy Eights for two to six: everybody sees the table, nobody sees another's hand, and who is out of cards first wins."""

from typing import Literal

from cluster import Command, Document, Principal, Record, Refused, Table, anyone, field, on, read

Suit = Literal["clubs", "diamonds", "hearts", "spades"]
SUITS: tuple[Suit, ...] = ("clubs", "diamonds", "hearts", "spades")
RANKS = ("2", "3", "4", "5", "6", "7", "8", "9", "10", "jack", "queen", "king", "ace")
HAND = 5
SEATS = 6


class Card(Record):
    rank: str
    suit: Suit


class Held(Record):
    owner: Principal
    card: Card


class NotNow(Refused):
    """The game has not begun, or has begun already, or is over."""


class NotYourTurn(Refused):
    """Wait until it is your turn."""


class NoSuchCard(Refused):
    """That card is not in your hand."""


class DoesNotFit(Refused):
    """A card fits by rank or suit; an eight always fits."""


class Cards(Document, version=1):
    """One game. Who creates it has the first seat."""

    gate = anyone

    @read.policy
    def holds(self, held: Held, who: Principal) -> bool:
        return held.owner == who

    players: list[Principal] = field.public()
    turn: int = field.public(0)
    top: Card | None = field.public(None)
    suit: Suit | None = field.public(None)
    winner: Principal | None = field.public(None)
    hands: Table[Held] = field.visible(holds)
    stock: list[Card] = field.private()

    @on.construct
    def open(self, ctx: Command) -> None:
        self.players.append(ctx.sender)

    @on.message
    def sit(self, ctx: Command) -> None:
        if self.top is not None or ctx.sender in self.players or len(self.players) == SEATS:
            raise NotNow()
        self.players.append(ctx.sender)

    @on.message
    def deal(self, ctx: Command) -> None:
        if self.top is not None or len(self.players) < 2 or ctx.sender not in self.players:
            raise NotNow()
        pack = [Card(rank, suit) for suit in SUITS for rank in RANKS]
        ctx.random.shuffle(pack)
        for player in self.players:
            for _ in range(HAND):
                self.hands.put(Held(player, pack.pop()))
        self.top = pack.pop()
        self.suit = self.top.suit
        self.stock = pack

    @on.message
    def play(self, ctx: Command, rank: str, suit: Suit, call: Suit | None = None) -> None:
        """Lay a card on the table; with an eight, `call` the suit that goes on."""
        self.must_have_the_turn(ctx)
        held = next((held for held in self.hands if held.owner == ctx.sender and held.card == Card(rank, suit)), None)
        if held is None:
            raise NoSuchCard()
        if self.top is not None and rank != "8" and rank != self.top.rank and suit != self.suit:
            raise DoesNotFit()
        self.top = held.card
        self.suit = call or suit if rank == "8" else suit
        self.hands.remove(held)
        if not any(other.owner == ctx.sender for other in self.hands):
            self.winner = ctx.sender
        self.turn += 1

    @on.message
    def draw(self, ctx: Command) -> None:
        """Take a card instead of playing one; when none is left this is a pass."""
        self.must_have_the_turn(ctx)
        if self.stock:
            self.hands.put(Held(ctx.sender, self.stock.pop()))
        self.turn += 1

    def must_have_the_turn(self, ctx: Command) -> None:
        if self.top is None or self.winner is not None:
            raise NotNow()
        if ctx.sender != self.players[self.turn % len(self.players)]:
            raise NotYourTurn()

    @read.view
    def counts(self) -> dict[Principal, int]:
        """How many cards each player holds."""
        counts = dict.fromkeys(self.players, 0)
        for held in self.hands:
            counts[held.owner] += 1
        return counts
