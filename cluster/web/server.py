"""The page of `moot dev` over HTTP: the files, JSON calls, and one stream of Server-Sent Events for each principal.

    GET  /api/code                        the schema of what is deployed, or the findings
    POST /api/send                        {as, key, kind: create | send | delete, channel, parameters} -> {answer, position}
    POST /api/answer                      {as, key, ask, value} -> {answer, position}: an ask of `view` that names `as`
    POST /api/arguments                   {as, key, arguments: {view: {parameter: value}}}: all that `as` asks of views
    GET  /api/blob?as=alice&key=main&hash=...         the bytes of a blob that the view of `as` shows
    GET  /api/live?as=alice&key=main      events `view` and `code`; slow readers get the newest state, never a backlog
    GET  /api/log?key=main                the commands of a document
    GET  /api/past?key=main&step=3&as=alice&as=ben    what each saw then
    POST /api/restart                     {}: forget all documents

Every other path is that of a document, /dev/KEY/..., as a node serves it: see gateway/http.py.

Every error is JSON: {"error": {reason, message, details, frames?}}.

Invariant: one event loop, so the workshop does one thing at a time.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from importlib import resources
from typing import Any, Final, TypeVar

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from cluster.documents.state.blob import PICTURES, is_blob_hash
from cluster.errors import ClusterError, InvalidRequest, PermissionDenied, TooLarge, Unavailable, UnknownDocument
from cluster.gateway.guard import Guard, Receive, Rules, Scope, Send
from cluster.gateway.http import RULES, HttpEdge
from cluster.gateway.http_server import HOST, settings_of
from cluster.session.operations import Kind
from cluster.web.requests import Named, Requests
from cluster.web.workshop import Seat, Workshop, error_body

ReplyT = TypeVar("ReplyT")

TICK_MS: Final = 50
LOOK_MS: Final = 400
ANSWER_TIMEOUT_MS: Final = 10_000
STOP_TIMEOUT_S: Final = 1
PRINCIPALS_MAX: Final = 8
"""In one look at the past."""
API: Final = "/api/"
FILES: Final = {
    "/": ("index.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}
PAGE_RULES: Final = Rules(
    body_bytes_max=1024 * 1024,
    requests_max=64,
    json_only=True,
    headers=(
        (b"cache-control", b"no-store"),
        (b"content-security-policy", b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
         b"img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
        (b"cross-origin-opener-policy", b"same-origin"),
        (b"cross-origin-resource-policy", b"same-origin"),
        (b"referrer-policy", b"no-referrer"),
        (b"x-content-type-options", b"nosniff"),
    ),
)  # fmt: skip
STATUSES: Final = {InvalidRequest.reason: 400, PermissionDenied.reason: 403, TooLarge.reason: 413, Unavailable.reason: 503}
"""Of the page's calls; all else is 409."""
KINDS: Final = {"create": Kind.CREATE, "send": Kind.SEND, "delete": Kind.DELETE}


class Sending(msgspec.Struct, forbid_unknown_fields=True, rename={"who": "as"}):
    """The body of /api/send."""

    who: str
    key: str
    kind: str = "send"
    channel: str = ""
    parameters: dict[str, Any] = {}


class Answer(msgspec.Struct, forbid_unknown_fields=True, rename={"who": "as"}):
    """The body of /api/answer."""

    who: str
    key: str
    ask: str
    value: Any


class Arguments(msgspec.Struct, forbid_unknown_fields=True, rename={"who": "as"}):
    """The body of /api/arguments."""

    who: str
    key: str
    arguments: dict[str, dict[str, Any]]


class Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a call without parameters."""


class DevelopmentServer:
    """told: is called when code was deployed, or refused."""

    def __init__(self, workshop: Workshop, told: Callable[[dict[str, Any]], None]) -> None:
        self._workshop = workshop
        self._told = told
        self._changed = asyncio.Event()
        self._code_revision = 1
        routes = [Route(path, self._file, methods=["GET"]) for path in FILES]
        routes += [
            Route("/api/code", self._code, methods=["GET"]),
            Route("/api/live", self._live, methods=["GET"]),
            Route("/api/log", self._log, methods=["GET"]),
            Route("/api/past", self._past, methods=["GET"]),
            Route("/api/blob", self._blob, methods=["GET"]),
            Route("/api/send", self._send, methods=["POST"]),
            Route("/api/answer", self._answer, methods=["POST"]),
            Route("/api/arguments", self._arguments, methods=["POST"]),
            Route("/api/restart", self._restart, methods=["POST"]),
        ]
        handlers: dict[Any, Any] = {ClusterError: self._failed, HTTPException: _refused, Exception: _broken}
        self._app = Starlette(routes=routes, exception_handlers=handlers)

    async def serve(self, listening: socket.socket) -> None:
        """Until the process is told to stop. listening: bound to loopback."""
        host, port = listening.getsockname()[:2]
        assert host == HOST, "who says who they are must be on this machine"
        page = Guard(self._app, port, PAGE_RULES)
        documents = Guard(HttpEdge(Requests(self._workshop, self._notify), Named()), port, RULES)

        async def either(scope: Scope, receive: Receive, send: Send) -> None:
            is_page = scope["type"] != "http" or scope["path"] in FILES or scope["path"].startswith(API)
            await (page if is_page else documents)(scope, receive, send)

        config = settings_of(either)
        config.timeout_graceful_shutdown = STOP_TIMEOUT_S
        server = uvicorn.Server(config)
        ticking = asyncio.create_task(self._tick(server))
        try:
            await server.serve(sockets=[listening])
        finally:
            ticking.cancel()
        if ticking.done() and not ticking.cancelled():
            ticking.result()

    async def _tick(self, server: uvicorn.Server) -> None:
        """Time goes on, and the author saves."""
        passed_ms = 0
        try:
            while True:
                await asyncio.sleep(TICK_MS / 1000)
                self._workshop.tick()
                passed_ms += TICK_MS
                if passed_ms >= LOOK_MS:
                    passed_ms = 0
                    if self._workshop.look_at_files():
                        self._code_revision += 1
                        self._told(self._workshop.code())
                self._notify()
        except Exception:
            server.should_exit = True  # a page without time would lie
            raise

    def _notify(self) -> None:
        """Wake the streams; each looks whether there is something for it."""
        self._changed.set()
        self._changed = asyncio.Event()

    # calls

    async def _file(self, request: Request) -> Response:
        name, kind = FILES[request.url.path]
        content = resources.files("cluster.web").joinpath("static", name).read_bytes()
        return Response(content, media_type=kind)

    async def _code(self, request: Request) -> Response:
        return JSONResponse(self._workshop.code())

    async def _send(self, request: Request) -> Response:
        call = await _decoded(request, Sending)
        kind = KINDS.get(call.kind)
        if kind is None:
            raise InvalidRequest(f"kind is one of {', '.join(KINDS)}, not {call.kind!r}")
        payload = msgspec.json.encode(call.parameters)
        submitted = self._workshop.submit(call.who, call.key, kind, call.channel, payload)
        return JSONResponse(await self._replied(submitted, self._workshop.reply))

    async def _answer(self, request: Request) -> Response:
        call = await _decoded(request, Answer)
        payload = msgspec.json.encode({"ask": call.ask, "value": call.value})
        submitted = self._workshop.submit(call.who, call.key, Kind.ANSWER, "", payload)
        return JSONResponse(await self._replied(submitted, self._workshop.reply))

    async def _arguments(self, request: Request) -> Response:
        call = await _decoded(request, Arguments)
        try:
            self._workshop.look(call.who, call.key, call.arguments)
        finally:
            self._notify()
        return JSONResponse({"arguments": call.arguments})

    async def _blob(self, request: Request) -> Response:
        who, key, hash = (_one(request, name) for name in ("as", "key", "hash"))
        if not is_blob_hash(hash):
            raise InvalidRequest("the hash of a blob has 64 hexadecimal digits")
        seat = self._workshop.seat(who, key)
        submitted = self._workshop.submit(who, key, Kind.READ, hash, seat.asked())
        data, media_type = await self._replied(submitted, self._workshop.blob)
        if media_type in PICTURES:
            return Response(data, media_type=media_type)
        headers = {"content-disposition": f'attachment; filename="{hash[:12]}"'}
        return Response(data, media_type="application/octet-stream", headers=headers)

    async def _replied(self, submitted: tuple[Seat, int], reply: Callable[[Seat, int], ReplyT | None]) -> ReplyT:
        """What `reply` says of something that was submitted, once it says something. Raises what it raises."""
        try:
            for _ in range(ANSWER_TIMEOUT_MS // TICK_MS):
                answer = reply(*submitted)
                if answer is not None:
                    return answer
                await asyncio.sleep(TICK_MS / 1000)
                self._workshop.tick()
        finally:
            self._notify()
        raise InvalidRequest("there was no answer in time")

    async def _log(self, request: Request) -> Response:
        try:
            return JSONResponse({"commands": self._workshop.log(_one(request, "key"))})
        except UnknownDocument:
            return JSONResponse({"commands": []})

    async def _past(self, request: Request) -> Response:
        step = _one(request, "step")
        if not step.isascii() or not step.isdigit() or len(step) > 9:
            raise InvalidRequest(f"step is a number, not {step!r}")
        whos = request.query_params.getlist("as")
        if not 1 <= len(whos) <= PRINCIPALS_MAX:
            raise InvalidRequest(f"a look at the past is for 1 to {PRINCIPALS_MAX} principals")
        return JSONResponse(self._workshop.past(_one(request, "key"), int(step), whos))

    async def _restart(self, request: Request) -> Response:
        await _decoded(request, Nothing)
        try:
            self._workshop.start_over()
        finally:
            self._code_revision += 1
            self._notify()
        return JSONResponse(self._workshop.code())

    async def _live(self, request: Request) -> Response:
        who, key = _one(request, "as"), _one(request, "key")
        self._workshop.seat(who, key)  # what is wrong with the names is said before a stream begins
        return StreamingResponse(self._events(who, key), media_type="text/event-stream")

    async def _events(self, who: str, key: str) -> AsyncIterator[bytes]:
        seat, seen, code_seen = self._workshop.seat(who, key), 0, 0
        seat.readers += 1
        try:
            while True:
                if code_seen != self._code_revision:
                    code_seen = self._code_revision
                    yield _event("code", self._workshop.code())
                    now = self._workshop.seat(who, key)
                    if now is not seat:  # everything was forgotten, seats too
                        seat, seen = now, 0
                        seat.readers += 1
                if seen != seat.revision:
                    seen = seat.revision
                    yield _event("view", seat.state())
                while seen == seat.revision and code_seen == self._code_revision:
                    await self._changed.wait()
        finally:
            seat.readers -= 1

    async def _failed(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, ClusterError)
        body = error_body(error, self._workshop.frames_of(error))
        return JSONResponse({"error": body}, status_code=STATUSES.get(error.reason, 409))


async def _refused(request: Request, error: Exception) -> Response:
    """What the routes say no to: a path that is not there, a method that it does not take."""
    assert isinstance(error, HTTPException)
    reason = {404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED"}.get(error.status_code, "INVALID_REQUEST")
    body = {"reason": reason, "message": error.detail, "details": {}}
    return JSONResponse({"error": body}, status_code=error.status_code, headers=error.headers)


async def _broken(request: Request, error: Exception) -> Response:
    """A bug of ours: said as such, and logged by whoever serves."""
    body = {"reason": "INTERNAL", "message": f"{type(error).__name__}: {error}", "details": {}}
    return JSONResponse({"error": body}, status_code=500)


async def _decoded(request: Request, kind: Any) -> Any:
    """A body of this type. Raises InvalidRequest."""
    try:
        return msgspec.json.decode(await request.body(), type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the body can not be read: {error}") from None


def _one(request: Request, name: str) -> str:
    """A query parameter that is there once. Raises InvalidRequest."""
    values = request.query_params.getlist(name)
    if len(values) != 1:
        raise InvalidRequest(f"the call needs {name!r} once")
    return values[0]


def _event(name: str, data: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()
