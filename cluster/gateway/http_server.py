"""HTTP/1.1 on a loopback socket: uvicorn in the event loop that is already running, behind it the guard and an application.

Invariant: it listens on loopback only: anybody who reaches it may say who they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import Iterator
from typing import Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from cluster.errors import Unavailable
from cluster.gateway.backend import Backend
from cluster.gateway.calls import Identity
from cluster.gateway.guard import App, Guard, Rules
from cluster.gateway.http import RULES, HttpEdge
from cluster.gateway.identity import InsecureHeader
from cluster.gateway.limits import Limits
from cluster.gateway.unary import UnaryCalls

HOST: Final = "127.0.0.1"
BACKLOG: Final = 256
CONNECTIONS_MAX: Final = 2048
HEAD_BYTES_MAX: Final = 32 * 1024
"""Of a request's first line and headers."""
HEAD_TIMEOUT_MS: Final = 10_000
"""A connection that has brought no whole head of a request for so long is closed."""
KEEP_ALIVE_S: Final = 60
GRACE_S: Final = 2


class _Connection(H11Protocol):
    """One connection, with a limit on how long a request may take to arrive."""

    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._wait()
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self._waiting is None:
            self._waiting = self.loop.call_later(HEAD_TIMEOUT_MS / 1000, self._look, self.cycle)

    def _look(self, before: RequestResponseCycle | None) -> None:
        self._waiting = None
        idle = before is None or before.response_complete
        if idle and self.cycle is before and self.timeout_keep_alive_task is None:
            self.transport.close()


class _Server(uvicorn.Server):
    """Signals are the node's business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them alone."""
        yield


def listen(port: int) -> socket.socket:
    """A socket on loopback. port: 0 takes a free one. Raises OSError."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening


def settings_of(app: App) -> uvicorn.Config:
    """How every server of HTTP here is run."""
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        lifespan="off",
        ws="none",
        http=_Connection,
        limit_concurrency=CONNECTIONS_MAX,
        h11_max_incomplete_event_size=HEAD_BYTES_MAX,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
    )


class HttpServer:
    """Serves an application behind a guard. Start it once; stopping is final."""

    def __init__(self, app: App, rules: Rules, port: int = 0) -> None:
        self._app = app
        self._rules = rules
        self._port = port
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Listen. Returns the bound port. Raises Unavailable when the port can not be bound."""
        assert self._server is None, "a server starts once"
        try:
            listening = listen(self._port)
        except OSError as error:
            raise Unavailable(f"can not listen on {HOST}:{self._port} for HTTP: {error.strerror}") from error
        port: int = listening.getsockname()[1]
        self._server = _Server(settings_of(Guard(self._app, port, self._rules)))
        self._serving = asyncio.create_task(self._server.serve(sockets=[listening]))
        return port

    async def stop(self) -> None:
        """Take nothing more; what is under way is answered within the grace."""
        if self._server is None or self._serving is None:
            return
        self._server.should_exit = True
        await self._serving
        self._server = None


class HttpGateway:
    """The HTTP edge of a node. Start it once; stopping is final. Its bounds on operations are its own, beside those of gRPC."""

    def __init__(
        self, backend: Backend, port: int = 0, *, limits: Limits | None = None, identity: Identity | None = None
    ) -> None:
        self._backend = backend
        self._limits = limits or Limits()
        self._identity = identity or InsecureHeader(HOST)
        self._port = port
        self._calls: UnaryCalls | None = None
        self._server: HttpServer | None = None

    async def start(self) -> int:
        """Listen. Returns the bound port. Raises Unavailable when the port can not be bound."""
        self._calls = UnaryCalls(self._backend, self._limits, random.Random())
        self._server = HttpServer(HttpEdge(self._calls, self._identity), RULES, self._port)
        return await self._server.start()

    async def stop(self) -> None:
        """Answer what is under way within the grace, then let go; the fate of what is left is unknown."""
        if self._server is not None and self._calls is not None:
            await self._server.stop()
            self._calls.close()
