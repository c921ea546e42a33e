"""What viewers see: whole and by patches, always the same, and never more than the policies say."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.documents import bundle
from cluster.documents.loader import BundleLoader
from cluster.documents.runtime import DELETE_CHANNEL, Code, Invocation, Settings
from cluster.documents.state import apply_patch
from cluster.errors import UnknownChannel
from cluster.ids import DocumentId, Principal

SOURCE = """
from cluster import Command, Document, OrderedSet, Principal, Record, Table, Text, anyone, field, on, read

class Card(Record):
    owner: Principal
    rank: int

class Stage(Document):
    gate = anyone

    @read.policy
    def may_see(self, card: Card, who: Principal) -> bool:
        return self.open or card.owner == who or who in self.judges

    @read.policy
    def is_judge(self, who: Principal) -> bool:
        return who in self.judges

    open: bool = field.public(False)
    title: Text = field.public("")
    judges: OrderedSet[Principal] = field.private()
    notes: str = field.visible(is_judge, "none")
    cards: Table[Card] = field.visible(may_see)
    other: int = field.private(0)

    @on.message
    def deal(self, ctx: Command, owner: Principal, rank: int) -> None:
        self.cards.put(Card(owner, rank))

    @on.message
    def change(self, ctx: Command, place: int, rank: int) -> None:
        for number, card in enumerate(self.cards):
            if number == place:
                card.rank = rank

    @on.message
    def give(self, ctx: Command, place: int, owner: Principal) -> None:
        for number, card in enumerate(self.cards):
            if number == place:
                card.owner = owner

    @on.message
    def drop(self, ctx: Command, place: int) -> None:
        names = self.cards.names()
        if place < len(names):
            self.cards.remove(names[place])

    @on.message
    def sweep(self, ctx: Command) -> None:
        self.cards.clear()

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
        self.title.append(text)
        self.notes = text

    @on.message
    def hide(self, ctx: Command) -> None:
        self.other += 1

    @read.view
    def total(self) -> int:
        return sum(card.rank for card in self.cards)

    @read.view
    def mine(self, who: Principal) -> list[int]:
        return [card.rank for card in self.cards if card.owner == who]

    @read.view
    def broken(self) -> int:
        return 1 // (len(self.cards) % 3)

    @read.view
    def writes(self) -> int:
        self.judges.clear()
        return 1
"""
PEOPLE = ("a", "b", "c")
who = st.sampled_from(PEOPLE).map(lambda name: f"{name}@x")
small = st.integers(0, 5)
commands = st.one_of(
    st.tuples(st.just("deal"), st.fixed_dictionaries({"owner": who, "rank": small})),
    st.tuples(st.just("change"), st.fixed_dictionaries({"place": small, "rank": small})),
    st.tuples(st.just("give"), st.fixed_dictionaries({"place": small, "owner": who})),
    st.tuples(st.just("drop"), st.fixed_dictionaries({"place": small})),
    st.tuples(st.just("sweep"), st.just({})),
    st.tuples(st.just("show"), st.fixed_dictionaries({"open": st.booleans()})),
    st.tuples(st.just("judge"), st.fixed_dictionaries({"who": who})),
    st.tuples(st.just("write"), st.fixed_dictionaries({"text": st.text(max_size=3)})),
    st.tuples(st.just("hide"), st.just({})),
)


def allowed(state: dict[str, Any], full: dict[str, Any], name: str) -> dict[str, Any]:
    """What the policies above let a viewer see, written down a second time from the dumped state."""
    judge = f"{name}@x" in state["judges"]
    cards = {row: card for row, card in full["cards"].items() if state["open"] or judge or card["owner"] == f"{name}@x"}
    seen = {"open": full["open"], "title": full["title"], "cards": cards}
    if judge:
        seen["notes"] = full["notes"]
    seen["total"] = sum(card["rank"] for card in full["cards"].values())
    seen["mine"] = [card["rank"] for card in full["cards"].values() if card["owner"] == f"{name}@x"]
    if len(full["cards"]) % 3:
        seen["broken"] = 1 // (len(full["cards"]) % 3)
    return seen


def without_errors(view: dict[str, Any]) -> dict[str, Any]:
    """A view without its error ids, which stand for the views that failed and for nothing else."""
    failed = view.get("-errors", {})
    assert failed.keys() == {"broken", "writes"} - view.keys()
    return {name: value for name, value in view.items() if name != "-errors"}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(commands, st.booleans()), max_size=25))
def test_patches_lead_to_the_view_and_the_view_is_what_the_policies_allow(steps: list[tuple[tuple[str, Any], bool]]) -> None:
    program = BundleLoader().load(bundle.from_source(SOURCE).encode())
    instance = program.new(DocumentId("stage", "one"))
    seed = bytes(32)
    instance.run(Invocation("", b"{}", Principal("a", "x"), 0, seed, 1))
    people = [Principal(name, "x") for name in PEOPLE]
    projections = [instance.projection(person) for person in people]
    seen = [json.loads(projection.full()) for projection in projections]
    pending: list[Any] = []
    for index, ((channel, arguments), flush) in enumerate(steps, 2):
        payload = program.check(channel, json.dumps(arguments).encode())
        outcome = instance.run(Invocation(channel, payload, people[0], 0, index.to_bytes(32, "big"), index))
        assert outcome.code is Code.OK, outcome.error
        pending += [] if outcome.changes is None else [outcome.changes]
        if not flush:
            continue
        root = instance._root
        full = {name: root.to_json(name) for name in root.names()}
        for place, (person, projection) in enumerate(zip(people, projections, strict=True)):
            seen[place] = apply_patch(seen[place], json.loads(projection.advance(pending)))
            assert seen[place] == json.loads(instance.view(person)) == json.loads(projection.full())
            assert without_errors(seen[place]) == allowed(full, full, PEOPLE[place])
        pending = []


def test_a_view_runs_again_only_when_what_it_read_was_written(stage: Callable[..., Any]) -> None:
    document = stage(SOURCE)
    follower = document.instance.projection(Principal("a", "acme"))
    assert ("total", b"") in document.instance._viewing._shared
    hidden = document.run("hide")
    assert ("total", b"") in document.instance._viewing._shared
    assert follower.advance([hidden.changes]) == b"[]"
    dealt = document.run("deal", owner="b@acme", rank=3)
    assert ("total", b"") not in document.instance._viewing._shared
    assert json.loads(follower.advance([dealt.changes])) == [
        {"op": "replace", "path": "/total", "value": 3},
        {"op": "add", "path": "/broken", "value": 1},
        {"op": "remove", "path": "/-errors/broken"},
    ]


def test_a_hidden_row_sends_nothing_at_all(stage: Callable[..., Any]) -> None:
    source = SOURCE.split("    @read.view")[0]
    document = stage(source)
    outsider = document.instance.projection(Principal("m", "acme"))
    outcome = document.run("deal", owner="b@acme", rank=3)
    assert outsider.advance([outcome.changes]) == b"[]"
    assert "cards" in document.view("m")
    assert document.view("m")["cards"] == {}


GATED = """
from cluster import Command, Document, Principal, field, on, read

class Stage(Document):
    owner: Principal = field.public()
    closed: bool = field.public(False)
    runs: int = field.public(0)

    @on.construct
    def open(self, ctx: Command) -> None:
        self.owner = ctx.sender

    @read.gate
    def enter(self, who: Principal) -> bool:
        if who.agent == "broken":
            raise ValueError("no")
        if who.agent == "slow":
            while True:
                pass
        if who.agent == "writer":
            self.count()
        if who.agent == "odd":
            return 1
        return who.authority == "acme" and not self.closed

    @read.policy
    def is_owner(self, who: Principal) -> bool:
        return who == self.owner

    def count(self) -> None:
        self.runs += 1

    @on.message
    def go(self, ctx: Command) -> int:
        self.count()
        return self.runs

    @on.message(allow=is_owner)
    def close(self, ctx: Command) -> None:
        self.closed = True
"""


def test_the_gate_is_asked_for_every_message_and_an_error_is_a_no(stage: Callable[..., Any]) -> None:
    document = stage(GATED)
    assert document.run("go").code is Code.OK
    for sender in ("broken", "slow", "writer", "odd"):
        before = document.instance.dump()
        outcome = document.run("go", sender=sender)
        assert (outcome.code, outcome.answer, outcome.changes) == (Code.DENIED, b"{}", None)
        assert document.instance.dump() == before
        assert not document.instance.admits(Principal(sender, "acme"))
    assert document.instance.admits(Principal("alice", "acme"))
    assert not document.instance.admits(Principal("alice", "other"))


def test_a_channel_may_be_guarded_by_a_policy(stage: Callable[..., Any]) -> None:
    document = stage(GATED)
    assert document.run("close", sender="bob").code is Code.DENIED
    assert document.run("close", sender="alice").code is Code.OK
    assert document.run("go", sender="alice").code is Code.DENIED


def test_deleting_is_for_those_whom_the_code_lets_and_otherwise_for_nobody(stage: Callable[..., Any]) -> None:
    document = stage(GATED)
    with pytest.raises(UnknownChannel):
        document.run(DELETE_CHANNEL)
    deletable = GATED + "    @on.delete\n    def gone(self, ctx: Command) -> bool:\n        return ctx.sender == self.owner\n"
    document = stage(deletable)
    assert document.run(DELETE_CHANNEL, sender="broken").code is Code.DENIED
    assert document.run(DELETE_CHANNEL, sender="bob").code is Code.DENIED
    assert document.run(DELETE_CHANNEL, sender="alice").code is Code.OK


def test_a_view_may_not_write_and_its_budget_is_its_own(stage: Callable[..., Any]) -> None:
    document = stage(
        """
        from cluster import Command, Document, anyone, field, on, read
        class Stage(Document):
            gate = anyone
            n: int = field.public(0)
            rows: list[int] = field.public([1])
            @on.message
            def go(self, ctx: Command) -> None:
                self.n = self.writes()
            @read.view
            def writes(self) -> int:
                self.rows.append(1)
                return 1
            @read.view
            def slow(self) -> int:
                while True:
                    pass
            @read.view
            def wrong(self) -> int:
                return "x"
            @read.view
            def right(self) -> int:
                return 7
        """,
        Settings(steps_max=10_000),
    )
    view = document.view()
    failed = view.pop("-errors")
    assert view == {"n": 0, "rows": [1], "right": 7}
    assert failed.keys() == {"writes", "slow", "wrong"}
    document.run("go")
    view = document.view()
    assert view.pop("-errors") == failed, "the id of a view's failure tells nothing of the state"
    assert view == {"n": 1, "rows": [1, 1], "right": 7}
    told = {failure.what: failure for failure in document.instance.read_failures()}
    assert {what: failure.error_id for what, failure in told.items()} == {f"view {name}": id for name, id in failed.items()}
    assert "line 12, in writes" in told["view writes"].error
    assert "steps" in told["view slow"].error
    assert document.instance.read_failures() == [], "the same failure is told once"
