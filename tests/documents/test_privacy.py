"""Who sees what, case by case: rows that come and go, windows, fields hidden inside records, arguments, exports."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from cluster.documents import bundle
from cluster.documents.loader import BundleLoader
from cluster.documents.state import apply_patch
from cluster.errors import InvalidArguments
from cluster.ids import Principal

ROWS = """
from cluster import Command, Document, Principal, Record, Table, anyone, field, latest, on, read

class Row(Record):
    name: str
    owner: Principal
    text: str = ""
    words: list[str] = []

class Stage(Document):
    gate = anyone

    @read.policy
    def may_see(self, row: Row, who: Principal) -> bool:
        return row.owner == who

    @read.policy
    def may_look(self, who: Principal) -> bool:
        return self.shown

    rows: Table[Row] = field.visible(may_see, key="name")
    newest: Table[Row] = field.visible(may_see, key="name", window=latest(2))
    shown: bool = field.private(True)
    text: str = field.visible(may_look, "first")

    @on.message
    def put(self, ctx: Command, name: str, owner: Principal, text: str = "") -> None:
        for table in (self.rows, self.newest):
            table.put(Row(name, owner, text))

    @on.message
    def write(self, ctx: Command, name: str, text: str, owner: Principal | None = None) -> None:
        for table in (self.rows, self.newest):
            row = table[name]
            row.text = text
            row.words.append(text)
            if owner is not None:
                row.owner = owner
            row.words.pop()

    @on.message
    def drop(self, ctx: Command, name: str) -> None:
        for table in (self.rows, self.newest):
            table.remove(name)

    @on.message
    def show(self, ctx: Command, shown: bool, text: str) -> None:
        self.shown = shown
        self.text = text
"""
ALICE, BOB = Principal("alice", "acme"), Principal("bob", "acme")


class Follower:
    """A viewer, patch by patch."""

    def __init__(self, document: Any, who: Principal, arguments: dict[str, Any] | None = None) -> None:
        self.document, self.who = document, who
        self.canonical = document.instance.arguments(json.dumps(arguments or {}).encode())
        self.projection = document.instance.projection(who, self.canonical)
        self.view = json.loads(self.projection.full())

    def after(self, *outcomes: Any) -> list[dict[str, Any]]:
        """The patch for what these commands did; it leads to the view."""
        patch: list[dict[str, Any]] = json.loads(self.projection.advance([outcome.changes for outcome in outcomes]))
        self.view = apply_patch(self.view, patch)
        assert self.view == json.loads(self.document.instance.view(self.who, self.canonical))
        return patch


def test_losing_sight_of_a_row_is_a_patch_that_removes_it_and_gaining_it_one_that_adds_it(stage: Callable[..., Any]) -> None:
    document = stage(ROWS)
    document.run("put", name="r", owner="alice@acme", text="hers")
    alice, bob = Follower(document, ALICE), Follower(document, BOB)
    given = document.run("write", name="r", text="his", owner="bob@acme")
    assert {operation["op"] for operation in alice.after(given)} == {"remove", "replace"}
    assert "his" not in json.dumps(alice.view)
    assert [operation["op"] for operation in bob.after(given)] == ["add", "add", "replace"]
    assert bob.view["newest"] == {"rows": {"r": bob.view["rows"]["r"]}, "total": 1}


def test_what_a_row_held_while_it_was_hidden_is_in_no_patch(stage: Callable[..., Any]) -> None:
    """A viewer who was skipped gets several commands' changes at once: those made while the row was another's were not hers."""
    document = stage(ROWS)
    document.run("put", name="r", owner="alice@acme", text="hers")
    alice = Follower(document, ALICE)
    steps = [
        document.run("write", name="r", text="hidden one", owner="bob@acme"),
        document.run("write", name="r", text="hidden two"),
        document.run("write", name="r", text="hers again", owner="alice@acme"),
    ]
    assert "hidden" not in json.dumps(alice.after(*steps))
    steps = [
        document.run("drop", name="r"),
        document.run("put", name="r", owner="bob@acme", text="hidden three"),
        document.run("write", name="r", text="hers at last", owner="alice@acme"),
    ]
    patch = alice.after(*steps)
    assert "hidden" not in json.dumps(patch)
    assert alice.view["rows"]["r"]["text"] == "hers at last"


def test_what_a_field_held_while_it_was_hidden_is_in_no_patch(stage: Callable[..., Any]) -> None:
    document = stage(ROWS)
    alice = Follower(document, ALICE)
    hidden = [document.run("show", shown=False, text="hidden"), document.run("show", shown=True, text="second")]
    assert alice.after(*hidden) == [{"op": "replace", "path": "/text", "value": "second"}]
    assert alice.after(document.run("show", shown=False, text="hidden")) == [{"op": "remove", "path": "/text"}]
    assert alice.after(document.run("show", shown=False, text="hidden too")) == []
    assert alice.after(document.run("show", shown=True, text="third")) == [{"op": "add", "path": "/text", "value": "third"}]


def test_a_window_follows_the_newest_rows_that_may_be_seen_and_counts_no_others(stage: Callable[..., Any]) -> None:
    document = stage(ROWS)
    alice = Follower(document, ALICE)
    for name in "abc":
        alice.after(document.run("put", name=name, owner="alice@acme"))
    assert (list(alice.view["newest"]["rows"]), alice.view["newest"]["total"]) == (["b", "c"], 3)
    assert alice.after(document.run("put", name="x", owner="bob@acme")) == []
    assert alice.after(document.run("write", name="x", text="hidden")) == []
    assert alice.after(document.run("drop", name="c"))
    assert (sorted(alice.view["newest"]["rows"]), alice.view["newest"]["total"]) == (["a", "b"], 2)
    alice.after(document.run("write", name="x", text="", owner="alice@acme"))
    assert sorted(alice.view["newest"]["rows"]) == ["b", "x"], "the order is the table's, not that of becoming visible"
    alice.after(document.run("drop", name="a"), document.run("put", name="a", owner="alice@acme"))
    assert sorted(alice.view["newest"]["rows"]) == ["a", "x"], "a row that is put again is the newest"
    more = Follower(document, ALICE, {"newest": {"latest": 3}})
    assert list(more.view["newest"]["rows"]) == ["b", "x", "a"]


CARDS = """
from cluster import Command, Document, Principal, Record, Table, anyone, field, on, read

class Card(Record):
    owner: Principal

    @read.policy
    def is_owner(self, who: Principal) -> bool:
        return who == self.owner

    @read.policy
    def is_strange(self, who: Principal) -> bool:
        return 1 // 0 == 0

    rank: int = field.visible(is_owner, 0)
    note: str = field.visible(is_owner, "")
    seed: int = field.private(7)
    odd: int = field.visible(is_strange, 1)
    name: str = ""

class Stage(Document):
    gate = anyone
    cards: Table[Card] = field.public(key="name")
    top: Card | None = field.public(None)
    piles: dict[str, list[Card]] = field.public({})

    @on.message
    def deal(self, ctx: Command, name: str, owner: Principal, rank: int) -> Card:
        card = self.cards.put(Card(owner, rank, "n", name=name))
        self.top = card
        self.piles.setdefault("p", []).append(card)
        return card

    @on.message
    def reseed(self, ctx: Command, name: str, seed: int) -> None:
        self.cards[name].seed = seed

    @on.message
    def rerank(self, ctx: Command, name: str, rank: int) -> None:
        self.cards[name].rank = rank

    @read.view
    def shared(self) -> list[Card]:
        return list(self.cards)

    @read.view
    def own(self, who: Principal) -> list[Card]:
        return list(self.cards)

    @read.export
    def best(self) -> int:
        return max((card.rank for card in self.cards), default=0)

    @read.export(to=anyone)
    def count(self) -> int:
        return len(self.cards)
"""


def test_a_records_own_fields_are_hidden_wherever_it_is_shown(stage: Callable[..., Any]) -> None:
    document = stage(CARDS)
    alice, bob = Follower(document, ALICE), Follower(document, BOB)
    answered = document.run("deal", name="ace", owner="alice@acme", rank=14)
    known = {"owner": "alice@acme", "rank": 14, "note": "n", "name": "ace"}
    public = {"owner": "alice@acme", "name": "ace"}
    assert json.loads(answered.answer) == known, "the answer is the sender's"
    alice.after(answered)
    bob.after(answered)
    for view, card in ((alice.view, known), (bob.view, public)):
        assert view == {
            "cards": {"ace": card},
            "top": card,
            "piles": {"p": [card]},
            "shared": [public],
            "own": [card],
        }
    other = document.run("deal", sender="bob", name="two", owner="alice@acme", rank=2)
    assert json.loads(other.answer) == {"owner": "alice@acme", "name": "two"}


def test_a_change_of_a_hidden_field_is_a_position_and_nothing_else(stage: Callable[..., Any]) -> None:
    document = stage(CARDS)
    document.run("deal", name="ace", owner="alice@acme", rank=14)
    alice, bob = Follower(document, ALICE), Follower(document, BOB)
    reseeded = document.run("reseed", name="ace", seed=8)
    assert (alice.after(reseeded), bob.after(reseeded)) == ([], [])
    reranked = document.run("rerank", name="ace", rank=3)
    assert bob.after(reranked) == []
    assert {operation["value"] for operation in alice.after(reranked)} == {3}


def test_exports_are_declared_and_shown_in_the_schema() -> None:
    schema = BundleLoader().load(bundle.from_source(CARDS).encode()).schema()
    assert {name: export["to"] for name, export in schema["exports"].items()} == {"best": "owners", "count": "by policy"}
    assert "best" not in schema["views"]


ASKED = """
from enum import Enum
from cluster import Command, Document, Principal, Record, Table, anyone, field, latest, on, read

class Order(Enum):
    UP = "up"
    DOWN = "down"

class Line(Record):
    n: int

class Stage(Document):
    gate = anyone
    lines: Table[Line] = field.public(window=latest(1, at_most=3))
    hidden: int = field.private(0)

    @on.message
    def add(self, ctx: Command, n: int) -> None:
        self.lines.put(Line(n))

    @on.message
    def hide(self, ctx: Command) -> None:
        self.hidden += 1

    @read.view
    def page(self, order: Order, count: int = 2, skip: int = 0) -> list[Line]:
        found = self.lines.order_by("n", reverse=order is Order.DOWN)
        return found[skip : skip + count]

    @read.view
    def above(self, who: Principal, least: int = 0) -> int:
        return len([line for line in self.lines if line.n > least])
"""


def test_a_view_is_made_with_the_arguments_that_its_viewer_gives(stage: Callable[..., Any]) -> None:
    document = stage(ASKED)
    plain, paged = Follower(document, ALICE), Follower(document, BOB, {"page": {"order": "down"}, "above": {"least": 1}})
    for n in (1, 2, 3):
        added = document.run("add", n=n)
        plain.after(added)
        paged.after(added)
    assert "page" not in plain.view, "an argument without a default was not given"
    assert plain.view["above"] == 3
    assert ([line["n"] for line in paged.view["page"]], paged.view["above"]) == ([3, 2], 2)
    assert paged.after(document.run("hide")) == []


@pytest.mark.parametrize(
    ("arguments", "view", "argument"),
    [
        ({"nothing": {}}, "nothing", None),
        ({"hidden": {"latest": 1}}, "hidden", None),
        ({"lines": {"latest": 4}}, "lines", "latest"),
        ({"lines": {"latest": True}}, "lines", "latest"),
        ({"lines": {"skip": 1}}, "lines", "skip"),
        ({"page": {"order": "sideways"}}, "page", "order"),
        ({"page": {"order": "up", "who": "a@b"}}, "page", "who"),
        ({"above": {"who": "bob@acme"}}, "above", "who"),
        ({"above": [1]}, "above", None),
    ],
)
def test_arguments_are_checked_and_the_error_names_view_and_parameter(
    stage: Callable[..., Any], arguments: dict[str, Any], view: str, argument: str | None
) -> None:
    """Nobody can look through another's eyes: `who` is no argument."""
    document = stage(ASKED)
    with pytest.raises(InvalidArguments) as refused:
        document.instance.arguments(json.dumps(arguments).encode())
    assert refused.value.details == {"view": view} | ({} if argument is None else {"argument": argument})


def test_arguments_have_one_canonical_form_and_a_bound(stage: Callable[..., Any]) -> None:
    instance = stage(ASKED).instance
    one = instance.arguments(b'{"page": {"count": 2, "order": "up"}, "above": {}}')
    assert one == instance.arguments(b'{"page":{"order":"up","count":2}}') == b'{"page":{"order":"up","count":2}}'
    assert instance.arguments(b"{}") == instance.arguments(b"") == b""
    for wrong in (b"[]", b"{", b'{"page": {"order": "up"}, "page": {}}', b"nothing"):
        with pytest.raises(InvalidArguments):
            instance.arguments(wrong)


def test_viewers_are_of_one_class_while_the_policies_say_the_same_of_them(stage: Callable[..., Any]) -> None:
    document = stage(ROWS.replace("field.visible(may_see, key", "field.private(key").replace(", window=latest(2)", ""))
    instance = document.instance
    assert instance.classes_vary
    before = instance.visibility_class(ALICE)
    assert before == instance.visibility_class(BOB)
    document.run("show", shown=False, text="x")
    assert instance.visibility_class(ALICE) == instance.visibility_class(BOB) != before
