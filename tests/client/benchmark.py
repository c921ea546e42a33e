"""CPU per operation of the client and of the gateway, over a real connection, with documents that do nothing but count.

    python -m tests.client.benchmark [--batch 100] [--operations 100000] [--json]

Two processes, so each one's CPU is its own: the client pipelines batches on one session, the gateway runs before an in-memory
backend whose own cost is measured apart and subtracted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time

import psutil
import uvloop

from cluster.client import connect
from cluster.gateway import Gateway
from cluster.session.operations import Kind, Operation
from tests.gateway.echo_backend import EchoBackend

PAYLOAD = b'{"text":"hello world, hello world, hello world, hello world, hello world, hello world, hello world!"}'
PRINCIPAL = "bench@acme"


async def serve() -> None:
    """Run a gateway until standard input ends; its port is the first line of output."""
    gateway = Gateway(EchoBackend())
    print(await gateway.start(), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await gateway.stop()


async def backend_us(batch: int, operations: int) -> float:
    """What the in-memory backend itself costs per operation."""
    stream = EchoBackend().open(lambda _: None)
    session = bytes(16)
    stream.submit([Operation(0, Kind.CREATE.value, "text", "a", PRINCIPAL, session=session, sequence=1)])
    began = time.process_time()
    sequence = 1
    for _ in range(operations // batch):
        made = []
        for _ in range(batch):
            sequence += 1
            made.append(Operation(sequence, 2, "text", "a", PRINCIPAL, "echo", PAYLOAD, session, sequence, sequence - 1))
        stream.submit(made)
        await asyncio.sleep(0)
    return (time.process_time() - began) / operations * 1e6


async def drive(port: int, pid: int, batch: int, operations: int) -> dict[str, float]:
    """Send `operations` in batches, one batch in flight; returns CPU and wall time per operation in microseconds."""
    process = psutil.Process(pid)
    async with connect(f"127.0.0.1:{port}", principal=PRINCIPAL) as client:
        document = client.document("text", "a")
        await document.create()
        for timed in (False, True):
            rounds = (operations if timed else operations // 10) // batch
            before = process.cpu_times()
            cpu = time.process_time()
            wall = time.perf_counter()
            for _ in range(rounds):
                pending = [document.send_nowait("echo", PAYLOAD) for _ in range(batch)]
                for each in pending:
                    await each
            wall = time.perf_counter() - wall
            cpu = time.process_time() - cpu
            after = process.cpu_times()
        total = rounds * batch
        gateway = after.user + after.system - before.user - before.system
        return {
            "client_us": cpu / total * 1e6,
            "gateway_with_backend_us": gateway / total * 1e6,
            "wall_us": wall / total * 1e6,
            "operations_per_s": total / wall,
        }


def main() -> None:
    """Start the gateway's process, drive it, print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--operations", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        uvloop.run(serve())
        return
    command = [sys.executable, "-m", "tests.client.benchmark", "--serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        assert server.stdout is not None
        assert server.stdin is not None
        port = int(server.stdout.readline())
        numbers = uvloop.run(drive(port, server.pid, options.batch, options.operations))
        server.stdin.close()
        server.wait(30)
    backend = uvloop.run(backend_us(options.batch, options.operations))
    numbers["gateway_us"] = numbers["gateway_with_backend_us"] - backend
    if options.json:
        print(json.dumps({name: round(value, 2) for name, value in numbers.items()}))
        return
    print(f"batches of {options.batch}, {len(PAYLOAD)} bytes, {os.cpu_count()} cores")
    for name in ("client_us", "gateway_us", "wall_us"):
        print(f"{name:<12} {numbers[name]:8.2f} per operation")
    print(f"{numbers['operations_per_s']:,.0f} operations/s")


if __name__ == "__main__":
    main()
