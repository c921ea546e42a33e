"""Errors as the client raises them: the classes of cluster.errors, rebuilt from what the wire says.

A refusal that a document's author declared is a Refusal, or the author's own class where the application has given it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import grpc
import msgspec
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc import aio

from cluster.errors import (
    Applied,
    ClusterError,
    HandlerRefused,
    OutcomeUnknown,
    Overloaded,
    RejectedError,
    Unauthenticated,
    Unavailable,
)
from cluster.session.failures import error_of as session_error_of
from cluster.session.operations import Failure

NO_REFUSALS: Final[Mapping[str, type[Exception]]] = {}
_DETAILS_METADATA: Final = "grpc-status-details-bin"


class Refusal(HandlerRefused):
    """A refusal that the document's author declared. Nothing changed; the same message will be refused the same way."""

    reason = HandlerRefused.reason

    @property
    def name(self) -> str:
        """The name of the author's class."""
        return self.details.get("name", "")

    @property
    def arguments(self) -> list[Any]:
        """What the author gave to its constructor, from JSON."""
        text = self.details.get("arguments", "")
        return msgspec.json.decode(text, type=list[Any]) if text else []


def error_of(failure: Failure, refusals: Mapping[str, type[Exception]] = NO_REFUSALS) -> Exception:
    """The exception for a failure of an operation or a watch.

    refusals: authors' classes by name; a refusal by one of these names is raised as that class, as it was in the document.
    """
    if failure.reason != HandlerRefused.reason:
        return session_error_of(failure)
    refusal = Refusal(failure.message, retry_after_ms=failure.retry_after_ms)
    refusal.details = dict(failure.details)
    author = refusals.get(refusal.name)
    if author is None:
        return refusal
    error = author(*refusal.arguments)
    error.__cause__ = refusal
    return error


def error_of_rpc(error: aio.AioRpcError) -> ClusterError:
    """The exception for a failed RPC: from its ErrorInfo when Moot answered, else from what gRPC says of the connection."""
    failure = _failure_in(error)
    if failure is not None:
        return session_error_of(failure)
    code = error.code()
    text = error.details() or code.name
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return Unauthenticated(text)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Overloaded(text)
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL):
        return Unavailable(text, applied=Applied.UNKNOWN)
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return RejectedError(f"the server does not know this call: {text}")
    return OutcomeUnknown(text)


def _failure_in(error: aio.AioRpcError) -> Failure | None:
    metadata: Iterable[tuple[str, str | bytes]] = error.trailing_metadata() or ()  # type: ignore[assignment]
    for name, value in metadata:
        if name != _DETAILS_METADATA or not isinstance(value, bytes):
            continue
        status = status_pb2.Status()
        try:
            status.ParseFromString(value)
        except DecodeError:
            return None
        for detail in status.details:
            info = error_details_pb2.ErrorInfo()
            if detail.Is(info.DESCRIPTOR) and detail.Unpack(info) and info.domain == "moot":
                details = dict(info.metadata)
                retryable = details.pop("retryable", "") == "true"
                applied = details.pop("applied", "unknown")
                retry_after = details.pop("retry_after_ms", "0")
                retry_after_ms = int(retry_after) if retry_after.isdecimal() else 0
                return Failure(info.reason, status.message, retryable, applied, retry_after_ms, details)
    return None
