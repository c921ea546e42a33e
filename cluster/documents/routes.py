"""HTTP handlers as a class declares them: `@read.http("/feed")` and `@on.http("/hook")`.

A path is made of parts, each text or a name in braces: "/posts/{number}". What stands for a name is given to the handler's
parameter of that name, as str or int. Of paths that fit, text is preferred to names, from the left.

Invariant: which handler takes a request follows from its method and path alone, and at most one does. Nothing here runs a
handler: writes are channels (instance.py), reads are run by responding.py.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from cluster.documents import payload as json
from cluster.documents.channels import Channel
from cluster.documents.context import Command
from cluster.documents.declare import Mark
from cluster.documents.hooks import Refuse
from cluster.documents.requests import (
    JSON_MEDIA_TYPE,
    READ_METHODS,
    TEXT_MEDIA_TYPE,
    WRITE_METHODS,
    Request,
    Response,
    answered,
    checked,
    decoded,
)
from cluster.documents.runtime import HTTP_CHANNEL
from cluster.documents.sight import Ask, Lens, lens_of
from cluster.documents.state import StateType
from cluster.documents.static import STATIC, StaticFile
from cluster.errors import UnknownRoute
from cluster.ids import Principal

ROUTES_MAX: Final = 256
PARTS_MAX: Final = 16
BLOB: Final = "-blob"
"""Below it the edge gives a document's files, by their hashes, to those whose view shows them."""
RESERVED: Final = {STATIC: "the files of the bundle", BLOB: "the files of the document's state"}
_PART: Final = re.compile(r"[A-Za-z0-9._~-]{1,64}\Z")
_NAMED: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]{0,62})\}\Z")
_INTEGER: Final = re.compile(r"-?[0-9]{1,18}\Z", re.ASCII)
_TAKES_READ: Final = "(self, who: Principal, request: Request)"
_TAKES_WRITE: Final = "(self, ctx: Command, request: Request)"


class Body(StateType):
    """What an HTTP handler returns, as what is answered. shown: the type of what is answered as JSON; None for text, and for a
    Response, which says it all itself.
    """

    __slots__ = ("kind", "shown")

    def __init__(self, kind: type | None, shown: StateType | None) -> None:
        super().__init__("Response" if shown is None else shown.name)
        self.kind = kind
        self.shown = shown

    def admit(self, value: Any, depth: int = 0) -> Any:
        """See StateType."""
        if self.shown is not None:
            return self.shown.admit(value, depth)
        if self.kind is None:
            if value is not None:
                raise TypeError(f"the handler answers nothing, but returned {type(value).__name__}")
            return Response(status=204)
        if not isinstance(value, self.kind):
            raise TypeError(f"the handler answers {self.kind.__name__}, but returned {type(value).__name__}")
        return Response(value) if isinstance(value, str) else value

    def to_json(self, value: Any) -> Any:
        """See StateType."""
        return answered(value) if self.shown is None else as_json(self.shown.to_json(value))

    def json_schema(self, definitions: dict[str, Any]) -> dict[str, Any]:
        """JSON Schema of a body of JSON; of others what is known of them."""
        if self.shown is not None:
            return {"contentMediaType": JSON_MEDIA_TYPE, "contentSchema": self.shown.json_schema(definitions)}
        return {"contentMediaType": TEXT_MEDIA_TYPE} if self.kind is str else {}


def as_json(shown: object) -> dict[str, Any]:
    """What answers with a body of JSON."""
    return {"status": 200, "media_type": JSON_MEDIA_TYPE, "text": json.encode(shown).decode()}


class _ThroughLens:
    """Shows what a handler returned, without what is hidden, as what is answered."""

    __slots__ = ("_lens", "by_policy")

    def __init__(self, lens: Lens) -> None:
        self._lens = lens
        self.by_policy = lens.by_policy

    def show(self, value: Any, ask: Ask) -> Any:
        """See Lens."""
        return as_json(self._lens.show(value, ask))


class Route(Channel):
    """One handler. It is a channel that no client can name: what is sent to HTTP_CHANNEL is a request, and says which.

    method, path: as declared. parts: of the path; a name in braces as (name, whether it is a number). given: which of `who` and
    `request` the handler takes.
    """

    __slots__ = ("given", "method", "parts", "path")

    def __init__(
        self,
        function: Callable[..., Any],
        method: str,
        path: str,
        parts: tuple[str | tuple[str, bool], ...],
        given: frozenset[str],
        body: Body,
        allow: Callable[..., bool] | None,
    ) -> None:
        super().__init__(HTTP_CHANNEL, function, (), body, allow)
        inner = None if body.shown is None else lens_of(body.shown)
        self.lens = None if inner is None else _ThroughLens(inner)
        self.method = method
        self.path = path
        self.parts = parts
        self.given = given

    @property
    def shape(self) -> tuple[str, ...]:
        """Of the path: routes of one shape take the same requests."""
        return tuple(part if isinstance(part, str) else "{}" for part in self.parts)

    def fits(self, parts: list[str]) -> bool:
        """Whether a path of these parts is of this route."""
        if len(parts) != len(self.parts):
            return False
        return all(_fits(wanted, part) for wanted, part in zip(self.parts, parts, strict=True))

    def arguments_of(self, request: Request) -> dict[str, Any]:
        """What the handler is called with, beside the document and `ctx` or `who`."""
        arguments: dict[str, Any] = {"request": request} if "request" in self.given else {}
        for wanted, part in zip(self.parts, parts_of(request.path), strict=True):
            if not isinstance(wanted, str):
                name, number = wanted
                arguments[name] = int(part) if number else part
        return arguments

    def arguments(self, payload: bytes) -> dict[str, Any]:
        """See Channel: of a write."""
        return self.arguments_of(decoded(payload))

    def schema(self, definitions: dict[str, Any]) -> dict[str, Any]:
        """How the route is called and what it answers."""
        named = {part[0]: {"type": "integer" if part[1] else "string"} for part in self.parts if not isinstance(part, str)}
        assert isinstance(self.result, Body)
        answer = self.result.json_schema(definitions)
        return {"method": self.method, "path": self.path, "parameters": named, "answer": answer}


def _fits(wanted: str | tuple[str, bool], part: str) -> bool:
    if isinstance(wanted, str):
        return part == wanted
    return bool(_INTEGER.match(part)) if wanted[1] else bool(part)


def parts_of(path: str) -> list[str]:
    """The parts of a path; none of "/"."""
    return path[1:].split("/") if path != "/" else []


class Routes:
    """All HTTP handlers of a class, and the files of its bundle that are served as they are. files: by path."""

    __slots__ = ("all", "files")

    def __init__(self) -> None:
        self.all: list[Route] = []
        self.files: Mapping[str, StaticFile] = {}

    def add(self, route: Route) -> str:
        """Take a route; returns why not, if it can not be taken."""
        for known in self.all:
            if known.method == route.method and known.shape == route.shape:
                return f"{route.method} {route.path} is taken by {known.function.__name__} already"
        if len(self.all) >= ROUTES_MAX:
            return f"a class has at most {ROUTES_MAX} HTTP handlers"
        self.all.append(route)
        self.all.sort(key=lambda one: [(not isinstance(part, str), str(part)) for part in one.parts])
        return ""

    def route_of(self, request: Request) -> Route:
        """Who takes a request. Raises UnknownRoute."""
        parts = parts_of(request.path)
        found = next((route for route in self.all if route.method == request.method and route.fits(parts)), None)
        if found is None:
            raise self.unknown(request)
        return found

    def unknown(self, request: Request) -> UnknownRoute:
        """That nothing takes a request; `allow` in it says which methods its path has, if it has some."""
        parts = parts_of(request.path)
        methods = {route.method for route in self.all if route.fits(parts)}
        if request.path in self.files:
            methods.add("GET")
        if "GET" in methods:
            methods.add("HEAD")
        return UnknownRoute(f"nothing of the document takes {request.method} {request.path}", allow=", ".join(sorted(methods)))

    def check(self, given: Mapping[str, object]) -> Request:
        """The request that a write brings. Raises InvalidPayload, TooLarge or UnknownRoute."""
        request = checked(given)
        if request.method not in WRITE_METHODS:
            raise self.unknown(request)
        self.route_of(request)
        return request

    def of_payload(self, payload: bytes) -> Route:
        """The route of a write whose payload `check` let pass."""
        return self.route_of(decoded(payload))


def read_route(
    function: Callable[..., Any],
    mark: Mark,
    hints: dict[str, Any],
    type_of_result: Callable[[], StateType | None],
    refuse: Refuse,
) -> Route | None:
    """One handler as it is declared, or None when it was refused. type_of_result: of what is answered as JSON; it refuses."""
    writes = mark.kind == "write-http"
    if mark.method not in (WRITE_METHODS if writes else READ_METHODS):
        refuse("http-route", f"no handler takes the method {mark.method!r}", f"use one of {', '.join(WRITE_METHODS)}")
        return None
    names = _path(mark.path, refuse)
    if names is None:
        return None
    taken = _parameters(function, hints, names, writes, refuse)
    if taken is None:
        return None
    numbers, given = taken
    body = _body(hints, type_of_result, refuse)
    if body is None:
        return None
    parts = tuple(part if name is None else (name, name in numbers) for part, name in names)
    return Route(function, mark.method, mark.path, parts, given, body, mark.allow)


def _path(path: object, refuse: Refuse) -> list[tuple[str, str | None]] | None:
    """The parts of a declared path, each with the name that it stands for, if it does."""
    fix = 'write it like "/posts/{number}": parts of letters, digits and ._~-, or a name in braces'
    if not isinstance(path, str) or not path.startswith("/"):
        refuse("http-route", "the path of an HTTP handler begins with /", fix)
        return None
    parts: list[tuple[str, str | None]] = []
    for part in parts_of(path):
        named = _NAMED.match(part)
        if named is None and (not _PART.match(part) or part in (".", "..")):
            refuse("http-route", f"the path {path!r} has a part {part!r}", fix)
            return None
        parts.append((part, None if named is None else named[1]))
    if len(parts) > PARTS_MAX:
        refuse("http-route", f"the path {path!r} has more than {PARTS_MAX} parts", "use the query")
        return None
    if parts and parts[0][0] in RESERVED:
        refuse("http-route", f"below /{parts[0][0]} there are {RESERVED[parts[0][0]]}", "choose another path")
        return None
    return parts


def _parameters(
    function: Callable[..., Any], hints: dict[str, Any], names: list[tuple[str, str | None]], writes: bool, refuse: Refuse
) -> tuple[frozenset[str], frozenset[str]] | None:
    """Which named parts are numbers, and which of `who` and `request` the handler takes."""
    takes = _TAKES_WRITE if writes else _TAKES_READ
    parameters = list(inspect.signature(function).parameters.values())[1:]
    given = set()
    if writes:
        if not parameters or hints.get(parameters[0].name) is not Command:
            refuse("signature", f"an HTTP handler that writes takes {takes} and the names of its path", "add the parameter")
            return None
        parameters = parameters[1:]
    elif parameters and parameters[0].name == "who" and hints.get("who") is Principal:
        given.add("who")
        parameters = parameters[1:]
    wanted = [name for _, name in names if name is not None]
    numbers = set()
    for parameter in parameters:
        kind = hints.get(parameter.name)
        if parameter.name == "request" and kind is Request and "request" not in wanted:
            given.add("request")
        elif parameter.name not in wanted or kind not in (str, int):
            reason = f"{parameter.name} is neither `request: Request` nor, as str or int, a name of the path"
            refuse("signature", reason, f"take {takes} and the names of the path")
            return None
        elif kind is int:
            numbers.add(parameter.name)
    missing = [name for name in wanted if name not in {parameter.name for parameter in parameters}]
    if missing or len(set(wanted)) < len(wanted):
        reason = f"the handler has no parameter {missing[0]}" if missing else "a name is in the path twice"
        refuse("http-route", f"{reason}, and the path names it", "take every name of the path, each once")
        return None
    return frozenset(numbers), frozenset(given)


def _body(hints: dict[str, Any], type_of_result: Callable[[], StateType | None], refuse: Refuse) -> Body | None:
    """What the handler answers."""
    if "return" not in hints:
        refuse("annotation", "the result has no type", "write `-> Response`, `-> str`, `-> None` or what is answered as JSON")
        return None
    result = hints["return"]
    if result is type(None):
        return Body(None, None)
    if result in (Response, str):
        return Body(result, None)
    shown = type_of_result()
    return None if shown is None else Body(None, shown)
