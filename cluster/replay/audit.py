"""What a viewer could not have learnt, shown by replay.

One command of the history is given another content, everything is run again, and all that reached the viewer is compared,
position by position, byte by byte. What stays the same can not have told the difference. Views and exports run with full sight:
they are what an author lets out of private fields on purpose, so an audit names them.

It does not prove that nothing can be learnt from other secrets, nor from time: it tries the change that it is given.
"""

from __future__ import annotations

import base64
import copy
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import urlencode

import msgspec

from cluster.documents.instance import DocumentInstance
from cluster.documents.program import DocumentProgram
from cluster.documents.requests import FORM_MEDIA_TYPE, JSON_MEDIA_TYPE, BadRequest, decoded, encoded
from cluster.documents.runtime import HTTP_CHANNEL
from cluster.documents.state.patch import diff
from cluster.errors import InvalidRequest
from cluster.ids import Position, Principal
from cluster.replay.timeline import steps
from cluster.replay.verify import Replay

LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"
BY_HAND: Final = ("repair", "thaw", "fork")
"""Kinds of commands with which operators make or change a document past its code."""
FILE_MEMBERS: Final = frozenset(("data", "media_type"))
"""Of a Blob in a payload."""
OUTSIDE: Final = b""
"""In place of a view for whom the gate does not admit."""


_FLIPPED: Final = bytes(255 - byte for byte in range(256))


@dataclass(frozen=True, slots=True)
class Repair:
    """An operator's change in a history."""

    position: Position
    sender: str
    reason: str


@dataclass(slots=True)
class Audit:
    """What an audit found. viewed: how many positions were compared. first: where the viewer saw something else, if anywhere,
    and what. views: what the class computes with full sight, pages too. repairs: what operators changed by hand, which asks no
    policy.
    """

    who: str
    changed: Position
    was: str
    became: str
    viewed: int = 0
    differing: int = 0
    first: Position | None = None
    seen: list[dict[str, Any]] = field(default_factory=list)
    views: list[str] = field(default_factory=list)
    repairs: list[Repair] = field(default_factory=list)

    @property
    def hidden(self) -> bool:
        """Whether nothing that reached the viewer has changed."""
        return not self.differing


def audit(exported: dict[str, Any], who: Principal, index: int, payload: str | None, epoch: int = 0) -> Audit:
    """Change the content of the command at an index, and compare what `who` saw before and after.

    payload: the new content, a JSON object; without it every word and number of the old one is replaced by another.
    Raises InvalidRequest when there is no such command or its content can not be changed, and what `timeline.steps` raises.
    """
    wanted = epoch or max((row["position"]["epoch"] for row in exported["commands"]), default=0)
    place = next(
        (
            number
            for number, row in enumerate(exported["commands"])
            if (row["position"]["epoch"], row["position"]["index"]) == (wanted, index)
        ),
        None,
    )
    if place is None:
        raise InvalidRequest(f"{exported['document']} has no command {wanted}.{index} in this history")
    row = exported["commands"][place]
    if row["kind"] in BY_HAND:
        raise InvalidRequest(f"command {wanted}.{index} is an operator's repair: name a command that somebody sent")
    if payload is not None:
        other = payload
    else:
        other = (_replaced_request if row["channel"] == HTTP_CHANNEL else _replaced)(row["payload"])
    program = Replay(exported).program(row["code_hash"])
    canonical = program.check(row["channel"], other.encode()).decode()
    if canonical == row["payload"]:
        raise InvalidRequest(f"command {wanted}.{index} holds nothing that could be changed: {row['payload']}")
    found = Audit(str(who), Position(wanted, index), row["payload"], canonical)
    assert isinstance(program, DocumentProgram), "exports are of authors' documents"
    found.repairs = repairs(exported)
    found.views = [view.name for view in program.declaration.views]
    found.views += [f"GET {route.path}" for route in program.declaration.routes.all if route.method == "GET"]
    changed = copy.copy(exported)
    changed["commands"] = [*exported["commands"]]
    changed["commands"][place] = row | {"payload": canonical}
    _compare(exported, changed, who, found)
    return found


def repairs(exported: dict[str, Any]) -> list[Repair]:
    """Who changed a document by hand, where and why."""
    return [
        Repair(Position(row["position"]["epoch"], row["position"]["index"]), row["sender"], reason_of(row))
        for row in exported["commands"]
        if row["kind"] in BY_HAND
    ]


def reason_of(row: dict[str, Any]) -> str:
    """Why an operator changed the document by hand."""
    order = msgspec.json.decode(row["payload"])
    if row["kind"] == "fork":
        return "{source} at {position[0]}.{position[1]}".format_map(order)
    reason: str = order["reason"]
    return reason


def _compare(exported: dict[str, Any], changed: dict[str, Any], who: Principal, found: Audit) -> None:
    for one, other in zip(steps(exported), steps(changed), strict=True):
        found.viewed += 1
        before, after = _reached(one.instance, who), _reached(other.instance, who)
        if before != after:
            found.differing += 1
            if found.first is None:
                found.first = one.position
                found.seen = diff(_decoded(before), _decoded(after))


def _reached(instance: DocumentInstance | None, who: Principal) -> bytes:
    if instance is None or not instance.admits(who):
        return OUTSIDE
    return instance.view(who)


def _decoded(view: bytes) -> Any:
    return msgspec.json.decode(view) if view else {}


def _replaced(payload: str) -> str:
    """Other content of the same shape: letters go round, digits of numbers too, files have other bytes, the rest stays."""
    return msgspec.json.encode(_other(msgspec.json.decode(payload))).decode()


def _replaced_request(payload: str) -> str:
    """The same for an HTTP request: what it brings is replaced, not where it goes."""
    request = decoded(payload.encode())
    if request.media_type == FORM_MEDIA_TYPE:
        try:
            body = urlencode(_other(request.form())).encode()
        except BadRequest:
            body = request.body
    elif request.media_type == JSON_MEDIA_TYPE:
        try:
            body = msgspec.json.encode(_other(msgspec.json.decode(request.body)))
        except (msgspec.DecodeError, UnicodeDecodeError):
            body = request.body
    else:
        body = request.body.translate(_FLIPPED)
    return encoded(replace(request, query=_other(request.query), body=body)).decode()


def _other(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == FILE_MEMBERS and (data := _bytes_of(value["data"])) is not None:
            return {**value, "data": base64.b64encode(data.translate(_FLIPPED)).decode("ascii")}
        return {name: _other(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_other(each) for each in value]
    if isinstance(value, str):
        return "".join(_turned(letter) for letter in value)
    if isinstance(value, bool) or value is None:
        return value
    return value + 1


def _bytes_of(text: object) -> bytes | None:
    """What base64 spells; None when it is none."""
    try:
        return base64.b64decode(text, validate=True) if isinstance(text, str) else None
    except ValueError:
        return None


def _turned(letter: str) -> str:
    place = LETTERS.find(letter.lower())
    if place < 0:
        return letter
    turned = LETTERS[(place + 13) % len(LETTERS)]
    return turned.upper() if letter.isupper() else turned
