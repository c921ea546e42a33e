"""Several gateways before one in-memory backend, which can be stopped and started one by one, and a relay that cuts streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from cluster.gateway import Gateway
from tests.gateway.echo_backend import EchoBackend

HOST = "127.0.0.1"


class Gateways:
    """Gateways of one backend."""

    def __init__(self, backend: EchoBackend) -> None:
        self.backend = backend
        self.running: list[Gateway] = []
        self.addresses: list[str] = []

    async def start(self) -> str:
        gateway = Gateway(self.backend)
        port = await gateway.start()
        self.running.append(gateway)
        self.addresses.append(f"{HOST}:{port}")
        return self.addresses[-1]

    async def stop(self, number: int, grace_ms: int = 0) -> None:
        await self.running[number].stop(grace_ms)


@asynccontextmanager
async def gateways(count: int = 1) -> AsyncIterator[Gateways]:
    """`count` running gateways."""
    cluster = Gateways(EchoBackend())
    try:
        for _ in range(count):
            await cluster.start()
        yield cluster
    finally:
        for number in range(len(cluster.running)):
            await cluster.stop(number)


class Relay:
    """A TCP relay in front of an address: `cut` drops all connections at once, as a broken network does."""

    def __init__(self, target: str) -> None:
        host, _, port = target.partition(":")
        self._target = (host, int(port))
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.silent = False
        self.address = ""
        self.connections = 0

    async def __aenter__(self) -> Relay:
        self._server = await asyncio.start_server(self._accept, HOST, 0)
        self.address = f"{HOST}:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Reset every connection."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        there, back = await asyncio.open_connection(*self._target)
        self._writers |= {writer, back}
        for source, sink in ((reader, back), (there, writer)):
            task = asyncio.ensure_future(self._copy(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(65536):
                if not self.silent:
                    sink.write(data)
                    await sink.drain()
        sink.transport.abort()
