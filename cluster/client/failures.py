"""Errors as the client raises them: the classes of cluster.errors, rebuilt from what the wire says.

A reason that this release does not know becomes the class of what the caller may do about it, so an old client stays safe with
a newer cluster.
"""

from __future__ import annotations

from collections.abc import Iterable
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
    RetryableError,
    Unauthenticated,
    Unavailable,
)
from cluster.session.operations import Failure

_DETAILS_METADATA: Final = "grpc-status-details-bin"


class Refusal(HandlerRefused):
    """A refusal that the document's author declared. Nothing changed; the same message will be refused the same way."""

    reason = HandlerRefused.reason

    @property
    def name(self) -> str:
        """The name of the author's class."""
        return self.details.get("name", "")

    @property
    def arguments(self) -> Any:
        """What the author gave to its constructor, from JSON."""
        text = self.details.get("arguments", "")
        return msgspec.json.decode(text) if text else None


def _classes() -> dict[str, type[ClusterError]]:
    found: dict[str, type[ClusterError]] = {}
    waiting: list[type[ClusterError]] = [ClusterError]
    while waiting:
        cls = waiting.pop()
        if cls.__module__ == ClusterError.__module__:
            found[cls.reason] = cls
            waiting += cls.__subclasses__()
    found[HandlerRefused.reason] = Refusal
    return found


_CLASSES: Final = _classes()


def error_of(failure: Failure) -> ClusterError:
    """The exception for a failure of an operation or a watch."""
    cls = _CLASSES.get(failure.reason)
    if cls is None:
        cls = OutcomeUnknown if failure.applied == "unknown" else RetryableError if failure.retryable else RejectedError
    error = cls(failure.message, retry_after_ms=failure.retry_after_ms)
    error.details = dict(failure.details)
    error.applied = Applied(failure.applied) if failure.applied in _APPLIED else Applied.UNKNOWN
    return error


_APPLIED: Final = frozenset(member.value for member in Applied)


def error_of_rpc(error: aio.AioRpcError) -> ClusterError:
    """The exception for a failed RPC: from its ErrorInfo when Moot answered, else from what gRPC says of the connection."""
    failure = _failure_in(error)
    if failure is not None:
        return error_of(failure)
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
