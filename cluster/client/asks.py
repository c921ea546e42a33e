"""Working on asks: what documents want of the world outside, handed out to whoever is signed in as the principal they ask.

    async for ask in client.asks("shop", take=8):
        receipt = await charge(ask.request, idempotency_key=ask.id)
        await ask.answer(receipt)

An ask comes at least once: after a lost connection, the end of its lease or a change of leaders it may come again, to this
worker or another. Its id stays the same, so work that must not be done twice is recorded under it, outside.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
from grpc import aio

from cluster.client.connection import Connection
from cluster.client.failures import error_of_rpc
from cluster.errors import AskClosed, RetryableError, Unavailable
from cluster.ids import DocumentId
from cluster.v1 import documents_pb2 as wire

METHOD: Final = "/cluster.v1.DocumentService/Work"
RETRY_S: Final = 0.05

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_decode = msgspec.json.decode


class Ask:
    """One ask under lease.

    document: who asks. id: the same whenever it is handed out. request: what is asked, decoded. handler: what takes the answer.
    deadline: when it ends unanswered. attempt: how often it was handed out, as far as the shard's leader knows.
    """

    __slots__ = ("_answer", "_finish", "attempt", "deadline", "document", "handler", "id", "request")

    def __init__(
        self, leased: wire.LeasedAsk, answer: Callable[[str, str, str, Any], Awaitable[Any]], finish: Callable[[Ask], None]
    ) -> None:
        self.document = DocumentId(leased.document.space, leased.document.key)
        self.id = leased.ask
        self.request: Any = _decode(leased.request)
        self.handler = leased.handler
        self.deadline = _EPOCH + timedelta(milliseconds=leased.deadline_ms)
        self.attempt = leased.attempt
        self._answer = answer
        self._finish = finish

    async def answer(self, value: Any) -> bool:
        """Answer it. False when somebody else was first, or its time was up: that is no error, for an ask may be handed out
        again. Raises what Client.answer raises beside that; after a refusal of the handler another answer may be tried.
        """
        try:
            await self._answer(self.document.space, self.document.key, self.id, value)
        except AskClosed:
            self._finish(self)
            return False
        self._finish(self)
        return True

    def release(self) -> None:
        """Hand it back unanswered: somebody else may have it at once."""
        self._finish(self)

    def __repr__(self) -> str:
        return f"Ask({self.document}, {self.id}, attempt={self.attempt})"


class Asks:
    """The asks of one space, as they are handed out. `async for`; ends with the client, or when the loop is left."""

    def __init__(
        self,
        connection: Connection,
        answer: Callable[[str, str, str, Any], Awaitable[Any]],
        space: str,
        take: int,
        lease: timedelta,
    ) -> None:
        self._connection = connection
        self._answer = answer
        self._opening = wire.WorkRequest()
        self._opening.open.space = space
        self._opening.open.take = take
        self._opening.open.lease_ms = lease // timedelta(milliseconds=1)
        self._finished: list[Ask] = []
        self._news = asyncio.Event()

    def _finish(self, ask: Ask) -> None:
        self._finished.append(ask)
        self._news.set()

    async def __aiter__(self) -> AsyncIterator[Ask]:
        """Goes on at another gateway when a stream breaks. Raises what the cluster says is wrong with the request."""
        while True:
            channel = self._connection.channel()
            if channel is None:
                await asyncio.sleep(RETRY_S)
                continue
            try:
                async for ask in self._stream(channel):
                    yield ask
            except aio.AioRpcError as failed:
                error = error_of_rpc(failed)
                if not isinstance(error, RetryableError):
                    raise error from None
            except Unavailable:
                pass
            await asyncio.sleep(RETRY_S)

    async def _stream(self, channel: aio.Channel) -> AsyncIterator[Ask]:
        """One stream's asks. What was finished on an earlier one is no business of this one."""
        self._finished = []
        call: Any = channel.stream_stream(
            METHOD,
            request_serializer=wire.WorkRequest.SerializeToString,
            response_deserializer=wire.WorkResponse.FromString,
        )(None, metadata=self._connection.metadata)
        teller: asyncio.Task[None] | None = None
        try:
            await call.write(self._opening)
            teller = asyncio.ensure_future(self._tell(call))
            while True:
                response = await call.read()
                if not isinstance(response, wire.WorkResponse):
                    raise Unavailable("the stream ended")
                for leased in response.asks:
                    yield Ask(leased, self._answer, self._finish)
        except asyncio.CancelledError:
            # raised for our own cancellation and for a call that was cancelled under a read: tell them apart.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise Unavailable("the stream was given up") from None
        finally:
            if teller is not None:
                teller.cancel()
                await asyncio.gather(teller, return_exceptions=True)
            call.cancel()

    async def _tell(self, call: Any) -> None:
        """Tell the gateway what is finished, so that it hands out more."""
        while True:
            await self._news.wait()
            self._news.clear()
            finished, self._finished = self._finished, []
            if finished:
                frame = wire.WorkRequest()
                for ask in finished:
                    reference = frame.finished.add()
                    reference.ask = ask.id
                    reference.document.space, reference.document.key = ask.document.space, ask.document.key
                await call.write(frame)
