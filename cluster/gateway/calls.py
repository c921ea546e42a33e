"""What all RPC handlers share: decoding that can not kill a call silently, the caller's identity, and errors as statuses."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, Protocol, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from grpc import aio

from cluster.errors import ClusterError, InvalidRequest
from cluster.gateway.status import FailedCall, abort, internal_failure
from cluster.session.failures import failure_of

logger = logging.getLogger(__name__)

RequestT = TypeVar("RequestT", bound=Message)
ResponseT = TypeVar("ResponseT", bound=Message)

Context = aio.ServicerContext[Any, Any]
"""gRPC's context; its own type parameters carry nothing that the handlers here rely on."""


class Identity(Protocol):
    """Tells who calls. `identity.InsecureHeader` until real identities exist."""

    def authenticate(self, peer: str, metadata: Any) -> str:
        """The principal, `agent@authority`. Raises Unauthenticated."""
        ...


def tolerant(message: type[RequestT]) -> Callable[[bytes], RequestT | InvalidRequest]:
    """A deserializer that turns garbage into an error to answer with, where gRPC's own would answer INTERNAL."""

    def decode(data: bytes) -> RequestT | InvalidRequest:
        try:
            return message.FromString(data)
        except DecodeError:
            return InvalidRequest(f"these {len(data)} bytes are not a {message.DESCRIPTOR.full_name}")

    return decode


def principal_of(identity: Identity, context: Context) -> str:
    """Raises Unauthenticated."""
    return identity.authenticate(context.peer(), context.invocation_metadata() or ())


def remaining_ms(context: Context) -> float | None:
    """Until the caller's deadline, None when it set none."""
    seconds = context.time_remaining()
    return None if seconds is None else max(0.0, seconds * 1000)


def unary_method(
    name: str,
    request_type: type[RequestT],
    identity: Identity,
    call: Callable[[RequestT, str, float | None], Awaitable[ResponseT]],
) -> grpc.RpcMethodHandler[Any, Any]:
    """A unary-unary handler. `call(request, principal, remaining_ms)` answers or raises ClusterError."""

    async def handle(request: RequestT | InvalidRequest, context: Context) -> ResponseT:
        try:
            if isinstance(request, InvalidRequest):
                raise request
            return await call(request, principal_of(identity, context), remaining_ms(context))
        except Exception as error:
            await end(context, error, name)

    return grpc.unary_unary_rpc_method_handler(
        handle, request_deserializer=tolerant(request_type), response_serializer=_serialize
    )


def stream_method(
    name: str,
    request_type: type[RequestT],
    identity: Identity,
    call: Callable[[RequestT, str], AsyncIterator[ResponseT]],
) -> grpc.RpcMethodHandler[Any, Any]:
    """A unary-stream handler over an iterator of responses; it ends the call with the ClusterError that the iterator raises."""

    async def handle(request: RequestT | InvalidRequest, context: Context) -> None:
        try:
            if isinstance(request, InvalidRequest):
                raise request
            responses = call(request, principal_of(identity, context))
            async for response in responses:
                await context.write(response)
        except Exception as error:
            await end(context, error, name)

    return grpc.unary_stream_rpc_method_handler(
        handle, request_deserializer=tolerant(request_type), response_serializer=_serialize
    )


def conversation_method(
    name: str, request_type: type[RequestT], identity: Identity, call: Callable[[str, Context], Awaitable[None]]
) -> grpc.RpcMethodHandler[Any, Any]:
    """A stream-stream handler that reads and writes through the context. Garbage arrives in `read` as an InvalidRequest."""

    async def handle(_requests: object, context: Context) -> None:
        try:
            await call(principal_of(identity, context), context)
        except Exception as error:
            await end(context, error, name)

    return grpc.stream_stream_rpc_method_handler(
        handle, request_deserializer=tolerant(request_type), response_serializer=_serialize
    )


async def end(context: Context, error: Exception, what: str) -> NoReturn:
    """Abort with the error's status; an exception that is not ours is logged and told by its id only."""
    if isinstance(error, FailedCall):
        await abort(context, error.failure)
    if isinstance(error, ClusterError):
        await abort(context, failure_of(error))
    if isinstance(error, (aio.AbortError, asyncio.CancelledError)):
        raise error
    await abort(context, internal_failure(error, what))


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()
