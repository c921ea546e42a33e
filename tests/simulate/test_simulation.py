"""A document in a test of its author: the same answers, refusals, views and patches as in a cluster, and time that obeys."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cluster.documents.runtime import Settings
from cluster.errors import (
    BudgetExceeded,
    DocumentDeleted,
    DocumentExists,
    HandlerFailed,
    InvalidBundle,
    InvalidPayload,
    PermissionDenied,
    Unavailable,
    UnknownChannel,
)
from cluster.examples.chat import NotAMember, NotTheOwner, Room

GUESTBOOK = '''
"""Everybody of acme signs once."""
from datetime import datetime

from cluster import Command, Document, Principal, Record, Refused, Table, field, on, read


class Entry(Record):
    who: Principal
    text: str
    at: datetime


class AlreadySigned(Refused):
    """One entry for each guest."""


class Guestbook(Document, version=1):
    entries: Table[Entry] = field.public(key="who")
    closed: bool = field.private(False)

    @read.gate
    def enter(self, who: Principal) -> bool:
        return who.authority == "acme" and not self.closed

    @on.message
    def sign(self, ctx: Command, text: str) -> int:
        if ctx.sender in self.entries:
            raise AlreadySigned(str(ctx.sender))
        self.entries.put(Entry(ctx.sender, text, ctx.now))
        return len(self.entries)

    @on.message
    def close(self, ctx: Command) -> None:
        self.closed = True

    @on.message
    def stumble(self, ctx: Command) -> int:
        return 1 // (len(self.entries) - len(self.entries))

    @on.message
    def loop(self, ctx: Command) -> None:
        while True:
            pass

    @on.message
    def draw(self, ctx: Command) -> int:
        return ctx.random.below(1_000_000)
'''


@pytest.fixture
def guestbook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    (tmp_path / "guestbook_of_a_test.py").write_text(GUESTBOOK)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("guestbook_of_a_test")
    del sys.modules["guestbook_of_a_test"]


def test_answers_views_and_patches_are_those_of_a_client(guestbook: ModuleType) -> None:
    book = guestbook.Guestbook.simulate(by="alice@acme")
    alice, bob = book.visitor("alice@acme"), book.visitor("bob@acme")
    screen = bob.watch()
    assert alice.sign(text="hello") == 1
    assert bob.sign(text="me too") == 2
    entry = {"who": "alice@acme", "text": "hello", "at": "2030-01-01T12:00:00.000Z"}
    assert screen.view["entries"]["alice@acme"] == entry
    assert screen.view == bob.view() == alice.view()
    assert screen.patches[0] is None
    assert [operation["op"] for patch in screen.patches[1:] if patch for operation in patch] == ["add", "add"]
    assert screen.position == bob.position


def test_a_refusal_is_raised_as_the_class_that_the_test_has_imported(guestbook: ModuleType) -> None:
    book = guestbook.Guestbook.simulate(by="alice@acme")
    alice = book.visitor("alice@acme")
    alice.sign(text="one")
    with pytest.raises(guestbook.AlreadySigned) as refused:
        alice.sign(text="two")
    assert refused.value.args == ("alice@acme",)
    assert len(alice.view()["entries"]) == 1


def test_a_bug_of_the_author_is_raised_with_the_authors_frames(guestbook: ModuleType) -> None:
    book = guestbook.Guestbook.simulate(by="alice@acme")
    with pytest.raises(HandlerFailed) as failed:
        book.visitor("alice@acme").stumble()
    (note,) = failed.value.__notes__
    assert "return 1 // (len(self.entries) - len(self.entries))" in note
    assert "ZeroDivisionError" in note
    assert book.errors == [note]


def test_errors_of_the_cluster_are_raised_as_in_a_client(guestbook: ModuleType) -> None:
    book = guestbook.Guestbook.simulate(by="alice@acme", settings=Settings(steps_max=10_000))
    alice = book.visitor("alice@acme")
    with pytest.raises(UnknownChannel):
        alice.no_such_channel()
    with pytest.raises(InvalidPayload):
        alice.sign(text=5)
    with pytest.raises(BudgetExceeded):
        alice.loop()
    with pytest.raises(DocumentExists):
        alice.create()
    with pytest.raises(PermissionDenied):
        book.visitor("mallory@evil").view()
    with pytest.raises(PermissionDenied):
        book.visitor("mallory@evil").watch()
    with pytest.raises(PermissionDenied):
        alice.delete()
    assert alice.view() == {"entries": {}}


def test_a_gate_that_closes_ends_the_screens(guestbook: ModuleType) -> None:
    book = guestbook.Guestbook.simulate(by="alice@acme")
    alice = book.visitor("alice@acme")
    screen = alice.watch()
    alice.close()
    assert isinstance(screen.ended, PermissionDenied)
    with pytest.raises(PermissionDenied):
        alice.sign(text="too late")


def test_time_stands_still_until_the_test_moves_it(guestbook: ModuleType) -> None:
    began = datetime(2031, 5, 1, tzinfo=UTC)
    book = guestbook.Guestbook.simulate(by="alice@acme", now=began)
    alice, bob = book.visitor("alice@acme"), book.visitor("bob@acme")
    alice.sign(text="one")
    book.advance(timedelta(days=400))
    bob.sign(text="two")
    assert book.now == began + timedelta(days=400)
    entries = alice.view()["entries"]
    assert [entry["at"] for entry in entries.values()] == ["2031-05-01T00:00:00.000Z", "2032-06-04T00:00:00.000Z"]
    with pytest.raises(ValueError, match="time zone"):
        book.advance_to(datetime(2040, 1, 1))


def test_alarms_ring_at_their_time_in_order_and_are_not_lost_with_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (
        "from datetime import timedelta\n\nfrom cluster import Command, Document, anyone, field, on\n\n\n"
        "class Clock(Document):\n    gate = anyone\n    rings: list[str] = field.public()\n\n"
        "    @on.message\n    def arm(self, ctx: Command, seconds: int) -> None:\n"
        "        ctx.after(timedelta(seconds=seconds), self.ring)\n\n"
        "    @on.alarm\n    def ring(self, ctx: Command) -> None:\n        self.rings.append(ctx.now.isoformat())\n"
    )
    (tmp_path / "clock_of_a_test.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    clock = importlib.import_module("clock_of_a_test").Clock.simulate()
    alice = clock.visitor("alice@acme")
    screen = alice.watch()
    for seconds in (90, 30, 3 * 86_400):
        alice.arm(seconds=seconds)
    clock.advance(timedelta(seconds=60))
    assert screen.view["rings"] == ["2030-01-01T12:00:30+00:00"]
    clock.restart()
    clock.advance(timedelta(days=30))
    assert screen.view["rings"] == [
        "2030-01-01T12:00:30+00:00",
        "2030-01-01T12:01:30+00:00",
        "2030-01-04T12:00:00+00:00",
    ]
    del sys.modules["clock_of_a_test"]


def test_the_same_seed_gives_the_same_simulation(guestbook: ModuleType) -> None:
    def drawn(seed: int) -> list[int]:
        book = guestbook.Guestbook.simulate(by="alice@acme", seed=seed)
        return [book.visitor("alice@acme").draw() for _ in range(5)]

    assert drawn(1) == drawn(1) != drawn(2)


def test_a_connection_that_drops_comes_back_to_the_present(guestbook: ModuleType) -> None:
    book = guestbook.Guestbook.simulate(by="alice@acme")
    alice, bob = book.visitor("alice@acme"), book.visitor("bob@acme")
    screen = bob.watch()
    bob.drop()
    alice.sign(text="unseen")
    assert screen.view == {"entries": {}}
    with pytest.raises(Unavailable):
        bob.view()
    bob.connect()
    assert screen.view == alice.view() != {"entries": {}}
    assert screen.patches[-1] is not None, "what was missed came as a patch"


def test_a_restarted_node_has_everything_that_was_acknowledged(guestbook: ModuleType) -> None:
    book = guestbook.Guestbook.simulate(by="alice@acme")
    alice = book.visitor("alice@acme")
    screen = alice.watch()
    alice.sign(text="kept")
    before = alice.view()
    book.restart()
    assert alice.view() == before
    book.visitor("bob@acme").sign(text="after")
    assert screen.view == alice.view()
    assert len(screen.view["entries"]) == 2


def test_a_screen_that_was_closed_changes_no_more(guestbook: ModuleType) -> None:
    book = guestbook.Guestbook.simulate(by="alice@acme")
    alice = book.visitor("alice@acme")
    screen = alice.watch()
    screen.close()
    alice.sign(text="unseen")
    assert screen.view == {"entries": {}}


def test_a_hidden_value_is_in_nothing_that_reaches_who_may_not_see_it() -> None:
    room = Room.simulate(by="alice@acme", title="tea")
    alice, bob = room.visitor("alice@acme"), room.visitor("bob@acme")
    screen = bob.watch()
    alice.say(text="the secret word")
    with pytest.raises(NotAMember):
        bob.say(text="let me in")
    assert all(b"secret" not in body for body in screen.received)
    alice.invite(who="bob@acme")
    assert any(b"secret" in body for body in screen.received)
    with pytest.raises(NotTheOwner):
        bob.expel(who="alice@acme")


def test_a_deleted_document_ends_its_screens_and_can_be_made_again() -> None:
    room = Room.simulate(by="alice@acme", title="tea")
    alice = room.visitor("alice@acme")
    screen = alice.watch()
    alice.delete()
    assert isinstance(screen.ended, DocumentDeleted)
    with pytest.raises(DocumentDeleted):
        alice.view()
    alice.create(title="coffee")
    assert alice.view()["title"] == "coffee"


def test_a_class_that_could_not_be_deployed_says_every_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "no_document.py").write_text(
        "import time\n\nfrom cluster import Document\n\n\nclass Bad(Document):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("no_document")
    with pytest.raises(InvalidBundle, match=r"no_document.py:1: ambient-time"):
        module.Bad.simulate()
    del sys.modules["no_document"]


def test_a_package_is_deployed_whole_when_its_modules_import_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "shop_of_a_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "prices.py").write_text(
        "from cluster import Refused\n\n\nclass TooDear(Refused):\n    pass\n\n\n"
        "def price(name: str) -> int:\n    if len(name) > 8:\n        raise TooDear()\n    return len(name)\n"
    )
    source = (
        "from cluster import Command, Document, anyone, on\nfrom shop_of_a_test.prices import price\n\n\n"
        "class Shop(Document):\n    gate = anyone\n\n    @on.message\n    def ask(self, ctx: Command, name: str) -> int:\n"
        "        return price(name)\n"
    )
    (package / "counter.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    shop: Any = importlib.import_module("shop_of_a_test.counter")
    alice = shop.Shop.simulate().visitor("alice@acme")
    assert alice.ask(name="tea") == 3
    with pytest.raises(sys.modules["shop_of_a_test.prices"].TooDear):
        alice.ask(name="champagne")
    for name in [name for name in sys.modules if name.startswith("shop_of_a_test")]:
        del sys.modules[name]
