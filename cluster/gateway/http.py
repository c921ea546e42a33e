"""Documents over HTTP: /SPACE/KEY/PATH, as an ASGI application over the Backend seam.

    GET, HEAD                  a read of the document: its @read.http handler, a file of its bundle below /static/, or below
                               /-blob/ the bytes of a blob by its hash, if the view of who asks shows it
    POST, PUT, PATCH, DELETE   a message to its @on.http handler; exactly once under an Idempotency-Key

The key is one part of the path, percent-encoded. Who asks is said by the header `moot-principal` or by `?as=`, which no handler
sees; what a page names is asked for by whom the page was for. All else of the request that a handler may see becomes the
payload of an ordinary operation, so any node takes it and one hop brings it to the leader.

Invariant: a path that leads nowhere and a document that does not admit who asks get the same answer.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final, Protocol
from urllib.parse import quote, unquote_to_bytes

import msgspec

from cluster.documents.requests import (
    REQUEST_BODY_BYTES_MAX,
    REQUEST_HEADERS,
    WRITE_METHODS,
    BadRequest,
    Request,
    body_of,
    checked,
    encoded,
    fields_of,
)
from cluster.documents.routes import BLOB
from cluster.documents.runtime import HTTP_CHANNEL
from cluster.documents.state.blob import PICTURES, is_blob_hash
from cluster.errors import (
    ClusterError,
    DocumentFrozen,
    InvalidName,
    InvalidPayload,
    InvalidRequest,
    TooLarge,
    Unauthenticated,
    UnknownRoute,
)
from cluster.gateway.calls import Identity
from cluster.gateway.codec import blob_of
from cluster.gateway.guard import Receive, Rules, Scope, Send
from cluster.gateway.http_errors import HIDDEN, NOT_FOUND, Headers, error_answer
from cluster.gateway.identity import PRINCIPAL_METADATA, scoped_idempotency_key
from cluster.gateway.limits import IDEMPOTENCY_KEY_BYTES_MADE, IDEMPOTENCY_KEY_BYTES_MAX
from cluster.gateway.status import internal_failure
from cluster.ids import check_key, check_space
from cluster.session.failures import failure_of
from cluster.session.operations import Failure, Kind, Operation, Reply

AS: Final = "as"
"""The parameter of the query that says who asks, where no header can."""
NAMES_OTHERS: Final = frozenset(("document", "iframe", "script", "style"))
"""What a browser fetches that names more to be fetched: its own address has to say who asks, for that is all it passes on."""
PATH_BYTES_MAX: Final = 8 * 1024
"""Of the whole path, encoded."""
REQUESTS_MAX: Final = 1024
TAG_BYTES: Final = 16
ALLOWED: Final = "DELETE, GET, HEAD, PATCH, POST, PUT"
RULES: Final = Rules(
    body_bytes_max=REQUEST_BODY_BYTES_MAX,
    requests_max=REQUESTS_MAX,
    json_only=False,
    headers=(
        (b"content-security-policy", b"default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
         b"form-action 'self'; frame-ancestors 'none'"),
        (b"cross-origin-opener-policy", b"same-origin"),
        (b"cross-origin-resource-policy", b"same-origin"),
        (b"referrer-policy", b"same-origin"),
        (b"vary", b"moot-principal"),
        (b"x-content-type-options", b"nosniff"),
    ),
)  # fmt: skip
"""For the guard in front. A page runs only what its own bundle brings: no script within it, none of another site."""

_JUDGED_BEFORE_THE_GATE: Final = frozenset(
    error.reason for error in (UnknownRoute, DocumentFrozen, InvalidPayload, TooLarge)
)  # fmt: skip
"""What a write may be refused for before its gate was asked."""

_decode = msgspec.json.decode


class Calls(Protocol):
    """Runs single operations: `unary.UnaryCalls`, or what a server of one process has instead."""

    async def run(self, operation: Operation, remaining_ms: float | None) -> Reply | Failure:
        """The operation's reply, or the failure that is left."""
        ...


class HttpEdge:
    """The application. calls: of the gateway that it belongs to."""

    def __init__(self, calls: Calls, identity: Identity) -> None:
        self._calls = calls
        self._identity = identity

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, whose body the guard has read."""
        if scope["type"] != "http":
            return
        message = await receive()
        try:
            status, headers, body = await self._answer(scope, message.get("body", b""))
        except ClusterError as error:
            failure = NOT_FOUND if isinstance(error, InvalidName) else failure_of(error)
            status, headers, body = error_answer(failure)
        except Exception as error:
            status, headers, body = error_answer(internal_failure(error, "an HTTP request"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _answer(self, scope: Scope, body: bytes) -> tuple[int, Headers, bytes]:
        method: str = scope["method"]
        raw_path: bytes = scope["raw_path"]
        if method not in WRITE_METHODS and method not in ("GET", "HEAD"):
            raise UnknownRoute(f"no document takes the method {method[:32]}", allow=ALLOWED)
        query = _query(scope["query_string"])
        headers = _headers(scope["headers"])
        space, key, path = _place(raw_path)
        principal, by_referer = self._principal(scope, headers, query)
        if path is None:
            if method in ("GET", "HEAD"):
                return _redirect(raw_path + b"/", scope["query_string"])
            path = "/"
        if by_referer and method == "GET" and headers.get("sec-fetch-dest") in NAMES_OTHERS:
            own = [scope["query_string"]] if scope["query_string"] else []
            return _redirect(raw_path, b"&".join([*own, b"as=" + quote(principal).encode()]))
        if method in ("GET", "HEAD") and (hash := _blob_named(path)):
            blob = await self._calls.run(Operation(0, Kind.READ.value, space, key, principal, hash), None)
            if isinstance(blob, Failure):
                return error_answer(NOT_FOUND if blob.reason in HIDDEN else blob)
            return _file(hash, blob, headers)
        seen = {name: value for name, value in headers.items() if name in REQUEST_HEADERS}
        media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        request = Request("GET" if method == "HEAD" else method, path, query, seen, body, media_type)
        # what this finds would be found behind the gate too; from here it is told for every document alike
        payload = encoded(checked(_decode(encoded(request))))
        operation = Operation(0, Kind.READ.value, space, key, principal, HTTP_CHANNEL, payload)
        if method in WRITE_METHODS:
            operation.kind = Kind.SEND.value
            operation.session = scoped_idempotency_key(principal, _idempotency_key(headers))
        outcome = await self._calls.run(operation, None)
        if isinstance(outcome, Failure):
            return error_answer(await self._shown(outcome, operation))
        return _response(outcome, headers, reads=operation.kind == Kind.READ)

    def _principal(self, scope: Scope, headers: Mapping[str, str], query: dict[str, str]) -> tuple[str, bool]:
        """Who asks, and whether that was said only by the page that has it asked: a browser tells no more of what a page names.
        Raises Unauthenticated."""
        said = {text for text in (headers.get(PRINCIPAL_METADATA), query.pop(AS, None)) if text is not None}
        if len(said) > 1:
            raise Unauthenticated(f"{PRINCIPAL_METADATA} and ?{AS}= name different principals")
        by_referer = not said
        if by_referer:
            said = _named_by_referer(headers)
        client = scope.get("client") or ("", 0)
        family = "ipv6" if ":" in client[0] else "ipv4"
        peer = f"{family}:[{client[0]}]:{client[1]}" if family == "ipv6" else f"{family}:{client[0]}:{client[1]}"
        return self._identity.authenticate(peer, [(PRINCIPAL_METADATA, text) for text in said]), by_referer

    async def _shown(self, failure: Failure, operation: Operation) -> Failure:
        """What is told of a failure: to whom the document does not admit nothing that another document would not say."""
        if operation.kind == Kind.SEND and failure.reason in _JUDGED_BEFORE_THE_GATE:
            # a read of the path is answered by the gate first; of one that writes it says what the path takes
            asked = Operation(0, Kind.READ.value, operation.space, operation.key, operation.principal, HTTP_CHANNEL)
            asked.payload = operation.payload
            said = await self._calls.run(asked, None)
            if isinstance(said, Failure) and (said.reason in HIDDEN or failure.reason == UnknownRoute.reason):
                failure = said
        if failure.reason in HIDDEN or (failure.reason == UnknownRoute.reason and not failure.details.get("allow")):
            return NOT_FOUND
        return failure


def _place(raw_path: bytes) -> tuple[str, str, str | None]:
    """Space, key and the path behind them, None when there is not even a slash. Raises InvalidName, InvalidRequest or
    TooLarge."""
    if len(raw_path) > PATH_BYTES_MAX:
        raise TooLarge(f"a path has at most {PATH_BYTES_MAX} bytes", limit="request_path_bytes_max")
    parts = []
    for part in raw_path.split(b"/")[1:]:
        try:
            parts.append(unquote_to_bytes(part).decode("utf-8"))
        except UnicodeDecodeError:
            raise InvalidRequest("the path is not UTF-8") from None
    if len(parts) < 2:
        raise InvalidName("a path is /SPACE/KEY/...")
    space, key, *rest = parts
    check_space(space)
    check_key(key)
    if any("/" in part or part in (".", "..") or any(character < " " for character in part) for part in rest):
        raise InvalidRequest("a part of the path has a slash or a control character in it, or is . or ..")
    return space, key, "/" + "/".join(rest) if rest else None


def _query(query_string: bytes) -> dict[str, str]:
    try:
        return fields_of(query_string)
    except BadRequest as error:
        raise InvalidRequest(f"the query: {error.args[0]}") from None


def _headers(given: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """By name in lower case; what came several times in one, as the protocol means it."""
    headers: dict[str, str] = {}
    for name, value in given:
        text, known = value.decode("latin-1"), name.decode("latin-1")
        headers[known] = f"{headers[known]}, {text}" if known in headers else text
    return headers


def _named_by_referer(headers: Mapping[str, str]) -> set[str]:
    """Whom the page that a request comes from was for, if it is one of this server."""
    origin, slash, rest = headers.get("referer", "").partition(headers.get("host", "/") + "/")
    if origin != "http://" or not slash:
        return set()
    try:
        named = fields_of(rest.partition("?")[2].partition("#")[0].encode("latin-1")).get(AS)
    except BadRequest:
        return set()
    return set() if named is None else {named}


def _idempotency_key(headers: Mapping[str, str]) -> bytes:
    """As the client named it, or one of our own under which only this gateway repeats. Raises TooLarge."""
    key = headers.get("idempotency-key", "").encode("latin-1")
    if len(key) > IDEMPOTENCY_KEY_BYTES_MAX:
        raise TooLarge(f"an Idempotency-Key has at most {IDEMPOTENCY_KEY_BYTES_MAX} bytes", limit="request_header_bytes_max")
    return b"http " + key if key else os.urandom(IDEMPOTENCY_KEY_BYTES_MADE)


def _blob_named(path: str) -> str:
    """The hash of the blob that a path is of, "" if it is of none."""
    first, _, hash = path[1:].partition("/")
    return hash if first == BLOB and is_blob_hash(hash) else ""


def _file(hash: str, reply: Reply, asked: Mapping[str, str]) -> tuple[int, Headers, bytes]:
    """A blob. Pictures are shown; what could run is only saved: it would run with the rights of the document's own pages."""
    data, media_type = blob_of(reply.payload)
    tag = f'"{hash}"'.encode()
    headers = [(b"etag", tag), (b"cache-control", b"private, no-cache")]
    if tag in asked.get("if-none-match", "").encode("latin-1").split(b", "):
        return 304, headers, b""
    if media_type in PICTURES:
        headers.append((b"content-type", media_type.encode("ascii")))
    else:
        name = f'attachment; filename="{hash[:12]}"'.encode()
        headers += [(b"content-type", b"application/octet-stream"), (b"content-disposition", name)]
    headers.append((b"content-length", b"%d" % len(data)))
    return 200, headers, data


def _redirect(raw_path: bytes, query: bytes) -> tuple[int, Headers, bytes]:
    """To another spelling of what was asked for."""
    location = b"/" + raw_path.lstrip(b"/") + (b"?" + query if query else b"")
    return 307, [(b"location", location), (b"content-length", b"0"), (b"cache-control", b"no-store")], b""


def _response(reply: Reply, asked: Mapping[str, str], *, reads: bool) -> tuple[int, Headers, bytes]:
    """What a handler answered, as HTTP. What is read has a tag, so that who has it is told so."""
    plain: dict[str, Any] = _decode(reply.payload)
    status: int = plain["status"]
    said: dict[str, str] = plain.get("headers", {})
    body = body_of(plain)
    headers = [(name.encode(), value.encode("ascii")) for name, value in said.items()]
    headers.append((b"moot-position", b"%d.%d" % (reply.epoch, reply.index)))
    if "cache-control" not in said:
        headers.append((b"cache-control", b"private, no-cache" if reads else b"no-store"))
    if reads and status == 200 and "etag" not in said:
        tag = '"' + blake2b(body, digest_size=TAG_BYTES, person=b"moot body").hexdigest() + '"'
        headers.append((b"etag", tag.encode()))
        if tag in asked.get("if-none-match", "").split(", "):
            return 304, headers, b""
    if status in (204, 304):
        return status, headers, b""
    if media_type := plain.get("media_type", ""):
        headers.append((b"content-type", media_type.encode("ascii")))
    headers.append((b"content-length", b"%d" % len(body)))
    return status, headers, body
