"""Whom a server of HTTP on this machine answers: its own origin, in bounded bodies.

Anybody may say who they are here, so it must be out of reach of every other site that somebody on this machine has open: a
foreign name that resolves to this machine comes with a foreign Host (DNS rebinding), a foreign page with a foreign Origin, and
a form of it can not send JSON.

Invariant: what is refused here was not looked at by anything behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Final

from cluster.errors import ClusterError, InvalidRequest, PermissionDenied, TooLarge, Unavailable
from cluster.gateway.http_errors import error_answer
from cluster.session.failures import failure_of

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HOSTS: Final = ("127.0.0.1", "localhost")
LET_PASS_BYTES_MAX: Final = 4 * 1024 * 1024
LET_PASS_MS: Final = 1_000
"""Of a body that is refused already."""
HTTP_PORT: Final = 80
"""Left out of Host and Origin."""


@dataclass(frozen=True, slots=True)
class Rules:
    """body_bytes_max, body_timeout_ms: of one request. requests_max: under way at once, streams included. json_only: whether a
    POST without JSON is refused. headers: of every answer.
    """

    body_bytes_max: int
    requests_max: int
    json_only: bool
    headers: tuple[tuple[bytes, bytes], ...]
    body_timeout_ms: int = 30_000


class Guard:
    """Stands before an ASGI application. port: the one that it is served on."""

    def __init__(self, app: App, port: int, rules: Rules) -> None:
        self._app = app
        self._rules = rules
        names = [host.encode() for host in HOSTS]
        self._hosts = {b"%b:%d" % (name, port) for name in names} | (set(names) if port == HTTP_PORT else set())
        self._origins = {b"http://" + host for host in self._hosts}
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request. Lifespans pass; anything but HTTP is closed."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        self._under_way += 1
        try:
            self._check(scope)
            async with asyncio.timeout(self._rules.body_timeout_ms / 1000):
                body = await self._body(scope, receive)
        except TooLarge as error:
            await _let_pass(receive)
            await self._refuse(send, error)
        except TimeoutError:
            await self._refuse(send, InvalidRequest("the body did not come in time"))
        except ClusterError as error:
            await self._refuse(send, error)
        else:
            await self._app(scope, _Replayed(body, receive), _with_headers(send, self._rules.headers))
        finally:
            self._under_way -= 1

    def _check(self, scope: Scope) -> None:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        hosts = [value for name, value in headers if name == b"host"]
        if len(hosts) != 1 or hosts[0] not in self._hosts:
            raise PermissionDenied(f"this server answers to {' and '.join(HOSTS)} only")
        if any(value not in self._origins for name, value in headers if name == b"origin"):
            raise PermissionDenied("another site asked: this server answers to itself only")
        site = [value for name, value in headers if name == b"sec-fetch-site"]
        if any(value not in (b"same-origin", b"none") for value in site):
            raise PermissionDenied("another site asked: this server answers to itself only")
        if self._rules.json_only and scope["method"] == "POST":
            kinds = [value.partition(b";")[0].strip().lower() for name, value in headers if name == b"content-type"]
            if kinds != [b"application/json"]:
                raise InvalidRequest("a body is application/json")
        if self._under_way > self._rules.requests_max:
            raise Unavailable(f"{self._rules.requests_max} requests are under way", retry_after_ms=1000)

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        most = self._rules.body_bytes_max
        said = [value for name, value in scope["headers"] if name == b"content-length"]
        parts: list[bytes] = []
        size = int(said[0]) if said and said[0].isdigit() and len(said[0]) < 16 else 0  # the parser has refused odd ones
        if size > most:
            raise _too_large(most)
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise InvalidRequest("the request ended before its body did")
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > most:
                raise _too_large(most)
            if not message.get("more_body", False):
                return b"".join(parts)

    async def _refuse(self, send: Send, error: ClusterError) -> None:
        status, headers, body = error_answer(failure_of(error))
        headers += self._rules.headers
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def _let_pass(receive: Receive) -> None:
    """Read on for a while: a client that is still sending when the connection closes may not see why."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LET_PASS_MS / 1000):
            passed = 0
            while passed < LET_PASS_BYTES_MAX:
                message = await receive()
                passed += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return


def _too_large(most: int) -> TooLarge:
    return TooLarge(f"a body has at most {most} bytes", limit="request_body_bytes_max")


class _Replayed:
    """A body that was read before the application asked for it."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


def _with_headers(send: Send, headers: tuple[tuple[bytes, bytes], ...]) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *headers]
        await send(message)

    return sending
