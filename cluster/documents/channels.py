"""What a class offers: channels that are sent to, views that are looked at, exports, and the JSON Schema of each.

Invariant: what `canonical` returned, `arguments` reads: a payload has one canonical form, with its members in the order of the
handler's parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from cluster.documents import payload as json
from cluster.documents.blobs import sent_form
from cluster.documents.context import Command
from cluster.documents.declare import Document
from cluster.documents.maybe import NOTHING, Maybe
from cluster.documents.meter import charge
from cluster.documents.runtime import CONSTRUCT_CHANNEL
from cluster.documents.sight import lens_of
from cluster.documents.state import FieldSpec, StateType, Tally
from cluster.errors import InvalidName, InvalidPayload

ADDING_STEPS: Final = 4


@dataclass(slots=True, frozen=True)
class Parameter:
    """One parameter of a handler: a member of the payload."""

    name: str
    type: StateType
    required: bool


def members_schema(parameters: tuple[Parameter, ...], definitions: dict[str, Any]) -> dict[str, Any]:
    """JSON Schema of an object with a member for each parameter."""
    return {
        "type": "object",
        "properties": {one.name: one.type.json_schema(definitions) for one in parameters},
        "required": [one.name for one in parameters if one.required],
        "additionalProperties": False,
    }


def shown_schema(spec: FieldSpec, definitions: dict[str, Any]) -> dict[str, Any]:
    """JSON Schema of a field as views show it: a table with a window says how many rows there are."""
    schema = spec.type.json_schema(definitions)
    if spec.window is None:
        return schema
    return {
        "type": "object",
        "properties": {"rows": schema, "total": {"type": "integer", "minimum": 0}},
        "required": ["rows", "total"],
        "arguments": {
            "latest": {"type": "integer", "default": spec.window.latest, "minimum": 1, "maximum": spec.window.at_most}
        },
    }


class Channel:
    """One handler and its wire schema. gated: the gate is asked before it runs."""

    __slots__ = ("_known", "_sent", "allow", "function", "gated", "lens", "name", "parameters", "result")

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        parameters: tuple[Parameter, ...],
        result: StateType | None,
        allow: Callable[..., bool] | None = None,
        *,
        gated: bool = True,
    ) -> None:
        self.gated = gated and name != CONSTRUCT_CHANNEL
        self.name = name
        self.function = function
        self.parameters = parameters
        self.result = result
        self.allow = allow
        self.lens = None if result is None else lens_of(result)
        self._known = frozenset(parameter.name for parameter in parameters)
        self._sent = {parameter.name: sent_form(parameter.type) for parameter in parameters}

    def canonical(self, given: dict[str, object], payload: bytes) -> bytes:
        """The canonical bytes of a decoded payload: members in the parameters' order. Raises InvalidPayload."""
        members = {}
        for parameter in self.parameters:
            name = parameter.name
            if name in given:
                raw = given[name]
                try:
                    members[name] = self._sent[name](parameter.type.from_json(raw))
                except (TypeError, ValueError, InvalidName) as error:
                    raise InvalidPayload(f"{self.name or 'construct'}.{name}: {error}") from None
            elif parameter.required:
                raise InvalidPayload(f"{self.name or 'construct'} needs {name!r}")
        if len(members) != len(given):
            unknown = sorted(set(given) - self._known)
            raise InvalidPayload(f"{self.name or 'construct'} knows no {unknown[0]!r}")
        return json.encode(members)

    def arguments(self, payload: bytes) -> dict[str, Any]:
        """The handler's arguments, from canonical bytes."""
        if payload == b"{}" or not self.parameters:
            return {}
        given: dict[str, Any] = json.decode(payload)
        for parameter in self.parameters:
            name = parameter.name
            if name in given:
                given[name] = parameter.type.from_json(given[name])
        return given

    def schema(self, definitions: dict[str, Any]) -> dict[str, Any]:
        """JSON Schema of parameters and result."""
        return {
            "parameters": members_schema(self.parameters, definitions),
            "result": {"type": "null"} if self.result is None else self.result.json_schema(definitions),
        }


class Answering(Channel):
    """An @on.answer handler: its one parameter is what came, or did not."""

    __slots__ = ()

    def check(self, given: dict[str, object]) -> None:
        """Raise InvalidPayload unless `value` is of the handler's type, or missing."""
        try:
            if "value" in given:
                self.parameters[0].type.from_json(given["value"])
        except (TypeError, ValueError, InvalidName) as error:
            raise InvalidPayload(f"the answer that {self.name} takes: {error}") from None

    def arguments(self, payload: bytes) -> dict[str, Any]:
        """From {"ask", "value"}, where no value means that time was up."""
        given: dict[str, Any] = json.decode(payload)
        parameter = self.parameters[0]
        came = "value" in given
        return {parameter.name: Maybe(parameter.type.from_json(given["value"]), True) if came else NOTHING}


@dataclass(slots=True, frozen=True)
class View:
    """A computed part of the view. per_viewer: it takes `who`. parameters: its arguments."""

    name: str
    function: Callable[..., Any]
    type: StateType
    per_viewer: bool
    parameters: tuple[Parameter, ...] = ()


@dataclass(slots=True, frozen=True)
class Export:
    """What other documents may see of this one: a function of the state alone. to: the policy that opens it wider than to
    spaces of the same owners."""

    name: str
    function: Callable[..., Any]
    type: StateType
    to: Callable[..., bool] | None


@dataclass(slots=True, frozen=True)
class Guarded:
    """A field behind a policy. by_row: the field is a table and its rows are asked one by one."""

    name: str
    policy: Callable[..., bool]
    by_row: bool


class Adding:
    """The handler of a Tally's own channel."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, document: Document, ctx: Command, by: int = 1) -> int:
        charge(ADDING_STEPS)
        tally: Tally = document._moot_root.get(self._name)
        return tally.add(by)
