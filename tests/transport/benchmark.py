"""Measure frames between two processes on loopback under uvloop: `python -m tests.transport.benchmark`.

Prints, for the TCP transport and for a bidirectional gRPC stream with raw bytes, the round trip of one 200 B frame in flight
and the rate of pipelined 10 KB frames, with the CPU time that both processes spent per frame. The gRPC side is the least that
a transport could be (no handshake, no lanes, no reconnect), which makes its numbers a bound from below on its cost.
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import Final

import grpc
import grpc.aio
import uvloop

from cluster.ids import NodeId
from cluster.pump.lanes import Lane
from cluster.transport.tcp import TcpPeerTransport

HOST: Final = "127.0.0.1"
SMALL: Final = bytes(200)
LARGE: Final = random.Random(1).randbytes(10_000)
ROUND_TRIPS: Final = 5_000
PIPELINED: Final = 30_000
METHOD: Final = "/moot.benchmark/Frames"


class Node:
    """One end over TCP. The echo end returns small frames and acknowledges the last large one."""

    def __init__(self, name: str, echo: bool) -> None:
        self.echo = echo
        self.received = 0
        self.answer: asyncio.Future[None] | None = None
        self.up = asyncio.Event()
        self.transport = TcpPeerTransport(
            cluster_id="b", node=NodeId(name), boot_generation=1, host=HOST, port=0, events=self, source=random.Random(1)
        )

    def on_frame(self, node: NodeId, lane: Lane, frame: bytes) -> None:
        if not self.echo:
            if self.answer is not None:
                self.answer.set_result(None)
        elif lane is Lane.LIVENESS:  # where the dialling end listens
            self.transport.connect(node, HOST, int(frame))
        elif len(frame) == len(SMALL):
            self.transport.send(node, lane, frame)
        else:
            self.received += 1
            if self.received == PIPELINED:
                self.transport.send(node, lane, SMALL)

    def on_connected(self, node: NodeId, boot_generation: int) -> None:
        self.up.set()

    def on_disconnected(self, node: NodeId, refused: bool) -> None:
        pass

    async def request(self, peer: NodeId, frame: bytes) -> None:
        self.answer = asyncio.get_running_loop().create_future()
        assert self.transport.send(peer, Lane.RAFT, frame)
        await self.answer
        self.answer = None


async def tcp_echo() -> None:
    node = Node("echo", echo=True)
    await node.transport.start()
    print(node.transport.port, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


async def tcp_measure(port: int) -> tuple[list[float], float]:
    node, echo = Node("ask", echo=False), NodeId("echo")
    await node.transport.start()
    node.transport.connect(echo, HOST, port)
    await node.up.wait()
    node.transport.send(echo, Lane.LIVENESS, str(node.transport.port).encode())
    await asyncio.sleep(0.5)
    times = []
    for _ in range(ROUND_TRIPS):
        started = time.perf_counter()
        await node.request(echo, SMALL)
        times.append(time.perf_counter() - started)
    node.answer = asyncio.get_running_loop().create_future()
    started = time.perf_counter()
    for number in range(PIPELINED):
        while not node.transport.send(echo, Lane.RAFT, LARGE):  # noqa: ASYNC110 - the bound of the lane paces the sender
            await asyncio.sleep(0.001)
        if number % 64 == 63:
            await asyncio.sleep(0)
    await node.answer
    took = time.perf_counter() - started
    await node.transport.stop()
    return times, took


async def grpc_echo() -> None:
    async def frames(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]) -> AsyncIterator[bytes]:
        received = 0
        async for frame in requests:
            if len(frame) == len(SMALL):
                yield frame
            else:
                received += 1
                if received == PIPELINED:
                    yield SMALL

    server = grpc.aio.server()
    handler = grpc.stream_stream_rpc_method_handler(frames)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("moot.benchmark", {"Frames": handler}),))
    print(server.add_insecure_port(f"{HOST}:0"), flush=True)
    await server.start()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


async def grpc_measure(port: int) -> tuple[list[float], float]:
    async with grpc.aio.insecure_channel(f"{HOST}:{port}") as channel:
        call = channel.stream_stream(METHOD, bytes, bytes)()  # type: ignore[call-arg]
        times = []
        for _ in range(ROUND_TRIPS):
            started = time.perf_counter()
            await call.write(SMALL)
            await call.read()
            times.append(time.perf_counter() - started)
        started = time.perf_counter()
        for _ in range(PIPELINED):
            await call.write(LARGE)
        await call.read()
        took = time.perf_counter() - started
        call.cancel()
        return times, took


def cpu_seconds(pid: int) -> float:
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(kind: str) -> None:
    echo = subprocess.Popen(
        [sys.executable, "-m", "tests.transport.benchmark", f"{kind}-echo"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert echo.stdin is not None
    assert echo.stdout is not None
    port = int(echo.stdout.readline())
    before = cpu_seconds(os.getpid()) + cpu_seconds(echo.pid)
    times, took = uvloop.run(tcp_measure(port) if kind == "tcp" else grpc_measure(port))
    spent = cpu_seconds(os.getpid()) + cpu_seconds(echo.pid) - before
    echo.stdin.close()
    echo.wait(10)
    times.sort()
    p50_us, p99_us = statistics.median(times) * 1e6, times[int(len(times) * 0.99)] * 1e6
    megabytes = PIPELINED * len(LARGE) / took / 1e6
    print(
        f"{kind:5} 200 B round trip p50 {p50_us:4.0f} us  p99 {p99_us:4.0f} us"
        f" | 10 KB pipelined {PIPELINED / took:6.0f} frames/s  {megabytes:5.0f} MB/s"
        f" | CPU of both, whole run {spent:.2f} s"
    )


def main(arguments: list[str]) -> None:
    if arguments == ["tcp-echo"]:
        uvloop.run(tcp_echo())
    elif arguments == ["grpc-echo"]:
        uvloop.run(grpc_echo())
    else:
        for _ in range(3):
            measure("tcp")
            measure("grpc")


if __name__ == "__main__":
    main(sys.argv[1:])
