"""Errors over HTTP: the one table from cluster.errors to status codes, and the body that every error has.

    {"error": {"reason", "message", "next", "retryable", "applied", "details"}}

reason, retryable, applied and details are those of the gRPC surface. Retry-After stands where waiting helps.

Invariant: whoever may not know of a document is answered as whoever asks for one that does not exist, byte for byte.
"""

from __future__ import annotations

import json
import math
from typing import Final

from cluster import errors
from cluster.documents.requests import BadRequest
from cluster.session.operations import Failure

NOT_FOUND_STATUS: Final = 404
STATUSES: Final[dict[type[errors.ClusterError], int]] = {
    errors.InvalidName: 400,
    errors.InvalidRequest: 400,
    errors.InvalidPayload: 400,
    errors.InvalidArguments: 400,
    errors.TooLarge: 413,
    errors.Unauthenticated: 401,
    errors.PermissionDenied: 403,
    errors.UnknownSpace: NOT_FOUND_STATUS,
    errors.UnknownChannel: NOT_FOUND_STATUS,
    errors.UnknownRoute: NOT_FOUND_STATUS,
    errors.UnknownDocument: NOT_FOUND_STATUS,
    errors.UnknownBlob: NOT_FOUND_STATUS,
    errors.DocumentDeleted: NOT_FOUND_STATUS,
    errors.DocumentExists: 409,
    errors.DocumentFrozen: 503,
    errors.KeyReused: 422,
    errors.PositionRewound: 409,
    errors.HandlerRefused: 409,
    errors.HandlerFailed: 500,
    errors.BudgetExceeded: 500,
    errors.Poisoned: 500,
    errors.Overloaded: 429,
    errors.StorageFull: 503,
    errors.OutcomeUnknown: 504,
}
TOO_LARGE_STATUSES: Final = {"request_path_bytes_max": 414, "request_query_bytes_max": 414, "request_header_bytes_max": 431}
"""Of TooLarge, by the limit."""
NEXT: Final[dict[type[errors.ClusterError], str]] = {
    errors.Unauthenticated: "say who asks: a header `moot-principal: alice@acme`, or ?as=alice@acme",
    errors.PermissionDenied: "ask from this machine, by http://127.0.0.1 or http://localhost",
    errors.HandlerFailed: "`moot space errors SPACE` shows the traceback of this error_id",
    errors.KeyReused: "send the first request again as it was, or another Idempotency-Key",
    errors.OutcomeUnknown: "send it again under the same Idempotency-Key",
    errors.DocumentFrozen: "an operator has to look at the document",
}
_STATUS_BY_REASON: Final = {error.reason: status for error, status in STATUSES.items()}
_NEXT_BY_REASON: Final = {error.reason: text for error, text in NEXT.items()}
HIDDEN: Final = frozenset(
    error.reason
    for error in (
        errors.UnknownSpace,
        errors.UnknownDocument,
        errors.UnknownBlob,
        errors.DocumentDeleted,
        errors.PermissionDenied,
    )
)
"""What is answered as NOT_FOUND: which of them it is would tell that a document exists."""
NOT_FOUND: Final = Failure("NOT_FOUND", "there is nothing here for this principal", False, "no")
_NEXT_BY_REASON[NOT_FOUND.reason] = "`moot space schema SPACE` lists the paths; the document may not exist, or not admit you"

Headers = list[tuple[bytes, bytes]]


def status_of(failure: Failure) -> int:
    """The status code of a failure. A reason that is not in the table falls back to what the caller may do about it."""
    if failure.reason == errors.TooLarge.reason:
        return TOO_LARGE_STATUSES.get(failure.details.get("limit", ""), STATUSES[errors.TooLarge])
    if failure.reason == errors.HandlerRefused.reason and failure.details.get("name") == BadRequest.__name__:
        return 400
    if failure.reason == errors.UnknownRoute.reason and failure.details.get("allow"):
        return 405
    known = _STATUS_BY_REASON.get(failure.reason)
    if known is None:
        return NOT_FOUND_STATUS if failure.reason == NOT_FOUND.reason else 503 if failure.retryable else 500
    return known


def error_answer(failure: Failure) -> tuple[int, Headers, bytes]:
    """Status, headers and body of a failure."""
    status = status_of(failure)
    error = {
        "reason": failure.reason,
        "message": failure.message,
        "next": _NEXT_BY_REASON.get(failure.reason, "wait, and send it again" if failure.retryable else ""),
        "retryable": failure.retryable,
        "applied": failure.applied,
        "details": failure.details,
    }
    body = json.dumps({"error": {name: value for name, value in error.items() if value != ""}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), (b"cache-control", b"no-store")]
    if failure.retryable or failure.retry_after_ms:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(failure.retry_after_ms / 1000))))
    if allow := failure.details.get("allow", ""):
        headers.append((b"allow", allow.encode()))
    return status, headers, body
