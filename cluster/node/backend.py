"""What the gateway talks to: client streams into the pump, operators' calls into `admin.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from cluster.gateway.backend import Deliver
from cluster.ids import SYSTEM_SHARD, ShardId
from cluster.node.admin import Administration
from cluster.node.loop import NodeLoop, monotonic_ms
from cluster.session.operations import Delta, Operation, Reply


class NodeStream:
    """One client's conversation. Operations gather until the loop's next turn."""

    def __init__(self, loop: NodeLoop, deliver: Deliver) -> None:
        self._loop = loop
        self._number = loop.open_stream(deliver)

    def submit(self, operations: list[Operation]) -> None:
        self._loop.pump.submit(self._number, operations, monotonic_ms())
        self._loop.wake()

    def grant(self, watch: int, credit_bytes: int) -> None:
        self._loop.pump.streams.grant(self._number, watch, credit_bytes)
        self._loop.wake()

    def submit_to(self, part: int, operation: Operation) -> None:
        """To whoever leads this shard."""
        self._loop.pump.streams.submit_to(self._number, ShardId(part), operation, monotonic_ms())
        self._loop.wake()

    def close(self) -> None:
        self._loop.close_stream(self._number)


class NodeBackend:
    """`cluster.gateway.backend.Backend` of a real node."""

    def __init__(self, loop: NodeLoop, administration: Administration, ready: Callable[[], bool]) -> None:
        self._loop = loop
        self._administration = administration
        self._ready = ready

    def open(self, deliver: Deliver) -> NodeStream:
        return NodeStream(self._loop, deliver)

    @property
    def parts(self) -> list[int]:
        return [shard.shard for shard in self._loop.pump.router.map.shards if shard.shard != SYSTEM_SHARD]

    async def admin(self, method: str, request: dict[str, Any], principal: str) -> dict[str, Any]:
        return await self._administration.call(method, request, principal)

    @property
    def ready(self) -> bool:
        return self._ready()


class OneAnswer:
    """A stream of the node itself for a single operation and its reply."""

    def __init__(self, loop: NodeLoop) -> None:
        self._answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._stream = NodeStream(loop, self._deliver)

    def _deliver(self, events: list[Reply | Delta]) -> None:
        for event in events:
            if isinstance(event, Reply) and not self._answer.done():
                self._answer.set_result(event)

    async def ask(self, operation: Operation, timeout_ms: float, shard: ShardId | None = None) -> Reply:
        """shard: whose leader to ask; that of the operation's document when not given. Raises TimeoutError; whether the
        operation had an effect is then unknown."""
        try:
            if shard is None:
                self._stream.submit([operation])
            else:
                self._stream.submit_to(shard, operation)
            return await asyncio.wait_for(self._answer, timeout_ms / 1000)
        finally:
            self._stream.close()
