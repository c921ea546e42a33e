"""Table: records under stable names, in insertion order.

    bids: Table[Bid] = field.visible(may_see, key="bidder", index=("cents",))

A row is named by its key field, or, without `key=`, by a row id below 2**64 that is drawn from the command's seed: ids tell
nothing about rows that a viewer may not see. In JSON a table is an object from row name to row; a row id is 16 hexadecimal
digits. Member order is insertion order in a whole view, but it is not part of the wire contract: who needs an order shows a
field to sort by. (A running number would count the hidden rows.)

Invariant: a row's name never changes, and the key field of a live row can not be set to another value.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, Generic, TypeVar

from cluster.documents.state.dicts import Keyed
from cluster.documents.state.forms import KeyType, Schema, StateType, expected
from cluster.documents.state.index import Indexes
from cluster.documents.state.journal import ADD, REMOVE, REPLACE, Journal
from cluster.documents.state.node import Node, adopt, clone, hand_out
from cluster.documents.state.record import Record, RecordType, write_field
from cluster.documents.state.refusals import StaleHandle

R = TypeVar("R", bound=Record)

ROW_ID_MAX = 2**64 - 1
ID_DRAWS_MAX = 64


class RowIdType(KeyType):
    """Row ids: 64 bits without sign, 16 hexadecimal digits on the wire (so that no client takes them for array positions)."""

    __slots__ = ()

    def admit(self, value: Any, depth: int = 0) -> int:
        if type(value) is not int or not 0 <= value <= ROW_ID_MAX:
            raise expected("a row id", value)
        return value

    def wire_key(self, plain: Any) -> str:
        return f"{plain:016x}"

    def json_schema(self, definitions: dict[str, Schema]) -> Schema:
        return {"type": "string", "pattern": "^[0-9a-f]{16}$"}


class Table(Keyed, Generic[R]):
    """Rows of one Record class. Iteration yields live rows in insertion order; `in` takes a name or a live row."""

    __slots__ = ("_indexes", "_key_field", "_type")

    def __init__(self, table_type: TableType, items: dict[Any, Any]) -> None:
        self._start(items)
        self._type = table_type
        self._key_field = table_type.key_field
        self._indexes = Indexes(table_type.index) if table_type.index else None
        for key, row in items.items():
            adopt(row, self, key)

    # reading

    def __iter__(self) -> Iterator[R]:
        self._check_live()
        lifetime = self._lifetime
        for row in self._items.values():
            yield hand_out(row, lifetime)

    def __reversed__(self) -> Iterator[R]:
        self._check_live()
        for row in reversed(self._items.values()):
            yield hand_out(row, self._lifetime)

    def __contains__(self, name: object) -> bool:
        self._check_live()
        if isinstance(name, Record):
            return self._items.get(name._slot) is name
        return name in self._items

    def __getitem__(self, name: Any) -> R:
        self._check_live()
        return hand_out(self._items[name], self._lifetime)  # type: ignore[no-any-return]

    def get(self, name: Any, default: R | None = None) -> R | None:
        """The row of this name, or the default."""
        self._check_live()
        row = self._items.get(name)
        return default if row is None else hand_out(row, self._lifetime)

    def names(self) -> list[Any]:
        """The names of all rows, in insertion order."""
        self._check_live()
        self._charge(len(self._items))
        return list(self._items)

    def name_of(self, row: R) -> Any:
        """The name of a live row: its key or its row id. Raises StaleHandle when it is not in this table."""
        self._locate(row)
        return row._slot

    # queries

    def where(self, **equals: Any) -> list[R]:
        """The rows whose fields have these values, in insertion order. What it costs follows the rows that are found if one
        of the fields has an index, else the table. Raises TypeError for an undeclared field."""
        lifetime = self._lifetime
        return [hand_out(row, lifetime) for row in self._matching(equals)]

    def find(self, **equals: Any) -> R | None:
        """The first row whose fields have these values."""
        found = self._matching(equals)
        return hand_out(found[0], self._lifetime) if found else None

    def count(self, **equals: Any) -> int:
        """How many rows have these values."""
        return len(self._matching(equals)) if equals else len(self)

    def order_by(self, name: str, *, reverse: bool = False, limit: int | None = None, **equals: Any) -> list[R]:
        """The rows that have these values by rising (or, with `reverse`, falling) value of a field; rows of equal value in
        insertion order. limit: only the first so many. Raises TypeError for an undeclared field or values without an order."""
        if name not in self._type.row.fields:
            raise TypeError(f"{self._type.row.name} declares no field {name!r}")
        found = self._matching(equals)
        self._charge(len(found) * len(found).bit_length())
        found.sort(key=lambda row: row.__dict__[name], reverse=reverse)
        lifetime = self._lifetime
        return [hand_out(row, lifetime) for row in (found if limit is None else found[: max(limit, 0)])]

    def latest(self, count: int = 1) -> list[R]:
        """The `count` rows that were put last (or all), in insertion order. What it costs follows `count`."""
        self._check_live()
        count = min(max(count, 0), len(self._items))
        self._charge(count)
        newest = list(islice(reversed(self._items.values()), count))
        newest.reverse()
        return [hand_out(row, self._lifetime) for row in newest]

    def _matching(self, equals: dict[str, Any]) -> list[Any]:
        """The rows that have these values, in insertion order, not handed out."""
        self._check_live()
        for name in equals:
            if name not in self._type.row.fields:
                raise TypeError(f"{self._type.row.name} declares no field {name!r}")
        items = self._items
        names = self._indexed(equals)
        if names is None:
            self._charge(len(items))
            candidates = list(items.values())
        else:
            self._charge(2 * len(names))
            candidates = [items[name] for name in names]
        wanted = list(equals.items())
        return [row for row in candidates if all(row.__dict__[name] == value for name, value in wanted)]

    def _indexed(self, equals: dict[str, Any]) -> list[Any] | None:
        """The fewest names that an index gives, in insertion order, or None when there is none."""
        indexes, lifetime = self._indexes, self._lifetime
        if indexes is None or lifetime is None:  # a free table is not followed by its indexes
            return None
        fewest: list[Any] | None = None
        for field in indexes.fields:
            if field not in equals:
                continue
            try:
                found = indexes.names(field, equals[field], self._items, lifetime.journal)
            except TypeError:  # not hashable: nothing in the table equals it, and the scan says so at its usual cost
                return None
            names = list(found)
            if fewest is None or len(names) < len(fewest):
                fewest = names
        if fewest is not None:
            fewest.sort(key=self._sequences().__getitem__)
        return fewest

    def __eq__(self, other: object) -> bool:
        return bool(self._items == other._items) if isinstance(other, Table) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Table({list(self._items.values())!r})"

    # writing

    def put(self, row: R) -> R:
        """Insert a copy of `row` and return the live row. With a key, a row of the same key is overwritten in place, field by
        field, and keeps its place in the order. Without one, every put is a new row under a new id."""
        journal = self._writing()
        table_type = self._type
        if type(row) is not table_type.row.record:
            raise expected(table_type.row.name, row)
        name = self._draw_id(journal) if table_type.key_field is None else row.__dict__[table_type.key_field]
        present = self._items.get(name)
        if present is row:
            return row
        if present is not None:
            return self._overwrite(present, row, journal)
        new = table_type.row.admit(row, self._depth() + 1)
        if journal is not None:
            path = (*self._path(), table_type.name_type.wire_key(table_type.name_type.to_plain(name)))
            new._date(journal.index)
            plain = table_type.row.to_plain(new)
            journal.size += table_type.row.size(new) + 9
            journal.log.append((ADD, path, table_type.row, plain))
        self._insert(name, new, journal)
        if self._indexes is not None:
            self._indexes.insert(name, new, journal)
        adopt(new, self, name)
        return hand_out(new, self._lifetime)  # type: ignore[no-any-return]

    def _overwrite(self, present: Any, row: R, journal: Journal | None) -> R:
        hand_out(present, self._lifetime)
        fields = self._type.row.fields
        depth = self._depth() + 2
        news = {name: clone(value, depth) for name, value in row.__dict__.items()}
        for name, field_type in fields.items():
            if field_type.same(news[name], present.__dict__[name]):
                continue
            if journal is None:
                adopt(news[name], present, name)
                present.__dict__[name] = news[name]
            else:
                write_field(present, name, field_type, news[name], journal)
        return present  # type: ignore[no-any-return]

    def _draw_id(self, journal: Journal | None) -> int:
        if journal is None or journal.new_id is None:
            raise StaleHandle("rows can only be put into the table of a document, while a command runs")
        for _ in range(ID_DRAWS_MAX):
            drawn = journal.new_id()
            assert 0 <= drawn <= ROW_ID_MAX, "row ids have 64 bits"
            if drawn not in self._items:
                return drawn
        raise AssertionError("the source of row ids repeats itself")

    def remove(self, row: Any) -> None:
        """Remove a row, given by name or as a live row. Raises KeyError when it is not here."""
        journal = self._writing()
        name = row._slot if isinstance(row, Record) else row
        present = self._items.get(name)
        if present is None or (isinstance(row, Record) and present is not row):
            raise KeyError(name)
        name = present._slot
        if journal is not None:
            path = (*self._path(), self._locate(present))
            journal.size -= self._type.row.size(present) + 9
            journal.log.append((REMOVE, path, None, None))
        self._delete(name, journal)
        if self._indexes is not None:
            self._indexes.delete(name, present, journal)

    def discard(self, row: Any) -> bool:
        """Remove a row if it is here. Returns whether it was."""
        if row not in self:
            return False
        self.remove(row)
        return True

    def pop(self, name: Any) -> R:
        """Remove the row of this name and return a free copy. Raises KeyError when there is none."""
        row = self[name]
        copied = clone(row)
        self.remove(row)
        return copied  # type: ignore[no-any-return]

    def clear(self) -> None:
        """Remove all rows."""
        journal = self._writing()
        if journal is not None:
            journal.charge_for(len(self._items))
            path = self._path()
            journal.size += 5 - self._type.size(self)
            journal.log.append((REPLACE, path, self._type, {}))
        self._reset(journal)

    def _reset(self, journal: Journal | None) -> None:
        super()._reset(journal)
        if self._indexes is not None:
            self._indexes.forget()

    def _undo_reset(self, items: dict[Any, Any], order: dict[Any, int] | None, following: int) -> None:
        super()._undo_reset(items, order, following)
        if self._indexes is not None:
            self._indexes.forget()

    def _date(self, index: int) -> None:
        for row in self._items.values():
            row._date(index)

    def _locate(self, child: Node) -> str:
        name = child._slot
        if self._items.get(name) is not child:
            raise StaleHandle("the row is no longer in its table")
        name_type = self._type.name_type
        return name_type.wire_key(name_type.to_plain(name))


class TableType(StateType):
    """`Table[R]`. key_field: the field that names rows, None for row ids. name_type: the type of row names.

    index: the fields that have an index.
    """

    __slots__ = ("index", "key_field", "name_type", "row")

    leaf = False
    exact = False

    def __init__(self, row: RecordType, key_field: str | None, index: tuple[str, ...] = ()) -> None:
        super().__init__(f"Table[{row.name}]")
        self.row = row
        self.key_field = key_field
        self.index = index
        for field in index:
            indexed = row.fields.get(field)
            if indexed is None or not (indexed.leaf and indexed.exact):
                what = "is not declared" if indexed is None else f"is {indexed.name}"
                raise TypeError(
                    f"{self.name}: the index {field!r} {what}: what is indexed is immutable and equal only to itself"
                )
        self.name_type: KeyType = RowIdType("row id")
        if key_field is not None:
            found = row.fields.get(key_field)
            if not isinstance(found, KeyType):
                what = "is not declared" if found is None else f"is {found.name}"
                raise TypeError(f"{self.name}: the key {key_field!r} {what}: a key is str, int, Principal or Enum")
            self.name_type = found

    def admit(self, value: Any, depth: int = 0) -> Table[Any]:
        """Only what has no rows, or the rows of a keyed table: row ids come from `put`."""
        if isinstance(value, Table):
            value._check_live()
            rows: Any = list(value._items.values())
        elif isinstance(value, list | tuple):
            rows = value
        else:
            raise expected(self.name, value)
        if rows and self.key_field is None:
            raise ValueError(f"{self.name}: rows get their ids from put, one by one")
        made: Table[Any] = Table(self, {})
        for row in rows:
            made.put(row)
        return made

    def empty(self) -> Table[Any]:
        """A free table without rows."""
        return Table(self, {})

    def to_plain(self, value: Any) -> dict[Any, Any]:
        return {self.name_type.to_plain(name): self.row.to_plain(row) for name, row in value._items.items()}

    def from_plain(self, plain: Any) -> Table[Any]:
        if type(plain) is not dict:
            raise expected(self.name, plain)
        rows = {self.name_type.from_plain(name): self.row.from_plain(row) for name, row in plain.items()}
        if self.key_field is not None and any(row.__dict__[self.key_field] != name for name, row in rows.items()):
            raise ValueError(f"{self.name}: a row is under another key than its own")
        return Table(self, rows)

    def plain_to_json(self, plain: Any) -> dict[str, Any]:
        wire_key, row_json = self.name_type.wire_key, self.row.plain_to_json
        return {wire_key(name): row_json(row) for name, row in plain.items()}

    def from_json(self, value: Any, depth: int = 0) -> Table[Any]:
        raise TypeError(f"{self.name} can not be a parameter: send a list of {self.row.name}")

    def json_schema(self, definitions: dict[str, Schema]) -> Schema:
        return {"type": "object", "additionalProperties": self.row.json_schema(definitions)}

    def size(self, value: Any) -> int:
        return 5 + sum(9 + self.row.size(row) for row in value._items.values())
