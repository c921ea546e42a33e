"""Crazy Eights, as its players would use it."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.examples.cards import HAND, Cards, DoesNotFit, NoSuchCard, NotNow, NotYourTurn
from cluster.simulate import Simulation, Visitor

NAMES = ("ann@acme", "ben@acme", "cleo@acme", "dan@acme")


def dealt(seed: int) -> tuple[Simulation, list[Visitor]]:
    game = Cards.simulate(by=NAMES[0], seed=seed)
    players = [game.visitor(name) for name in NAMES]
    for player in players[1:]:
        player.sit()
    players[0].deal()
    return game, players


def hand(player: Visitor) -> list[dict[str, Any]]:
    return [held["card"] for held in player.view()["hands"].values()]


def fitting(player: Visitor) -> dict[str, Any] | None:
    view = player.view()
    for card in hand(player):
        if card["rank"] in ("8", view["top"]["rank"]) or card["suit"] == view["suit"]:
            return card
    return None


def turn(player: Visitor) -> None:
    card = fitting(player)
    if card is None:
        player.draw()
    else:
        player.play(**card, call="hearts" if card["rank"] == "8" else None)


@pytest.mark.parametrize("seed", range(4))
def test_a_game_is_played_to_its_end_and_every_card_is_somewhere(seed: int) -> None:
    game, players = dealt(seed)
    number = 0
    while players[0].view()["winner"] is None:
        turn(players[number % 4])
        number += 1
        assert number < 400
    view = players[0].view()
    assert view["winner"] == NAMES[(number - 1) % 4]
    assert view["counts"][view["winner"]] == 0
    assert view["counts"] == {player.who: len(hand(player)) for player in players}
    with pytest.raises(NotNow):
        players[number % 4].draw()
    game.restart()
    assert players[0].view() == view


def test_nobody_is_sent_a_card_of_anothers_hand_or_of_the_stock() -> None:
    _, players = dealt(7)
    screens = [player.watch() for player in players]
    for number in range(40):
        if players[0].view()["winner"] is None:
            turn(players[number % 4])
    for player, screen in zip(players, screens, strict=True):
        owners = {held["owner"] for held in screen.view["hands"].values()}
        assert owners <= {player.who}
        assert screen.view == player.view()
        for received in screen.received:
            assert b"stock" not in received
        assert all(
            operation["value"]["owner"] == player.who
            for patch in screen.patches
            for operation in patch or ()
            if operation["op"] == "add" and operation["path"].startswith("/hands/")
        )


def test_a_watcher_without_a_seat_sees_the_table_and_no_hand() -> None:
    game, _ = dealt(1)
    view = game.visitor("eve@acme").view()
    assert view["hands"] == {}
    assert set(view["counts"].values()) == {HAND}
    assert view["top"] is not None


def test_the_rules_are_refusals() -> None:
    game = Cards.simulate(by=NAMES[0])
    ann, ben = game.visitor(NAMES[0]), game.visitor(NAMES[1])
    with pytest.raises(NotNow):
        ann.deal()
    with pytest.raises(NotNow):
        ann.draw()
    ben.sit()
    with pytest.raises(NotNow):
        ben.sit()
    with pytest.raises(NotNow):
        game.visitor("eve@acme").deal()
    ben.deal()
    with pytest.raises(NotNow):
        game.visitor("eve@acme").sit()
    with pytest.raises(NotYourTurn):
        ben.draw()
    of_ben = hand(ben)[0]
    with pytest.raises(NoSuchCard):
        ann.play(**of_ben)
    view = ann.view()
    misfits = [card for card in hand(ann) if card["rank"] not in ("8", view["top"]["rank"]) and card["suit"] != view["suit"]]
    assert misfits
    with pytest.raises(DoesNotFit):
        ann.play(**misfits[0])
    assert ann.view() == view
