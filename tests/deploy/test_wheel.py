"""What is built from the checkout holds the packages, whole and alone, and the image is built from what it copies."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"cluster", "chaos"}
RUNTIME_MODULES = {
    "google",
    "grpc",
    "grpc_health",
    "grpc_reflection",
    "grpc_status",
    "msgspec",
    "psutil",
    "rich",
    "rocksdict",
    "starlette",
    "typer",
    "uvicorn",
    "uvloop",
    "zstandard",
}


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


def test_wheel_holds_every_module_and_file_of_the_packages(built: Path) -> None:
    names = set(wheel_names(built))
    wanted = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and not any(part == "__pycache__" or part.startswith(".") for part in path.relative_to(ROOT).parts)
    }
    assert wanted - names == set()
    assert "cluster/py.typed" in names


def test_wheel_holds_nothing_but_the_packages(built: Path) -> None:
    roots = {name.partition("/")[0] for name in wheel_names(built)}
    assert {root for root in roots if not root.endswith(".dist-info")} == PACKAGES
    assert len(roots) == len(PACKAGES) + 1


def test_packages_import_only_what_the_wheel_depends_on() -> None:
    """Development tools are not there when a wheel is installed; what only pytest loads has pytest."""
    allowed = {*sys.stdlib_module_names, *PACKAGES, *RUNTIME_MODULES}
    strangers = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                    names = [node.module]
                strangers |= {f"{path.relative_to(ROOT)}: {name}" for name in names if name.partition(".")[0] not in allowed}
    assert strangers == {"cluster/pytest_plugin.py: pytest"}


def test_image_builds_the_same_wheel_from_what_it_copies(built: Path, tmp_path: Path) -> None:
    for line in re.findall(r"^COPY (?!--from)(.*)$", (ROOT / "deploy" / "Dockerfile").read_text(), flags=re.MULTILINE):
        *sources, _ = line.split()
        for source in sources:
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, tmp_path / source, ignore=shutil.ignore_patterns("__pycache__", ".*"))
            else:
                (tmp_path / source).parent.mkdir(exist_ok=True)
                shutil.copy(ROOT / source, tmp_path / source)
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "--directory", str(tmp_path / "dist")]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    assert wheel_names(tmp_path / "dist") == wheel_names(built)


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
