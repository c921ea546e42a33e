"""The auction, as its seller, its bidders and the service that charges the winner would use it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from cluster.errors import AskClosed, PermissionDenied
from cluster.examples.auction import Auction, Closed
from cluster.replay.timeline import causes


def test_bids_are_secret_until_the_clock_opens_them() -> None:
    auction = Auction.simulate(by="seller@acme", title="A vase", minutes=10)
    alice, bob = auction.visitor("alice@acme"), auction.visitor("bob@acme")
    screen = bob.watch()
    assert alice.bid(cents=1234567) == 1
    assert bob.bid(cents=500) == 2
    assert bob.bid(cents=600) == 2, "a second bid replaces the first"
    assert set(screen.view["bids"]) == {"bob@acme"}
    assert screen.view["bidders"] == 2
    assert all(b"1234567" not in received for received in screen.received)
    auction.advance(timedelta(minutes=9))
    assert not screen.view["closed"]
    auction.advance(timedelta(minutes=1))
    assert screen.view["closed"]
    assert screen.view["bids"]["alice@acme"] == {"bidder": "alice@acme", "cents": 1234567}
    with pytest.raises(Closed):
        alice.bid(cents=2)


def test_an_auction_closes_once_though_the_node_dies_before_its_time() -> None:
    auction = Auction.simulate(by="seller@acme", title="A vase", minutes=1)
    seller = auction.visitor("seller@acme")
    auction.restart()
    auction.advance(timedelta(minutes=2))
    assert seller.view()["closed"]
    position = seller.view() and seller.position
    auction.restart()
    auction.advance(timedelta(hours=1))
    seller.view()
    assert seller.position == position, "nothing else has happened"


def test_the_winner_is_charged_once_by_the_service_that_is_asked() -> None:
    auction = Auction.simulate(by="seller@acme", title="A vase", minutes=1)
    auction.visitor("alice@acme").bid(cents=700)
    auction.visitor("bob@acme").bid(cents=900)
    payments = auction.visitor("payments@acme")
    assert payments.asks() == []
    auction.advance(timedelta(minutes=1))
    (ask,) = payments.asks()
    assert ask.request == {"bidder": "bob@acme", "cents": 900}
    assert auction.visitor("alice@acme").asks() == []
    with pytest.raises(AskClosed):
        auction.visitor("alice@acme").answer(ask.id, "a forged receipt")
    auction.restart()
    ask.answer("receipt 17")
    assert payments.asks() == []
    with pytest.raises(AskClosed):
        ask.answer("receipt 18")
    paid = [cause.after for cause in causes(auction.history(), "/paid")]
    assert paid == [False, True]


def test_an_answer_that_does_not_come_is_an_answer_too() -> None:
    auction = Auction.simulate(by="seller@acme", title="A vase", minutes=1)
    auction.visitor("bob@acme").bid(cents=900)
    payments = auction.visitor("payments@acme")
    auction.advance(timedelta(minutes=1))
    (ask,) = payments.asks()
    assert ask.deadline == auction.now + timedelta(days=1)
    auction.advance(timedelta(days=2))
    with pytest.raises(AskClosed):
        ask.answer("too late")
    assert [cause.after for cause in causes(auction.history(), "/paid")] == [False]
    assert auction.replay().equal


def test_who_is_not_of_the_house_does_not_come_in() -> None:
    auction = Auction.simulate(by="seller@acme", title="A vase")
    with pytest.raises(PermissionDenied):
        auction.visitor("mallory@elsewhere").view()
    with pytest.raises(PermissionDenied):
        auction.visitor("mallory@elsewhere").bid(cents=1)
