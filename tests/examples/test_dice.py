"""The dice table, as its players meet it."""

from __future__ import annotations

from cluster.examples.dice import SIDES, Dice


def test_everybody_at_the_table_hears_a_roll_once_and_its_fields_are_typed() -> None:
    table = Dice.simulate(by="alice@acme")
    alice, bob = table.visitor("alice@acme"), table.visitor("bob@acme")
    screens = [alice.watch(), bob.watch()]
    alice.roll()
    (heard,) = screens[0].events
    assert screens[1].events == [heard]
    assert (heard.name, heard.value["by"]) == ("Rolled", "alice@acme")
    assert 1 <= heard.value["face"] <= SIDES
    assert heard.position == alice.position == screens[1].position


def test_a_roll_behind_the_screen_is_heard_by_the_roller_alone() -> None:
    table = Dice.simulate(by="alice@acme")
    alice, bob = table.visitor("alice@acme"), table.visitor("bob@acme")
    hers, his = alice.watch(), bob.watch()
    alice.roll_hidden()
    assert len(hers.events) == 1
    assert his.events == []
    assert his.position == hers.position, "that something happened is no secret"


def test_sixes_are_state_and_rolls_are_not() -> None:
    table = Dice.simulate(by="alice@acme", seed=3)
    alice = table.visitor("alice@acme")
    screen = alice.watch()
    for _ in range(40):
        alice.roll()
    sixes = sum(heard.value["face"] == SIDES for heard in screen.events)
    assert sixes > 0
    assert alice.view() == {"sixes": {"alice@acme": sixes}}
    table.replay()
