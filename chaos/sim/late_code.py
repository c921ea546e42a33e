"""Code that is deployed while things fail, in some seeds: nodes that miss it must fetch it, and apply waits for it meanwhile.

All other code is everywhere before the first fault, for a run is short. Here a space comes later and is used at once,
and everything must be answered, by whoever leads and however late the code came to them. What the answers say is not
judged here: a leader that is cut off and has not noticed refuses before the log what it never heard of (an unknown
document, an unknown space), which changes nothing and may be repeated. The checkers of all documents hold replicas and
records against each other.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

import chaos.sim.novelty
from chaos.sim.clients import UnaryCall
from chaos.sim.faults import SAFETY_MS
from cluster.documents.bundle import from_path
from cluster.ids import Principal
from cluster.session.operations import Kind, Operation, Reply

if TYPE_CHECKING:
    from chaos.sim.world import World

SPACE = "novelty"
BUNDLE = from_path(Path(chaos.sim.novelty.__file__)).encode()
SHARE = 0.3
"""Of the seeds."""
DOCUMENTS = 3
RAISES = 3
"""Of each document, one after the other."""
AGAIN_MS = 20.0
_OPERATOR = str(Principal("operator", "moot"))
_WHO = str(Principal("novice", "sim"))


class LateCode:
    """What is deployed late in one run, if anything."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._source = world.streams.named("late code")
        self._deploys = self._source.random() < SHARE
        self._at_ms = self._source.uniform(50.0, SAFETY_MS * 0.7)
        self._waiting = 0

    def begin(self) -> None:
        """The safety phase begins."""
        if self._deploys:
            self._world.after(self._at_ms, "call", self._deploy)

    def unfinished(self) -> list[str]:
        """What is still owed."""
        return [f"{self._waiting} operations of {SPACE}, which was deployed late, are unanswered"] if self._waiting else []

    def _deploy(self) -> None:
        request = {"space": SPACE, "bundle": base64.b64encode(BUNDLE).decode()}
        self._send(Kind.SEND, "system", "cluster", _OPERATOR, "deploy", msgspec.json.encode(request), self._deployed)

    def _deployed(self, reply: Reply) -> None:
        assert reply.failure is None, reply.failure
        self._world.marks["spaces_deployed_late"] += 1
        for number in range(DOCUMENTS):
            self._use(f"n{number}", 0)

    def _use(self, key: str, already: int) -> None:
        """Create a document, then raise it RAISES times."""
        kind, channel = (Kind.SEND, "raise_it") if already else (Kind.CREATE, "")
        self._send(kind, SPACE, key, _WHO, channel, b"{}", lambda reply: self._used(key, already, reply))

    def _used(self, key: str, already: int, reply: Reply) -> None:
        if reply.failure is not None and reply.failure.reason == "UNKNOWN_SPACE":
            self._world.after(AGAIN_MS, "call", self._use, key, already)  # whoever leads has not heard of it yet
            return
        if reply.failure is not None:
            return  # see above
        if already < RAISES:
            self._use(key, already + 1)

    def _send(
        self, kind: Kind, space: str, key: str, who: str, channel: str, payload: bytes, on_reply: Callable[[Reply], None]
    ) -> None:
        self._waiting += 1
        operation = Operation(0, kind, space, key, who, channel, payload, self._source.randbytes(16))

        def answered(reply: Reply) -> None:
            self._waiting -= 1
            on_reply(reply)

        UnaryCall(self._world, self._source, operation, answered).start()
