"""New code for a document: what carries over, what hooks see and do, and that a failing one leaves everything as it was."""

from __future__ import annotations

import json
import textwrap
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.documents import bundle
from cluster.documents.loader import BundleLoader
from cluster.documents.program import DocumentProgram
from cluster.documents.runtime import UPGRADE_CHANNEL, Code, Instance, Invocation, Outcome, Settings
from cluster.errors import InvalidBundle
from cluster.ids import DocumentId, Principal

PLACE = DocumentId("stage", "one")
ALICE = Principal("alice", "acme")
NAMES = "from cluster import Before, Command, Document, OrderedSet, Record, Refused, Table, Text, anyone, field, on, read\n"


def program(source: str, settings: Settings | None = None) -> DocumentProgram:
    return BundleLoader(settings).load(bundle.from_source(NAMES + textwrap.dedent(source)).encode())


def filled(code: DocumentProgram, *messages: tuple[str, dict[str, Any]]) -> Instance:
    """A document of this code after some messages."""
    instance = code.new(PLACE)
    for index, (channel, arguments) in enumerate([("", {}), *messages], 1):
        payload = code.check(channel, json.dumps(arguments).encode())
        outcome = instance.run(Invocation(channel, payload, ALICE, 1_000, index.to_bytes(32, "little"), index))
        assert outcome.code is Code.OK, outcome
    return instance


def upgraded(old: DocumentProgram, new: DocumentProgram, instance: Instance) -> tuple[Instance | None, Outcome]:
    order = Invocation(UPGRADE_CHANNEL, b"{}", Principal("upgrade", "moot"), 2_000, bytes(32), 9)
    return new.upgrade(PLACE, instance.dump(), old, order)


def view(instance: Instance | None) -> Any:
    assert instance is not None
    return json.loads(instance.view(ALICE))


FIRST = """
class Note(Document, version=1):
    gate = anyone
    name: str = field.public("")
    gone: int = field.public(7)
    stars: int = field.public(0)

    @on.message
    def call(self, ctx: Command, name: str, stars: int = 0) -> None:
        self.name, self.stars = name, stars
"""


def test_defaults_renames_and_removals_need_no_hook() -> None:
    old = program(FIRST)
    new = program(
        """
        class Note(Document, version=2):
            gate = anyone
            title: str = field.public("", was="name")
            stars: int | None = field.public(None)
            tags: list[str] = field.public()
            added: str = field.public("new")
        """
    )
    instance, outcome = upgraded(old, new, filled(old, ("call", {"name": "x", "stars": 3})))
    assert (outcome.code, outcome.answer) == (Code.OK, b"null")
    assert view(instance) == {"title": "x", "stars": 3, "tags": [], "added": "new"}


def test_a_hook_sees_the_old_fields_and_what_carried_over() -> None:
    old = program(FIRST)
    new = program(
        """
        class Note(Document, version=2):
            gate = anyone
            name: list[str] = field.public()
            stars: int = field.public(0)
            owner: str

            @on.upgrade(since=1)
            def split(self, ctx: Command, before: Before) -> None:
                self.name = before.name.split(" ")
                self.owner = f"{before.gone} by {ctx.sender} at {ctx.index}"

            @read.view
            def told(self) -> str:
                return self.owner
        """
    )
    instance, outcome = upgraded(old, new, filled(old, ("call", {"name": "ann lee", "stars": 3})))
    assert outcome.code is Code.OK, outcome.error
    assert view(instance) == {"name": ["ann", "lee"], "stars": 3, "told": "7 by upgrade@moot at 9"}


def test_hooks_chain_from_the_documents_version_on() -> None:
    old = program(FIRST)
    source = """
        class Note(Document, version=4):
            gate = anyone
            name: str = field.public("")
            path: list[int] = field.public()

            @on.upgrade(since=3)
            def third(self, ctx: Command, before: Before) -> None:
                self.path = [*before.path, 3]

            @on.upgrade(since=1)
            def first(self, ctx: Command, before: Before) -> None:
                self.path.append(before.gone)

            @on.upgrade(since=2)
            def second(self, ctx: Command) -> None:
                self.path.append(2)
        """
    instance, outcome = upgraded(old, program(source), filled(old))
    assert outcome.code is Code.OK, outcome.error
    assert view(instance)["path"] == [7, 2, 3], "each hook that follows reads what the one before it made"


@pytest.mark.parametrize(
    ("body", "code", "told"),
    [
        ("self.name = str(1 // 0)", Code.FAILED, "ZeroDivisionError"),
        ("self.stars = 9\n                pass", Code.FAILED, "left without a value: owner"),
        ("while True: self.stars += 1", Code.FAILED, "exceeded its budget of steps"),
        ("before.name = 'x'", Code.FAILED, "can not be changed"),
        ("before.lost", Code.FAILED, "no field 'lost'"),
        ("raise Refused('no')", Code.FAILED, "the hook refused: Refused no"),
    ],
)
def test_a_failing_hook_leaves_the_document_as_it_was(body: str, code: Code, told: str) -> None:
    old = program(FIRST)
    new = program(
        f"""
        class Note(Document, version=2):
            gate = anyone
            name: str = field.public("")
            stars: int = field.public(0)
            owner: str

            @on.upgrade(since=1)
            def lead(self, ctx: Command, before: Before) -> None:
                {body}
        """,
        Settings(steps_max=10_000),
    )
    document = filled(old, ("call", {"name": "x", "stars": 3}))
    state = document.dump()
    instance, outcome = upgraded(old, new, document)
    assert instance is None
    assert (outcome.code, told in outcome.error) == (code, True), outcome
    assert document.dump() == state


def test_a_change_without_a_hook_fails_the_document_and_says_why() -> None:
    old = program(FIRST)
    new = program('class Note(Document, version=2):\n    gate = anyone\n    stars: str = field.public("")\n')
    instance, outcome = upgraded(old, new, filled(old))
    assert instance is None
    assert "field stars: it was int and is str" in outcome.error


ROWS = """
class Bid(Record):
    who: str
    cents: int

class Sale(Document, version=1):
    gate = anyone
    bids: Table[Bid] = field.public(key="who")
    text: Text = field.public("")

    @on.message
    def bid(self, ctx: Command, who: str, cents: int) -> None:
        self.bids.put(Bid(who, cents))
        self.text.append(who)
"""


def test_rows_texts_and_records_with_new_defaulted_fields_carry_over() -> None:
    old = program(ROWS)
    new = program(
        ROWS.replace("version=1", "version=2").replace("cents: int\n\nclass", "cents: int\n    note: str = 'none'\n\nclass")
    )
    instance, outcome = upgraded(old, new, filled(old, ("bid", {"who": "ann", "cents": 5}), ("bid", {"who": "bo", "cents": 6})))
    assert outcome.code is Code.OK, outcome.error
    assert view(instance)["bids"]["ann"] == {"who": "ann", "cents": 5, "note": "none"}
    assert view(instance)["text"] == "annbo"


def test_a_hook_makes_rows_of_the_new_class_from_old_ones() -> None:
    old = program(ROWS)
    new = program(
        """
        class Offer(Record):
            who: str
            euros: float

        class Sale(Document, version=2):
            gate = anyone
            offers: Table[Offer] = field.public(key="who")

            @on.upgrade(since=1)
            def convert(self, ctx: Command, before: Before) -> None:
                for bid in before.bids:
                    self.offers.put(Offer(bid.who, bid.cents / 100))
        """
    )
    instance, outcome = upgraded(old, new, filled(old, ("bid", {"who": "ann", "cents": 250})))
    assert outcome.code is Code.OK, outcome.error
    assert view(instance)["offers"] == {"ann": {"who": "ann", "euros": 2.5}}


def test_the_outcome_binds_what_was_carried_over() -> None:
    """Replicas compare chains: a field that came out differently must show although no handler wrote it."""
    old = program(FIRST)
    new = program(FIRST.replace("version=1", "version=2"))
    writes = {upgraded(old, new, filled(old, ("call", {"name": name})))[1].writes for name in ("x", "y", "x")}
    assert len(writes) == 2


@given(name=st.text(max_size=8).filter(lambda text: text.isprintable()), stars=st.integers(-(2**53) + 1, 2**53 - 1))
def test_an_upgrade_to_equal_fields_keeps_every_state(name: str, stars: int) -> None:
    old, new = _EQUAL
    document = filled(old, ("call", {"name": name, "stars": stars}))
    instance, outcome = upgraded(old, new, document)
    assert outcome.code is Code.OK
    assert instance is not None
    assert instance.dump() == document.dump()


_EQUAL = program(FIRST), program(FIRST.replace("version=1", "version=2"))


@pytest.mark.parametrize(
    ("hook", "told"),
    [
        ("@on.upgrade(since=2)\n    def lead(self, ctx: Command) -> None: pass", "no upgrade since 2"),
        ("@on.upgrade(since=1)\n    def lead(self) -> None: pass", "an upgrade hook takes"),
        ("@on.upgrade(since=1)\n    def lead(self, ctx: Command, x: int) -> None: pass", "an upgrade hook takes"),
        ("@on.upgrade(since=1)\n    def lead(self, ctx: Command) -> int: return 1", "an upgrade hook takes"),
        (
            "@on.upgrade(since=1)\n    def a(self, ctx: Command) -> None: pass\n"
            "    @on.upgrade(since=1)\n    def b(self, ctx: Command) -> None: pass",
            "two hooks since 1",
        ),
    ],
)
def test_a_hook_that_can_not_be_is_refused(hook: str, told: str) -> None:
    with pytest.raises(InvalidBundle, match=told):
        program(f"class Note(Document, version=2):\n    gate = anyone\n    {hook}\n")
