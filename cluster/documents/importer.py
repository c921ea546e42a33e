"""Loads bundles: one import hook for nodes, simulations and tests.

A bundle's modules are executed once in a process, under names that carry the code's hash, are registered in sys.modules, and
their source is in linecache, so tracebacks, breakpoints and coverage show the author's lines. `import` inside a bundle finds
the bundle's own modules and an allow-list of facades: modules that hold only what is the same everywhere and has no effects.

Invariant: after `load` everything the modules hold is immutable or code: nothing of one command can be left for the next.
"""

from __future__ import annotations

import ast
import linecache
import sys
from collections.abc import Mapping
from types import MappingProxyType, ModuleType
from typing import Any, Final

from cluster.documents import bundle as bundles
from cluster.documents import facades, library
from cluster.documents.instrument import instrument

PREFIX: Final = "moot_bundle_"


class ModulesOfBundle:
    """The modules of one bundle, executed on first use. origins: the author's own files, by path in the bundle."""

    def __init__(
        self,
        bundle: bundles.Bundle,
        code_hash: bytes,
        trees: dict[str, ast.Module],
        origins: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._origins = origins
        self.namespace = f"{PREFIX}{code_hash.hex()[:24]}"
        self.modules: dict[str, ModuleType] = {}
        self._sources = {name: (path, source) for name, path, source in bundle.modules()}
        self._trees = trees
        self._builtins = library.table(self._import)
        self.root = ModuleType(self.namespace)
        self.root.__path__ = []
        sys.modules[self.namespace] = self.root

    def filename(self, path: str) -> str:
        """What a traceback calls a file of the bundle: the author's own file where this is his machine, else its path under the
        code's name.
        """
        return self._origins.get(path) or f"{self.namespace}/{path}"

    @property
    def files(self) -> dict[str, str]:
        """Paths in the bundle, by what a traceback calls them."""
        return {self.filename(path): path for path, _ in self._sources.values()}

    def module(self, name: str) -> ModuleType:
        """The bundle's module, executed if it was not yet. Raises whatever its top level raises."""
        found = self.modules.get(name)
        if found is not None:
            return found
        path, source = self._sources[name]
        filename = self.filename(path)
        module = ModuleType(f"{self.namespace}.{name}")
        module.__file__ = filename
        module.__dict__["__builtins__"] = self._builtins
        if path.endswith("/__init__.py"):
            module.__path__ = []
        self.modules[name] = module
        sys.modules[module.__name__] = module
        text = source.decode("utf-8")
        linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
        try:
            code = compile(instrument(self._trees[name]), filename, "exec", dont_inherit=True, optimize=0)
            exec(code, module.__dict__)
        except BaseException:
            self.discard()
            raise
        return module

    def line_of_class(self, path: str, name: str) -> int:
        """Where the bundle's file defines a class at its top, or 1."""
        for module, (of, _) in self._sources.items():
            for node in self._trees[module].body if of == path else ():
                if isinstance(node, ast.ClassDef) and node.name == name:
                    return node.lineno
        return 1

    def place_of(self, owner: type, member: str) -> tuple[str, int]:
        """The file of a class of the bundle, and where it, or a class that it derives from, has a member; else where
        it begins.
        """
        found: tuple[str, int] | None = None
        for kind in owner.__mro__:
            name = kind.__module__.removeprefix(f"{self.namespace}.")
            path, _ = self._sources.get(name, ("", b""))
            for node in self._trees[name].body if path else ():
                if isinstance(node, ast.ClassDef) and node.name == kind.__name__:
                    line = next((part.lineno for part in node.body if _declares(part, member)), 0)
                    if line:
                        return path, line
                    found = found or (path, node.lineno)
        return found or ("", 1)

    def discard(self) -> None:
        """Forget everything that was registered."""
        for name in [self.namespace, *(module.__name__ for module in self.modules.values())]:
            sys.modules.pop(name, None)
        for path, _ in self._sources.values():
            if path in self._origins:
                continue  # it was there before, and the file still is
            linecache.cache.pop(self.filename(path), None)
        self.modules.clear()

    def _import(
        self,
        name: str,
        globals: dict[str, Any] | None = None,
        locals: dict[str, Any] | None = None,
        fromlist: tuple[str, ...] = (),
        level: int = 0,
    ) -> ModuleType:
        """The bundle's `__import__`."""
        if level:
            name = self._absolute(name, globals or {}, level)
        if name in self._sources:
            for place, letter in enumerate(name):
                if letter == "." and name[:place] in self._sources:
                    self.module(name[:place])
            found = self.module(name)
            for part in fromlist or ():
                if f"{name}.{part}" in self._sources and not hasattr(found, part):
                    setattr(found, part, self.module(f"{name}.{part}"))
            return found if fromlist else self.module(name.partition(".")[0])
        facade = facades.facade(name)
        if facade is None:
            raise ImportError(f"{name} is not available to documents")
        return facade

    def _absolute(self, name: str, module: dict[str, Any], level: int) -> str:
        own = str(module["__name__"]).removeprefix(f"{self.namespace}.").split(".")
        package = own if "__path__" in module else own[:-1]
        if level - 1 > len(package):
            raise ImportError("a relative import leaves the bundle")
        kept = package[: len(package) - (level - 1)]
        return ".".join([*kept, name] if name else kept)


def _declares(part: ast.stmt, member: str) -> bool:
    if isinstance(part, ast.AnnAssign):
        return isinstance(part.target, ast.Name) and part.target.id == member
    return isinstance(part, ast.FunctionDef) and part.name == member
