"""The numbers of the placement of replicas."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PlacementRules:
    """dead_after_ms: how long a node is believed to be dead before its replicas are rebuilt elsewhere: longer than a restart
    takes, for a rebuilt replica is all of its data sent again. warm_up_ms, warm_up_share: after an election nothing is
    ordered until so long has passed or so many of the shards have reported. moves_in_max, moves_out_max: replicas that a node
    receives, and that it sends as a leader, at a time. handovers_max: leaderships that leave nodes at a time because they
    have to. balance_after_ms: how long everything has been as it is before anything moves for balance alone. away_share_max:
    with a larger share of the nodes away nothing is ordered: it is more likely that this node does not see them.
    catch_up_entries: who lacks more than this does not get a leadership.
    """

    dead_after_ms: float = 300_000.0
    warm_up_ms: float = 60_000.0
    warm_up_share: float = 0.9
    moves_in_max: int = 2
    moves_out_max: int = 2
    handovers_max: int = 8
    balance_after_ms: float = 30_000.0
    away_share_max: float = 1 / 3
    catch_up_entries: int = 1_000
