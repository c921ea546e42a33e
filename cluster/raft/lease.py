"""Leases: a leader answers reads at once while no other can have been elected (thesis 6.4.1). Off unless `lease_reads`.

A voter that hears a leader promises not to help elect another for a minimum election timeout. A leader that knows of a quorum
of such promises may answer alone until the first could end: what the voter promised, counted from when the acknowledged
round was SENT, less `lease_drift_ms` for clocks that do not run alike (reference trap 37). How long a promise is says its
voter, so one whose node has leases off, or other timeouts, is not taken at a word that it did not give.

Everything that ends belief in a leader early is bounded by the promise while leases are on: LeaderLost, Campaign, a restart,
hearsay of a higher term, a list that got lost (reference trap 39). Only the leader's own TimeoutNow is not, so there is
no lease from the start of a transfer until nobody can act on one any more (reference trap 38).

Invariant: while `holds`, no replica can become leader of a later term, as long as no two clocks drift apart by more than
`lease_drift_ms` within a minimum election timeout. A wrong bound costs stale reads, never writes.
"""

from __future__ import annotations

import math

from cluster.ids import ReplicaId
from cluster.raft import quorum, transfer
from cluster.raft.events import NEVER
from cluster.raft.state import State


def holds(state: State, now_ms: float) -> bool:
    """Leader: whether a read may be answered now without asking anybody."""
    config = state.config
    if not config.lease_reads or state.transfer_to is not None or transfer.may_still_campaign(state):
        return False
    liveness, term = state.liveness, state.term

    def promised_ms(voter: ReplicaId) -> float:
        if voter == state.replica:
            return math.inf
        # Who has not accepted anything of this term may not be in it, and hears a leader only in its own.
        if state.progress[voter].match < state.term_start:
            return NEVER
        return liveness.promised_until_ms(voter, term)

    return now_ms < quorum.agreed(state.configuration, promised_ms) - config.lease_drift_ms


def promised_until_ms(state: State) -> float:
    """Not leader: until when this voter has promised not to help elect another. In the past when leases are off."""
    if not state.config.lease_reads:
        return NEVER
    # The node may have acknowledged a leader that this replica does not know as such yet, so all peers are asked about. And a
    # promise outlives what liveness believes now: a list that got lost, or a connection that was refused, takes nothing back.
    heard_ms = max([state.liveness.promised_at_ms(peer, state.term) for peer in state.peers], default=NEVER)
    if state.leader is not None:
        heard_ms = max(heard_ms, state.heard_ms)
    return max(state.promised_until_ms, heard_ms + state.config.election_timeout_ms_min)
