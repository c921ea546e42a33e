"""A client that shares no code with the project, against a real cluster of three nodes."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from pathlib import Path

import pytest

from chaos.live.processes import LiveCluster

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 110


@pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="Node.js and npm are not installed")
async def test_node_client_does_everything_against_real_nodes(live: LiveCluster) -> None:
    """The suite of tests/foreign, told to use this cluster instead of an in-memory backend."""
    environment = {
        **os.environ,
        "MOOT_FOREIGN_ADDRESS": live.addresses[1],
        "MOOT_FOREIGN_SPACE": "counter",
        "MOOT_FOREIGN_CHANNEL": "put",
        "MOOT_FOREIGN_PAYLOAD": '{"value":"$n"}',
        "MOOT_FOREIGN_MAY_DELETE": "no",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pytest", "tests/foreign/test_node_client.py", "-q", "-p", "no:cacheprovider", "-rs",
        cwd=ROOT, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await asyncio.wait_for(process.communicate(), TIMEOUT_S)
    assert process.returncode == 0, output.decode()
    assert b"passed" in output, output.decode()
    assert b"skipped" not in output, output.decode()
