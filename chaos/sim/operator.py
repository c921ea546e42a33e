"""Somebody who moves replicas and hands over leaders while things go wrong: the loop of `moot shard move`, without its network.

What is to be done is data of the scenario; whom it concerns is decided when it begins, for the cluster is not what it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster.errors import InvalidRequest, RejectedError, RetryableError
from cluster.ids import NodeId, ShardId
from cluster.placement.move import Action, Step, next_step
from cluster.pump.pump import Pump

if TYPE_CHECKING:
    from chaos.sim.node import SimulatedNode
    from chaos.sim.world import World

STEP_MS = 40.0
"""Between two steps of one move."""
BLUNT = 0.5
"""Share of seeds in which a leader that is to leave is not asked to hand over first: it loses its vote while it leads."""
PATIENCE_MS = 4_000.0
"""For so long a handover of leadership is tried."""


@dataclass(frozen=True, slots=True)
class Errand:
    """Something for the operator to do at at_ms. leaving, joining: which of the members, and which of the other nodes, counted
    on from the first. handover: only lead elsewhere, at the member `joining`.
    """

    at_ms: float
    shard: int
    leaving: int
    joining: int
    handover: bool

    def __str__(self) -> str:
        what = "handover" if self.handover else "move"
        return f"{self.at_ms:7.0f} {what} shard={self.shard} leaving={self.leaving} joining={self.joining}"


@dataclass(slots=True)
class _Move:
    shard: ShardId
    leaving: NodeId
    joining: NodeId
    why: str = "not begun"


class Operator:
    """Carries out errands, moves of one shard one after the other."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._waiting: list[Errand] = []
        self._moves: dict[ShardId, _Move] = {}
        self._blunt = world.streams.named("operator/blunt").random() < BLUNT

    def begin(self, errand: Errand) -> None:
        """The time of an errand has come."""
        if errand.handover:
            self._hand_over(errand, self._world.now_ms + PATIENCE_MS)
        elif errand.shard in self._moves:
            self._waiting.append(errand)
        else:
            self._begin(errand)

    def _begin(self, errand: Errand) -> None:
        shard = ShardId(errand.shard)
        newest = self._world.consensus.configurations.newest(shard)
        members = sorted(node for replica, node in newest.places if replica in newest.voters)
        others = [name for name in self._world.names if name not in members]
        if not others:
            return
        move = _Move(shard, members[errand.leaving % len(members)], others[errand.joining % len(others)])
        self._moves[shard] = move
        self._world.note("moves", f"shard {shard}", f"from {move.leaving} to {move.joining}")
        self._step(move)

    def _leader(self, shard: ShardId) -> SimulatedNode | None:
        return next(
            (
                node
                for node in self._world.nodes.values()
                if node.answers and shard in node.pump.replicas and node.pump.replicas[shard].leads
            ),
            None,
        )

    def _step(self, move: _Move) -> None:
        if self._moves.get(move.shard) is not move:
            return
        leader = self._leader(move.shard)
        if leader is not None:
            leader.ask(lambda pump, now_ms: self._ask(move, pump, now_ms))
        if self._moves.get(move.shard) is move:
            self._world.after(STEP_MS, "call", self._step, move)

    def _ask(self, move: _Move, pump: Pump, now_ms: float) -> None:
        try:
            step = (
                _push(move, pump, now_ms, self._world.scenario.limits.replication_factor)
                if self._blunt
                else pump.move_step(move.shard, move.leaving, move.joining, now_ms)
            )
        except (RetryableError, RejectedError) as refusal:
            move.why = f"{refusal.reason}: {refusal.message}"
            if isinstance(refusal, InvalidRequest):
                self._world.note("moves", f"shard {move.shard}", f"overtaken: {refusal.message}")
                self._end(move)  # a lost replica was replaced by one at `joining` meanwhile
            return
        if step.why != move.why:
            self._world.note("moves", f"shard {move.shard}", f"{step.action.value}: {step.why}")
        move.why = step.why
        if step.action is Action.DONE:
            self._world.marks["moves_done"] += 1
            self._end(move)

    def _end(self, move: _Move) -> None:
        del self._moves[move.shard]
        for errand in self._waiting:
            if errand.shard == move.shard:
                self._waiting.remove(errand)
                self._begin(errand)
                return

    def _hand_over(self, errand: Errand, until_ms: float) -> None:
        shard = ShardId(errand.shard)
        leader = self._leader(shard)
        if leader is not None:
            leader.ask(lambda pump, now_ms: self._ask_for_handover(shard, errand.joining, pump, now_ms))
        elif self._world.now_ms < until_ms:
            self._world.after(STEP_MS, "call", self._hand_over, errand, until_ms)

    def _ask_for_handover(self, shard: ShardId, to: int, pump: Pump, now_ms: float) -> None:
        status = pump.configuration(shard)
        if status is None:
            return
        others = [member.node for member in status.members if member.replica in status.voters and member.node != pump.node]
        if not others:
            return
        successor = others[to % len(others)]
        try:
            pump.transfer(shard, successor, now_ms)
        except (RetryableError, RejectedError) as refusal:
            self._world.note("hands", f"shard {shard}", f"{refusal.reason}: {refusal.message}")
        else:
            self._world.note("hands", f"shard {shard}", f"over to {successor}")

    def give_up(self) -> None:
        """Begin nothing more."""
        self._waiting.clear()

    def unfinished(self) -> list[str]:
        """Moves that are still under way, between nodes that are still there."""
        nodes = self._world.nodes
        for move in list(self._moves.values()):
            if nodes[move.joining].gone or nodes[move.leaving].gone:
                del self._moves[move.shard]
        return [f"shard {move.shard} moves from {move.leaving} to {move.joining}: {move.why}" for move in self._moves.values()]


def _push(move: _Move, pump: Pump, now_ms: float, whole: int) -> Step:
    """A step of a move, with the change of voters in place of the handover before it. Raises as `Pump.move_step` does.

    whole: voters of a shard that lacks none. While one is being replaced the learner at `joining` may be its replacement, which
    is not for a move to take: that is left to the product to see.
    """
    status = pump.configuration(move.shard)
    old, new = (status.on(move.leaving), status.on(move.joining)) if status is not None else (None, None)
    if (
        status is None
        or old is None
        or new is None
        or len(status.voters) < whole
        or next_step(status, move.leaving, move.joining).action is not Action.TRANSFER
    ):
        return pump.move_step(move.shard, move.leaving, move.joining, now_ms)
    voters = {*status.voters, new.replica} - {old.replica}
    learners = {*status.learners, old.replica} - {new.replica}
    pump.change_configuration(move.shard, status.index, tuple(sorted(voters)), tuple(sorted(learners)), (), now_ms)
    return Step(Action.CHANGE, "the leader loses its vote")
