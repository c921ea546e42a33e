"""Events that pass by: at most once, to those who watch when it happens, and only if the command ended well."""

from __future__ import annotations

from cluster.examples.dice import Dice


def test_who_comes_back_is_not_told_what_passed_meanwhile() -> None:
    table = Dice.simulate(by="alice@acme")
    alice, bob = table.visitor("alice@acme"), table.visitor("bob@acme")
    screen = bob.watch()
    alice.roll()
    bob.drop()
    alice.roll()
    alice.roll()
    bob.connect()
    assert screen.position == alice.position, "the state has come after"
    assert len(screen.events) == 1
    alice.roll()
    assert [event.position.index for event in screen.events] == [2, 5]


def test_who_watches_later_and_who_restarts_hears_nothing_of_before() -> None:
    table = Dice.simulate(by="alice@acme")
    alice = table.visitor("alice@acme")
    alice.roll()
    screen = alice.watch()
    assert screen.events == []
    table.restart()
    assert screen.position == alice.position
    assert screen.events == []


def test_events_of_many_commands_come_in_order() -> None:
    table = Dice.simulate(by="alice@acme")
    alice, bob = table.visitor("alice@acme"), table.visitor("bob@acme")
    screen = bob.watch()
    for _ in range(20):
        alice.roll()
        bob.roll_hidden()
    assert [event.position.index for event in screen.events] == list(range(2, 42))
    assert [event.value["by"] for event in screen.events] == ["alice@acme", "bob@acme"] * 20
