"""A gRPC client in another language, written from the proto files alone, against a gateway.

Once before an in-memory backend, which tells faults of the wire from all others, and once at every node of a real cluster.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from chaos.live.processes import LiveCluster
from cluster.cli.local_commands import example
from cluster.gateway import Gateway
from tests.gateway.echo_backend import EchoBackend

HERE = Path(__file__).parent
NODE_MISSING = "Node.js and npm are not installed; this test is about a client that runs on them"
INSTALL_TIMEOUT_S = 90
RUN_TIMEOUT_S = 60

pytestmark = pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason=NODE_MISSING)


async def run(*command: str, timeout_s: int) -> str:
    """Run a command here; returns what it printed. Fails with its error output."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=HERE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        output, error = await asyncio.wait_for(process.communicate(), timeout_s)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    assert process.returncode == 0, error.decode()
    return output.decode()


@pytest.fixture(name="installed")
async def install() -> None:
    """The locked packages in node_modules, installed once."""
    stamp = HERE / "node_modules" / ".package-lock.json"
    if not stamp.exists() or stamp.stat().st_mtime < (HERE / "package-lock.json").stat().st_mtime:
        await run("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", timeout_s=INSTALL_TIMEOUT_S)


async def report_of(address: str, space: str, channel: str, payload: str) -> dict[str, Any]:
    """What the Node client saw of a fresh document. In `payload`, $n stands for a number."""
    key = f"foreign-{time.time_ns()}"
    output = await run("node", "client.js", address, space, key, channel, "nadia@acme", payload, timeout_s=RUN_TIMEOUT_S)
    report: dict[str, Any] = json.loads(output)
    assert report["listed"] == [key]
    return report


@pytest.mark.usefixtures("installed")
async def test_a_node_client_does_everything_that_the_proto_files_promise() -> None:
    gateway = Gateway(EchoBackend())
    address = f"127.0.0.1:{await gateway.start()}"
    try:
        check(await report_of(address, "text", "echo", '{"n":$n}'), may_delete=True)
    finally:
        await gateway.stop()


@pytest.mark.usefixtures("installed")
async def test_a_node_client_does_the_same_at_every_node_of_a_real_cluster(tmp_path: Path) -> None:
    """Leaders are elsewhere for most of it: each gateway forwards, and nobody can tell."""
    async with LiveCluster(tmp_path / "cluster", shards=4) as live:
        await live.deploy("counter", example("counter"))
        for address in live.addresses:
            report = await report_of(address, "counter", "add", '{"amount":$n}')
            check(report, may_delete=False)
            assert report["final"]["view"]["total"] == 1 + 2 + sum(range(101, 201))


def check(report: dict[str, Any], may_delete: bool) -> None:
    """The report of a client to which all promises were kept."""
    created = report["created"]["index"]
    epoch = report["created"]["epoch"]
    assert report["created_again"] == {"code": "ALREADY_EXISTS", "reason": "DOCUMENT_EXISTS"}
    assert report["sent"] == report["sent_again"] == {"epoch": epoch, "index": created + 1}
    assert report["read"]["position"] == report["sent"]
    assert isinstance(report["read"]["view"], dict)

    first, *later = report["watched"]
    assert first["change"] == "view"
    assert later[-1]["position"] == {"epoch": epoch, "index": created + 2}
    for before, after in zip(report["watched"], later, strict=False):
        assert after["change"] == "patch"
        assert after["base"] == before["position"]

    assert report["opened"]["open_operations_max"] > 100
    assert report["watch_error"] is None
    assert report["pipelined"] == list(range(created + 3, created + 103)), "a hundred writes in flight ran in their order"
    assert report["last_delta"]["index"] == created + 102, "the delta is there when the reply is"
    assert report["order"][-1] == ["reply", created + 102]
    assert report["repeated"] == created + 102, "a repeat on another stream gets the first answer"
    assert report["gap"] == {"reason": "SEQUENCE_GAP", "applied": "APPLIED_NO", "details": {"expected": "101"}}
    assert report["final"]["position"]["index"] == created + 102, "neither the repeat nor the gap changed anything"
    assert report["nameless"] == "INVALID_NAME"
    if may_delete:
        assert report["deleted"]["position"]["index"] == created + 103
    else:
        assert report["deleted"] == {"code": "PERMISSION_DENIED", "reason": "PERMISSION_DENIED"}
