"""Dependencies of a bundle: pure-Python modules of installed distributions, copied into it when it is made.

    [tool.moot]
    vendor = ["more-itertools==10.5.0", "shapes"]

in the pyproject.toml of the package, or beside it. What the author's modules import of these distributions, and what that
imports,
becomes part of the bundle: found by hash, checked and metered like the author's own code. `vendored.json` in the bundle says
which versions it holds. A cluster never looks for a dependency anywhere.

Invariant: the same installed files give the same bundle. Nothing of a distribution runs here.
"""

from __future__ import annotations

import ast
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Final

from cluster.errors import InvalidBundle

PINS: Final = "vendored.json"
_REQUIREMENT: Final = re.compile(r"([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(?:\s*==\s*([A-Za-z0-9.+!_-]+))?\Z")
_COMPILED: Final = (".so", ".pyd", ".dll", ".dylib")


def requirements(package: Path) -> list[str]:
    """What the package's pyproject.toml, inside of it or beside it, names under [tool.moot] vendor. Raises InvalidBundle."""
    for file in (package / "pyproject.toml", package.parent / "pyproject.toml"):
        if file.is_file():
            try:
                named = tomllib.loads(file.read_text()).get("tool", {}).get("moot", {}).get("vendor", [])
            except (tomllib.TOMLDecodeError, UnicodeDecodeError, AttributeError) as error:
                raise InvalidBundle(f"{file} can not be read: {error}") from None
            if not isinstance(named, list) or not all(isinstance(one, str) for one in named):
                raise InvalidBundle(f"{file}: [tool.moot] vendor is a list of names like 'shapes' or 'shapes==1.2'")
            return named
    return []


def vendored(named: Iterable[str], own: Mapping[str, bytes]) -> dict[str, bytes]:
    """Files to add to a bundle that has the Python files `own` by path: what they import of these distributions, and the pins.

    Raises InvalidBundle for a distribution that is not installed, has another version than is named, or is not pure Python.
    """
    pins: dict[str, str] = {}
    available: dict[str, tuple[str, bytes]] = {}
    for requirement in named:
        name, version, files = _distribution(requirement)
        pins[name] = version
        for module, path, content in files:
            if path in own:
                raise InvalidBundle(f"{path} is in the package and in {name}: rename the package's own")
            available[module] = (path, content)
    if not pins:
        return {}
    found: dict[str, bytes] = {}
    waiting = [_module(path) for path in own if path.endswith(".py")]
    sources = {_module(path): (path, content) for path, content in own.items() if path.endswith(".py")} | available
    seen = set(waiting)
    while waiting:
        module = waiting.pop()
        path, content = sources[module]
        if module in available:
            found[path] = content
        for name in _imported(content, module, package=path.endswith("__init__.py")):
            parts = name.split(".")
            for known in [".".join(parts[:count]) for count in range(1, len(parts) + 1)]:
                if known in available and known not in seen:
                    seen.add(known)
                    waiting.append(known)
    found[PINS] = json.dumps(pins, indent=2, sort_keys=True).encode() + b"\n"
    return found


def _distribution(requirement: str) -> tuple[str, str, list[tuple[str, str, bytes]]]:
    """Name, version, and (module, path, content) of every Python file of an installed distribution."""
    match = _REQUIREMENT.match(requirement.strip())
    if match is None:
        raise InvalidBundle(f"[tool.moot] vendor: {requirement!r} is no name like 'shapes' or 'shapes==1.2'")
    name, wanted = match.groups()
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        raise InvalidBundle(f"[tool.moot] vendor: {name} is not installed here; install it where you deploy from") from None
    if wanted is not None and distribution.version != wanted:
        raise InvalidBundle(f"[tool.moot] vendor: {name} {distribution.version} is installed, and {wanted} is named")
    found = []
    for file in distribution.files or []:
        path = file.as_posix()
        if path.endswith(_COMPILED):
            raise InvalidBundle(f"[tool.moot] vendor: {name} is not pure Python: it has {path}")
        if path.endswith(".py") and not path.startswith("..") and ".dist-info/" not in path:
            found.append((_module(path), path, Path(str(distribution.locate_file(file))).read_bytes()))
    if not found:
        raise InvalidBundle(
            f"[tool.moot] vendor: {name} has no Python files here; an editable installation can not be vendored"
        )
    return name, distribution.version, found


def _imported(source: bytes, module: str, *, package: bool) -> Iterable[str]:
    """Names of modules that a source may import: those it names, and what it takes from them, which may be modules."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return  # refused with its place when the bundle is checked
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".") if package else module.split(".")[:-1]
                parts = parts[: len(parts) - (node.level - 1)]
                base = ".".join([*parts, base] if base else parts)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _module(path: str) -> str:
    parts = path.removesuffix(".py").split("/")
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
