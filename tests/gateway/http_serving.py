"""The HTTP edge on 127.0.0.1 in front of a node in memory, and a client that sends just the bytes that it is told to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from cluster.documents import bundle
from cluster.documents.bundle import Bundle
from cluster.errors import ClusterError
from cluster.gateway.backend import Deliver
from cluster.gateway.http_server import HttpGateway
from cluster.gateway.limits import Limits
from cluster.session.failures import failure_of
from cluster.session.operations import Kind, Operation, Reply
from cluster.simulate.node import SimulatedNode

TIMEOUT_S = 20.0
NOW_MS = 1_800_000_000_000


class MemoryStream:
    """One client's conversation with the node."""

    def __init__(self, backend: MemoryBackend, deliver: Deliver) -> None:
        self._backend = backend
        self._deliver = deliver
        self._number = backend.node.open_stream(deliver)

    def submit(self, operations: list[Operation]) -> None:
        backend = self._backend
        backend.seen += operations
        for operation in operations:
            if backend.failing:
                self._deliver([Reply(operation.id, failure=failure_of(backend.failing.pop(0)))])
            elif not backend.mute:
                backend.node.submit(self._number, [operation], [])
        backend.node.run()

    def submit_to(self, part: int, operation: Operation) -> None:
        raise AssertionError("nothing here is asked of parts")

    def grant(self, watch: int, credit_bytes: int) -> None:
        raise AssertionError("nothing here is watched")

    def close(self) -> None:
        self._backend.node.close_stream(self._number)


class MemoryBackend:
    """failing: errors with which the next operations are answered. mute: answer nothing. seen: what was submitted."""

    def __init__(self) -> None:
        self.node = SimulatedNode(0, NOW_MS, None)
        self.failing: list[ClusterError] = []
        self.mute = False
        self.seen: list[Operation] = []

    def open(self, deliver: Deliver) -> MemoryStream:
        return MemoryStream(self, deliver)

    @property
    def parts(self) -> list[int]:
        return []

    async def admin(self, method: str, request: dict[str, Any], principal: str) -> dict[str, Any]:
        raise AssertionError("nothing here administrates")

    @property
    def ready(self) -> bool:
        return True

    def deploy(self, space: str, files: Bundle | str) -> None:
        made = bundle.from_source(files) if isinstance(files, str) else files
        self.node.deploy(space, made.encode())

    def create(self, space: str, key: str, who: str) -> None:
        replies: list[Any] = []
        stream = self.node.open_stream(replies.extend)
        self.node.submit(stream, [Operation(1, Kind.CREATE.value, space, key, who)], [])
        self.node.run()
        assert replies[0].failure is None, replies[0].failure

    def commands(self) -> int:
        """How many operations went through the log's door."""
        return sum(operation.kind == Kind.SEND for operation in self.seen)


@dataclass
class Answered:
    """One HTTP answer, as it came."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        assert self.headers["content-type"] == "application/json", self.body
        found: dict[str, Any] = self.json["error"]
        return found

    @property
    def reason(self) -> str:
        return str(self.error["reason"])


class Browser:
    """Whoever speaks HTTP. who: the principal of the insecure header; "" for none."""

    def __init__(self, port: int, backend: MemoryBackend) -> None:
        self.port = port
        self.backend = backend
        self.who = "alice@acme"

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answered:
        return await self.request("GET", path, headers=headers)

    async def post(self, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answered:
        return await self.request("POST", path, body, headers)

    async def request(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answered:
        lines = {"host": f"127.0.0.1:{self.port}", "connection": "close"}
        if self.who:
            lines["moot-principal"] = self.who
        if body or method not in ("GET", "HEAD"):
            lines["content-length"] = str(len(body))
        lines |= dict(headers or {})
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
        return await self.raw(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body)

    async def raw(self, request: bytes) -> Answered:
        """Send bytes, and read the answer to its end."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(request)
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), TIMEOUT_S)
            lines = head.decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}
            bodiless = request.startswith(b"HEAD ") or "content-length" not in headers
            length = 0 if bodiless else int(headers["content-length"])
            body = await asyncio.wait_for(reader.readexactly(length), TIMEOUT_S)
            return Answered(int(lines[0].split()[1]), headers, body)
        finally:
            writer.close()


@asynccontextmanager
async def browsing(limits: Limits | None = None) -> AsyncIterator[Browser]:
    """A running edge, and who browses it."""
    backend = MemoryBackend()
    gateway = HttpGateway(backend, limits=limits)
    port = await gateway.start()
    try:
        yield Browser(port, backend)
    finally:
        await gateway.stop()
