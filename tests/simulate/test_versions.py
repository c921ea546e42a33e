"""A later version of a class in its author's test: refused or taken up as in a cluster, with screens that stay open."""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import InvalidBundle

FIRST = """
from cluster import Before, Command, Document, Principal, anyone, field, on, read

class Board(Document, version=1):
    gate = anyone
    title: str = field.public("")
    stars: int = field.public(0)

    @on.message
    def star(self, ctx: Command) -> int:
        self.stars += 1
        return self.stars
"""
HOOK = """
    @on.upgrade(since=1)
    def words(self, ctx: Command, before: Before) -> None:
        self.title = before.title.split()

    @on.message
"""

Define = Callable[[str], Any]


@pytest.fixture(name="define")
def classes_in_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Define]:
    """Writes a source to a module of its own and imports its class."""
    numbers = itertools.count(1)
    names: list[str] = []
    monkeypatch.syspath_prepend(str(tmp_path))

    def define(source: str) -> Any:
        name = f"board_{tmp_path.name}_{next(numbers)}".replace("-", "_")
        names.append(name)
        (tmp_path / f"{name}.py").write_text(source)
        importlib.invalidate_caches()
        return importlib.import_module(name).Board

    yield define
    for name in names:
        sys.modules.pop(name, None)


def second(old: str = "", new: str = "") -> str:
    assert old in FIRST
    return FIRST.replace("version=1", "version=2").replace(old, new) if old else FIRST.replace("version=1", "version=2")


def test_a_screen_stays_open_and_shows_what_the_new_code_shows(define: Define) -> None:
    board = define(FIRST).simulate()
    alice = board.visitor("alice@acme")
    screen = alice.watch()
    alice.star()
    renamed = second('title: str = field.public("")', 'name: str = field.public("", was="title")')
    board.deploy(define(renamed.replace("self.stars += 1", "self.stars += 10")))
    board.settle()
    assert screen.view == {"name": "", "stars": 1}
    assert alice.star() == 11
    assert screen.view == {"name": "", "stars": 11}
    assert not screen.ended


def test_what_sees_no_change_is_sent_no_change(define: Define) -> None:
    board = define(FIRST).simulate()
    screen = board.visitor("alice@acme").watch()
    before = len(screen.received)
    board.deploy(define(second("self.stars += 1", "self.stars = self.stars + 1")))
    board.settle()
    assert screen.received[before:] == [b"[]"]


def test_a_hook_runs_once(define: Define) -> None:
    board = define(FIRST).simulate()
    changed = second('title: str = field.public("")', "title: list[str] = field.public()")
    changed = changed.replace("\n    @on.message\n", HOOK)
    board.deploy(define(changed))
    alice = board.visitor("alice@acme")
    assert [alice.star(), alice.star()] == [1, 2]
    assert alice.view() == {"title": [], "stars": 2}


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (FIRST.replace("stars += 1", "stars += 2"), "version: the code is version 1"),
        (second("stars: int = field.public(0)", "stars: float = field.public(0.0)"), "field stars: it was int and is float"),
        (second("def star(self, ctx: Command)", "def star(self, ctx: Command, by: int)"), "star needs by now"),
    ],
)
def test_what_a_cluster_would_refuse_is_refused_and_the_old_code_goes_on(define: Define, source: str, told: str) -> None:
    board = define(FIRST).simulate()
    alice = board.visitor("alice@acme")
    with pytest.raises(InvalidBundle, match=told):
        board.deploy(define(source))
    assert alice.star() == 1


def test_a_change_that_breaks_clients_can_be_forced(define: Define) -> None:
    board = define(FIRST).simulate()
    board.deploy(define(second("def star(self, ctx: Command)", "def star(self, ctx: Command, by: int)")), force=True)
    assert board.visitor("alice@acme").star(by=3) == 1


BELL = """
from datetime import timedelta
from cluster import Before, Command, Document, Maybe, Principal, anyone, field, on

class Board(Document, version=1):
    gate = anyone
    rung: list[str] = field.public()

    @on.message
    def wind(self, ctx: Command, hours: int) -> None:
        ctx.after(timedelta(hours=hours), self.ring, "first")

    @on.alarm
    def ring(self, ctx: Command, what: str) -> None:
        self.rung.append(what)
"""


def test_an_alarm_that_is_armed_rings_on_the_new_code(define: Define) -> None:
    board = define(BELL).simulate()
    alice = board.visitor("alice@acme")
    alice.wind(hours=1)
    hook = "    @on.upgrade(since=1)\n    def lead(self, ctx: Command) -> None:\n        self.rung.append('upgraded')\n\n"
    hook += "    @on.alarm"
    board.deploy(
        define(
            BELL.replace("version=1", "version=2").replace("    @on.alarm", hook).replace("append(what)", "append(what + '!')")
        )
    )
    board.advance(timedelta(hours=2))
    assert alice.view() == {"rung": ["upgraded", "first!"]}


@pytest.mark.parametrize("kept_in_memory", [True, False])
def test_a_version_without_the_handler_of_an_armed_alarm_is_refused(define: Define, kept_in_memory: bool) -> None:
    board = define(BELL).simulate()
    alice = board.visitor("alice@acme")
    alice.wind(hours=1)
    if not kept_in_memory:
        board.restart()
    later = define(BELL.replace("version=1", "version=2").replace("ring", "strike"))
    with pytest.raises(InvalidBundle, match="armed: handler ring is gone, and something pending names it"):
        board.deploy(later)
    board.advance(timedelta(hours=2))
    assert alice.view() == {"rung": ["first"]}
    board.deploy(later)
    alice.wind(hours=1)
    board.advance(timedelta(hours=2))
    assert alice.view() == {"rung": ["first", "first"]}


def test_an_alarm_whose_arguments_would_not_fit_is_refused(define: Define) -> None:
    board = define(BELL).simulate()
    with pytest.raises(InvalidBundle, match=r"ring\.what: it was str and is int"):
        board.deploy(
            define(
                BELL.replace("version=1", "version=2")
                .replace("what: str", "what: int")
                .replace("append(what)", "append(str(what))")
                .replace('"first")', "1)")
            )
        )
