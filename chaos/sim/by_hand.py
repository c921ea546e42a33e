"""An operator who changes documents by hand while things fail: repairs, and a fork, each acknowledged before the next is asked.

One document is theirs alone, so every answer is known before it comes: what a repair wrote is what the next message finds, the
next position is the last one and one more, and nothing runs twice however often it is sent. The checkers of all documents
hold replicas and records against each other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from chaos.checkers.violation import Violation
from chaos.sim.clients import UnaryCall
from cluster.ids import Principal
from cluster.session.operations import Kind, Operation, Reply

if TYPE_CHECKING:
    from chaos.sim.world import World

SPACE, KEY, FORK = "counter", "mended", "forked"
STEPS = 14
FORKED_AT = 9
PAUSE_MS = (5.0, 250.0)
AGAIN_MS = 20.0
LATE = frozenset(("UNKNOWN_DOCUMENT", "UNKNOWN_SPACE"))
"""What a leader that is cut off says of what it has not heard of yet; nothing of it was logged."""
_WHO = str(Principal("mender", "sim"))


class ByHand:
    """What is changed by hand in one run, if the scenario says so."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._source = world.streams.named("by hand")
        self._waiting = 0
        self._steps = 0
        self._total = 0
        self._code = ""
        self._at: dict[str, tuple[int, int]] = {}

    def begin(self) -> None:
        """The safety phase begins."""
        if self._world.scenario.by_hand:
            self._code = self._world.nodes[self._world.names[0]].pump.directory.code_for(SPACE, KEY).hex()
            self._waiting += 1
            self._world.after(self._source.uniform(5.0, 100.0), "call", self._create)

    def unfinished(self) -> list[str]:
        """What is still owed."""
        return [f"{KEY} has {STEPS - self._steps} changes left"] if self._waiting else []

    def _create(self) -> None:
        self._waiting -= 1
        self._ask(Kind.CREATE, KEY, "", {}, (1, 1), self._pause)

    def _pause(self, reply: Reply) -> None:
        self._waiting += 1
        self._world.after(self._source.uniform(*PAUSE_MS), "call", self._next)

    def _next(self) -> None:
        self._waiting -= 1
        self._steps += 1
        if self._steps > STEPS:
            return
        epoch, index = self._at[KEY]
        if self._steps == FORKED_AT:
            order: dict[str, Any] = {
                "source": f"{SPACE}/{KEY}",
                "position": (epoch, index),
                "seen_by": "",
                "code": self._code,
                "state": msgspec.msgpack.encode({"total": self._total, "value": ""}),
            }
            self._ask(Kind.FORK, FORK, "", order, (1, index + 1), self._use_fork)
        elif self._steps % 2:
            self._total = self._steps * 1000
            patch = [{"op": "replace", "path": "/total", "value": self._total}]
            order = {"patch": patch, "reason": "a fault", "expect": [epoch, index], "thaw": False}
            self._ask(Kind.REPAIR, KEY, "", order, (epoch, index + 1), self._repaired)
        else:
            self._total += 1
            self._ask(Kind.SEND, KEY, "add", {"amount": 1}, (epoch, index + 1), self._pause, str(self._total).encode())

    def _repaired(self, reply: Reply) -> None:
        self._world.marks["repairs"] += 1
        self._pause(reply)

    def _use_fork(self, reply: Reply) -> None:
        self._world.marks["forks"] += 1
        found = str(self._total + 5).encode()
        self._ask(Kind.SEND, FORK, "add", {"amount": 5}, (reply.epoch, reply.index + 1), self._pause, found)

    def _ask(
        self,
        kind: Kind,
        key: str,
        channel: str,
        payload: dict[str, Any],
        place: tuple[int, int],
        then: Callable[[Reply], None],
        answer: bytes | None = None,
    ) -> None:
        """Send it until it is answered; place: the position that the answer must have. answer: what it must be."""
        self._waiting += 1
        body, identity = msgspec.json.encode(payload), self._source.randbytes(16)

        def start() -> None:
            operation = Operation(0, kind, SPACE, key, _WHO, channel, body, identity)
            UnaryCall(self._world, self._source, operation, answered).start()

        def answered(reply: Reply) -> None:
            failure = reply.failure
            if failure is not None and failure.reason in LATE:
                self._world.after(AGAIN_MS, "call", start)
                return
            what = f"{kind.name} of {key} at {place[0]}.{place[1]}"
            if failure is not None:
                raise Violation("by hand", f"{what} was refused: {failure.reason} {failure.message}")
            if (reply.epoch, reply.index) != place:
                raise Violation("by hand", f"{what} was made at {reply.epoch}.{reply.index}")
            if answer is not None and reply.payload != answer:
                raise Violation("by hand", f"{what} was answered {reply.payload!r} instead of {answer!r}")
            self._waiting -= 1
            self._at[key] = place
            then(reply)

        start()
