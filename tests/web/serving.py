"""A development server on a free port, in the event loop of a test, and a client that says exactly what it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.gateway.http_server import listen
from cluster.web.server import DevelopmentServer
from cluster.web.workshop import Workshop

TIMEOUT_S = 20.0


@dataclass
class Answered:
    """One HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def reason(self) -> str:
        """Of a typed error."""
        assert self.headers["content-type"] == "application/json", self.body
        return str(self.json["error"]["reason"])


@dataclass
class Page:
    """The server as a browser reaches it. told: what the terminal was told."""

    port: int
    workshop: Workshop
    told: list[dict[str, Any]] = field(default_factory=list)

    async def raw(self, request: bytes) -> Answered:
        """Send bytes, and read the answer to its end."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(request)
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), TIMEOUT_S)
            lines = head.decode().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}
            length = headers.get("content-length")
            body = b"" if length is None else await asyncio.wait_for(reader.readexactly(int(length)), TIMEOUT_S)
            return Answered(int(lines[0].split()[1]), headers, body)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def get(self, path: str, **headers: str) -> Answered:
        return await self.raw(self._head("GET", path, headers))

    async def post(self, path: str, body: object, **headers: str) -> Answered:
        """body: bytes as they are, anything else as JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {"content_type": "application/json", "content_length": str(len(data)), **headers}
        return await self.raw(self._head("POST", path, given) + data)

    async def send(self, who: str, channel: str, **parameters: Any) -> Answered:
        """A message to the document `main`."""
        kind = "send" if channel else "create"
        body = {"as": who, "key": "main", "kind": kind, "channel": channel, "parameters": parameters}
        return await self.post("/api/send", body)

    def _head(self, method: str, path: str, headers: dict[str, str]) -> bytes:
        given = {"host": f"127.0.0.1:{self.port}", "connection": "close", **headers}
        lines = [f"{name.replace('_', '-')}: {value}" for name, value in given.items() if value]
        return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode()


class Stream:
    """A stream of Server-Sent Events."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    async def until(self, name: str, wanted: Any) -> Any:
        """The data of the first event of this name that `wanted` accepts."""

        async def reading() -> Any:
            while True:
                line = (await self._reader.readline()).decode().strip()
                assert line or not self._reader.at_eof(), "the stream ended"
                if line == f"event: {name}":
                    data = json.loads((await self._reader.readline()).decode().removeprefix("data: "))
                    if wanted(data):
                        return data

        return await asyncio.wait_for(reading(), TIMEOUT_S)


@asynccontextmanager
async def live(page: Page, who: str) -> AsyncIterator[Stream]:
    """What `who` is sent of the document `main`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", page.port)
    try:
        writer.write(f"GET /api/live?as={who}&key=main HTTP/1.1\r\nhost: localhost:{page.port}\r\n\r\n".encode())
        yield Stream(reader)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@asynccontextmanager
async def serving(path: Path) -> AsyncIterator[Page]:
    """A server for a file, with the machine's clock."""
    workshop = Workshop(path, lambda: time.time_ns() // 1_000_000, seed=1)
    workshop.look_at_files()
    listening = listen(0)
    page = Page(listening.getsockname()[1], workshop)
    server = asyncio.create_task(DevelopmentServer(workshop, page.told.append).serve(listening))
    try:
        yield page
    finally:
        server.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await server
        listening.close()
