"""Asking the system shard to decide something: a message to the system document, sent like anybody's."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from cluster.errors import Applied, ClusterError, OutcomeUnknown, Unavailable, UnknownDocument
from cluster.pump.pump import Pump
from cluster.session.failures import error_of
from cluster.session.operations import Failure, Kind, Operation, Reply
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
        key = os.urandom(16)
        body = msgspec.json.encode(payload)
        last: ClusterError = Unavailable("the system shard has no leader that answers", retry_after_ms=1000)
        for _ in range(CHANGE_ATTEMPTS_MAX):
            operation = Operation(1, Kind.SEND, SYSTEM_SPACE, SYSTEM_KEY, str(OPERATOR), channel, body, key)
            try:
                reply = await self._ask(operation, CHANGE_TIMEOUT_MS)
            except TimeoutError:
                raise OutcomeUnknown("the system shard did not answer in time") from None
            if reply.failure is None:
                answer: dict[str, Any] = msgspec.json.decode(reply.payload)
                return answer
            if not reply.failure.retryable and reply.failure.reason != UnknownDocument.reason:
                raise error_of(reply.failure)
            last = error_of(reply.failure)
            await self._pause(reply.failure)
        raise last

    async def learned(self, version: int) -> None:
        """Until this node knows the decisions of `version`: whoever decided here can rely on it here at once."""
        for _ in range(LEARN_ATTEMPTS_MAX):
            if self._pump.directory.decisions.version >= version:
                return
            await asyncio.sleep(LEARN_POLL_MS / 1000)
        raise Unavailable("it is decided, but this node has not learned of it yet", applied=Applied.YES, retry_after_ms=1000)

    async def _pause(self, failure: Failure) -> None:
        await asyncio.sleep(max(failure.retry_after_ms, PAUSE_MS_MIN) / 1000)
