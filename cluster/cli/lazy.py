"""Groups of commands whose modules are imported when one of their commands is named.

`moot node start` must not load what only `moot doc replay` needs: imports are most of what a short command does, and a cluster
of one machine pays for them once a node. A group is told the names of its commands and which module has them; a module says
with `register(app)` what it adds to the group. Help of a group, and completion, load all of it.

Invariant: which commands a group has, and in which order, does not depend on what has been imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, Final, Protocol, cast

import typer
from typer.core import TyperGroup
from typer.main import get_group

PACKAGE: Final = "cluster.cli"


class _Module(Protocol):
    def register(self, app: typer.Typer, /) -> None:
        """Add the commands of this module."""


class _Commands(Mapping[str, Any]):
    """own: commands that are there already; they are listed first. modules: name of a command -> module of this package."""

    def __init__(self, own: Mapping[str, Any], modules: Mapping[str, str]) -> None:
        assert own.keys().isdisjoint(modules), "one command, two places"
        self._loaded = dict(own)
        self._modules = modules
        self._names = [*own, *modules]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._loaded or name in self._modules

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            self._load(self._modules[name])
        return self._loaded[name]

    def _load(self, module: str) -> None:
        part = typer.Typer()
        cast(_Module, import_module(f"{PACKAGE}.{module}")).register(part)
        found = get_group(part).commands
        listed = {name for name, place in self._modules.items() if place == module}
        assert found.keys() == listed, f"{module} has {sorted(found)}, it is said to have {sorted(listed)}"
        self._loaded.update(found)


def lazily(modules: Mapping[str, str]) -> type[TyperGroup]:
    """For `typer.Typer(cls=...)`: a group that has, beside its own commands, these. modules: name of a command -> module."""

    class LazyGroup(TyperGroup):
        def __init__(self, *, commands: Mapping[str, Any], **attributes: Any) -> None:
            super().__init__(**attributes)
            self.commands = _Commands(commands, modules)  # type: ignore[assignment]

    return LazyGroup
