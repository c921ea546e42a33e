"""The simulator's own document with secrets: what stands on a card names its owner, and nobody else may ever be sent it."""

from cluster import Command, Document, Principal, Record, Refused, Table, anyone, field, latest, on, read


class Bluff(Refused):
    """It was only said."""


class Card(Record):
    """One card. text: seen by whoever the row is seen by. secret: by its owner, wherever the card is shown."""

    @read.policy
    def is_owner(self, who: Principal) -> bool:
        return who == self.owner

    name: str
    owner: Principal
    text: str = ""
    secret: str = field.visible(is_owner, "")


class Hands(Document, version=1):
    """Cards in hands: by rows, through a window, and open with a hidden side."""

    gate = anyone

    @read.policy
    def may_see(self, card: Card, who: Principal) -> bool:
        return card.owner == who

    held: Table[Card] = field.visible(may_see, key="name", index=("owner",))
    newest: Table[Card] = field.visible(may_see, key="name", window=latest(2))
    table: Table[Card] = field.public(key="name")
    dealt: int = field.public(0)

    @on.message
    def deal(self, ctx: Command, name: str, owner: Principal, text: str) -> None:
        """A card comes, or changes hands and face in one."""
        self.dealt += 1
        for cards in (self.held, self.newest):
            cards.put(Card(name, owner, text))
        self.table.put(Card(name, owner, secret=text))

    @on.message
    def drop(self, ctx: Command, name: str) -> bool:
        dropped = [cards.discard(name) for cards in (self.held, self.newest, self.table)]
        return any(dropped)

    @on.message
    def bluff(self, ctx: Command, name: str, owner: Principal, text: str) -> None:
        """Says no after it has written: nothing of that may stay, in no index either."""
        for cards in (self.held, self.newest, self.table):
            cards.discard(name)
            cards.put(Card(name, owner, text, text))
            cards.discard(name)
        raise Bluff()

    @read.view
    def mine(self, who: Principal) -> list[str]:
        return [card.text for card in self.held.where(owner=who)]
