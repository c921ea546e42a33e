"""Single operations for the unary calls: one backend stream for all of them, one submit per turn of the event loop.

Retries happen here, inside the caller's deadline, and only where they are safe: every write carries an idempotency key (the
gateway makes one if the caller did not), so a repeat is answered with the first answer; reads and listings change nothing.
"""

from __future__ import annotations

import asyncio
import random
from typing import Final

from cluster.errors import ClusterError, OutcomeUnknown, Overloaded, Unavailable
from cluster.gateway.backend import Backend
from cluster.gateway.limits import Limits
from cluster.session.failures import failure_of
from cluster.session.operations import Delta, Failure, Kind, Operation, Reply

BACKOFF_MIN_MS: Final = 5
BACKOFF_MAX_MS: Final = 500
UNKNOWN_ATTEMPTS_MAX: Final = 4
"""A repeat finds out what a lost reply said; if it keeps saying unknown, the document has forgotten the key."""
DEADLINE_MARGIN_MS: Final = 10
"""Kept back from the caller's deadline, so that our typed error arrives before its own timeout."""

_WRITES: Final = frozenset((Kind.CREATE.value, Kind.SEND.value, Kind.DELETE.value, Kind.ANSWER.value))


class UnaryCalls:
    """Runs operations one by one over a shared backend stream."""

    def __init__(self, backend: Backend, limits: Limits, randomness: random.Random) -> None:
        self._limits = limits
        self._random = randomness
        self._stream = backend.open(self._deliver)
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._submitting: list[Operation] = []
        self._last_id = 0
        self._closed = False

    async def run(self, operation: Operation, remaining_ms: float | None) -> Reply | Failure:
        """The operation's reply, or the failure that is left when retrying is of no use or the time is up.

        remaining_ms: until the caller's deadline; None when it set none. Every attempt gets a fresh id.
        """
        loop = asyncio.get_running_loop()
        allowed_ms = self._limits.unary_timeout_ms if remaining_ms is None else max(0.0, remaining_ms - DEADLINE_MARGIN_MS)
        deadline = loop.time() + allowed_ms / 1000
        backoff_ms = BACKOFF_MIN_MS
        unknown_attempts = 0
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    reply = await self._attempt(operation)
            except TimeoutError:
                return failure_of(self._out_of_time(operation))
            except Overloaded as error:
                return failure_of(error)
            failure = reply.failure
            if failure is None:
                return reply
            if failure.reason == OutcomeUnknown.reason:
                unknown_attempts += 1
                if unknown_attempts == UNKNOWN_ATTEMPTS_MAX or self._closed:
                    return failure
            elif not failure.retryable:
                return failure
            wait_ms = max(failure.retry_after_ms, backoff_ms * (0.5 + self._random.random()))
            backoff_ms = min(2 * backoff_ms, BACKOFF_MAX_MS)
            if loop.time() + wait_ms / 1000 >= deadline:
                return failure
            await asyncio.sleep(wait_ms / 1000)

    def close(self) -> None:
        """End the backend stream; the fate of operations under way is unknown."""
        self._closed = True
        self._stream.close()
        for identifier, future in self._waiting.items():
            if not future.done():
                error = OutcomeUnknown("the gateway stopped before the operation was answered")
                future.set_result(Reply(identifier, failure=failure_of(error)))
        self._waiting.clear()

    async def _attempt(self, operation: Operation) -> Reply:
        if len(self._waiting) >= self._limits.unary_open_max:
            raise Overloaded("too many unary operations wait for their reply", retry_after_ms=100, limit="unary_open_max")
        self._last_id += 1
        operation.id = identifier = self._last_id
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Reply] = loop.create_future()
        self._waiting[identifier] = future
        if not self._submitting:
            loop.call_soon(self._submit)
        self._submitting.append(operation)
        try:
            return await future
        finally:
            self._waiting.pop(identifier, None)

    def _submit(self) -> None:
        batch, self._submitting = self._submitting, []
        self._stream.submit(batch)

    def _deliver(self, batch: list[Reply | Delta]) -> None:
        for event in batch:
            assert isinstance(event, Reply), "nobody watches on this stream"
            future = self._waiting.get(event.id)
            if future is not None and not future.done():
                future.set_result(event)

    @staticmethod
    def _out_of_time(operation: Operation) -> ClusterError:
        if operation.kind in _WRITES:
            return OutcomeUnknown("the deadline came before the answer; repeat it under the same idempotency key to find out")
        return Unavailable("the deadline came before the answer")
