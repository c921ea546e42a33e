"""Errors on the public wire: one table, complete, and both shapes say the same."""

from __future__ import annotations

import grpc
import pytest
from grpc import aio

from cluster import errors
from cluster.errors import Applied, ClusterError, Unavailable
from cluster.gateway.status import CODES, code_of, fill_error
from cluster.session.failures import failure_of
from cluster.session.operations import Failure
from cluster.v1 import documents_pb2 as wire
from tests.gateway.echo_backend import EchoBackend
from tests.gateway.serving import info_of, serving


def tree() -> list[type[ClusterError]]:
    found: list[type[ClusterError]] = [ClusterError]
    for cls in found:
        found += [child for child in cls.__subclasses__() if child.__module__ == errors.__name__]
    return found


def test_every_error_of_the_tree_has_a_status() -> None:
    assert set(CODES) == set(tree())


@pytest.mark.parametrize("cls", tree())
def test_an_error_is_the_same_in_a_reply_as_in_its_failure(cls: type[ClusterError]) -> None:
    failure = failure_of(cls("what happened", retry_after_ms=7, shard="3"))
    message = wire.Error()
    fill_error(message, failure)
    assert message.code == CODES[cls].value[0]
    assert (message.reason, message.message, message.retryable) == (cls.reason, "what happened", cls.retryable)
    assert message.retry_after_ms == 7
    assert dict(message.details) == {"shard": "3"}
    assert wire.Applied.Name(message.applied) == f"APPLIED_{cls.applied.value.upper()}"


@pytest.mark.parametrize("cls", [cls for cls in tree() if issubclass(cls, errors.RejectedError)])
def test_a_rejected_request_is_never_reported_as_a_fault_of_the_server(cls: type[ClusterError]) -> None:
    assert CODES[cls] not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE)


def test_only_errors_that_promise_it_are_unavailable() -> None:
    """Generic clients retry UNAVAILABLE without asking; such an error must allow it."""
    assert all(cls.retryable for cls, code in CODES.items() if code is grpc.StatusCode.UNAVAILABLE)


@pytest.mark.parametrize(
    ("retryable", "applied", "code"),
    [
        (True, "no", grpc.StatusCode.UNAVAILABLE),
        (False, "no", grpc.StatusCode.INTERNAL),
        (False, "unknown", grpc.StatusCode.UNKNOWN),
    ],
)
def test_a_reason_of_a_newer_release_falls_back_to_what_the_caller_may_do(
    retryable: bool, applied: str, code: grpc.StatusCode
) -> None:
    assert code_of(Failure("FROM_THE_FUTURE", "", retryable, applied)) is code


@pytest.mark.parametrize("applied", list(Applied))
async def test_a_failed_call_carries_error_info_with_all_that_the_failure_says(applied: Applied) -> None:
    backend = EchoBackend()
    backend.admin_answers["GetStatus"] = Unavailable("gone", applied=applied, retry_after_ms=250, leader="n2")
    async with serving(backend) as caller:
        with pytest.raises(aio.AioRpcError) as raised:
            await caller.unary("GetStatus", b"", wire.Reply, service="cluster.v1.AdminService")
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert raised.value.details() == "gone"
    info = info_of(raised.value)
    assert info.reason == "UNAVAILABLE"
    assert dict(info.metadata) == {
        "retryable": "true",
        "applied": applied.value,
        "retry_after_ms": "250",
        "leader": "n2",
    }


async def test_the_text_of_an_unexpected_exception_stays_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    backend = EchoBackend()
    backend.admin_answers["GetStatus"] = ZeroDivisionError("the secret of /etc/passwd")
    async with serving(backend) as caller:
        with pytest.raises(aio.AioRpcError) as raised:
            await caller.unary("GetStatus", b"", wire.Reply, service="cluster.v1.AdminService")
    assert raised.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in str(raised.value)
    info = info_of(raised.value)
    assert info.metadata["applied"] == "unknown"
    assert info.metadata["error_id"] in caplog.text
    assert "the secret" in caplog.text


async def test_details_that_would_not_fit_into_trailers_are_cut() -> None:
    backend = EchoBackend()
    backend.admin_answers["GetStatus"] = errors.InvalidBundle("x" * 50_000, found="y" * 50_000)
    async with serving(backend) as caller:
        with pytest.raises(aio.AioRpcError) as raised:
            await caller.unary("GetStatus", b"", wire.Reply, service="cluster.v1.AdminService")
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert len(info_of(raised.value).metadata["found"]) == 1024
