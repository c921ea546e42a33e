"""A document's state as the code half drives it: one root, one journal, commands with an index and a source of row ids."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from cluster.documents.state import Changes, Journal, StateRoot, field_spec


class Desk:
    """A state root with its journal, and commands that end in commit or rollback."""

    def __init__(self, declared: dict[str, tuple[Any, Any]]) -> None:
        self.specs = {name: field_spec(name, kind, value, owner=Desk) for name, (kind, value) in declared.items()}
        self.journal = Journal()
        self.root = StateRoot(self.specs, self.journal)
        self.index = 0
        self._ids = itertools.count(1)

    def begin(self) -> None:
        self.index += 1
        self.journal.begin(index=self.index, new_id=lambda: next(self._ids) * 0x9E3779B97F4A7C15 % 2**64)

    def run(self, handler: Callable[[StateRoot], object]) -> Changes:
        self.begin()
        try:
            handler(self.root)
        except BaseException:
            self.journal.rollback()
            raise
        return self.journal.commit()

    def view(self) -> dict[str, Any]:
        return {name: self.root.to_json(name) for name in self.root.names() if self.root.is_set(name)}

    def reloaded(self) -> Desk:
        other = Desk.__new__(Desk)
        other.__dict__.update(self.__dict__)
        other.journal = Journal()
        other.root = StateRoot(self.specs, other.journal)
        other.root.load(self.root.dump())
        return other


@pytest.fixture(scope="session")
def make_desk() -> type[Desk]:
    return Desk
