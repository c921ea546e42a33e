"""The lobby, as those who come to it meet it."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.examples.lobby import Full, Lobby


def sitting(view: Any) -> list[str]:
    return [seat["who"] for seat in view["seats"].values()]


def test_whoever_watches_has_a_seat_and_leaves_it_with_the_watch() -> None:
    lobby = Lobby.simulate()
    hers = lobby.visitor("alice@acme").watch()
    assert sitting(hers.view) == ["alice@acme"]
    his = lobby.visitor("bob@acme").watch()
    assert (hers.view["free"], len(hers.view["seats"])) == (0, 2)
    his.close()
    assert sitting(hers.view) == ["alice@acme"]
    lobby.replay()


def test_who_finds_no_seat_is_refused_as_the_class_says_and_leaves_no_trace() -> None:
    lobby = Lobby.simulate(size=1)
    hers = lobby.visitor("alice@acme").watch()
    eve = lobby.visitor("eve@acme")
    with pytest.raises(Full):
        eve.watch()
    assert len(hers.view["seats"]) == 1
    eve.resize(size=2)
    assert sitting(eve.watch().view) == ["alice@acme", "eve@acme"]


def test_two_windows_are_two_connections() -> None:
    lobby = Lobby.simulate(size=3)
    alice = lobby.visitor("alice@acme")
    first, second = alice.watch(), alice.watch()
    assert len(first.view["seats"]) == 2
    second.close()
    assert len(first.view["seats"]) == 1


def test_a_lost_connection_frees_the_seat_and_comes_back_as_another() -> None:
    lobby = Lobby.simulate()
    alice, bob = lobby.visitor("alice@acme"), lobby.visitor("bob@acme")
    hers, his = alice.watch(), bob.watch()
    before = next(iter(his.view["seats"]))
    alice.drop()
    assert sitting(his.view) == ["bob@acme"]
    alice.connect()
    assert sitting(hers.view) == ["bob@acme", "alice@acme"]
    assert before not in hers.view["seats"]


def test_each_comes_and_goes_once_though_the_node_dies() -> None:
    lobby = Lobby.simulate()
    alice, bob = lobby.visitor("alice@acme"), lobby.visitor("bob@acme")
    alice.watch()
    screen = bob.watch()
    alice.drop()
    lobby.restart()
    assert (screen.ended, sitting(screen.view)) == (None, ["bob@acme"])
    told = [(row["kind"], row["sender"]) for row in lobby.history()["commands"] if "connect" in row["kind"]]
    assert told == [
        ("connect", "alice@acme"),
        ("connect", "bob@acme"),
        ("disconnect", "alice@acme"),
        ("disconnect", "bob@acme"),
        ("connect", "bob@acme"),
    ]
    assert lobby.errors == []
    lobby.replay()
