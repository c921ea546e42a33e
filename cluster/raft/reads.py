"""ReadIndex: reads that see every write acknowledged before they were asked, without a log entry (thesis 6.4).

A read is answered at an index once a quorum has acknowledged, in this term, a liveness round that began after the read was
asked: nobody else can have led and committed until then. The index is at least that of the term's no-op, so what earlier
leaders acknowledged is below it even while this leader does not know their commit index (reference trap 34).

Invariant: a context is this leader's, in this term, with its own time; an acknowledgement is compared by the time its round
was sent and never by a name that a retry could reuse (reference trap 35).

While a lease holds (`lease`), it stands for the round, and the answer is named apart: whoever computes it may have been
stopped in the meantime, so the lease is looked at again afterwards, on a clock read after that.

Not here: waiting until applied >= index (the owner), rounds (node-pair liveness).
"""

from __future__ import annotations

import math

from cluster.raft import lease, quorum
from cluster.raft.events import NEVER, PeerAcked, Read
from cluster.raft.state import State


def on_read(state: State, event: Read, now_ms: float) -> None:
    """Leader. Beyond the bound a read is refused, not queued."""
    if len(state.reads_waiting) >= state.config.reads_pending_max:
        state.effects.reads_refused.append(event.context)
        return
    index = max(state.commit, state.term_start)
    if event.by_lease and lease.holds(state, now_ms):
        state.effects.reads_leased.append((event.context, index))
        return
    if not state.reads_waiting:
        state.reads_waiting = []
    state.reads_waiting.append((event.context, index, now_ms))
    _answer(state)
    state.effects.round_needed = bool(state.reads_waiting)


def refuse_read(state: State, event: Read, now_ms: float) -> None:
    """Any role but leader."""
    state.effects.reads_refused.append(event.context)


def on_peer_acked(state: State, event: PeerAcked, now_ms: float) -> None:
    """Leader. An acknowledgement for another term proves nothing about this one."""
    if event.term != state.term or event.peer not in state.progress:
        return
    progress = state.progress[event.peer]
    progress.heard_ms = max(progress.heard_ms, event.sent_at_ms)
    if event.sent_at_ms > state.reads_acked.get(event.peer, NEVER):
        if not state.reads_acked:
            state.reads_acked = {}
        state.reads_acked[event.peer] = event.sent_at_ms
        _answer(state)


def _answer(state: State) -> None:
    """Answer, oldest first, what a quorum (the same as for commits, reference trap 36) has confirmed."""
    waiting, acked = state.reads_waiting, state.reads_acked
    confirmed_ms = quorum.agreed(
        state.configuration, lambda voter: math.inf if voter == state.replica else acked.get(voter, NEVER)
    )
    ready = 0
    while ready < len(waiting) and waiting[ready][2] <= confirmed_ms:
        state.effects.reads_ready.append(waiting[ready][:2])
        ready += 1
    del waiting[:ready]
