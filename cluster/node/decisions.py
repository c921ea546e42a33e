"""Commands of the node itself: asking the system shard to decide something, with a message to the system document that is sent
like anybody's; and what it sends to a document for an operator.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from cluster.errors import Applied, ClusterError, OutcomeUnknown, Unavailable, UnknownDocument
from cluster.pump.pump import Pump
from cluster.session.failures import error_of
from cluster.session.operations import Kind, Operation, Reply
from cluster.session.table import SESSION_BYTES
from cluster.shard.system.program import OPERATOR
from cluster.shardmap.map import SYSTEM_KEY, SYSTEM_SPACE

CHANGE_TIMEOUT_MS = 10_000.0
CHANGE_ATTEMPTS_MAX = 40
LEARN_POLL_MS = 10
LEARN_ATTEMPTS_MAX = 1000
PAUSE_MS_MIN = 50

Ask = Callable[[Operation, float], Awaitable[Reply]]


class Decisions:
    """ask: runs one operation through the node itself."""

    def __init__(self, pump: Pump, ask: Ask) -> None:
        self._pump = pump
        self._ask = ask

    async def decide(self, channel: str, payload: dict[str, Any]) -> dict[str, Any]:
        """Send the message under one idempotency key until it is answered; its answer. Raises ClusterError."""
        body = msgspec.json.encode(payload)
        operation = Operation(1, Kind.SEND, SYSTEM_SPACE, SYSTEM_KEY, str(OPERATOR), channel, body)
        reply = await until_answered(self._ask, operation, not_yet=UnknownDocument.reason)
        answer: dict[str, Any] = msgspec.json.decode(reply.payload)
        return answer

    async def learned(self, version: int) -> None:
        """Until this node knows the decisions of `version`: whoever decided here can rely on it here at once."""
        for _ in range(LEARN_ATTEMPTS_MAX):
            if self._pump.directory.decisions.version >= version:
                return
            await asyncio.sleep(LEARN_POLL_MS / 1000)
        raise Unavailable("it is decided, but this node has not learned of it yet", applied=Applied.YES, retry_after_ms=1000)


async def until_answered(ask: Ask, operation: Operation, not_yet: str = "", *, keyed: bool = True) -> Reply:
    """Send a command of this node's own until it is answered, under one idempotency key if `keyed`: it runs at most once.
    not_yet: a reason that is no answer either. Raises ClusterError; OutcomeUnknown when it may still run.
    """
    operation.session = os.urandom(SESSION_BYTES) if keyed else b""
    last: ClusterError = Unavailable("the shard has no leader that answers", retry_after_ms=1000)
    for _ in range(CHANGE_ATTEMPTS_MAX):
        try:
            reply = await ask(operation, CHANGE_TIMEOUT_MS)
        except TimeoutError:
            raise OutcomeUnknown(f"{operation.space}/{operation.key} did not answer in time") from None
        failure = reply.failure
        if failure is None:
            return reply
        last = error_of(failure)
        if not failure.retryable and failure.reason != not_yet:
            raise last
        await asyncio.sleep(max(failure.retry_after_ms, PAUSE_MS_MIN) / 1000)
    raise last
