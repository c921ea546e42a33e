"""grpc.health.v1 over the backend's own word on whether it serves."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2

from cluster.gateway.backend import Backend

SERVICE: Final = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
WATCH_INTERVAL_MS: Final = 250
"""How late a health watch may report a change; watching is for load balancers and costs nothing else."""


class Health:
    """Answers for the whole server ("") and for each of its services alike. Needs no principal: it says nothing of anybody."""

    def __init__(self, backend: Backend, services: tuple[str, ...]) -> None:
        self._backend = backend
        self._known = frozenset(("", *services))
        self._stopping = False

    def stop(self) -> None:
        """Report NOT_SERVING from now on."""
        self._stopping = True

    def handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        """What a gRPC server registers."""
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Check": grpc.unary_unary_rpc_method_handler(
                    self._check,
                    request_deserializer=health_pb2.HealthCheckRequest.FromString,
                    response_serializer=health_pb2.HealthCheckResponse.SerializeToString,
                ),
                "Watch": grpc.unary_stream_rpc_method_handler(
                    self._watch,
                    request_deserializer=health_pb2.HealthCheckRequest.FromString,
                    response_serializer=health_pb2.HealthCheckResponse.SerializeToString,
                ),
            },
        )

    def _status(self, service: str) -> health_pb2.HealthCheckResponse.ServingStatus:
        if service not in self._known:
            return health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        if self._backend.ready and not self._stopping:
            return health_pb2.HealthCheckResponse.SERVING
        return health_pb2.HealthCheckResponse.NOT_SERVING

    async def _check(self, request: health_pb2.HealthCheckRequest, context: Any) -> health_pb2.HealthCheckResponse:
        status = self._status(request.service)
        if status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return health_pb2.HealthCheckResponse(status=status)

    async def _watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:
        said = None
        while True:
            status = self._status(request.service)
            if status != said:
                await context.write(health_pb2.HealthCheckResponse(status=status))
                said = status
            await asyncio.sleep(WATCH_INTERVAL_MS / 1000)
