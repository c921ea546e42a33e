"""Indexes of a Table: which rows have a value in a field, without looking at the others.

    jobs: Table[Job] = field.private(index=("state", "owner"))

An index is made when it is first asked, from the rows that are there, and is kept with every write from then on; each of its
changes has its undo in the journal. It is no part of the dump.

Invariant: after every write and every rollback an index that exists holds for each value exactly the names of the rows that
have it. What a query costs is a function of the state alone: whether an index exists already differs between replicas.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cluster.documents.state.journal import Journal


class Indexes:
    """The indexes of one table. by_field: value -> names of its rows, for each indexed field that was asked for."""

    __slots__ = ("by_field", "fields")

    def __init__(self, fields: tuple[str, ...]) -> None:
        self.fields = fields
        self.by_field: dict[str, dict[Any, dict[Any, None]]] = {}

    def names(self, field: str, value: Any, rows: dict[Any, Any], journal: Journal | None) -> Iterable[Any]:
        """The names of the rows that have `value`, in no order. Raises TypeError for a value that can not be looked up."""
        found = self.by_field.get(field)
        if found is None:
            found = {}
            for name, row in rows.items():
                found.setdefault(row.__dict__[field], {})[name] = None
            self.by_field[field] = found
            if journal is not None and journal.active:
                journal.undo.append((self.forget,))  # what is undone after this was written before the index was there
        return found.get(value, ())

    def forget(self) -> None:
        """Make the indexes anew when they are asked for."""
        self.by_field.clear()

    def insert(self, name: Any, row: Any, journal: Journal | None) -> None:
        """A row has come."""
        for field in self.by_field:
            self._add(field, row.__dict__[field], name)
        if journal is not None and self.by_field:
            journal.undo.append((self.delete, name, row, None))

    def delete(self, name: Any, row: Any, journal: Journal | None) -> None:
        """A row goes, with the values that it has."""
        for field in self.by_field:
            self._drop(field, row.__dict__[field], name)
        if journal is not None and self.by_field:
            journal.undo.append((self.insert, name, row, None))

    def replace(self, field: str, name: Any, old: Any, new: Any, journal: Journal | None) -> None:
        """A row's field has another value now."""
        if field not in self.by_field:
            return
        self._drop(field, old, name)
        self._add(field, new, name)
        if journal is not None:
            journal.undo.append((self.replace, field, name, new, old, None))

    def _add(self, field: str, value: Any, name: Any) -> None:
        self.by_field[field].setdefault(value, {})[name] = None

    def _drop(self, field: str, value: Any, name: Any) -> None:
        names = self.by_field[field][value]
        del names[name]
        if not names:
            del self.by_field[field][value]
