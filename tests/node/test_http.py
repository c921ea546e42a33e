"""HTTP is off unless a port is named, costs nothing then, and has a port of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cluster.config import NodeConfig
from cluster.errors import ConfigurationInvalid, Unavailable
from cluster.gateway.guard import HOSTS
from cluster.gateway.http_server import HOST, HttpGateway, listen
from tests.gateway.http_serving import MemoryBackend


def test_a_node_that_serves_no_http_loads_none_of_it() -> None:
    found = "import sys, cluster.node.node; print([name for name in ('uvicorn', 'h11', 'starlette') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", found], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_it_is_off_by_default_and_shares_no_port() -> None:
    assert NodeConfig(node_id="n1", data_dir="d").http_port == 0
    assert NodeConfig(node_id="n1", data_dir="d", http_port=7403).http_port == 7403
    for port in (7400, 7401, 7402, -1, 65536):
        with pytest.raises(ConfigurationInvalid, match="http_port"):
            NodeConfig(node_id="n1", data_dir="d", http_port=port)


async def test_it_listens_on_loopback_only_and_says_when_the_port_is_taken() -> None:
    assert HOST in HOSTS
    taken = listen(0)
    try:
        assert taken.getsockname()[0] == "127.0.0.1"
        with pytest.raises(Unavailable, match="for HTTP"):
            await HttpGateway(MemoryBackend(), taken.getsockname()[1]).start()
    finally:
        taken.close()
