"""Loads a Moot cluster from a process of its own, so that the client's CPU can be told from the nodes': `python -m
chaos.bench.load`.

Reads one JSON object from stdin, prints one on stdout. A closed loop: a fixed number of messages is in flight, each answered
one is followed by the next. Every message is `put(value)` to one of some `counter` documents; a message that is not answered
OK ends the run with an error, so a reported rate is a rate of acknowledged, fsynced, applied messages.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import psutil
import uvloop
from grpc import aio

from chaos.bench.h2load import percentile
from cluster.client import Client, PendingAnswer, connect
from cluster.session.client_events import Settings
from cluster.v1 import documents_pb2 as wire

SPACE: Final = "counter"
KEY_PREFIX: Final = "bench-"
PRINCIPAL: Final = "load@bench"
WARM_UP_S: Final = 0.5
PAYLOAD_BYTES: Final = 100


@dataclass(slots=True)
class Job:
    """What to do. addresses: gateways, the first is used. pids: nodes whose CPU time is sampled around the measured part.

    mode: session (pipelined batches) or unary (one call for each message).
    """

    addresses: list[str]
    pids: dict[str, int]
    mode: str
    in_flight: int
    documents: int
    seconds: float


@dataclass(slots=True)
class Report:
    """What came of it. cpu_s: user and system time by process, the client's under `client`."""

    mode: str
    in_flight: int
    acknowledged: int
    wall_s: float
    per_s: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    cpu_s: dict[str, float] = field(default_factory=dict)

    @property
    def cpu_us_per_message(self) -> dict[str, float]:
        """CPU of each process for one message."""
        return {name: round(1e6 * seconds / max(1, self.acknowledged), 1) for name, seconds in self.cpu_s.items()}


def payload() -> bytes:
    """Parameters of `put`: 100 bytes together."""
    empty = len(b'{"value":""}')
    return b'{"value":"' + b"v" * (PAYLOAD_BYTES - empty) + b'"}'


def windows(in_flight: int, documents: int) -> list[int]:
    """How many messages are in flight to each document: as even as possible, none empty."""
    used = min(in_flight, documents)
    return [in_flight // used + (place < in_flight % used) for place in range(used)]


class _Loop:
    """Latencies of everything that was answered while measuring."""

    def __init__(self) -> None:
        self.stop = False
        self.measuring = False
        self.times: list[float] = []

    async def session(self, client: Client, key: str, window: int, body: bytes) -> None:
        pending: deque[tuple[float, PendingAnswer]] = deque()
        clock, send = time.perf_counter, client.send_nowait
        while True:
            if not self.stop:
                now = clock()
                for _ in range(window - len(pending)):
                    pending.append((now, send(SPACE, key, "put", body)))
            elif not pending:
                return
            first = True
            while pending and (first or pending[0][1].done()):
                began, answer = pending.popleft()
                await answer
                first = False
                if self.measuring:
                    self.times.append(clock() - began)

    async def unary(self, call: Any, key: str, body: bytes) -> None:
        request = wire.SendRequest(channel="put", payload=body)
        request.document.space, request.document.key = SPACE, key
        metadata, clock = (("moot-principal", PRINCIPAL),), time.perf_counter
        while not self.stop:
            began = clock()
            await call(request, metadata=metadata, timeout=30)
            if self.measuring:
                self.times.append(clock() - began)


async def run(job: Job) -> Report:
    """Create the documents, warm up, measure. Raises ClusterError or AioRpcError when a message fails."""
    loop, keys = _Loop(), [f"{KEY_PREFIX}{place}" for place in range(job.documents)]
    body, shares = payload(), windows(job.in_flight, job.documents)
    async with connect(*job.addresses, principal=PRINCIPAL, settings=Settings(operation_timeout_ms=60_000)) as client:
        await asyncio.gather(*(_create(client, key) for key in keys))
        async with aio.insecure_channel(job.addresses[0]) as channel:
            call = channel.unary_unary(
                "/cluster.v1.DocumentService/Send",
                request_serializer=wire.SendRequest.SerializeToString,
                response_deserializer=wire.SendResponse.FromString,
            )
            if job.mode == "session":
                tasks = [loop.session(client, key, share, body) for key, share in zip(keys, shares, strict=False)]
            else:
                tasks = [loop.unary(call, keys[place % len(keys)], body) for place in range(job.in_flight)]
            running = asyncio.gather(*tasks)
            return await _measure(job, loop, running)


async def _create(client: Client, key: str) -> None:
    from cluster.errors import DocumentExists

    try:
        await client.create(SPACE, key)
    except DocumentExists:
        return


async def _measure(job: Job, loop: _Loop, running: asyncio.Future[Any]) -> Report:
    processes = {name: psutil.Process(pid) for name, pid in job.pids.items()} | {"client": psutil.Process()}
    await _unless(running, WARM_UP_S)
    gc.collect()
    gc.disable()
    before, began = _cpu(processes), time.perf_counter()
    loop.measuring = True
    await _unless(running, job.seconds)
    loop.measuring = False
    wall_s, after = time.perf_counter() - began, _cpu(processes)
    loop.stop = True
    await running
    times = sorted(loop.times)
    if not times:
        raise SystemExit("no message was acknowledged in the measured time")
    return Report(
        job.mode,
        job.in_flight,
        len(times),
        wall_s,
        len(times) / wall_s,
        1000 * percentile(times, 50),
        1000 * percentile(times, 99),
        1000 * times[-1],
        {name: after[name] - before[name] for name in processes},
    )


async def _unless(running: asyncio.Future[Any], seconds: float) -> None:
    """Let the load run for a while; a failure ends everything."""
    done, _ = await asyncio.wait((running,), timeout=seconds)
    if done:
        running.result()


def _cpu(processes: dict[str, psutil.Process]) -> dict[str, float]:
    return {name: sum(process.cpu_times()[:2]) for name, process in processes.items()}


def main() -> None:
    """One job from stdin to stdout."""
    job = Job(**json.load(sys.stdin))
    report = uvloop.run(run(job))
    json.dump({**asdict(report), "cpu_us_per_message": report.cpu_us_per_message}, sys.stdout)


if __name__ == "__main__":
    main()
