"""The author's code as a development server deploys it: every save is a deployment, whatever version the class says.

A cluster refuses different code under the same version number, and rightly so. An author who tries things saves every minute;
here the number of the save stands in for the version, so a document is upgraded in place each time, with the author's hooks
where the class's own version rises.

Invariant: two saves never have equal bundles, also when the author goes back to what was there before.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from cluster.documents.bundle import Bundle, decode, from_path
from cluster.documents.loader import BundleLoader
from cluster.documents.program import DocumentProgram

MARK: Final = "zz-save"
"""The file of a bundle that holds the number of the save; it is no Python file, so nothing can import it."""


def read_files(path: Path) -> Bundle:
    """The author's files as they are now. Raises InvalidBundle, TooLarge, or OSError."""
    return from_path(path)


def as_save(bundle: Bundle, number: int) -> bytes:
    """The same as one save. Raises TooLarge or InvalidBundle."""
    return Bundle(bundle.entry, tuple(sorted((*bundle.files, (MARK, str(number).encode()))))).encode()


class SavedProgram(DocumentProgram):
    """A program whose version, for the cluster, is the number of its save."""

    __slots__ = ("save",)

    save: int

    def schema(self) -> dict[str, Any]:
        return super().schema() | {"version": self.save}

    def described(self) -> dict[str, Any]:
        """The schema as the author wrote it."""
        return super().schema()


class SavingLoader(BundleLoader):
    """Loads saves. See runtime.Loader."""

    __slots__ = ()

    program_class = SavedProgram

    def load(self, bundle: bytes, origins: Mapping[str, str] = MappingProxyType({})) -> SavedProgram:
        """See runtime.Loader."""
        program = super().load(bundle, origins)
        assert isinstance(program, SavedProgram)
        program.save = next((int(content) for path, content in decode(bundle).files if path == MARK), 0)
        return program
