"""Planted bugs in leases: promises that are broken, and answers that rest on more than was promised."""

from __future__ import annotations

from typing import Any

from chaos.mutants.mutant import Patch, collector
from chaos.mutants.reach import (
    LEASES_AND_DEAF_LEADERS,
    LEASES_AND_DELAYS,
    LEASES_AND_PAUSES,
)
from cluster.ids import NodeId
from cluster.pump.liveness import NodeLiveness
from cluster.raft import lease
from cluster.raft.state import State
from cluster.shard.intake import Intake

MUTANTS, mutant = collector()


@mutant("the age of a round counts from when its answer came, for leases and CheckQuorum (trap 37)", LEASES_AND_DELAYS)
def lease_counts_from_receipt(patch: Patch) -> None:
    def on_reply(known: NodeLiveness, node: NodeId, reply: Any, now_ms: float) -> float | None:
        sent_ms: float | None = original(known, node, reply, now_ms)
        if sent_ms is None:
            return None
        peer = known._peers[node]
        peer.acked = (peer.acked[0], now_ms)
        return now_ms

    original = patch.set(NodeLiveness, "on_reply", on_reply)


@mutant("the lease goes on while leadership is handed over (trap 38)", LEASES_AND_DEAF_LEADERS)
def lease_kept_while_handing_over(patch: Patch) -> None:
    def holds(state: State, now_ms: float) -> bool:
        handed, state.transfer_to = state.transfer_to, None
        told, state.timeouts_sent = state.timeouts_sent, {}
        try:
            return bool(original(state, now_ms))
        finally:
            state.transfer_to, state.timeouts_sent = handed, told

    original = patch.set(lease, "holds", holds)


@mutant("an answer by lease leaves although the lease has ended while it was computed", LEASES_AND_PAUSES)
def lease_not_looked_at_again(patch: Patch) -> None:
    def answer(intake: Intake, reads: Any, now_ms: float, turn: Any, clock: Any) -> None:
        original(intake, reads, now_ms, turn, lambda: now_ms)

    original = patch.set(Intake, "_answer_by_lease", answer)
