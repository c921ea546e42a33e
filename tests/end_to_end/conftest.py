"""Clusters of real processes for the tests of this folder."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.live.processes import LiveCluster
from cluster.cli.local_commands import EXAMPLES, example


@pytest.fixture(scope="session", name="live")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveCluster]:
    """Three healthy nodes with the example document types, for tests that leave them healthy; each uses keys of its own."""
    live = LiveCluster(tmp_path_factory.mktemp("shared") / "cluster", shards=4)

    async def start() -> None:
        await live.__aenter__()
        for name in EXAMPLES:
            await live.deploy(name, example(name))

    async def stop() -> None:
        await live.__aexit__(None, None, None)

    asyncio.run(start())
    try:
        yield live
    finally:
        asyncio.run(stop())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a test's own cluster goes."""
    return tmp_path / "cluster"
