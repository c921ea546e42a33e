"""One fixture, `engine`: every test that takes it runs against each engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.storage.engine import Engine
from cluster.storage.memory import MemoryEngine
from cluster.storage.rocks import RocksEngine


@pytest.fixture(params=["memory", "rocks"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """An empty engine, open."""
    made: Engine = MemoryEngine() if request.param == "memory" else RocksEngine.open(tmp_path / "data")
    yield made
    made.close()
