"""Whom the page answers: its own origin on this machine, in bounded bodies of JSON.

Anybody may say who they are here, so the page must be out of reach of every other site that the author has open: a foreign name
that resolves to this machine comes with a foreign Host (DNS rebinding), a foreign page with a foreign Origin, and a form of it
can not send JSON.

Invariant: what is refused here was not looked at by anything behind it.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from cluster.errors import ClusterError, InvalidRequest, PermissionDenied, TooLarge, Unavailable

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

BODY_BYTES_MAX: Final = 1024 * 1024
REQUESTS_MAX: Final = 64
"""At once, streams included."""
STATUSES: Final = {
    InvalidRequest.reason: 400,
    PermissionDenied.reason: 403,
    TooLarge.reason: 413,
    Unavailable.reason: 503,
}
HEADERS: Final = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
     b"img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)  # fmt: skip


class Guard:
    """Stands before an ASGI application. port: the one that it is served on."""

    def __init__(self, app: App, port: int) -> None:
        self._app = app
        self._hosts = {f"{host}:{port}".encode() for host in ("127.0.0.1", "localhost")}
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
        try:
            self._check(scope)
            body = await _body(receive)
        except ClusterError as error:
            await answer(send, error)
            return
        self._under_way += 1
        try:
            await self._app(scope, _Replayed(body, receive), _with_headers(send))
        finally:
            self._under_way -= 1

    def _check(self, scope: Scope) -> None:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        hosts = [value for name, value in headers if name == b"host"]
        if len(hosts) != 1 or hosts[0] not in self._hosts:
            raise PermissionDenied("this page answers to 127.0.0.1 and localhost only")
        if any(value not in self._origins for name, value in headers if name == b"origin"):
            raise PermissionDenied("another site asked: this page answers to itself only")
        site = [value for name, value in headers if name == b"sec-fetch-site"]
        if any(value not in (b"same-origin", b"none") for value in site):
            raise PermissionDenied("another site asked: this page answers to itself only")
        if scope["method"] == "POST":
            kinds = [value.partition(b";")[0].strip().lower() for name, value in headers if name == b"content-type"]
            if kinds != [b"application/json"]:
                raise InvalidRequest("a body is application/json")
        if self._under_way >= REQUESTS_MAX:
            raise Unavailable(f"{REQUESTS_MAX} requests are under way", retry_after_ms=1000)


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


async def _body(receive: Receive) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise InvalidRequest("the request ended before its body did")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > BODY_BYTES_MAX:
            raise TooLarge(f"a body has at most {BODY_BYTES_MAX} bytes")
        if not message.get("more_body", False):
            return b"".join(parts)


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *HEADERS]
        await send(message)

    return sending


async def answer(send: Send, error: ClusterError) -> None:
    """Say no, as everything behind the guard does."""
    body = json.dumps({"error": {"reason": error.reason, "message": error.message, "details": error.details}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *HEADERS]
    status = STATUSES.get(error.reason, 400)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
