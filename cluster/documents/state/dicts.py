"""Dict: what `dict[K, V]` is in state; and Keyed, the undo of insertion order that it shares with OrderedSet and Table.

It implements MutableMapping and never subclasses dict: C code writes into dicts without calling us, which would bypass undo.
Copies are plain dicts, which are copied in when they are stored.

Invariant: keys and values are checked before anything is written. Iteration is in insertion order, and a rollback restores
that order too.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any, TypeVar

from cluster.documents.state.forms import KeyType, Schema, StateType, date, expected
from cluster.documents.state.journal import ADD, REMOVE, REPLACE, Journal
from cluster.documents.state.node import Node, adopt, check_depth, hand_out
from cluster.documents.state.refusals import StaleHandle

K = TypeVar("K")
V = TypeVar("V")


class Keyed(Node):
    """What Dict, OrderedSet and Table share: a dict in insertion order whose deletions can be undone in place.

    A dict can not put an entry back into its middle, so entries get sequence numbers (once they are needed, `_order`)
    and the order is restored once, at the end of a rollback.
    """

    __slots__ = ("_items", "_next", "_order")

    _items: dict[Any, Any]
    _order: dict[Any, int] | None
    _next: int

    def _start(self, items: dict[Any, Any]) -> None:
        self._lifetime = None
        self._parent = None
        self._slot = None
        self._items = items
        self._order = None
        self._next = 0

    def _insert(self, key: Any, value: Any, journal: Journal | None) -> None:
        self._items[key] = value
        if self._order is not None:
            self._order[key] = self._next
            self._next += 1
        if journal is not None:
            journal.undo.append((self._undo_insert, key))

    def _undo_insert(self, key: Any) -> None:
        del self._items[key]
        if self._order is not None:
            self._order.pop(key, None)

    def _delete(self, key: Any, journal: Journal | None) -> None:
        if journal is None:
            del self._items[key]
            self._order = None
            return
        order = self._sequences()
        value = self._items.pop(key)
        sequence = order.pop(key)
        journal.undo.append((self._undo_delete, key, value, sequence, journal))

    def _sequences(self) -> dict[Any, int]:
        """A number for each entry that rises in insertion order."""
        if self._order is None:
            self._order = {present: sequence for sequence, present in enumerate(self._items)}
            self._next = len(self._order)
        return self._order

    def _undo_delete(self, key: Any, value: Any, sequence: int, journal: Journal) -> None:
        assert self._order is not None
        self._items[key] = value
        self._order[key] = sequence
        journal.disordered[id(self)] = self

    def _restore_order(self) -> None:
        order = self._order
        if order is None:  # the deletions were made after a clear that has been undone as well
            return
        self._items = {key: self._items[key] for key in sorted(self._items, key=order.__getitem__)}

    def _reset(self, journal: Journal | None) -> None:
        if journal is not None:
            journal.undo.append((self._undo_reset, self._items, self._order, self._next))
        self._items = {}
        self._order = None

    def _undo_reset(self, items: dict[Any, Any], order: dict[Any, int] | None, following: int) -> None:
        self._items = items
        self._order = order
        self._next = following

    def __len__(self) -> int:
        self._check_live()
        return len(self._items)


class Dict(Keyed, MutableMapping[K, V]):
    """A mapping in insertion order. `put` is assignment that returns the stored value."""

    __slots__ = ("_type",)

    def __init__(self, dict_type: DictType, items: dict[Any, Any]) -> None:
        self._start(items)
        self._type = dict_type
        if not dict_type.value.leaf:
            for key, value in items.items():
                adopt(value, self, key)

    def __getitem__(self, key: K) -> V:
        self._check_live()
        return hand_out(self._items[key], self._lifetime)  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[K]:
        self._check_live()
        names: Iterator[K] = iter(self._items)
        return names

    def __reversed__(self) -> Iterator[K]:
        self._check_live()
        return iter(reversed(self._items))

    def __contains__(self, key: object) -> bool:
        self._check_live()
        return key in self._items

    def copy(self) -> dict[K, V]:
        """The entries as a plain dict."""
        self._check_live()
        self._charge(len(self._items))
        return {key: hand_out(value, self._lifetime) for key, value in self._items.items()}

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Dict):
            return bool(self._items == other._items)
        if isinstance(other, dict):
            return bool(self._items == other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self._items)

    def __setitem__(self, key: K, value: V) -> None:
        self.put(key, value)

    def put(self, key: K, value: V) -> V:
        """Set and return the stored value: for records the live row. An existing key keeps its place."""
        journal = self._writing()
        key_type, value_type = self._type.key, self._type.value
        admitted = key_type.admit(key)
        items = self._items
        present = admitted in items
        if value_type.leaf:
            new = value_type.admit(value)
        elif present and items[admitted] is value:
            return value
        else:
            new = value_type.admit(value, self._depth() + 1)
        old = items[admitted] if present else None
        if present and value_type.exact and value_type.leaf and old == new:
            return new  # type: ignore[no-any-return]
        if journal is not None:
            path = (*self._path(), key_type.wire_key(key_type.to_plain(admitted)))
            date((new,), journal.index, value_type)
            plain = value_type.to_plain(new)
            if present:
                journal.size += value_type.size(new) - value_type.size(old)
                journal.undo.append((items.__setitem__, admitted, old))
            else:
                journal.size += value_type.size(new) + key_type.size(admitted)
            journal.log.append((REPLACE if present else ADD, path, value_type, plain))
        if present:
            items[admitted] = new
        else:
            self._insert(admitted, new, journal)
        if not value_type.leaf:
            adopt(new, self, admitted)
            hand_out(new, self._lifetime)
        return new  # type: ignore[no-any-return]

    def setdefault(self, key: K, default: Any = None) -> Any:
        """The value of a key, which is put there first if there is none: what is returned is in the dictionary."""
        return self[key] if key in self else self.put(key, default)

    def __delitem__(self, key: K) -> None:
        journal = self._writing()
        items = self._items
        if key not in items:
            raise KeyError(key)
        admitted = self._type.key.admit(key)
        if journal is not None:
            key_type = self._type.key
            path = (*self._path(), key_type.wire_key(key_type.to_plain(admitted)))
            journal.size -= self._type.value.size(items[admitted]) + key_type.size(admitted)
            journal.log.append((REMOVE, path, None, None))
        self._delete(admitted, journal)

    _MISSING: Any = object()

    def pop(self, key: K, default: Any = _MISSING) -> Any:
        """Remove a key and return its value: a free copy when it is a record."""
        self._check_live()
        if key not in self._items:
            if default is Dict._MISSING:
                raise KeyError(key)
            return default
        value = self._items[key]
        popped = value._clone() if isinstance(value, Node) else value
        del self[key]
        return popped

    def popitem(self) -> tuple[K, V]:
        """Remove and return the newest entry. Raises KeyError when there is none."""
        self._check_live()
        if not self._items:
            raise KeyError("the dictionary is empty")
        key = next(reversed(self._items))
        return key, self.pop(key)

    def clear(self) -> None:
        journal = self._writing()
        if journal is not None:
            journal.charge_for(len(self._items))
            path = self._path()
            journal.size += 5 - self._type.size(self)
            journal.log.append((REPLACE, path, self._type, {}))
        self._reset(journal)

    def _locate(self, child: Node) -> str:
        key = child._slot
        if self._items.get(key) is not child:
            raise StaleHandle("the value is no longer in its dictionary")
        key_type = self._type.key
        return key_type.wire_key(key_type.to_plain(key))

    def _date(self, index: int) -> None:
        date(self._items.values(), index, self._type.value)

    def _clone(self, depth: int = 0) -> Dict[K, V]:
        check_depth(depth)
        if self._type.value.leaf:
            return Dict(self._type, self._items.copy())
        return Dict(self._type, {k: None if v is None else v._clone(depth + 1) for k, v in self._items.items()})


class DictType(StateType):
    """`dict[K, V]` with str, int, Principal or Enum keys. In JSON an object whose member names are the wire keys."""

    __slots__ = ("key", "value")

    leaf = False
    exact = False

    def __init__(self, key: KeyType, value: StateType) -> None:
        super().__init__(f"dict[{key.name}, {value.name}]")
        self.key = key
        self.value = value

    def admit(self, value: Any, depth: int = 0) -> Dict[Any, Any]:
        check_depth(depth)
        if isinstance(value, Dict):
            value._check_live()
            if value._type is self:
                return value._clone(depth)
            value = value._items
        elif not isinstance(value, dict):
            raise expected(self.name, value)
        items = {self.key.admit(key): self.value.admit(item, depth + 1) for key, item in value.items()}
        if len(items) != len(value):
            raise ValueError("two keys of the dictionary are the same")
        return Dict(self, items)

    def empty(self) -> Dict[Any, Any]:
        """A free empty dictionary."""
        return Dict(self, {})

    def to_plain(self, value: Any) -> dict[Any, Any]:
        key_plain, value_plain = self.key.to_plain, self.value.to_plain
        return {key_plain(key): value_plain(item) for key, item in value._items.items()}

    def from_plain(self, plain: Any) -> Dict[Any, Any]:
        if type(plain) is not dict:
            raise expected(self.name, plain)
        keys = self.key.from_plains(list(plain))
        return Dict(self, dict(zip(keys, self.value.from_plains(list(plain.values())), strict=True)))

    def plain_to_json(self, plain: Any) -> dict[str, Any]:
        wire_key, value_json = self.key.wire_key, self.value.plain_to_json
        return {wire_key(key): value_json(item) for key, item in plain.items()}

    def from_json(self, value: Any, depth: int = 0) -> Dict[Any, Any]:
        check_depth(depth)
        if type(value) is not dict:
            raise expected(f"an object ({self.name})", value)
        from_key, from_value = self.key.from_wire_key, self.value.from_json
        return Dict(self, {from_key(key): from_value(item, depth + 1) for key, item in value.items()})

    def json_schema(self, definitions: dict[str, Schema]) -> Schema:
        schema: Schema = {"type": "object", "additionalProperties": self.value.json_schema(definitions)}
        names = self.key.name_schema(definitions)
        if names:
            schema["propertyNames"] = names
        return schema

    def size(self, value: Any) -> int:
        items = value._items
        return 5 + self.key.sizes(items) + self.value.sizes(items.values())
