"""A document with every kind of visibility, whose hidden values carry a mark: what its viewers may see, written down twice.

The class is one author's view of who sees what. `allowed` says the same in plain Python from the whole state, so that a test
can compare, and can look for the mark of whatever a viewer may not see in every byte that he was ever sent.
"""

from __future__ import annotations

from typing import Any

SOURCE = """
from dataclasses import dataclass
from cluster import Command, Document, OrderedSet, Principal, Record, Table, Tally, Text, anyone, field, latest, on, read

@dataclass(frozen=True)
class Place:
    x: int
    words: tuple[str, ...] = ()

class Inner(Record):
    shown: int
    hidden: str = field.private("")

class Card(Record):
    owner: Principal

    @read.policy
    def is_owner(self, who: Principal) -> bool:
        return who == self.owner

    name: str
    rank: int = 0
    secret: str = field.visible(is_owner, "")
    inner: Inner | None = None
    words: list[str] = []

class Note(Record):
    owner: Principal
    text: str
    place: Place = Place(0)
    likes: int = 0

class Stage(Document):
    gate = anyone

    @read.policy
    def is_judge(self, who: Principal) -> bool:
        return who in self.judges

    @read.policy
    def may_see(self, note: Note, who: Principal) -> bool:
        return self.open or note.owner == who

    @read.policy
    def is_few(self, who: Principal) -> bool:
        return len(self.judges) < 2

    open: bool = field.public(False)
    title: Text = field.public("")
    judges: OrderedSet[Principal] = field.public()
    count: Tally = field.public(add=anyone)
    verdict: str = field.visible(is_judge, "")
    draft: Text = field.visible(is_judge, "")
    cards: Table[Card] = field.public(key="name")
    newest: Table[Card] = field.public(window=latest(2, at_most=5))
    notes: Table[Note] = field.visible(may_see)
    pages: Table[Note] = field.visible(may_see, window=latest(3), index=("owner",))
    guarded: Table[Note] = field.visible(is_few, window=latest(2))
    best: Card | None = None
    shown: Card | None = field.public(None)
    hands: dict[str, list[Card]] = field.public()
    private: str = field.private("")

    @on.message
    def put_card(self, ctx: Command, name: str, owner: Principal, secret: str, hidden: str) -> None:
        card = Card(owner, name, secret=secret, inner=Inner(1, hidden))
        self.cards.put(card)
        self.newest.put(card)
        self.shown = card
        self.hands.setdefault(name, []).append(card)

    @on.message
    def change_card(self, ctx: Command, place: int, secret: str, owner: Principal) -> None:
        for table in (self.cards, self.newest):
            names = table.names()
            if place < len(names):
                card = table[names[place]]
                card.secret = secret
                card.rank += 1
                card.owner = owner
                if card.inner is not None:
                    card.inner.hidden = secret
        if self.shown is not None:
            self.shown.secret = secret

    @on.message
    def hide_in_card(self, ctx: Command, place: int, hidden: str) -> None:
        names = self.cards.names()
        if place < len(names):
            inner = self.cards[names[place]].inner
            if inner is not None:
                inner.hidden = hidden

    @on.message
    def drop_card(self, ctx: Command, place: int) -> None:
        for table in (self.cards, self.newest):
            names = table.names()
            if place < len(names):
                table.remove(names[place])

    @on.message
    def put_note(self, ctx: Command, owner: Principal, text: str) -> None:
        for table in (self.notes, self.pages, self.guarded):
            table.put(Note(owner, text, Place(ctx.index, (text,))))

    @on.message
    def change_note(self, ctx: Command, place: int, owner: Principal, text: str) -> None:
        for table in (self.notes, self.pages, self.guarded):
            names = table.names()
            if place < len(names):
                note = table[names[place]]
                note.owner = owner
                note.text = text
                note.place = Place(1, (text,))
                note.likes += 1

    @on.message
    def drop_note(self, ctx: Command, place: int) -> None:
        for table in (self.notes, self.pages, self.guarded):
            names = table.names()
            if place < len(names):
                table.remove(names[place])

    @on.message
    def sweep(self, ctx: Command) -> None:
        self.notes.clear()
        self.pages.clear()
        self.newest.clear()

    @on.message
    def show(self, ctx: Command, open: bool) -> None:
        self.open = open

    @on.message
    def judge(self, ctx: Command, who: Principal) -> None:
        if who in self.judges:
            self.judges.remove(who)
        else:
            self.judges.add(who)

    @on.message
    def write(self, ctx: Command, text: str) -> None:
        self.verdict = text
        self.draft.append(text)
        self.private = text
        self.title.append("t")

    @on.message
    def fail(self, ctx: Command, text: str) -> None:
        self.verdict = text
        self.title.append(text)
        for table in (self.notes, self.pages):
            for name in table.names():
                table[name].text = text
                table.remove(name)
        self.cards.clear()
        self.best = None
        raise ValueError(text)

    @read.view
    def mine(self, who: Principal, least: int = 0) -> list[Card]:
        return [card for card in self.cards if card.owner == who and card.rank >= least]

    @read.view
    def all_cards(self) -> list[Card]:
        return list(self.cards)

    @read.view
    def pages_of(self, owner: Principal) -> int:
        return self.pages.count(owner=owner)

    @read.view
    def broken(self) -> int:
        if self.private:
            raise ValueError(self.private)
        return 1
"""
PEOPLE = ("a", "b", "c")


def card(full: dict[str, Any], who: str | None) -> dict[str, Any]:
    """A card as it is seen by a principal, or by nobody."""
    seen = {name: full[name] for name in ("owner", "name", "rank", "words")}
    seen["inner"] = None if full["inner"] is None else {"shown": full["inner"]["shown"]}
    if full["owner"] == who:
        seen["secret"] = full["secret"]
    return seen


def window(rows: dict[str, Any], count: int) -> dict[str, Any]:
    """The newest rows of a table, and how many there are."""
    return {"rows": dict(list(rows.items())[-count:]), "total": len(rows)}


def allowed(full: dict[str, Any], name: str, arguments: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What the class above lets a viewer see of a whole state."""
    who = f"{name}@x"
    may = {
        table: {row: note for row, note in full[table].items() if full["open"] or note["owner"] == who}
        for table in ("notes", "pages")
    }
    seen = {one: full[one] for one in ("open", "title", "judges", "count")}
    if who in full["judges"]:
        seen |= {one: full[one] for one in ("verdict", "draft")}
    seen["cards"] = {row: card(one, who) for row, one in full["cards"].items()}
    cards = {row: card(one, who) for row, one in full["newest"].items()}
    seen["newest"] = window(cards, arguments.get("newest", {}).get("latest", 2))
    seen["notes"] = may["notes"]
    seen["pages"] = window(may["pages"], arguments.get("pages", {}).get("latest", 3))
    if len(full["judges"]) < 2:
        seen["guarded"] = window(full["guarded"], 2)
    seen["shown"] = None if full["shown"] is None else card(full["shown"], who)
    seen["hands"] = {hand: [card(one, who) for one in cards] for hand, cards in full["hands"].items()}
    least = arguments.get("mine", {}).get("least", 0)
    seen["mine"] = [card(one, who) for one in full["cards"].values() if one["owner"] == who and one["rank"] >= least]
    seen["all_cards"] = [card(one, None) for one in full["cards"].values()]
    if "pages_of" in arguments:
        owner = arguments["pages_of"]["owner"]
        seen["pages_of"] = sum(note["owner"] == owner for note in full["pages"].values())
    if not full["private"]:
        seen["broken"] = 1
    return seen
