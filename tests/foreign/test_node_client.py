"""A gRPC client in another language, written from the proto files alone, against a gateway.

The address of a running cluster may be given in MOOT_FOREIGN_ADDRESS, with MOOT_FOREIGN_SPACE, MOOT_FOREIGN_CHANNEL and
MOOT_FOREIGN_PAYLOAD (a JSON object in which $n is a number) for a space deployed there, and MOOT_FOREIGN_MAY_DELETE=no if its
code lets nobody delete; otherwise it is an in-memory backend.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

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


@pytest.fixture(name="address")
async def running_gateway() -> AsyncIterator[str]:
    given = os.environ.get("MOOT_FOREIGN_ADDRESS")
    if given:
        yield given
        return
    gateway = Gateway(EchoBackend())
    yield f"127.0.0.1:{await gateway.start()}"
    await gateway.stop()


@pytest.mark.usefixtures("installed")
async def test_a_node_client_does_everything_that_the_proto_files_promise(address: str) -> None:
    space = os.environ.get("MOOT_FOREIGN_SPACE", "text")
    channel = os.environ.get("MOOT_FOREIGN_CHANNEL", "echo")
    payload = os.environ.get("MOOT_FOREIGN_PAYLOAD", '{"n":$n}')
    may_delete = os.environ.get("MOOT_FOREIGN_MAY_DELETE", "yes") == "yes"
    key = f"foreign-{time.time_ns()}"
    output = await run("node", "client.js", address, space, key, channel, "nadia@acme", payload, timeout_s=RUN_TIMEOUT_S)
    report: dict[str, Any] = json.loads(output)
    created = report["created"]["index"]
    epoch = report["created"]["epoch"]
    assert report["created_again"] == {"code": "ALREADY_EXISTS", "reason": "DOCUMENT_EXISTS"}
    assert report["sent"] == report["sent_again"] == {"epoch": epoch, "index": created + 1}
    assert report["read"]["position"] == report["sent"]
    assert isinstance(report["read"]["view"], dict)
    assert report["listed"] == [key]

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
