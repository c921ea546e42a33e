"""Operators' calls that only a shard's leader can answer: run here if this node leads it, else passed on to the node that does.

So an operator can ask any node, also where only one of them can be reached. A call is passed on once: whoever gets it and does
not lead says so. Callers repeat their calls, so an answer that is lost on the way costs nothing but time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from cluster.errors import ClusterError, InvalidRequest, OutcomeUnknown
from cluster.ids import ShardId
from cluster.node.loop import NodeLoop
from cluster.session.failures import error_of, failure_of
from cluster.session.operations import Kind, Operation, Reply
from cluster.shard.system.program import OPERATOR
from cluster.shard.turn import StreamKey
from cluster.shardmap.map import SYSTEM_KEY, SYSTEM_SPACE

PASSED_ON_TIMEOUT_MS = 12_000.0
"""Above what a leader takes at most to answer: see TRANSFER_WAIT_MS."""
_log = logging.getLogger(__name__)

Row = dict[str, Any]
Handler = Callable[[Row], Awaitable[Row]]
AskLeader = Callable[[Operation, float, ShardId], Awaitable[Reply]]


class LeaderCalls:
    """handlers: what this node does as leader, by method; they raise NotLeader where it does not lead. ask: sends an operation
    to a shard's leader.
    """

    def __init__(self, loop: NodeLoop, handlers: dict[str, Handler], ask: AskLeader) -> None:
        self._loop = loop
        self._handlers = handlers
        self._ask = ask
        self._serving: set[asyncio.Task[None]] = set()
        loop.on_control = self._on_control

    def serve(self, method: str, handler: Handler) -> None:
        """Have one method more answered here."""
        self._handlers[method] = handler

    async def call(self, method: str, shard: ShardId, request: Row) -> Row:
        """The leader's answer. Raises ClusterError; NotLeader when nobody is known to lead, or whoever was asked does not."""
        pump = self._loop.pump
        if pump.routes.locate(shard) in (None, pump.node):
            return await self._handlers[method](request)
        body = msgspec.json.encode(request)
        operation = Operation(1, Kind.CONTROL, SYSTEM_SPACE, SYSTEM_KEY, str(OPERATOR), method, body)
        try:
            reply = await self._ask(operation, PASSED_ON_TIMEOUT_MS, shard)
        except TimeoutError:
            raise OutcomeUnknown(f"the leader of shard {shard} did not answer in time") from None
        if reply.failure is not None:
            raise error_of(reply.failure)
        answer: Row = msgspec.json.decode(reply.payload)
        return answer

    def _on_control(self, stream: StreamKey, operation: Operation) -> None:
        task = asyncio.ensure_future(self._serve(stream, operation))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, stream: StreamKey, operation: Operation) -> None:
        try:
            handler = self._handlers.get(operation.channel)
            if handler is None:
                raise InvalidRequest(f"this node does not know {operation.channel}")
            reply = Reply(operation.id, payload=msgspec.json.encode(await handler(msgspec.json.decode(operation.payload))))
        except ClusterError as error:
            reply = Reply(operation.id, failure=failure_of(error))
        except Exception as error:  # another release may have asked what this one does not take
            _log.exception("a call of another node failed: %s", operation.channel)
            reply = Reply(operation.id, failure=failure_of(InvalidRequest(f"the call failed: {type(error).__name__}")))
        self._loop.answer_control(stream, reply)
