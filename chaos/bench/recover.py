"""How fast nodes come back when they must replay everything: checkpoints off, many messages to one document, everything killed.

restart_to_read_s    from starting the processes to a linearizable read of the last state
replayed_per_s       commands run again for each second between the first gateway's answer and that read: what is measured is
                     election, replication of the tail and replay together, so replay itself is faster
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from pathlib import Path
from typing import Any, Final

from chaos.bench.load import SPACE, payload
from chaos.bench.send import Say
from chaos.live.processes import LiveCluster, until
from cluster.cli.local_commands import example
from cluster.cli.reach import ask_one
from cluster.client import Client, PendingAnswer
from cluster.errors import ClusterError
from cluster.session.client_events import Settings

KEY: Final = "recover"
IN_FLIGHT: Final = 1000
RECOVER_TIMEOUT_S: Final = 600.0


async def bench_recover(folder: Path, say: Say, *, messages: int = 100_000, nodes: int = 3) -> dict[str, Any]:
    """Run below an empty folder. Raises NotReached when the cluster does not come back, or comes back with less."""
    async with LiveCluster(folder, nodes, shards=1, settings={"checkpoints": "off"}) as live:
        await live.deploy(SPACE, example(SPACE))
        say(f"sending {messages} messages to one document")
        async with live.client(settings=Settings(operation_timeout_ms=120_000)) as client:
            await client.create(SPACE, KEY)
            began = time.monotonic()
            await _send(client, messages)
            sent_s = time.monotonic() - began
        await live.converged(SPACE, KEY, messages + 1)
        say("killing all nodes at once, and starting them again")
        await live.kill_all()
        began = time.monotonic()
        live.start_all()
        answered_s = await _first_answer(live, began)
        index = await _linearizable_read(live)
        read_s = time.monotonic() - began
        if index != messages + 1:
            raise ClusterError(f"the document came back at index {index} instead of {messages + 1}")
        await live.converged(SPACE, KEY, messages + 1, RECOVER_TIMEOUT_S)
        all_s = time.monotonic() - began
    return {
        "messages": messages,
        "nodes": nodes,
        "sent_per_s": round(messages / sent_s),
        "restart_to_gateway_s": round(answered_s, 3),
        "restart_to_read_s": round(read_s, 3),
        "restart_to_all_replicas_s": round(all_s, 3),
        "replayed_per_s": round((messages + 1) / max(1e-9, read_s - answered_s)),
        "lost": messages + 1 - index,
    }


async def _send(client: Client, messages: int) -> None:
    pending: deque[PendingAnswer] = deque()
    body, sent = payload(), 0
    while sent < messages or pending:
        while sent < messages and len(pending) < IN_FLIGHT:
            pending.append(client.send_nowait(SPACE, KEY, "put", body))
            sent += 1
        await pending.popleft()
        while pending and pending[0].done():
            await pending.popleft()


async def _first_answer(live: LiveCluster, began: float) -> float:
    async def probe() -> bool:
        for address in live.addresses:
            try:
                await ask_one(address, "GetStatus")
            except ClusterError:
                continue
            return True
        return False

    await until(probe, "a gateway that answers", RECOVER_TIMEOUT_S)
    return time.monotonic() - began


async def _linearizable_read(live: LiveCluster) -> int:
    async with asyncio.timeout(RECOVER_TIMEOUT_S), live.client(settings=Settings(operation_timeout_ms=600_000)) as client:
        return (await client.read(SPACE, KEY)).position.index
