"""An operator who changes documents by hand while things fail: repairs, and a fork, each acknowledged before the next is asked.

One document is theirs alone, so every answer is known before it comes: what a repair wrote is what the next message finds, the
next position is the last one and one more, and nothing runs twice however often it is sent. What does not fit is refused, and
changes nothing. A clock that is wound up is forked too: its fork must stay silent. The checkers of all documents hold replicas
and records against each other, and what somebody who looks on is shown.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from chaos.checkers.violation import Violation
from chaos.sim.clients import UnaryCall
from chaos.sim.faults import SAFETY_MS
from chaos.sim.workload import Work
from cluster.ids import Principal
from cluster.session.operations import Kind, Operation, Reply

if TYPE_CHECKING:
    from chaos.sim.world import World

SPACE, KEY, FORK = "counter", "mended", "forked"
CLOCK, WOUND, SILENT = "clock", "wound", "silent"
RINGS_MS = (100, 1_500)
AMISS = 0.3
"""Share of orders before which one is given that does not fit."""
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
        self._code = self._word = ""
        self._at: dict[str, tuple[int, int]] = {}

    def begin(self) -> None:
        """The safety phase begins."""
        if self._world.scenario.by_hand:
            self._code = self._world.nodes[self._world.names[0]].pump.directory.code_for(SPACE, KEY).hex()
            self._waiting += 1
            self._world.after(self._source.uniform(5.0, 100.0), "call", self._create)
            self._waiting += 1
            self._world.after(self._source.uniform(5.0, SAFETY_MS / 2), "call", self._wind_up)

    def unfinished(self) -> list[str]:
        """What is still owed."""
        return [f"{KEY} has {STEPS - self._steps} changes left"] if self._waiting else []

    def _create(self) -> None:
        self._waiting -= 1
        self._ask(Kind.CREATE, KEY, "", {}, (1, 1), self._look_on)

    def _look_on(self, reply: Reply) -> None:
        client = self._source.randrange(len(self._world.clients))
        self._world.clients[client].do(Work(self._world.now_ms, client, Kind.WATCH, SPACE, KEY))
        self._pause(reply)

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
                "state": msgspec.msgpack.encode({"total": self._total, "value": self._word}),
            }
            self._ask(Kind.FORK, FORK, "", order, (1, index + 1), lambda reply: self._forked(order, reply))
        elif self._steps % 2:
            self._total = self._steps * 1000
            self._word = f"by hand {self._steps}"
            fields = (("/total", self._total), ("/value", self._word))
            patch = [{"op": "replace", "path": path, "value": value} for path, value in fields]
            order = {"patch": patch, "reason": "a fault", "expect": [epoch, index], "thaw": False}

            def repair(reply: Reply) -> None:
                self._ask(Kind.REPAIR, KEY, "", order, (epoch, index + 1), self._repaired)

            if self._source.random() < AMISS:
                amiss = {**order, "expect": [epoch, index - 1]}
                self._ask(Kind.REPAIR, KEY, "", amiss, (epoch, index), repair, refusal="POSITION_MOVED")
            else:
                repair(Reply(0))
        else:
            self._total += 1
            self._ask(Kind.SEND, KEY, "add", {"amount": 1}, (epoch, index + 1), self._pause, str(self._total).encode())

    def _repaired(self, reply: Reply) -> None:
        self._world.marks["repairs"] += 1
        self._pause(reply)

    def _forked(self, order: dict[str, Any], reply: Reply) -> None:
        self._world.marks["forks"] += 1
        self._ask(Kind.FORK, FORK, "", order, self._at[FORK], self._use_fork, refusal="DOCUMENT_EXISTS")

    def _use_fork(self, reply: Reply) -> None:
        epoch, index = self._at[FORK]
        found = str(self._total + 5).encode()
        self._ask(Kind.SEND, FORK, "add", {"amount": 5}, (epoch, index + 1), self._pause, found)

    # -- a clock that is forked ---------------------------------------------------------------------------------------

    def _wind_up(self) -> None:
        self._waiting -= 1
        self._ask(Kind.CREATE, WOUND, "", {}, (1, 1), self._arm, space=CLOCK)

    def _arm(self, reply: Reply) -> None:
        self._ask(
            Kind.SEND, WOUND, "arm", {"number": 1, "after_ms": self._source.randint(*RINGS_MS)}, (1, 2), self._copy, space=CLOCK
        )

    def _copy(self, reply: Reply) -> None:
        """Fork it as it is before it rings, if there is a replica yet that shows that."""
        for node in self._world.running():
            replica = node.pump.replicas.get(node.pump.router.shard_of(CLOCK, WOUND))
            live = replica.cache.peek(CLOCK, WOUND) if replica is not None else None
            if live is not None and live.instance is not None and live.index == 2:
                order = {
                    "source": f"{CLOCK}/{WOUND}",
                    "position": (1, 2),
                    "seen_by": "",
                    "code": live.code_hash.hex(),
                    "state": live.instance.dump(),
                }
                self._ask(Kind.FORK, SILENT, "", order, (1, 3), lambda reply: None, space=CLOCK)
                return

    # -- asking -------------------------------------------------------------------------------------------------------

    def _ask(
        self,
        kind: Kind,
        key: str,
        channel: str,
        payload: dict[str, Any],
        place: tuple[int, int],
        then: Callable[[Reply], None],
        answer: bytes | None = None,
        *,
        refusal: str = "",
        space: str = SPACE,
    ) -> None:
        """Send it until it is answered; place: the position that the answer must have. answer: what it must be. refusal: the
        reason with which it must be refused, so that nothing is changed.
        """
        self._waiting += 1
        body, identity = msgspec.json.encode(payload), self._source.randbytes(16)

        def start() -> None:
            operation = Operation(0, kind, space, key, _WHO, channel, body, identity)
            UnaryCall(self._world, self._source, operation, answered).start()

        def answered(reply: Reply) -> None:
            failure = reply.failure
            if failure is not None and failure.reason in LATE:
                self._world.after(AGAIN_MS, "call", start)
                return
            what = f"{kind.name} of {key} at {place[0]}.{place[1]}"
            if refusal and (failure is None or failure.reason == refusal):
                if failure is None:
                    raise Violation("by hand", f"{what} is not to be made, and was, at {reply.epoch}.{reply.index}")
                self._waiting -= 1
                then(reply)
                return
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
