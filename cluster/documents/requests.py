"""HTTP as documents see it: `Request`, `Response`, and the JSON in which both travel and are logged.

A request is a payload like any other: what is not in it, no handler can observe, so a replay sees what the command saw. Of the
headers only a few are in it, none of them with secrets. Text is kept as text, so that a document's log can be read.

Invariant: a request has one canonical form, `canonical(parsed(x))`, and everything computed from it here (forms, JSON, text)
is the same on every Python. It knows no sockets: the edge makes these from what it reads (gateway/http.py).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from cluster.documents import payload as json
from cluster.documents.meter import charge, charge_items
from cluster.documents.methods import TYPES_BY_GUARD
from cluster.documents.state import Refused, state_type
from cluster.documents.textual import AUTHORED
from cluster.errors import InvalidName, InvalidPayload, TooLarge

T = TypeVar("T")

REQUEST_BODY_BYTES_MAX: Final = 256 * 1024
REQUEST_PATH_BYTES_MAX: Final = 1024
"""Of the path behind the document's key."""
REQUEST_QUERY_BYTES_MAX: Final = 8 * 1024
"""Names and values together."""
REQUEST_HEADER_BYTES_MAX: Final = 2 * 1024
"""Of one header that documents see."""
MEDIA_TYPE_BYTES_MAX: Final = 256
FORM_FIELDS_MAX: Final = 1000
JSON_DEPTH_MAX: Final = 32

READ_METHODS: Final = ("GET",)
WRITE_METHODS: Final = ("POST", "PUT", "PATCH", "DELETE")
REQUEST_HEADERS: Final = (
    "accept", "accept-language", "ce-id", "ce-source", "ce-specversion", "ce-subject", "ce-time", "ce-type",
    "content-language", "if-match", "if-none-match", "prefer",
)  # fmt: skip
"""What of a request's headers is logged and shown to handlers: what negotiates, and the attributes of a CloudEvent. Never what
says who somebody is."""
RESPONSE_HEADERS: Final = (
    "cache-control", "content-disposition", "content-language", "etag", "last-modified", "link", "location",
    "preference-applied", "retry-after",
)  # fmt: skip
"""What a handler may say beside status, media type and body."""

JSON_MEDIA_TYPE: Final = "application/json"
FORM_MEDIA_TYPE: Final = "application/x-www-form-urlencoded"
TEXT_MEDIA_TYPE: Final = "text/plain; charset=utf-8"
BYTES_MEDIA_TYPE: Final = "application/octet-stream"

_MEMBERS: Final = ("method", "path", "query", "headers", "media_type", "text", "bytes")
_HEXADECIMAL: Final = {f"{number:02x}": number for number in range(256)}
_KEPT_AS_TEXT: Final = frozenset("\t\n\r")
"""Control characters in what is still text: any other would be six bytes of JSON for one."""


class BadRequest(Refused):
    """The request can not be read as what the handler takes. Answered as 400, where other refusals are 409."""

    def __init__(self, message: str = "the request can not be read") -> None:
        super().__init__(message)
        setattr(self, AUTHORED, True)  # what it says is shown: all who make one say the same in every Python


@dataclass(frozen=True, slots=True)
class Request:
    """What an HTTP handler is given.

    method: GET, POST, PUT, PATCH or DELETE. path: behind the document's key, decoded, "/" for the document itself. query: by
    name; of one that is repeated the last value counts. headers: those of a fixed list that were sent, in lower case. body: as
    sent. media_type: of the body, in lower case and without parameters; empty when none was said.
    """

    method: str
    path: str = "/"
    query: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    media_type: str = ""

    def text(self) -> str:
        """The body as UTF-8. Raises BadRequest."""
        charge_items(len(self.body))
        try:
            return self.body.decode("utf-8")
        except UnicodeDecodeError:
            raise BadRequest("the body is not UTF-8") from None

    def form(self) -> dict[str, str]:
        """The fields of an HTML form (application/x-www-form-urlencoded). Raises BadRequest."""
        if self.media_type != FORM_MEDIA_TYPE:
            raise BadRequest(f"the body is no form: {self.media_type or 'it has no media type'}")
        charge(len(self.body))
        return fields_of(self.body)

    def json(self, kind: type[T]) -> T:
        """The body as a value of a type of the state: a Record, a frozen dataclass, `dict[str, int]`. Raises BadRequest."""
        wanted = state_type(TYPES_BY_GUARD.get(kind, kind), owner=Request)
        charge(1 + len(self.body) // 4)
        try:
            given = json.parse(b'{"value":%b}' % self.body, bytes_max=len(self.body) + 16, depth_max=JSON_DEPTH_MAX)
        except (InvalidPayload, TooLarge):
            # not in the words of a parser, which may be others in the next Python: what is answered is replayed
            raise BadRequest("the body is not JSON") from None
        try:
            value: T = wanted.from_json(given["value"] if given.keys() == {"value"} else None)
        except (TypeError, ValueError, InvalidName):
            raise BadRequest(f"the body does not fit {wanted.name}") from None
        return value


@dataclass(frozen=True, slots=True)
class Response:
    """What an HTTP handler answers. Raises TypeError or ValueError for what can not be sent.

    body: text, or bytes. status: 200 to 599. media_type: `text/plain; charset=utf-8` for text unless it says otherwise, such as
    `text/html; charset=utf-8`. headers: of a fixed list: cache-control, content-disposition, content-language, etag,
    last-modified, link, location, preference-applied, retry-after.
    """

    body: str | bytes = ""
    status: int = 200
    media_type: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.body, str | bytes):
            raise TypeError("the body of a Response is str or bytes")
        if type(self.status) is not int or not 200 <= self.status <= 599:
            raise ValueError("the status of a Response is a number from 200 to 599")
        charge_items(8 + len(self.body))
        headers = dict(self.headers)
        for name, value in headers.items():
            if name not in RESPONSE_HEADERS:
                raise ValueError(f"a Response has no header {name!r}; it has {', '.join(RESPONSE_HEADERS)}")
            if not _is_header(value):
                raise ValueError(f"the header {name} is not printable ASCII of at most {REQUEST_HEADER_BYTES_MAX} characters")
        if not _is_media_type(self.media_type):
            raise ValueError("a media type is written like text/html; charset=utf-8")
        object.__setattr__(self, "headers", headers)


def _is_header(value: object) -> bool:
    if not isinstance(value, str) or len(value) > REQUEST_HEADER_BYTES_MAX:
        return False
    return value.isascii() and value.isprintable()


def _is_media_type(value: object) -> bool:
    if value == "":
        return True
    if not isinstance(value, str) or not _is_header(value) or len(value) > MEDIA_TYPE_BYTES_MAX:
        return False
    kind, slash, rest = value.partition(";")[0].strip().partition("/")
    return bool(slash) and all(part and not set(part) & set(' ()<>@,;:\\"/[]?=') for part in (kind, rest))


def fields_of(body: bytes) -> dict[str, str]:
    """The fields of an encoded form or query; of one that is repeated the last counts. Raises BadRequest."""
    if body.count(b"&") >= FORM_FIELDS_MAX:
        raise BadRequest(f"a form has at most {FORM_FIELDS_MAX} fields")
    found = {}
    for part in body.split(b"&"):
        if part:
            name, _, value = part.partition(b"=")
            found[_unquoted(name)] = _unquoted(value)
    return found


def _unquoted(quoted: bytes) -> str:
    """Percent-decoded, with + for a space. Written out, because what a library makes of broken input may change."""
    first, *rest = quoted.replace(b"+", b" ").split(b"%")
    plain = bytearray(first)
    for part in rest:
        number = _HEXADECIMAL.get(part[:2].decode("latin-1").lower())
        if number is None:
            raise BadRequest("a % of the form is followed by something else than two hexadecimal digits")
        plain.append(number)
        plain += part[2:]
    try:
        return plain.decode("utf-8")
    except UnicodeDecodeError:
        raise BadRequest("the form is not UTF-8") from None


# as JSON


def encoded(request: Request) -> bytes:
    """The payload of a request: what the edge sends."""
    return json.encode(_plain(request))


def _plain(request: Request) -> dict[str, Any]:
    plain: dict[str, Any] = {"method": request.method, "path": request.path}
    if request.query:
        plain["query"] = dict(sorted(request.query.items()))
    if request.headers:
        plain["headers"] = dict(sorted(request.headers.items()))
    if request.media_type:
        plain["media_type"] = request.media_type
    return plain | content(request.body)


def content(body: str | bytes) -> dict[str, str]:
    """The member in which a body travels: `text` where it is text, `bytes` where it is not, none for an empty one."""
    if not body:
        return {}
    if isinstance(body, bytes):
        try:
            text = body.decode("utf-8")
        except UnicodeDecodeError:
            text = ""
    else:
        text = body
    # the same characters in every Python: what Unicode calls printable is not
    if not text or any(character < " " and character not in _KEPT_AS_TEXT for character in set(text)):
        raw = body if isinstance(body, bytes) else body.encode("utf-8")
        return {"bytes": base64.b64encode(raw).decode()}
    return {"text": text}


def body_of(plain: Mapping[str, Any]) -> bytes:
    """The body that `content` wrote."""
    if "bytes" in plain:
        return base64.b64decode(plain["bytes"])
    text: str = plain.get("text", "")
    return text.encode("utf-8")


def canonical(given: Mapping[str, object]) -> bytes:
    """The one spelling of a request's payload. Raises InvalidPayload or TooLarge."""
    return encoded(checked(given))


def checked(given: Mapping[str, object]) -> Request:
    """The request of a decoded payload. Raises InvalidPayload, or TooLarge with the limit that it exceeds."""
    for name in given:
        if name not in _MEMBERS:
            raise InvalidPayload(f"a request has no {name!r}")
    method, path, media_type = given.get("method"), given.get("path"), given.get("media_type", "")
    if method not in READ_METHODS and method not in WRITE_METHODS:
        raise InvalidPayload(f"no document takes the method {method!r}")
    if not isinstance(path, str) or not path.startswith("/"):
        raise InvalidPayload("the path of a request begins with /")
    if len(path.encode()) > REQUEST_PATH_BYTES_MAX:
        raise TooLarge(f"a path has at most {REQUEST_PATH_BYTES_MAX} bytes", limit="request_path_bytes_max")
    if not isinstance(media_type, str) or not _is_media_type(media_type):
        raise InvalidPayload("the media type of the body is none")
    query, headers = _texts(given, "query"), _texts(given, "headers")
    if sum(len(name.encode()) + len(value.encode()) for name, value in query.items()) > REQUEST_QUERY_BYTES_MAX:
        raise TooLarge(f"a query has at most {REQUEST_QUERY_BYTES_MAX} bytes", limit="request_query_bytes_max")
    for name, value in headers.items():
        if name not in REQUEST_HEADERS:
            raise InvalidPayload(f"documents see no header {name!r}")
        if len(value) > REQUEST_HEADER_BYTES_MAX:
            raise TooLarge(f"{name} has at most {REQUEST_HEADER_BYTES_MAX} bytes", limit="request_header_bytes_max")
        if not _is_header(value):
            raise InvalidPayload(f"the header {name} is not printable ASCII")
    body = _checked_body(given)
    if len(body) > REQUEST_BODY_BYTES_MAX:
        raise TooLarge(f"a body has at most {REQUEST_BODY_BYTES_MAX} bytes", limit="request_body_bytes_max")
    return Request(str(method), path, query, headers, body, media_type)


def _texts(given: Mapping[str, object], member: str) -> dict[str, str]:
    texts = given.get(member, {})
    if not isinstance(texts, dict) or not all(isinstance(value, str) for value in texts.values()):
        raise InvalidPayload(f"the {member} of a request are texts by name")
    return dict(sorted(texts.items()))


def _checked_body(given: Mapping[str, object]) -> bytes:
    text, raw = given.get("text", ""), given.get("bytes", "")
    if not isinstance(text, str) or not isinstance(raw, str) or (text and raw):
        raise InvalidPayload("the body of a request is `text`, or `bytes` in base64")
    try:
        return base64.b64decode(raw, validate=True) if raw else text.encode("utf-8")
    except (binascii.Error, ValueError):
        raise InvalidPayload("the `bytes` of a request are not base64") from None


def decoded(payload: bytes) -> Request:
    """The request of a canonical payload. Nothing is looked at again."""
    plain: dict[str, Any] = json.decode(payload)
    return Request(
        plain["method"],
        plain["path"],
        plain.get("query", {}),
        plain.get("headers", {}),
        body_of(plain),
        plain.get("media_type", ""),
    )


def answered(response: Response) -> dict[str, Any]:
    """The JSON form of a response."""
    plain: dict[str, Any] = {"status": response.status}
    default = "" if not response.body else TEXT_MEDIA_TYPE if isinstance(response.body, str) else BYTES_MEDIA_TYPE
    if media_type := response.media_type or default:
        plain["media_type"] = media_type
    if response.headers:
        plain["headers"] = dict(sorted(response.headers.items()))
    return plain | content(response.body)
