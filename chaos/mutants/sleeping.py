"""Planted bugs in sleep: groups without timers that must notice everything all the same."""

from __future__ import annotations

from chaos.mutants.mutant import Patch, collector
from cluster.pump.waking import Waking
from cluster.raft import sleeping
from cluster.raft.effects import Role
from cluster.raft.state import State

MUTANTS, mutant = collector()


@mutant("sleepers are not told when a node falls silent (trap 50)")
def sleepers_not_told(patch: Patch) -> None:
    def hear(waking: Waking) -> None:
        waking._holder.liveness.take_news()

    patch.set(Waking, "_hear", hear)


@mutant("a sleeper that is woken has no timer (trap 50)")
def woken_without_a_timer(patch: Patch) -> None:
    def wake(state: State, now_ms: float) -> None:
        original(state, now_ms)
        if state.role is not Role.LEADER:
            state.deadline_ms = float("inf")

    original = patch.set(sleeping, "wake", wake)


@mutant("a leader sleeps although a follower that is there lacks entries (trap 51)")
def leader_sleeps_while_somebody_lacks_entries(patch: Patch) -> None:
    patch.set(sleeping, "_has_everything", lambda state, progress: True)


@mutant("a leader sleeps although no quorum is there (trap 51)")
def leader_sleeps_without_a_quorum(patch: Patch) -> None:
    patch.set(sleeping, "_leader_may_sleep", lambda state, now_ms: True)


@mutant("a follower sleeps although its leader is not heard (trap 50)")
def follower_sleeps_unwatched(patch: Patch) -> None:
    def rest(state: State, now_ms: float) -> None:
        original(state, now_ms)
        if state.role is Role.FOLLOWER and not state.writes:
            state.asleep = True

    original = patch.set(sleeping, "rest", rest)
