"""From stored outcomes to what a client is told."""

from __future__ import annotations

import msgspec

from cluster.documents.runtime import Code
from cluster.errors import (
    AnsweredError,
    BudgetExceeded,
    ClusterError,
    HandlerFailed,
    HandlerRefused,
    PermissionDenied,
    Poisoned,
)
from cluster.session.failures import failure_of
from cluster.session.operations import Failure


def failure_of_outcome(code: int, answer: bytes) -> Failure | None:
    """What a stored outcome says to the client; None for OK."""
    if code == Code.OK:
        return None
    body = msgspec.json.decode(answer) if answer else {}
    error: ClusterError
    if code == Code.REFUSED:
        arguments = msgspec.json.encode(body.get("arguments", {})).decode()
        error = HandlerRefused(body.get("message", ""), name=body.get("name", ""), arguments=arguments)
    elif code == Code.FAILED:
        error = HandlerFailed("the document's code failed", error_id=body.get("error_id", ""))
    elif code == Code.BUDGET:
        limit = body.get("limit", "steps")
        error = BudgetExceeded(f"the handler exceeded its budget of {limit}", limit=limit)
    elif code == Code.DENIED:
        error = PermissionDenied("the document's gate says no", consumed="yes")
    elif code == Code.POISONED:
        error = Poisoned()
    else:
        error = AnsweredError(f"outcome {code}")
    return failure_of(error)
