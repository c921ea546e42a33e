"""Gossip under virtual time: real cores on a network that hurts them, with one seed, to a thousand nodes in one thread."""
