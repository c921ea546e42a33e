"""Nodes whose answers to operators are written down beforehand, behind real gateways: what commands make of a cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from cluster.errors import InvalidRequest
from cluster.gateway import Gateway
from tests.gateway.echo_backend import EchoBackend

Said = dict[str, Any] | Exception


class ScriptedNode(EchoBackend):
    """answers: what each method says, call by call; the last one is said again and again. asked: every call, in order."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.address = ""
        self.answers: dict[str, list[Said]] = {}

    async def admin(self, method: str, request: dict[str, Any], principal: str) -> dict[str, Any]:
        self.admin_calls.append((method, request))
        said = self.answers.get(method, [InvalidRequest(f"{self.name} was not told what to say to {method}")])
        answer = said.pop(0) if len(said) > 1 else said[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def asked(self, method: str) -> list[dict[str, Any]]:
        """The requests of this method, in order."""
        return [request for name, request in self.admin_calls if name == method]


@asynccontextmanager
async def scripted(*names: str) -> AsyncIterator[list[ScriptedNode]]:
    """Nodes that know each other's gateways."""
    nodes = [ScriptedNode(name) for name in names]
    async with AsyncExitStack() as stack:
        for node in nodes:
            gateway = Gateway(node)
            node.address = f"127.0.0.1:{await gateway.start()}"
            stack.push_async_callback(gateway.stop, grace_ms=50)
        listed = [{"node_id": node.name, "gateway_address": node.address, "state": "NODE_STATE_ALIVE"} for node in nodes]
        for node in nodes:
            node.answers["GetStatus"] = [{"node_id": node.name}]
            node.answers["ListNodes"] = [{"nodes": listed}]
        yield nodes
