"""AdminService, health and reflection: what operators and tools meet at the same port."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from cluster.errors import Unavailable, UnknownSpace
from cluster.gateway import Gateway
from cluster.gateway.admin import from_dict, to_dict
from cluster.v1 import admin_pb2
from cluster.v1 import documents_pb2 as wire
from tests.gateway.echo_backend import EchoBackend
from tests.gateway.serving import Caller, info_of, serving

ADMIN = "cluster.v1.AdminService"
METHODS = [method.name for method in admin_pb2.DESCRIPTOR.services_by_name["AdminService"].methods]


@pytest.mark.parametrize("method", METHODS)
async def test_every_method_of_the_proto_file_reaches_the_backend_by_its_name(method: str) -> None:
    descriptor = admin_pb2.DESCRIPTOR.services_by_name["AdminService"].methods_by_name[method]
    request = getattr(admin_pb2, descriptor.input_type.name)()
    if "space" in descriptor.input_type.fields_by_name:
        request.space = "text"
    if "document" in descriptor.input_type.fields_by_name:
        request.document.CopyFrom(wire.Document(space="text", key="a"))
    async with serving() as caller:
        await caller.unary(method, request, getattr(admin_pb2, descriptor.output_type.name), service=ADMIN)
        ((name, fields),) = caller.backend.admin_calls
    assert name == method
    assert set(fields) == set(descriptor.input_type.fields_by_name)


async def test_a_request_is_a_dict_with_plain_values() -> None:
    request = admin_pb2.DeploySpaceRequest(
        space="text",
        bundle=b"\x00\xff",
        files=[admin_pb2.BundleFile(path="a.py", content=b"pass")],
        settings={"steps_max": "10"},
    )
    async with serving() as caller:
        await caller.unary("DeploySpace", request, admin_pb2.DeploySpaceResponse, service=ADMIN)
        assert caller.backend.admin_calls == [
            (
                "DeploySpace",
                {
                    "space": "text",
                    "bundle": b"\x00\xff",
                    "files": [{"path": "a.py", "content": b"pass"}],
                    "check_only": False,
                    "force": False,
                    "settings": {"steps_max": "10"},
                    "plan": None,
                },
            )
        ]


async def test_an_answer_is_the_message_that_the_dict_describes() -> None:
    answer: dict[str, Any] = {
        "hash": 2**32 - 1,
        "shard": {
            "shard_id": 3,
            "leader": "n1",
            "replicas": [
                {"replica_id": 7, "node_id": "n1", "role": "REPLICA_ROLE_LEADER", "match_index": 2**40},
                {"replica_id": 8, "node_id": "n2", "role": 2},
            ],
        },
        "leader_gateway_address": None,
    }
    async with serving() as caller:
        caller.backend.admin_answers["Where"] = answer
        request = admin_pb2.WhereRequest(document=wire.Document(space="text", key="a"))
        response = await caller.unary("Where", request, admin_pb2.WhereResponse, service=ADMIN)
    assert response.hash == 2**32 - 1
    assert [replica.role for replica in response.shard.replicas] == [
        admin_pb2.REPLICA_ROLE_LEADER,
        admin_pb2.REPLICA_ROLE_VOTER,
    ]
    assert response.shard.replicas[0].match_index == 2**40


def test_an_unset_message_or_optional_field_is_none_and_comes_back_unset() -> None:
    assert to_dict(admin_pb2.WhereRequest()) == {"document": None}
    assert to_dict(admin_pb2.CheckpointRequest()) == {"shard_id": None}
    assert to_dict(admin_pb2.CheckpointRequest(shard_id=0)) == {"shard_id": 0}
    for request in (admin_pb2.CheckpointRequest(), admin_pb2.CheckpointRequest(shard_id=0)):
        assert from_dict(admin_pb2.CheckpointRequest, to_dict(request)) == request


def test_a_message_survives_the_way_through_a_dict() -> None:
    history = admin_pb2.ReadHistoryResponse(
        commands=[
            admin_pb2.HistoryCommand(
                position=wire.Position(epoch=1, index=2), kind=admin_pb2.COMMAND_KIND_MESSAGE, payload=b"{}", time_ms=2**42
            )
        ],
        earliest_index=1,
    )
    assert to_dict(history)["commands"][0]["kind"] == "COMMAND_KIND_MESSAGE"
    assert from_dict(admin_pb2.ReadHistoryResponse, to_dict(history)) == history


async def test_an_answer_that_the_proto_file_does_not_declare_is_our_fault_and_told_by_its_id() -> None:
    async with serving() as caller:
        caller.backend.admin_answers["GetStatus"] = {"surprise": 1}
        with pytest.raises(aio.AioRpcError) as raised:
            await caller.unary("GetStatus", b"", admin_pb2.GetStatusResponse, service=ADMIN)
    assert raised.value.code() is grpc.StatusCode.INTERNAL
    assert "error_id" in info_of(raised.value).metadata


async def test_an_error_of_the_backend_keeps_its_reason() -> None:
    async with serving() as caller:
        caller.backend.admin_answers["GetSpace"] = UnknownSpace("no space 'x'")
        with pytest.raises(aio.AioRpcError) as raised:
            await caller.unary("GetSpace", admin_pb2.GetSpaceRequest(space="x"), admin_pb2.GetSpaceResponse, service=ADMIN)
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    assert info_of(raised.value).reason == "UNKNOWN_SPACE"


async def test_bad_names_are_refused_before_the_backend_sees_them() -> None:
    async with serving() as caller:
        request = admin_pb2.WhereRequest(document=wire.Document(space="Text", key="a"))
        with pytest.raises(aio.AioRpcError) as raised:
            await caller.unary("Where", request, admin_pb2.WhereResponse, service=ADMIN)
        assert info_of(raised.value).reason == "INVALID_NAME"
        assert caller.backend.admin_calls == []


async def health(caller: Caller, service: str = "") -> int:
    stub = caller.channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    response: health_pb2.HealthCheckResponse = await stub(health_pb2.HealthCheckRequest(service=service))
    return int(response.status)


@pytest.mark.parametrize("service", ["", "cluster.v1.DocumentService", ADMIN])
async def test_health_is_what_the_backend_says_and_needs_no_principal(service: str) -> None:
    async with serving() as caller:
        assert await health(caller, service) == health_pb2.HealthCheckResponse.SERVING
        caller.backend.ready = False
        assert await health(caller, service) == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_health_of_an_unknown_service_is_not_found() -> None:
    async with serving() as caller:
        with pytest.raises(aio.AioRpcError) as raised:
            await health(caller, "nothing")
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_health_watch_reports_each_change() -> None:
    async with serving() as caller:
        call: Any = caller.channel.unary_stream(
            "/grpc.health.v1.Health/Watch",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )(health_pb2.HealthCheckRequest())
        assert (await call.read()).status == health_pb2.HealthCheckResponse.SERVING
        caller.backend.ready = False
        assert (await asyncio.wait_for(call.read(), 10)).status == health_pb2.HealthCheckResponse.NOT_SERVING
        call.cancel()


async def test_reflection_names_the_public_services() -> None:
    async with serving() as caller:
        stub = reflection_pb2_grpc.ServerReflectionStub(caller.channel)
        call = stub.ServerReflectionInfo()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        response = await call.read()
        names = {service.name for service in response.list_services_response.service}
        await call.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol="cluster.v1.DocumentService"))
        described = await call.read()
        await call.done_writing()
    assert {"cluster.v1.DocumentService", ADMIN, "grpc.health.v1.Health"} <= names
    assert described.file_descriptor_response.file_descriptor_proto


async def test_an_address_that_is_taken_is_said_so() -> None:
    async with serving() as caller:
        with pytest.raises(Unavailable):
            await Gateway(EchoBackend(), port=caller.port).start()
