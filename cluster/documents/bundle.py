"""Bundles: what is deployed. A file, or a package directory, as canonical bytes named by their hash.

Invariant: equal content has equal bytes, hence one `code_hash`, on every machine: paths are sorted, relative and use `/`;
neither modification times nor the directory's own place are part of it. It does not look into the code: see refusals.py.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

import msgspec

from cluster.documents import vendoring
from cluster.documents.static import is_static
from cluster.errors import InvalidBundle, TooLarge

FORMAT: Final = 1
FILES_MAX: Final = 1_000
PATH_BYTES_MAX: Final = 512
FILE_BYTES_MAX: Final = 1024 * 1024
BUNDLE_BYTES_MAX: Final = 8 * 1024 * 1024
CODE_HASH_BYTES: Final = 32

_PYTHON_PATH = re.compile(r"(?:[A-Za-z_][A-Za-z0-9_]*/)*[A-Za-z_][A-Za-z0-9_]*\.py\Z")
_IGNORED_DIRECTORIES: Final = frozenset({"__pycache__", "tests", "build", "dist", "node_modules"})


class _Wire(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    format: int
    entry: str
    files: list[tuple[str, bytes]]


_DECODER: Final = msgspec.msgpack.Decoder(_Wire)


@dataclass(frozen=True, slots=True)
class Bundle:
    """Files by relative path, and which class is the document.

    entry: `module` or `module:Class`; without a class, the module's only document class.
    files: sorted by path.
    """

    entry: str
    files: tuple[tuple[str, bytes], ...]

    def encode(self) -> bytes:
        """The canonical bytes. Raises TooLarge or InvalidBundle; nothing is affected."""
        _check_files(self.files)
        data = msgspec.msgpack.encode(_Wire(FORMAT, self.entry, list(self.files)))
        if len(data) > BUNDLE_BYTES_MAX:
            raise TooLarge(f"the bundle has {len(data)} bytes, at most {BUNDLE_BYTES_MAX} are allowed")
        return data

    def modules(self) -> Iterator[tuple[str, str, bytes]]:
        """(module name, path, source) of every Python file."""
        for path, content in self.files:
            if path.endswith(".py") and not is_static(path):
                yield module_name(path), path, content


def decode(data: bytes) -> Bundle:
    """The bundle of these bytes. Raises TooLarge or InvalidBundle, also for bytes that are not canonical."""
    if len(data) > BUNDLE_BYTES_MAX:
        raise TooLarge(f"the bundle has {len(data)} bytes, at most {BUNDLE_BYTES_MAX} are allowed")
    try:
        wire = _DECODER.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidBundle(f"not a bundle: {error}") from None
    if wire.format != FORMAT:
        raise InvalidBundle(f"bundle format {wire.format} is not known here")
    bundle = Bundle(wire.entry, tuple(wire.files))
    if bundle.encode() != data:
        raise InvalidBundle("the bundle's bytes are not canonical")
    return bundle


def code_hash(data: bytes) -> bytes:
    """BLAKE2b-256 of a bundle's canonical bytes."""
    return hashlib.blake2b(data, digest_size=CODE_HASH_BYTES).digest()


def from_source(source: str, *, name: str = "document", entry: str = "") -> Bundle:
    """A bundle of one module."""
    return Bundle(entry or name, ((f"{name}.py", source.encode()),))


def from_path(path: Path, *, entry: str = "") -> Bundle:
    """The bundle of a Python file, or of a package directory with everything in it except hidden files, caches and tests, and
    with the dependencies that its pyproject.toml names (see vendoring.py). Of any other directory: of the file or package that
    its pyproject.toml names under [tool.moot] document.

    Raises InvalidBundle or TooLarge, and OSError when the files can not be read.
    """
    path = document_path(path)
    if path.is_file():
        return Bundle(entry or path.stem, ((path.name, _read(path)),))
    found = {}
    for file in sorted(path.rglob("*")):
        inside = file.relative_to(path)
        if file.is_file() and not file.is_symlink() and _belongs(inside.parts):
            found[str(PurePosixPath(path.name, *inside.parts))] = _read(file)
    found |= vendoring.vendored(vendoring.requirements(path), found)
    return Bundle(entry or path.name, tuple(sorted(found.items())))


def document_path(path: Path) -> Path:
    """The file or package of a bundle: what is given, or what its pyproject.toml names. Raises InvalidBundle."""
    return path if path.is_file() or (path / "__init__.py").is_file() else _named_document(path)


def _named_document(folder: Path) -> Path:
    """What a project's pyproject.toml names as its document. Raises InvalidBundle."""
    named: object = None
    file = folder / "pyproject.toml"
    if file.is_file():
        try:
            named = tomllib.loads(file.read_text()).get("tool", {}).get("moot", {}).get("document")
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, AttributeError) as error:
            raise InvalidBundle(f"{file} can not be read: {error}") from None
    if named is None:
        raise InvalidBundle(
            f"{folder} is neither a Python file nor a package with an __init__.py, and has no pyproject.toml that names one: "
            '[tool.moot] document = "FILE.py"'
        )
    found = folder / str(named)
    plain = isinstance(named, str) and all(part not in ("", ".", "..") for part in named.split("/"))
    if not plain or not (found.is_file() or (found / "__init__.py").is_file()):
        raise InvalidBundle(f"{file}: [tool.moot] document is a Python file or a package in {folder}, not {named!r}")
    return found


def origins(data: bytes, root: Path) -> dict[str, str]:
    """The author's own Python files below `root`, by path in the bundle: those that hold exactly what the bundle does."""
    found = {}
    for _, path, content in decode(data).modules():
        file = root / path
        if file.is_file() and file.read_bytes() == content:
            found[path] = str(file)
    return found


def module_name(path: str) -> str:
    """The name a bundle's module is imported by: `shop/profiles.py` is `shop.profiles`."""
    parts = path.removesuffix(".py").split("/")
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def _belongs(parts: tuple[str, ...]) -> bool:
    return not any(part.startswith(".") or part in _IGNORED_DIRECTORIES for part in parts)


def _read(file: Path) -> bytes:
    if file.stat().st_size > FILE_BYTES_MAX:
        raise TooLarge(f"{file} has more than {FILE_BYTES_MAX} bytes")
    return file.read_bytes()


def _check_files(files: Iterable[tuple[str, bytes]]) -> None:
    before = ""
    count = 0
    for path, content in files:
        count += 1
        parts = path.split("/")
        if path <= before or "\\" in path or any(part in ("", ".", "..") for part in parts):
            raise InvalidBundle(f"path {path!r} is out of order, or not a plain relative path")
        if path.endswith(".py") and not _PYTHON_PATH.match(path):
            raise InvalidBundle(f"path {path!r} can not be imported: its parts must be identifiers")
        if len(path.encode()) > PATH_BYTES_MAX or len(content) > FILE_BYTES_MAX:
            raise TooLarge(f"file {path!r} exceeds {FILE_BYTES_MAX} bytes, or its path {PATH_BYTES_MAX}")
        before = path
    if not 1 <= count <= FILES_MAX:
        raise TooLarge(f"a bundle has 1 to {FILES_MAX} files, this one has {count}")
