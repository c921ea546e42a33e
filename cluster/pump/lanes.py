"""The three kinds of traffic between two nodes, each with a connection of its own so that none waits behind another."""

from __future__ import annotations

import enum


class Lane(enum.IntEnum):
    """LIVENESS: heartbeats. RAFT: log traffic and forwarded operations. BULK: snapshots and bundles. Stable numbers: on
    the wire.
    """

    LIVENESS = 0
    RAFT = 1
    BULK = 2
