"""A document that comes to be because somebody came: once, by whoever came first, and only if constructor and gate let him."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from cluster.errors import DocumentDeleted, InvalidPayload, PermissionDenied, UnknownDocument
from cluster.examples.dice import Dice

NOTEBOOK = '''
"""A notebook of whoever opens it first."""
from cluster import Command, Document, Principal, Refused, field, on, read


class NotForRobots(Refused):
    """People write here."""


class Notebook(Document, on_missing="create"):
    owner: Principal = field.public()
    pages: int = field.public(0)

    @on.construct
    def open(self, ctx: Command, pages: int = 1) -> None:
        if ctx.sender.agent == "robot":
            raise NotForRobots()
        self.owner, self.pages = ctx.sender, pages

    @read.gate
    def enter(self, who: Principal) -> bool:
        return who.authority == "acme"

    @on.delete
    def may_delete(self, ctx: Command) -> bool:
        return True

    @on.message
    def write(self, ctx: Command, pages: int = 1) -> int:
        self.pages += pages
        return self.pages
'''


@pytest.fixture
def notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    (tmp_path / "notebook_of_a_test.py").write_text(NOTEBOOK)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("notebook_of_a_test")
    del sys.modules["notebook_of_a_test"]


def kinds(book: object) -> list[tuple[str, str, str]]:
    return [(row["kind"], row["sender"], row["code"]) for row in book.history()["commands"]]  # type: ignore[attr-defined]


def test_a_read_creates_by_whoever_reads(notebook: ModuleType) -> None:
    book = notebook.Notebook.simulate(by=None)
    assert book.visitor("alice@acme").view() == {"owner": "alice@acme", "pages": 1}
    assert book.visitor("bob@acme").view()["owner"] == "alice@acme"
    assert kinds(book) == [("create", "alice@acme", "OK")]
    book.replay()


def test_a_watch_creates_and_goes_on(notebook: ModuleType) -> None:
    book = notebook.Notebook.simulate(by=None)
    alice, bob = book.visitor("alice@acme"), book.visitor("bob@acme")
    screens = [alice.watch(), bob.watch()]
    bob.write()
    assert [screen.view for screen in screens] == [{"owner": "alice@acme", "pages": 2}] * 2
    assert [kind for kind, _, _ in kinds(book)] == ["create", "send"]


def test_a_message_creates_and_runs_in_one_go(notebook: ModuleType) -> None:
    book = notebook.Notebook.simulate(by=None)
    assert book.visitor("bob@acme").write(pages=3) == 4
    assert kinds(book) == [("create", "bob@acme", "OK"), ("send", "bob@acme", "OK")]
    book.restart()
    assert book.visitor("bob@acme").view() == {"owner": "bob@acme", "pages": 4}
    book.replay()


def test_whom_the_gate_does_not_admit_creates_nothing(notebook: ModuleType) -> None:
    """The constructor has no say about strangers here: without the gate anybody could fill a space with documents."""
    book = notebook.Notebook.simulate(by=None)
    stranger = book.visitor("eve@outside")
    for come in (stranger.view, stranger.watch):
        with pytest.raises(PermissionDenied):
            come()
    with pytest.raises(UnknownDocument):
        stranger.write()
    assert book.visitor("alice@acme").view()["owner"] == "alice@acme", "the key is free"
    book.replay()


def test_what_the_constructor_refuses_is_told_to_whoever_came(notebook: ModuleType) -> None:
    book = notebook.Notebook.simulate(by=None)
    robot = book.visitor("robot@acme")
    for come in (robot.view, robot.watch):
        with pytest.raises(notebook.NotForRobots):
            come()
    assert book.visitor("alice@acme").view()["pages"] == 1


def test_a_message_that_is_none_creates_nothing(notebook: ModuleType) -> None:
    book = notebook.Notebook.simulate(by=None)
    with pytest.raises(InvalidPayload):
        book.visitor("alice@acme").write(pages="many")
    assert book.visitor("bob@acme").view()["owner"] == "bob@acme"


def test_what_was_deleted_stays_deleted_until_somebody_creates_it(notebook: ModuleType) -> None:
    book = notebook.Notebook.simulate(by=None)
    alice = book.visitor("alice@acme")
    alice.write()
    alice.delete()
    for come in (alice.view, alice.write):
        with pytest.raises(DocumentDeleted):
            come()
    book.visitor("bob@acme").create(pages=7)
    assert alice.view() == {"owner": "bob@acme", "pages": 7}


def test_an_ordinary_class_creates_nothing() -> None:
    table = Dice.simulate(by=None)
    with pytest.raises(UnknownDocument):
        table.visitor("alice@acme").view()
    with pytest.raises(UnknownDocument):
        table.visitor("alice@acme").roll()
