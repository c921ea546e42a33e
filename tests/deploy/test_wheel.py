"""What is built from the checkout holds the package, whole and alone."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the wheel and the source distribution, built without a network."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    return folder


def wheel_names(built: Path) -> list[str]:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_wheel_holds_every_module_and_file_of_the_package(built: Path) -> None:
    names = set(wheel_names(built))
    wanted = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "cluster").rglob("*")
        if path.is_file() and not any(part == "__pycache__" or part.startswith(".") for part in path.relative_to(ROOT).parts)
    }
    assert wanted - names == set()
    assert "cluster/py.typed" in names


def test_wheel_holds_nothing_but_the_package(built: Path) -> None:
    roots = {name.partition("/")[0] for name in wheel_names(built)}
    assert roots == {"cluster", *(root for root in roots if root.endswith(".dist-info"))}
    assert len(roots) == 2


def test_wheel_names_its_command_license_and_oldest_python(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        read = {Path(name).name: archive.read(name) for name in archive.namelist() if ".dist-info/" in name}
    metadata = message_from_bytes(read["METADATA"])
    assert b"moot = cluster.cli.app:main" in read["entry_points.txt"]
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == "<3.15,>=3.11"
    assert read["LICENSE"] == (ROOT / "LICENSE").read_bytes()


def test_source_distribution_can_be_worked_on(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for needed in (
        "Makefile",
        "requirements.lock",
        "pyproject.toml",
        "proto/generate.py",
        "tests/conftest.py",
        "docs/index.md",
    ):
        assert needed in names
