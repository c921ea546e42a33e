"""The gateway: the edge of a node that clients talk to.

Public gRPC over the Backend seam: DocumentService, AdminService, health and reflection on one port. It knows nothing of
shards, Raft or disks, so the same code serves a node, a test's in-memory backend and a single-process development server.
"""

from __future__ import annotations

import random
import time
from typing import Final

from google.protobuf.internal import api_implementation
from grpc import aio
from grpc_reflection.v1alpha import reflection

from cluster.errors import ConfigurationInvalid, Unavailable
from cluster.gateway import admin, documents, health
from cluster.gateway.backend import Backend
from cluster.gateway.calls import Identity
from cluster.gateway.identity import InsecureHeader
from cluster.gateway.limits import Limits
from cluster.gateway.session import Clock
from cluster.gateway.unary import UnaryCalls

KEEPALIVE_INTERVAL_MS: Final = 20_000
KEEPALIVE_TIMEOUT_MS: Final = 10_000
CLIENT_PING_INTERVAL_MIN_MS: Final = 5_000
STREAMS_PER_CONNECTION_MAX: Final = 1024
METADATA_BYTES_MAX: Final = 16 * 1024


def _unix_time_ms() -> int:
    return time.time_ns() // 1_000_000


class Gateway:
    """A gRPC server over a backend. Start it once; stopping is final.

    host: listening beyond loopback needs an `identity` that authenticates; the insecure header is not believed there.
    port: 0 takes a free one. clock_ms: Unix milliseconds, against which the times in session identities are checked.
    """

    def __init__(
        self,
        backend: Backend,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        limits: Limits | None = None,
        identity: Identity | None = None,
        randomness: random.Random | None = None,
        clock_ms: Clock | None = None,
    ) -> None:
        if api_implementation.Type() == "python":
            # the pure-Python parser has known unbounded recursion; the compiled one bounds depth (CVE-2025-4565).
            raise ConfigurationInvalid("the compiled protobuf runtime is needed to read untrusted bytes")
        self._backend = backend
        self._host = host
        self._port = port
        self._limits = limits or Limits()
        self._identity = identity or InsecureHeader(host)
        self._random = randomness or random.Random()
        self._clock_ms = clock_ms or _unix_time_ms
        self._server: aio.Server | None = None
        self._unary: UnaryCalls | None = None
        self._documents: documents.DocumentService | None = None
        self._health: health.Health | None = None

    async def start(self) -> int:
        """Listen. Returns the bound port. Raises Unavailable when the address can not be bound."""
        assert self._server is None, "a gateway starts once"
        services = (documents.SERVICE, admin.SERVICE)
        self._unary = UnaryCalls(self._backend, self._limits, self._random)
        self._documents = documents.DocumentService(self._backend, self._limits, self._identity, self._unary, self._clock_ms)
        self._health = health.Health(self._backend, services)
        server = aio.server(
            options=[
                ("grpc.max_receive_message_length", self._limits.frame_bytes_max),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_metadata_size", METADATA_BYTES_MAX),
                ("grpc.max_concurrent_streams", STREAMS_PER_CONNECTION_MAX),
                ("grpc.keepalive_time_ms", KEEPALIVE_INTERVAL_MS),
                ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
                ("grpc.http2.min_ping_interval_without_data_ms", CLIENT_PING_INTERVAL_MIN_MS),
                ("grpc.so_reuseport", 0),
            ],
            maximum_concurrent_rpcs=self._limits.calls_max,
        )
        server.add_generic_rpc_handlers(
            (self._documents.handler(), admin.admin_handler(self._backend, self._identity), self._health.handler())
        )
        reflection.enable_server_reflection((*services, health.SERVICE, reflection.SERVICE_NAME), server)
        host = f"[{self._host}]" if ":" in self._host and not self._host.startswith("[") else self._host
        try:
            port = server.add_insecure_port(f"{host}:{self._port}")
        except RuntimeError as error:
            raise Unavailable(f"can not listen on {host}:{self._port}") from error
        await server.start()
        self._server = server
        return port

    async def stop(self, grace_ms: int = 500) -> None:
        """Report not serving, send the clients of all sessions elsewhere, then stop; what runs longer than the grace is cut."""
        if self._server is None:
            return
        assert self._health is not None
        assert self._documents is not None
        assert self._unary is not None
        self._health.stop()
        self._documents.leave("STOPPING")
        await self._server.stop(grace_ms / 1000)
        self._unary.close()
        self._server = None
