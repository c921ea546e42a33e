"""Errors of `cluster.errors` as they travel, and back."""

from __future__ import annotations

from functools import cache

from cluster.errors import Applied, ClusterError, OperatorError, OutcomeUnknown, Unavailable
from cluster.session.operations import Failure


def failure_of(error: ClusterError) -> Failure:
    """An error as it travels inside the cluster."""
    return Failure(error.reason, error.message, error.retryable, error.applied.value, error.retry_after_ms, dict(error.details))


def error_of(failure: Failure) -> ClusterError:
    """The typed error that a failure stands for; a reason of a newer release becomes what the caller may do about it."""
    kind = _by_reason().get(failure.reason)
    if kind is None:
        kind = Unavailable if failure.retryable else OutcomeUnknown if failure.applied == "unknown" else OperatorError
    error = kind(failure.message, retry_after_ms=failure.retry_after_ms, **failure.details)
    error.applied = Applied(failure.applied)
    return error


@cache
def _by_reason() -> dict[str, type[ClusterError]]:
    found: dict[str, type[ClusterError]] = {}
    waiting: list[type[ClusterError]] = [ClusterError]
    while waiting:
        kind = waiting.pop()
        found[kind.reason] = kind
        waiting.extend(kind.__subclasses__())
    return found
