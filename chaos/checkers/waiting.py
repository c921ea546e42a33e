"""Alarms and asks: each alarm that was armed and not cancelled rings once, not before its time; each ask is concluded once, by
an answer that its giver was told counts, or by the end of its time.

The document writes down what it armed and what came of it. Answers are given here: whoever asked for an ask and was told its id
has two workers answer it, at about the same time, so that one of them comes too late.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec

from chaos.checkers.checker import Checker
from chaos.checkers.history import Call, Name
from chaos.checkers.violation import Violation
from chaos.sim.clients import UnaryCall
from cluster.errors import StorageDamaged
from cluster.ids import DocumentId
from cluster.session.operations import Kind, Operation, Reply
from cluster.shard.document import waiting_of
from cluster.shard.replica import ShardReplica

if TYPE_CHECKING:
    from chaos.sim.world import World

SPACE = "clock"
SILENT = (SPACE, "silent")
"""A fork, made by hand: what the document that it was taken from had armed stays with that."""
PRINCIPAL = "worker@sim"
LATE_MS = 1_500.0
"""Answers are given within this time of the ask, which may be over by then."""


class Waiting(Checker):
    """See the module."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._source = world.streams.named("waiting/answers")
        self._open = 0
        self._counted: dict[tuple[Name, str], list[str]] = {}
        """What whoever gave it was told counts, by document and ask."""

    def answered(self, call: Call) -> None:
        """Called with every answer; those to `ask` name an ask."""
        if call.name[0] != SPACE or call.channel != "ask" or not call.ok:
            return
        assert call.reply is not None
        ask = msgspec.json.decode(call.reply.payload)
        for worker in ("one", "other") if self._source.random() < 0.8 else ():
            self._open += 1
            self.world.after(self._source.uniform(0, LATE_MS), "call", self._answer, call.name, ask, worker)

    def _answer(self, name: Name, ask: str, worker: str) -> None:
        payload = msgspec.json.encode({"ask": ask, "value": worker})
        key = self._source.randbytes(16)
        operation = Operation(0, Kind.ANSWER, *name, PRINCIPAL, payload=payload, session=key)

        def told(reply: Reply) -> None:
            self._open -= 1
            if reply.failure is None:
                self._counted.setdefault((name, ask), []).append(worker)
                self.world.marks["asks_answered"] += 1
            elif reply.failure.reason == "ASK_CLOSED":
                self.world.marks["asks_closed"] += 1

        UnaryCall(self.world, self._source, operation, told).start()

    def unfinished(self) -> list[str]:
        """What time still owes."""
        owed = [f"{self._open} answers are on their way"] if self._open else []
        waiting = self._waiting()
        return owed + [f"{'/'.join(name)} waits for {due_ms}, it is {now_ms}" for name, (due_ms, now_ms) in waiting.items()]

    def _waiting(self, *, ever: bool = False) -> dict[Name, tuple[int, int]]:
        """Documents that have something due by the time that their leader goes by, with both times. ever: or later."""
        found: dict[Name, tuple[int, int]] = {}
        for node in self.world.running():
            for shard, replica in node.pump.replicas.items():
                now_ms = max(replica.time_ms, node.pump.clocks.stamp(replica, node.wall_ms))
                for name in self.world.documents_of(shard) if replica.serves else ():
                    due_ms = _due_ms(replica, name) if name[0] == SPACE else None
                    if due_ms is not None and (ever or due_ms <= now_ms):
                        found[name] = (due_ms, now_ms)
        return found

    def finished(self) -> None:
        waiting = self._waiting(ever=True)
        for name, view in self.world.final_views().items():
            if name == SILENT:
                if view["rung"]:
                    raise Violation("alarms", f"{'/'.join(name)} is a fork and rang: {view['rung']}")
            elif name[0] == SPACE:
                # A leader whose clock is behind holds what is due by the true time; only what it has reached is owed.
                later_ms = waiting[name][0] if name in waiting else math.inf
                self._rung(name, view, later_ms)
                self._concluded(name, view, later_ms)

    def _rung(self, name: Name, view: Any, later_ms: float) -> None:
        armed: dict[str, int] = view["armed"]
        cancelled = set(view["cancelled"])
        counted = Counter(view["rung"])
        for number, due_ms in armed.items():
            times = counted.pop(number, 0)
            if number in cancelled and times:
                raise Violation("alarms", f"{'/'.join(name)}: {number} was cancelled and rang")
            if number not in cancelled and times != 1 and (times or due_ms < later_ms):
                raise Violation("alarms", f"{'/'.join(name)}: {number}, due at {due_ms}, rang {times} times")
        if counted:
            raise Violation("alarms", f"{'/'.join(name)}: {list(counted)} rang and were never armed")
        for number, rang_ms in zip(view["rung"], view["times"], strict=True):
            if int(rang_ms) < int(armed[number]):
                raise Violation("alarms", f"{'/'.join(name)}: {number} rang at {rang_ms}, before its time {armed[number]}")
        self.world.marks["alarms_rung"] += len(view["rung"])

    def _concluded(self, name: Name, view: Any, later_ms: float) -> None:
        answers = dict(zip(view["concluded"], view["answers"], strict=True))
        owed = [ask for ask, due_ms in view["asked"].items() if ask in answers or due_ms < later_ms]
        if Counter(view["concluded"]) != Counter(owed):
            raise Violation("asks", f"{'/'.join(name)} asked {list(view['asked'])} and concluded {view['concluded']}")
        for (document, ask), counted in self._counted.items():
            if document == name and counted != [answers.get(ask)]:
                raise Violation("asks", f"{'/'.join(name)}: {counted} were told that they count, {answers.get(ask)!r} does")
        self.world.marks["asks_timed_out"] += view["answers"].count("")


def _due_ms(replica: ShardReplica, name: Name) -> int | None:
    """What a document waits for, whether it is in memory or not: looking must not wake whoever has forgotten it."""
    live = replica.cache.peek(*name)
    if live is not None:
        return live.due_ms
    try:
        body = replica.cache.stored(DocumentId(*name))
    except StorageDamaged:
        return None  # rot that no reader has met yet
    return None if body is None else waiting_of(body)[0]
