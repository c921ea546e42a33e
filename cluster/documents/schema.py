"""What a document class offers, as JSON Schema: what clients, stubs and forms are made from.

The schema describes the JSON that crosses the wire. Parts that are no JSON Schema by themselves (channels, refusals, views) are
named by keys of their own; every type in them is JSON Schema 2020-12, and `$ref`s lead into `$defs` of the whole.

Invariant: a function of the declaration alone: equal code has an equal schema on every node.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

from cluster.documents.channels import Channel, Parameter, View, members_schema
from cluster.documents.routes import Route
from cluster.documents.state import Refused, state_type


def channel_schema(channel: Channel, definitions: dict[str, Any]) -> dict[str, Any]:
    """Parameters with their defaults, the result, and what the author says about the handler."""
    schema = channel.schema(definitions)
    _add_defaults(schema["parameters"]["properties"], channel.parameters, channel.function)
    return _described(channel.function) | schema


def _add_defaults(properties: dict[str, Any], parameters: tuple[Parameter, ...], function: Callable[..., Any]) -> None:
    """Say of each parameter that may be left out what it is then."""
    signature = inspect.signature(function).parameters
    for one in parameters:
        if not one.required:
            default = one.type.to_json(one.type.admit(signature[one.name].default))
            properties[one.name] = {**properties[one.name], "default": default}


def view_schema(view: View, definitions: dict[str, Any]) -> dict[str, Any]:
    """A view's type, whether it differs from viewer to viewer, and its arguments where it takes some."""
    schema = _described(view.function) | {"perViewer": view.per_viewer}
    if view.parameters:
        schema["arguments"] = members_schema(view.parameters, definitions)
        _add_defaults(schema["arguments"]["properties"], view.parameters, view.function)
    return schema | view.type.json_schema(definitions)


def route_schema(route: Route, definitions: dict[str, Any]) -> dict[str, Any]:
    """How an HTTP handler is called and what it answers."""
    return {"handler": route.function.__name__} | _described(route.function) | route.schema(definitions)


def refusal_schema(refusal: type[Refused], definitions: dict[str, Any]) -> dict[str, Any]:
    """What a refusal means, and its `arguments` as they are answered: in the order of the class's constructor.

    A class without a constructor of its own takes anything plain. An annotation that state could not hold says nothing.
    """
    schema: dict[str, Any] = {"description": inspect.getdoc(refusal) or ""}
    arguments: dict[str, Any] = {"type": "array"}
    constructor = refusal.__dict__.get("__init__")
    if inspect.isfunction(constructor):
        parameters = list(inspect.signature(constructor).parameters.values())[1:]
        plain = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
        hints = _hints(constructor)
        arguments["prefixItems"] = [{"title": one.name, **_type_of(hints.get(one.name), refusal, definitions)} for one in plain]
        arguments["minItems"] = sum(one.default is one.empty for one in plain)
        arguments["items"] = any(one.kind is one.VAR_POSITIONAL for one in parameters)
    return schema | {"arguments": arguments}


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(function)
    except (NameError, TypeError, AttributeError):
        return {}


def _type_of(annotation: Any, owner: type, definitions: dict[str, Any]) -> dict[str, Any]:
    if annotation is None:
        return {}
    try:
        return state_type(annotation, owner=owner).json_schema(definitions)
    except (TypeError, ValueError):
        return {}


def _described(function: object) -> dict[str, Any]:
    """The handler's docstring, where its author has written one."""
    text = inspect.getdoc(function) if inspect.isfunction(function) else None
    return {"description": text} if text else {}
