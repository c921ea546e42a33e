"""Errors on the public wire: the one table from cluster.errors to canonical gRPC codes, and both shapes an error takes.

A unary call or a watch fails with a gRPC status whose details hold a google.rpc.ErrorInfo; an operation of a session fails
with an Error message. Both say the same: reason, retryable, applied, retry_after_ms and the error's own details.

Invariant: the text of an unexpected exception never reaches a client; it gets an error id that the log has too.
"""

from __future__ import annotations

import logging
import secrets
from typing import Any, Final, NoReturn

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc import aio

from cluster import errors
from cluster.errors import ClusterError
from cluster.session.operations import Failure
from cluster.v1 import documents_pb2 as wire

logger = logging.getLogger(__name__)

DOMAIN: Final = "moot"
DETAILS_METADATA: Final = "grpc-status-details-bin"
DETAIL_CHARACTERS_MAX: Final = 1024
"""Per detail in trailing metadata: the whole must stay below the 8 KiB that HTTP/2 stacks commonly accept."""

CODES: Final[dict[type[ClusterError], grpc.StatusCode]] = {
    errors.ClusterError: grpc.StatusCode.INTERNAL,
    errors.RetryableError: grpc.StatusCode.UNAVAILABLE,
    errors.NotLeader: grpc.StatusCode.UNAVAILABLE,
    errors.StaleRoute: grpc.StatusCode.UNAVAILABLE,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.StorageFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Transferring: grpc.StatusCode.UNAVAILABLE,
    errors.ChangePending: grpc.StatusCode.UNAVAILABLE,
    errors.LearnerBehind: grpc.StatusCode.UNAVAILABLE,
    errors.StaleConfiguration: grpc.StatusCode.ABORTED,
    errors.StaleRegistry: grpc.StatusCode.ABORTED,
    errors.SequenceGap: grpc.StatusCode.ABORTED,
    errors.CodeMissing: grpc.StatusCode.UNAVAILABLE,
    errors.RejectedError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.InvalidName: grpc.StatusCode.INVALID_ARGUMENT,
    errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.InvalidPayload: grpc.StatusCode.INVALID_ARGUMENT,
    errors.InvalidArguments: grpc.StatusCode.INVALID_ARGUMENT,
    errors.InvalidPatch: grpc.StatusCode.INVALID_ARGUMENT,
    errors.TooLarge: grpc.StatusCode.INVALID_ARGUMENT,
    errors.UnknownSpace: grpc.StatusCode.NOT_FOUND,
    errors.UnknownChannel: grpc.StatusCode.NOT_FOUND,
    errors.UnknownRoute: grpc.StatusCode.NOT_FOUND,
    errors.UnknownShard: grpc.StatusCode.NOT_FOUND,
    errors.UnknownNode: grpc.StatusCode.NOT_FOUND,
    errors.UnknownDocument: grpc.StatusCode.NOT_FOUND,
    errors.UnknownBlob: grpc.StatusCode.NOT_FOUND,
    errors.DocumentDeleted: grpc.StatusCode.NOT_FOUND,
    errors.DocumentExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.DocumentFrozen: grpc.StatusCode.FAILED_PRECONDITION,
    errors.AskClosed: grpc.StatusCode.FAILED_PRECONDITION,
    errors.NotArmed: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ConnectionUnchanged: grpc.StatusCode.FAILED_PRECONDITION,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.KeyReused: grpc.StatusCode.FAILED_PRECONDITION,
    errors.PositionRewound: grpc.StatusCode.FAILED_PRECONDITION,
    errors.PositionMoved: grpc.StatusCode.ABORTED,
    errors.HistoryTrimmed: grpc.StatusCode.OUT_OF_RANGE,
    errors.NoReplica: grpc.StatusCode.FAILED_PRECONDITION,
    errors.InvalidMove: grpc.StatusCode.FAILED_PRECONDITION,
    errors.NodeDown: grpc.StatusCode.FAILED_PRECONDITION,
    errors.NodeHolds: grpc.StatusCode.FAILED_PRECONDITION,
    errors.InvalidBundle: grpc.StatusCode.INVALID_ARGUMENT,
    errors.AnsweredError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.HandlerRefused: grpc.StatusCode.FAILED_PRECONDITION,
    errors.HandlerFailed: grpc.StatusCode.INTERNAL,
    errors.BudgetExceeded: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Poisoned: grpc.StatusCode.FAILED_PRECONDITION,
    errors.OutcomeUnknown: grpc.StatusCode.UNKNOWN,
    errors.OperatorError: grpc.StatusCode.INTERNAL,
    errors.StorageError: grpc.StatusCode.INTERNAL,
    errors.StorageDamaged: grpc.StatusCode.DATA_LOSS,
    errors.FormatTooNew: grpc.StatusCode.FAILED_PRECONDITION,
    errors.DirectoryInUse: grpc.StatusCode.FAILED_PRECONDITION,
    errors.SyncFailed: grpc.StatusCode.INTERNAL,
    errors.LogLost: grpc.StatusCode.DATA_LOSS,
    errors.IdentityFenced: grpc.StatusCode.FAILED_PRECONDITION,
    errors.NodeRemoved: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ClockSkewed: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ReleaseMismatch: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ApplyHalted: grpc.StatusCode.INTERNAL,
    errors.WrongCluster: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ConfigurationInvalid: grpc.StatusCode.INVALID_ARGUMENT,
}

_CODE_BY_REASON: Final = {error.reason: code for error, code in CODES.items()}
_NUMBERS: Final[dict[grpc.StatusCode, int]] = {status: status.value[0] for status in grpc.StatusCode}
_APPLIED: Final[dict[str, wire.Applied.ValueType]] = {
    "no": wire.APPLIED_NO,
    "yes": wire.APPLIED_YES,
    "unknown": wire.APPLIED_UNKNOWN,
}


class FailedCall(Exception):
    """A failure of the backend on its way through code that raises, as it came."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def internal_failure(error: BaseException, what: str) -> Failure:
    """For an exception that is a fault of ours: logged in full here, told to the client by its id only."""
    error_id = secrets.token_hex(8)
    logger.error("internal error %s in %s", error_id, what, exc_info=error)
    return Failure("INTERNAL", f"internal error {error_id}", False, "unknown", 0, {"error_id": error_id})


def code_of(failure: Failure) -> grpc.StatusCode:
    """The canonical status. A reason of a newer release falls back to what the caller may do about it."""
    code = _CODE_BY_REASON.get(failure.reason)
    if code is not None:
        return code
    if failure.retryable:
        return grpc.StatusCode.UNAVAILABLE
    return grpc.StatusCode.INTERNAL if failure.applied == "no" else grpc.StatusCode.UNKNOWN


def fill_error(error: wire.Error, failure: Failure) -> None:
    """Write a failure into the Error message of a reply or delta."""
    error.code = _NUMBERS[code_of(failure)]
    error.reason = failure.reason
    error.message = failure.message
    error.retryable = failure.retryable
    error.applied = _APPLIED.get(failure.applied, wire.APPLIED_UNKNOWN)
    error.retry_after_ms = failure.retry_after_ms
    if failure.details:
        error.details.update(failure.details)


async def abort(context: aio.ServicerContext[Any, Any], failure: Failure) -> NoReturn:
    """End the RPC with the failure's status. Raises grpc's abort exception, as its abort does."""
    metadata = {name: value[:DETAIL_CHARACTERS_MAX] for name, value in failure.details.items()}
    metadata["retryable"] = "true" if failure.retryable else "false"
    metadata["applied"] = failure.applied
    metadata["retry_after_ms"] = str(failure.retry_after_ms)
    detail = AnyMessage()
    detail.Pack(error_details_pb2.ErrorInfo(reason=failure.reason, domain=DOMAIN, metadata=metadata))
    message = failure.message[: 2 * DETAIL_CHARACTERS_MAX]
    code = code_of(failure)
    status = status_pb2.Status(code=_NUMBERS[code], message=message, details=[detail])
    await context.abort(code, message, ((DETAILS_METADATA, status.SerializeToString()),))
    raise AssertionError("abort returned")
