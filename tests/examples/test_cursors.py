"""The page with cursors, as those who look at it meet it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from cluster.errors import InvalidPayload, InvalidRequest
from cluster.examples.cursors import Page
from cluster.examples.dice import Dice

TICK = timedelta(milliseconds=40)


def test_everybody_sees_where_the_others_are_and_who_they_are() -> None:
    page = Page.simulate(by=None)
    alice, bob = page.visitor("alice@acme"), page.visitor("bob@acme")
    hers, his = alice.watch(), bob.watch()
    assert his.view == {"body": "", "cursors": {}}
    hers.present({"at": 3})
    his.present({"at": 0, "selected": 2})
    assert hers.view == his.view
    shown = {connection.partition("#")[0]: cursor for connection, cursor in his.view["cursors"].items()}
    assert shown == {"alice@acme": {"at": 3, "selected": 0}, "bob@acme": {"at": 0, "selected": 2}}


def test_a_cursor_goes_with_its_connection_and_comes_back_with_it_by_itself() -> None:
    page = Page.simulate(by=None)
    alice, bob = page.visitor("alice@acme"), page.visitor("bob@acme")
    hers, his = alice.watch(), bob.watch()
    hers.present({"at": 3})
    assert len(his.view["cursors"]) == 1
    alice.drop()
    assert his.view["cursors"] == {}
    alice.connect()
    assert list(his.view["cursors"].values()) == [{"at": 3, "selected": 0}]
    assert hers.view == his.view
    hers.close()
    assert his.view["cursors"] == {}


def test_cursors_are_no_part_of_history_and_move_no_position() -> None:
    page = Page.simulate(by=None)
    alice = page.visitor("alice@acme")
    screen = alice.watch()
    before = screen.position
    screen.present({"at": 1})
    assert screen.position == before
    assert len(screen.view["cursors"]) == 1
    alice.edit(patches=[{"at": 0, "insert": "hello"}])
    assert screen.view["body"] == "hello"
    assert len(screen.view["cursors"]) == 1
    assert "cursors" not in alice.view(), "a read is of the state"
    assert [row["kind"] for row in page.history()["commands"]] == ["create", "send"]
    page.replay()


def test_of_cursors_that_move_fast_the_last_counts() -> None:
    page = Page.simulate(by=None)
    alice, bob = page.visitor("alice@acme"), page.visitor("bob@acme")
    hers, his = alice.watch(), bob.watch()
    received = len(his.patches)
    for at in range(100):
        hers.present({"at": at})
    page.advance(TICK)
    assert [cursor["at"] for cursor in his.view["cursors"].values()] == [99]
    assert len(his.patches) - received <= 2
    hers.present({"at": 7})
    page.advance(TICK)
    hers.present(None)
    page.advance(TICK)
    assert his.view["cursors"] == {}


def test_what_is_no_cursor_is_refused_and_nothing_is_shown_then() -> None:
    page = Page.simulate(by=None)
    alice, bob = page.visitor("alice@acme"), page.visitor("bob@acme")
    hers, his = alice.watch(), bob.watch()
    for wrong in ({"at": "here"}, {"at": 1, "color": "red"}, {}):
        page.advance(TICK)
        hers.present({"at": 1})
        page.advance(TICK)
        assert len(his.view["cursors"]) == 1
        with pytest.raises(InvalidPayload):
            hers.present(wrong)
        assert his.view["cursors"] == {}


def test_a_class_without_a_presence_field_says_so() -> None:
    table = Dice.simulate(by="alice@acme")
    screen = table.visitor("alice@acme").watch()
    with pytest.raises(InvalidRequest):
        screen.present({"at": 1})
    assert screen.view == {"sixes": {}}


def test_after_a_restart_of_the_node_cursors_are_set_again() -> None:
    page = Page.simulate(by=None)
    alice, bob = page.visitor("alice@acme"), page.visitor("bob@acme")
    hers, his = alice.watch(), bob.watch()
    hers.present({"at": 3})
    page.restart()
    page.advance(TICK)
    assert hers.view == his.view
    assert list(his.view["cursors"].values()) == [{"at": 3, "selected": 0}]
