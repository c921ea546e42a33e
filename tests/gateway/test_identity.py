"""Who is calling: the insecure header, believed on loopback only and said loudly."""

from __future__ import annotations

import logging

import grpc
import pytest
from grpc import aio

from cluster.errors import Unauthenticated
from cluster.gateway.identity import (
    InsecureHeader,
    is_loopback_host,
    is_loopback_peer,
    scoped_idempotency_key,
    scoped_session,
)
from cluster.v1 import documents_pb2 as wire
from tests.gateway.serving import SESSION, ending_of, info_of, serving

LOOPBACK = "ipv4:127.0.0.1:4711"
CREATE = wire.CreateRequest(document=wire.Document(space="text", key="a"))


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("localhost", True),
        ("::1", True),
        ("[::1]", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("example.org", False),
        ("127.0.0.1.example.org", False),
    ],
)
def test_loopback_hosts_are_told_from_others(host: str, loopback: bool) -> None:
    assert is_loopback_host(host) is loopback


@pytest.mark.parametrize(
    ("peer", "loopback"),
    [
        (LOOPBACK, True),
        ("ipv6:[::1]:4711", True),
        ("ipv6:%5B::1%5D:4711", True),
        ("ipv4:10.1.2.3:4711", False),
        ("ipv6:%5Bfe80::1%5D:4711", False),
        ("unix:/tmp/socket", False),
        ("ipv4:", False),
        ("", False),
    ],
)
def test_loopback_peers_are_told_from_others(peer: str, loopback: bool) -> None:
    assert is_loopback_peer(peer) is loopback


def test_the_insecure_header_is_announced_loudly(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        InsecureHeader("127.0.0.1")
    assert "INSECURE" in caplog.text


def test_a_gateway_beyond_loopback_believes_nobody() -> None:
    """Security checklist, plain-text mode: loopback only, refuse beyond."""
    with pytest.raises(Unauthenticated):
        InsecureHeader("0.0.0.0").authenticate(LOOPBACK, [("moot-principal", "alice@acme")])


def test_a_caller_beyond_loopback_is_not_believed() -> None:
    with pytest.raises(Unauthenticated):
        InsecureHeader("127.0.0.1").authenticate("ipv4:10.0.0.7:1", [("moot-principal", "alice@acme")])


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        [("moot-principal", "alice")],
        [("moot-principal", "@acme")],
        [("moot-principal", "alice@")],
        [("moot-principal", "a" * 300 + "@acme")],
        [("moot-principal", "alice@acme"), ("moot-principal", "bob@acme")],
        [("moot-principal", b"alice@acme")],
    ],
)
def test_a_missing_double_or_malformed_principal_is_unauthenticated(metadata: list[tuple[str, str | bytes]]) -> None:
    with pytest.raises(Unauthenticated):
        InsecureHeader("127.0.0.1").authenticate(LOOPBACK, metadata)


def test_nobody_can_pass_for_a_document_of_the_cluster() -> None:
    with pytest.raises(Unauthenticated):
        InsecureHeader("127.0.0.1").authenticate(LOOPBACK, [("moot-principal", "document:chat/lobby@moot")])


def test_sessions_and_keys_of_two_principals_never_meet() -> None:
    """Invariant 4: a repeated sequence is answered with its first answer, which belongs to who sent it first."""
    assert scoped_session("alice@acme", SESSION) != scoped_session("mallory@acme", SESSION)
    assert scoped_idempotency_key("alice@acme", b"k") != scoped_idempotency_key("mallory@acme", b"k")
    assert scoped_session("alice@acme", SESSION) != scoped_idempotency_key("alice@acme", SESSION)


def test_a_scoped_session_keeps_its_time_and_is_the_same_at_every_gateway() -> None:
    assert scoped_session("alice@acme", SESSION)[:6] == SESSION[:6]
    assert scoped_session("alice@acme", SESSION) == scoped_session("alice@acme", SESSION)
    assert len(scoped_session("alice@acme", SESSION)) == 16


@pytest.mark.parametrize("metadata", [(), (("moot-principal", "nobody"),)])
async def test_every_way_in_asks_who_calls(metadata: tuple[tuple[str, str], ...]) -> None:
    async with serving() as caller:
        for service, method in [("DocumentService", "Create"), ("AdminService", "GetStatus")]:
            with pytest.raises(aio.AioRpcError) as raised:
                await caller.unary(method, CREATE, wire.Reply, service=f"cluster.v1.{service}", metadata=metadata)
            assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert info_of(raised.value).reason == "UNAUTHENTICATED"
        assert (await ending_of(caller.stream(metadata=metadata)))[0] is grpc.StatusCode.UNAUTHENTICATED
        watch = caller.watch(wire.WatchRequest(document=CREATE.document), metadata=metadata)
        assert (await ending_of(watch))[0] is grpc.StatusCode.UNAUTHENTICATED
        assert caller.backend.submitted == 0
