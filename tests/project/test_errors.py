"""The tree of errors: what is drawn is what exists, and each branch keeps its promise about state."""

from __future__ import annotations

import pytest

from cluster import errors
from cluster.errors import (
    AnsweredError,
    Applied,
    ClusterError,
    OperatorError,
    OutcomeUnknown,
    RejectedError,
    RetryableError,
    Unavailable,
)


def descendants(cls: type[ClusterError]) -> list[type[ClusterError]]:
    found: list[type[ClusterError]] = []
    for child in cls.__subclasses__():
        found += [child, *descendants(child)]
    return found


def ours() -> list[type[ClusterError]]:
    """Classes of errors.py. Document code may declare further refusals; those are the author's."""
    return [ClusterError, *(cls for cls in descendants(ClusterError) if cls.__module__ == errors.__name__)]


def drawn() -> dict[str, str]:
    """Class name -> name of its parent, as the module docstring draws them by indentation."""
    assert errors.__doc__ is not None
    parents: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    for line in errors.__doc__.splitlines():
        words = line.split()
        if not line.startswith("    ") or not words or not words[0][0].isupper():
            continue
        depth, name = len(line) - len(line.lstrip()), words[0]
        path = [(level, above) for level, above in path if level < depth]
        parents[name] = path[-1][1] if path else "Exception"
        path.append((depth, name))
    return parents


def test_drawn_tree_is_the_tree() -> None:
    assert drawn() == {cls.__name__: cls.__bases__[0].__name__ for cls in ours()}


def test_reasons_are_unique_and_in_wire_spelling() -> None:
    reasons = [cls.reason for cls in ours()]
    assert len(set(reasons)) == len(reasons)
    assert all(reason == reason.upper() and reason.replace("_", "").isalpha() for reason in reasons)


@pytest.mark.parametrize("cls", ours())
def test_every_error_has_its_own_sentence(cls: type[ClusterError]) -> None:
    assert cls.__dict__.get("__doc__")
    assert cls().message == cls.__doc__


@pytest.mark.parametrize("cls", ours())
def test_only_the_retry_branch_may_be_retried(cls: type[ClusterError]) -> None:
    assert cls.retryable == issubclass(cls, RetryableError)


@pytest.mark.parametrize("cls", [cls for cls in ours() if issubclass(cls, RejectedError | AnsweredError)])
def test_rejected_and_answered_errors_have_changed_nothing(cls: type[ClusterError]) -> None:
    assert cls().applied is Applied.NO


@pytest.mark.parametrize("cls", ours())
def test_no_error_claims_to_have_been_applied(cls: type[ClusterError]) -> None:
    assert cls().applied is not Applied.YES


def test_unknown_outcome_is_neither_retryable_nor_decided() -> None:
    error = OutcomeUnknown("connection lost")
    assert (error.retryable, error.applied) == (False, Applied.UNKNOWN)


def test_one_unavailable_does_not_change_what_the_next_says() -> None:
    assert Unavailable("sent", applied=Applied.UNKNOWN).applied is Applied.UNKNOWN
    assert Unavailable("not sent").applied is Applied.NO


def test_details_and_hint_travel_as_strings() -> None:
    error = errors.SequenceGap("gap", retry_after_ms=5, expected=7)
    assert (error.message, error.retry_after_ms, error.details) == ("gap", 5, {"expected": "7"})


@pytest.mark.parametrize("branch", [RetryableError, RejectedError, AnsweredError, OperatorError])
def test_callers_can_handle_a_whole_branch(branch: type[ClusterError]) -> None:
    for cls in ours():
        if issubclass(cls, branch):
            with pytest.raises(branch):
                raise cls("x")
