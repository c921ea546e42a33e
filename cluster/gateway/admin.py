"""AdminService: every method is handed to the backend by its name, as a plain dict, and the answer is made a message again.

The dict mirrors the message of admin.proto field by field: integers are int, bytes are bytes, enums are their names, an unset
message or optional field is None. So the proto file is the whole contract, and a new method needs no code here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc
from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from cluster.gateway.backend import Backend
from cluster.gateway.calls import Identity, unary_method
from cluster.ids import check_key, check_space
from cluster.v1 import admin_pb2

_DESCRIPTOR: Final = admin_pb2.DESCRIPTOR.services_by_name["AdminService"]
SERVICE: Final = _DESCRIPTOR.full_name


def admin_handler(backend: Backend, identity: Identity) -> grpc.GenericRpcHandler[Any, Any]:
    """What a gRPC server registers for AdminService."""
    methods = {}
    for method in _DESCRIPTOR.methods:
        request_type = GetMessageClass(method.input_type)
        response_type = GetMessageClass(method.output_type)
        call = _call(backend, method.name, response_type)
        methods[method.name] = unary_method(method.name, request_type, identity, call)
    return grpc.method_handlers_generic_handler(SERVICE, methods)


def _call(
    backend: Backend, method: str, response_type: type[Message]
) -> Callable[[Message, str, float | None], Awaitable[Message]]:
    async def call(request: Message, principal: str, _remaining_ms: float | None) -> Message:
        fields = to_dict(request)
        document = fields.get("document")
        if isinstance(document, dict):
            check_space(document["space"])
            check_key(document["key"])
        if isinstance(fields.get("space"), str):
            check_space(fields["space"])
        return from_dict(response_type, await backend.admin(method, fields, principal))

    return call


def to_dict(message: Message) -> dict[str, Any]:
    """Every declared field by name. Depth is bounded by the schema: admin messages do not nest themselves."""
    fields: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            fields[field.name] = dict(value)
        elif field.is_repeated:
            fields[field.name] = [_to_value(field, item) for item in value]
        elif field.has_presence and not message.HasField(field.name):
            fields[field.name] = None
        else:
            fields[field.name] = _to_value(field, value)
    return fields


def from_dict(message: type[Message], fields: dict[str, Any]) -> Message:
    """The message with these fields; None means unset. Raises ValueError or TypeError for what the message does not declare."""
    return message(**_without_none(fields))


def _to_value(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return to_dict(value)
    if field.enum_type is not None:
        return _enum_name(field.enum_type, value)
    return value


def _enum_name(enum: EnumDescriptor, number: int) -> str:
    value = enum.values_by_number.get(number)
    return value.name if value is not None else str(number)


def _without_none(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: _clean(value) for name, value in fields.items() if value is not None}


def _clean(value: Any) -> Any:
    if isinstance(value, dict):
        return _without_none(value)
    if isinstance(value, (list, tuple)):
        return [_clean(item) for item in value]
    return value
