"""A poll, as its voters would use it."""

from __future__ import annotations

import pytest

from cluster.examples.poll import Closed, NoSuchOption, NotYours, Poll


def test_votes_are_counted_when_the_poll_is_closed_and_not_before() -> None:
    poll = Poll.simulate(by="ann@acme", question="Tea?", options=["yes", "no"])
    ann, ben, cleo = (poll.visitor(f"{name}@acme") for name in ("ann", "ben", "cleo"))
    screen = cleo.watch()
    ann.vote(option="yes")
    ben.vote(option="no")
    ben.vote(option="yes")
    assert (screen.view["voters"], screen.view["result"], ben.view()["mine"]) == (2, {}, "yes")
    ann.close()
    assert screen.view["result"] == {"yes": 2, "no": 0}
    with pytest.raises(Closed):
        cleo.vote(option="no")


def test_what_others_voted_for_reaches_nobody() -> None:
    poll = Poll.simulate(by="ann@acme", question="?", options=["red herring", "blue whale"])
    ann, ben = poll.visitor("ann@acme"), poll.visitor("ben@acme")
    screen = ben.watch()
    ann.vote(option="blue whale")
    assert screen.view["mine"] == ""
    assert all(b"blue whale" not in received for received in screen.received[1:])


def test_a_poll_without_a_choice_does_not_come_to_exist() -> None:
    for options in ([], ["only"], ["same", "same"]):
        with pytest.raises(NoSuchOption):
            Poll.simulate(by="ann@acme", question="?", options=options)


def test_only_its_owner_closes_it_and_only_its_options_count() -> None:
    poll = Poll.simulate(by="ann@acme", question="?", options=["a", "b"])
    ben = poll.visitor("ben@acme")
    with pytest.raises(NotYours):
        ben.close()
    with pytest.raises(NoSuchOption):
        ben.vote(option="c")
    assert ben.view()["voters"] == 0
