"""The import contracts hold, and they are not decoration: a planted violation of each is found."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PURE = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][1]


def lint_imports(tree: Path) -> subprocess.CompletedProcess[str]:
    command = "from importlinter.cli import lint_imports_command; lint_imports_command(['--no-cache'])"
    environment = {**os.environ, "PYTHONPATH": str(tree), "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-c", command], cwd=tree, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def skeleton(tmp_path: Path) -> Path:
    """A tree with every module of this one, empty but for the imports that the contracts except by name."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for module in (ROOT / "cluster").rglob("*.py"):
        copy = tmp_path / module.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.touch()
    for exception in PURE["ignore_imports"]:
        importer, _, imported = exception.partition(" -> ")
        with (tmp_path / (importer.replace(".", "/") + ".py")).open("a") as module_file:
            module_file.write(f"import {imported}\n")
    return tmp_path


def test_imports_keep_the_contracts() -> None:
    run = lint_imports(ROOT)
    assert run.returncode == 0, run.stdout


def test_a_tree_without_imports_keeps_the_contracts(skeleton: Path) -> None:
    run = lint_imports(skeleton)
    assert run.returncode == 0, run.stdout


def test_every_upward_or_sideways_import_is_found(skeleton: Path) -> None:
    planted = {
        "storage.engine": "cluster.shard",
        "raft.messages": "cluster.gossip",
        "session.operations": "cluster.documents",
        "gateway.backend": "cluster.transport",
        "pump.frames": "cluster.node",
        "errors": "cluster.shardmap",
        "client.client": "cluster.cli",
    }
    for module, imported in planted.items():
        path = skeleton / "cluster" / (module.replace(".", "/") + ".py")
        path.write_text(f"def late():\n    import {imported}\n")
    run = lint_imports(skeleton)
    assert run.returncode != 0
    assert "A module imports only from the layers below its own BROKEN" in run.stdout
    found = {module for module, imported in planted.items() if f"cluster.{module} -> {imported} (l.2)" in run.stdout}
    assert found == planted.keys()


def test_a_package_that_no_layer_names_is_found(skeleton: Path) -> None:
    (skeleton / "cluster" / "helpers").mkdir()
    (skeleton / "cluster" / "helpers" / "__init__.py").touch()
    run = lint_imports(skeleton)
    assert run.returncode != 0
    assert "helpers" in run.stdout


def test_real_engines_harnesses_and_generated_code_inside_the_cluster_are_found(skeleton: Path) -> None:
    (skeleton / "cluster" / "shard" / "replica.py").write_text("import cluster.storage.rocks\n")
    (skeleton / "cluster" / "node" / "node.py").write_text("import chaos.live\n")
    (skeleton / "cluster" / "raft" / "core.py").write_text("from cluster.v1 import peer_pb2\n")
    run = lint_imports(skeleton)
    assert run.returncode != 0
    assert "The engine that touches disks is chosen by the node alone BROKEN" in run.stdout
    assert "Only the command line knows the harnesses that hurt and measure a cluster BROKEN" in run.stdout
    assert "Generated protobuf code stays at the edges BROKEN" in run.stdout


def test_every_pure_layer_that_reaches_for_the_world_is_found(skeleton: Path) -> None:
    planted = {
        "raft.core": "asyncio",
        "gossip.core": "time",
        "shard.replica": "random",
        "pump.pump": "socket",
        "documents.program": "threading",
        "router.router": "grpc",
        "session.table": "rocksdict",
        "storage.log": "select",
    }
    for module, imported in planted.items():
        (skeleton / "cluster" / (module.replace(".", "/") + ".py")).write_text(f"import {imported}\n")
    run = lint_imports(skeleton)
    assert run.returncode != 0
    assert "Pure layers have no clock, randomness, socket, thread or engine BROKEN" in run.stdout
    found = {module for module, imported in planted.items() if f"cluster.{module} -> {imported} (l.1)" in run.stdout}
    assert found == planted.keys()


def test_a_pure_layer_may_name_random_in_its_annotations(skeleton: Path) -> None:
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import random\n"
    (skeleton / "cluster" / "raft" / "messages.py").write_text(text)
    run = lint_imports(skeleton)
    assert run.returncode == 0, run.stdout


def test_every_package_from_the_pump_down_is_declared_pure() -> None:
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    names = {name for layer in layers[layers.index("pump") :] for name in re.findall(r"\w+", layer)}
    exempt = {
        "v1": "generated",
        "web": "files for browsers",
        "storage": "its engines touch disks; the rest is named module by module",
    }
    present = {name for name in names - exempt.keys() if list((ROOT / "cluster").glob(f"{name}/__init__.py"))}
    assert {f"cluster.{name}" for name in present} <= set(PURE["source_modules"])
    assert {"cluster.raft", "cluster.pump"} <= {f"cluster.{name}" for name in present}
