"""Running `@read.http` handlers, and serving the files of a bundle.

A read is answered as a view is made: with full sight, by the state of one position, within the budget of a command, and it can
not write. The gate was asked before.

Invariant: nothing that a read does changes the state or is stored.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Final

from cluster.documents import payload as json
from cluster.documents.meter import Exhausted
from cluster.documents.refusing import refusal_body
from cluster.documents.requests import Request, checked
from cluster.documents.routes import Route, Routes
from cluster.documents.sizes import measure
from cluster.documents.state import Refused
from cluster.documents.static import StaticFile
from cluster.errors import BudgetExceeded, HandlerFailed, HandlerRefused
from cluster.ids import Principal

if TYPE_CHECKING:
    from cluster.documents.runtime import Settings
    from cluster.documents.views import Viewing

NOT_MODIFIED: Final = 304


def respond(viewing: Viewing, routes: Routes, settings: Settings, who: Principal, payload: bytes) -> bytes:
    """The answer to a request that reads, as JSON. Raises InvalidPayload, TooLarge, UnknownRoute, HandlerRefused, HandlerFailed
    or BudgetExceeded."""
    given = json.parse(payload, bytes_max=settings.payload_bytes_max, depth_max=settings.payload_depth_max)
    request = checked(given)
    if request.method != "GET":
        raise routes.unknown(request)
    if (file := routes.files.get(request.path)) is not None:
        return _file(file, request)
    route = routes.route_of(request)
    answer = _run(viewing, route, who, request)
    if len(answer) > settings.answer_bytes_max:
        raise _exhausted("answer")
    return answer


def _run(viewing: Viewing, route: Route, who: Principal, request: Request) -> bytes:
    def make() -> bytes:
        document, kind = viewing.document, route.result
        assert kind is not None, "every HTTP handler answers something"
        given = route.arguments_of(request)
        result = route.function(document, who, **given) if "who" in route.given else route.function(document, **given)
        measure(result)
        admitted = kind.admit(result)
        shown: Any = kind.to_json(admitted) if route.lens is None else viewing.shown_to(route.lens, admitted, who)
        return json.encode(shown)

    answer, _, error = viewing.attempt(make)
    if error is None:
        assert isinstance(answer, bytes)
        return answer
    if isinstance(error, Exhausted):
        raise _exhausted(error.limit)
    if isinstance(error, Refused):
        try:
            body = refusal_body(error)
            arguments = json.encode(body["arguments"]).decode()
        except (TypeError, ValueError, UnicodeEncodeError) as unplain:
            error = unplain
        else:
            raise HandlerRefused(body["message"], name=body["name"], arguments=arguments)
    error_id = viewing.failed(f"http {route.method} {route.path}", error)
    raise HandlerFailed("the document's code failed", error_id=error_id)


def _exhausted(limit: str) -> BudgetExceeded:
    return BudgetExceeded(f"the handler exceeded its budget of {limit}", limit=limit)


def _file(file: StaticFile, request: Request) -> bytes:
    """A file of the bundle. Who asks for it by its tag (`?v=`) never needs to ask again."""
    tag = f'"{file.tag}"'
    forever = request.query.get("v") == file.tag
    headers = {"cache-control": "private, max-age=31536000, immutable" if forever else "private, no-cache", "etag": tag}
    if tag in request.headers.get("if-none-match", "").split(", "):
        return json.encode({"status": NOT_MODIFIED, "headers": headers})
    content = base64.b64encode(file.content).decode()
    return json.encode({"status": 200, "media_type": file.media_type, "headers": headers, "bytes": content})
