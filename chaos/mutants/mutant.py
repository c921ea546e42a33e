"""A planted bug: a name, its story in a line, and the patch that plants it in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from chaos.mutants.reach import ALL, Reach


class Patch:
    """Replaces attributes and table entries, and puts them back."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def set(self, place: Any, name: str, value: Any) -> Any:
        """Replace an attribute; returns what was there. Raises KeyError when `place` itself does not have it, so that a bug is
        never planted where nothing grows any more."""
        before = place.__dict__[name]
        setattr(place, name, value)
        self._undo.append(lambda: setattr(place, name, before))
        return before

    def handler(self, tables: Any, old: Callable[..., Any], new: Callable[..., Any]) -> None:
        """Replace a handler in tables of handlers by role and kind."""
        found = 0
        for table in tables.values():
            for kind, handler in list(table.items()):
                if handler is old:
                    table[kind] = new
                    found += 1
                    self._undo.append(lambda table=table, kind=kind: table.__setitem__(kind, old))  # type: ignore[misc]
        assert found, "the handler stands in no table"

    def undo(self) -> None:
        """Put everything back, the last first."""
        while self._undo:
            self._undo.pop()()


Plant = Callable[[Patch], None]


@dataclass(frozen=True, slots=True)
class Mutant:
    """`plant` changes the classes of this process through a Patch. layer: which module of bugs it is from. reach: which
    seeds its hunt takes out of the stream."""

    name: str
    layer: str
    story: str
    plant: Plant
    reach: Reach = ALL

    @contextmanager
    def planted(self) -> Iterator[None]:
        """The bug is there inside the block."""
        patch = Patch()
        try:
            self.plant(patch)
            yield
        finally:
            patch.undo()


class Collector(Protocol):
    """The decorator of a module of bugs."""

    def __call__(self, story: str, reach: Reach = ALL) -> Callable[[Plant], Plant]: ...


def collector() -> tuple[list[Mutant], Collector]:
    """A list of mutants, and the decorator that adds a function to it under its own name."""
    found: list[Mutant] = []

    def mutant(story: str, reach: Reach = ALL) -> Callable[[Plant], Plant]:
        def add(plant: Plant) -> Plant:
            found.append(Mutant(plant.__name__, plant.__module__.rpartition(".")[2], story, plant, reach))
            return plant

        return add

    return found, mutant
