"""Compiles proto/ to the committed modules of cluster/v1/, or with --check says whether they are up to date.

Run by `make proto` and `make check`. The compiler is the pinned grpcio-tools of the development dependencies; the generated
code demands at least its versions of protobuf and grpcio, so the floors in pyproject.toml follow that pin.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from importlib import resources
from pathlib import Path

from grpc_tools import protoc  # type: ignore[import-untyped]

SOURCE = Path(__file__).resolve().parent
CHECKOUT = SOURCE.parent
PACKAGE = Path("cluster") / "v1"


def compile_into(target: Path) -> None:
    """Compile every proto file below `target`. Exits with the compiler's own message if a file is wrong."""
    plugin = Path(sys.executable).parent / "protoc-gen-mypy"
    files = sorted(str(path.relative_to(SOURCE)) for path in SOURCE.glob("cluster/**/*.proto"))
    status: int = protoc.main(
        [
            "protoc",
            f"--proto_path={SOURCE}",
            f"--proto_path={resources.files('grpc_tools') / '_proto'}",
            f"--plugin=protoc-gen-mypy={plugin}",
            f"--python_out={target}",
            f"--grpc_python_out={target}",
            f"--mypy_out=quiet:{target}",
            *files,
        ]
    )
    if status != 0:
        raise SystemExit(status)


def differences() -> list[str]:
    """Paths whose committed content differs from what the compiler makes, and paths that only one side has."""
    with tempfile.TemporaryDirectory() as folder:
        compile_into(Path(folder))
        made = {path.name: path.read_bytes() for path in (Path(folder) / PACKAGE).iterdir()}
    committed = {path.name: path.read_bytes() for path in (CHECKOUT / PACKAGE).glob("*_pb2*.py*")}
    names = sorted(made.keys() | committed.keys())
    return [str(PACKAGE / name) for name in names if made.get(name) != committed.get(name)]


def main() -> int:
    """Exit code 0: compiled, or nothing differs. 1: the committed code is out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the committed code and change nothing")
    if not parser.parse_args().check:
        compile_into(CHECKOUT)
        return 0
    stale = differences()
    for path in stale:
        print(f"{path} is out of date: run `make proto`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
