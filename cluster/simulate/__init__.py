"""A cluster in a test: `Auction.simulate()`: one node without sockets, disks or a clock, and whoever comes to it.

    auction = Auction.simulate(by="seller@acme", title="A vase")
    alice = auction.visitor("alice@acme")
    alice.bid(cents=500)                     # returns the answer, raises the class's own refusals
    screen = alice.watch()                   # the view, kept by patches as a client keeps it
    auction.advance(timedelta(minutes=10))   # alarms fire, nothing sleeps
    assert screen.view["closed"]

    document.py    the simulation as a test sees it: visitors, time, deployments, restarts
    connection.py  a visitor's session, and the screens on it
    importing.py   tests import the classes that run
    node.py        the real pump of one node with time, memory and randomness of its own

Nothing of the product is imitated here: commands go through the session protocol, Raft's log, apply and the feed, as in a node.
"""

from cluster.simulate.connection import Screen
from cluster.simulate.document import Asked, Simulation, Visitor, simulate

__all__ = ["Asked", "Screen", "Simulation", "Visitor", "simulate"]
