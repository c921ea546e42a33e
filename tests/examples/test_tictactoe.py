"""Tic-tac-toe: the rules, and what watchers see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def test_a_game_is_won_by_three_in_a_line(deploy: Callable[..., Any]) -> None:
    game = deploy("tictactoe")
    game.answer("join", "bob")
    game.watch("alice", "bob", "watcher")
    for number, cell in enumerate((0, 3, 1, 4, 2)):
        assert game.view("watcher")["winner"] == ""
        game.answer("play", ("alice", "bob")[number % 2], cell=cell)
    assert game.view("watcher")["winner"] == "X"
    assert game.view("watcher")["board"] == ["X", "X", "X", "O", "O", "", "", "", ""]
    assert game.refusal("play", "bob", cell=8) == "GameOver"


def test_a_full_board_without_a_line_is_nobodys(deploy: Callable[..., Any]) -> None:
    game = deploy("tictactoe")
    game.answer("join", "bob")
    for number, cell in enumerate((0, 1, 2, 4, 3, 5, 7, 6, 8)):
        game.answer("play", ("alice", "bob")[number % 2], cell=cell)
    assert game.view("alice")["winner"] == ""
    assert game.refusal("play", "bob", cell=0) == "GameOver"


def test_the_rules_are_refusals(deploy: Callable[..., Any]) -> None:
    game = deploy("tictactoe")
    assert game.refusal("join", "alice") == "SeatTaken"
    assert game.refusal("play", "bob", cell=0) == "NotAPlayer"
    game.answer("join", "bob")
    assert game.refusal("join", "carol") == "SeatTaken"
    assert game.refusal("play", "bob", cell=0) == "NotYourTurn"
    game.answer("play", "alice", cell=0)
    assert game.refusal("play", "bob", cell=0) == "CellTaken"
    assert game.refusal("play", "bob", cell=9) == "CellTaken"
    assert game.refusal("play", "bob", cell=-1) == "CellTaken"
    assert game.refusal("play", "alice", cell=1) == "NotYourTurn"


def test_one_view_serves_all(deploy: Callable[..., Any]) -> None:
    from cluster.ids import Principal

    game = deploy("tictactoe")
    assert game.instance.visibility_class(Principal("a", "x")) == game.instance.visibility_class(Principal("b", "x"))
