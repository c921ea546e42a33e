"""Has test modules import the code that runs: `from auction import Auction` in a test gives the class of the deployed bundle.

A bundle's modules are executed under names of their own, with checks and budgets inserted. Imported the usual way, an author's
file would be executed a second time, plainly, and a test would hold classes that are not those of the documents. This finder
answers imports of one project's document by the bundle's own modules, so there is one of each class.

Invariant: it answers for the names of one bundle's modules and nothing else. What could not be deployed can not be imported:
the import raises InvalidBundle with every finding.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Final

from cluster.documents.bundle import document_path, from_path, origins
from cluster.documents.declare import Document
from cluster.documents.importer import PREFIX
from cluster.documents.loader import BundleLoader
from cluster.documents.program import DocumentProgram

_LOADED: Final[dict[Path, DocumentProgram]] = {}
"""Programs of files that were loaded by path: while they are here their classes stay the same."""


def load(path: Path | str) -> type[Document]:
    """The document class of a file, a package, or a project with a pyproject.toml: the class that runs, with its module as in
    a node. Raises InvalidBundle with every finding, TooLarge or OSError.
    """
    file = document_path(Path(path).resolve())
    known = _LOADED.get(file)
    bundle = from_path(file)
    first = BundleLoader().load(bundle.encode(), origins(bundle.encode(), file.parent))
    cls = first.declaration.cls
    # by the entry that a simulation of this class names, so that both are one bundle
    bundle = from_path(file, entry=f"{inside(cls)}:{cls.__name__}")
    program = BundleLoader().load(bundle.encode(), origins(bundle.encode(), file.parent))
    if known is None or known.code_hash != program.code_hash:
        _LOADED[file] = program
    return program.declaration.cls


def inside(cls: type) -> str:
    """The name of a bundle's module as the bundle knows it."""
    assert cls.__module__.startswith(PREFIX), "it is a class of a loaded bundle"
    return cls.__module__.partition(".")[2]


class BundleFinder(MetaPathFinder, Loader):
    """On sys.meta_path: answers for the modules of one project's document. path: as `load` takes it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        file = document_path(path.resolve())
        self._top = file.stem if file.is_file() else file.name
        self._namespace = ""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See importlib. Raises InvalidBundle for a document that could not be deployed."""
        if fullname.partition(".")[0] != self._top:
            return None
        found = self._module(fullname)
        if found is None:
            return None
        return ModuleSpec(fullname, self, origin=found.__file__, is_package=hasattr(found, "__path__"))

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """The bundle's own, which has been executed."""
        return self._module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is left to do."""

    def _module(self, name: str) -> ModuleType | None:
        if not self._namespace:
            self._namespace = load(self._path).__module__.partition(".")[0]
        return sys.modules.get(f"{self._namespace}.{name}")
