"""HTTP in tests: `alice.http.get("/feed")` runs the handler that a node would, and gives what it answered.

What the edge of a node does is left out: principals are those of the visitors, and refusals and errors are raised, not told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote_plus

import msgspec

from cluster.documents.requests import FORM_MEDIA_TYPE, JSON_MEDIA_TYPE, Request, body_of, checked, encoded

Run = Callable[[str, bytes], dict[str, Any]]
"""Runs a request, given its method and payload; returns what answers it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What an HTTP handler answered, or what was found below /static/."""

    status: int
    body: bytes = b""
    media_type: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return msgspec.json.decode(self.body)


class Http:
    """The requests of one visitor. Every call raises the class's refusals, HandlerFailed, BudgetExceeded, PermissionDenied,
    UnknownRoute where nothing takes the request, and TooLarge."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        """Read what is at a path behind the document's own, with its query: `/notes?page=2`."""
        return self.request("GET", path, headers=headers)

    def post(
        self,
        path: str,
        *,
        json: object = None,
        form: Mapping[str, str] | None = None,
        body: bytes = b"",
        media_type: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a body: as JSON, as a form, or as it is."""
        return self.request("POST", path, json=json, form=form, body=body, media_type=media_type, headers=headers)

    def request(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        form: Mapping[str, str] | None = None,
        body: bytes = b"",
        media_type: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Any request. See `post`."""
        if json is not None:
            body, media_type = msgspec.json.encode(json), JSON_MEDIA_TYPE
        elif form is not None:
            body = "&".join(f"{quote_plus(name)}={quote_plus(value)}" for name, value in form.items()).encode()
            media_type = FORM_MEDIA_TYPE
        where, _, query = path.partition("?")
        given = {name.lower(): value for name, value in (headers or {}).items()}
        request = Request(method, where, dict(parse_qsl(query, keep_blank_values=True)), given, body, media_type)
        payload = encoded(checked(msgspec.json.decode(encoded(request))))
        answer = self._run(method, payload)
        return Answer(answer["status"], body_of(answer), answer.get("media_type", ""), answer.get("headers", {}))
