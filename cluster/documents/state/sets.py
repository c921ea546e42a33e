"""OrderedSet: a set that iterates in insertion order, on every replica the same.

Builtin sets are refused where their order would show: it differs between processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableSet
from collections.abc import Set as AbstractSet
from typing import Any, Generic, TypeVar

from cluster.documents.state.dicts import Keyed
from cluster.documents.state.forms import Schema, StateType, expected
from cluster.documents.state.journal import ADD, REMOVE, REPLACE
from cluster.documents.state.node import check_depth

S = TypeVar("S")
T = TypeVar("T")


def refuse_builtin_set(values: object) -> None:
    """Raise TypeError for a builtin set where its order would show: it differs between processes."""
    if isinstance(values, set | frozenset):
        raise TypeError("a set has no order that is the same everywhere: use OrderedSet, a list or sorted(...)")


class OrderedSet(Keyed, MutableSet[T], Generic[T]):
    """A set in insertion order. Operations with other sets yield new ordered sets: the order of the left, then the right."""

    __slots__ = ("_type",)

    def __init__(self, values: Iterable[T] = ()) -> None:
        """A free set of any values; they are checked when it is stored. Raises TypeError for a builtin set."""
        refuse_builtin_set(values)
        self._start(dict.fromkeys(values))
        self._type: OrderedSetType | None = None

    def __contains__(self, value: object) -> bool:
        self._check_live()
        return value in self._items

    def __iter__(self) -> Iterator[T]:
        self._check_live()
        values: Iterator[T] = iter(self._items)
        return values

    def __reversed__(self) -> Iterator[T]:
        self._check_live()
        return iter(reversed(self._items))

    def __repr__(self) -> str:
        return f"OrderedSet({list(self._items)!r})"

    __hash__ = None  # type: ignore[assignment]

    def add(self, value: T) -> None:
        """Add a value; one that is there stays where it is."""
        journal = self._writing()
        admitted = value if self._type is None else self._type.item.admit(value)
        if admitted in self._items:
            return
        if journal is not None:
            assert self._type is not None
            item_type = self._type.item
            path = (*self._path(), len(self._items))
            journal.size += item_type.size(admitted)
            journal.log.append((ADD, path, item_type, item_type.to_plain(admitted)))
        self._insert(admitted, None, journal)

    def discard(self, value: T) -> None:
        """Remove a value if it is there."""
        journal = self._writing()
        if value not in self._items:
            return
        admitted = value if self._type is None else self._type.item.admit(value)
        if journal is not None:
            assert self._type is not None
            journal.charge_for(len(self._items))
            at = next(at for at, present in enumerate(self._items) if present == admitted)
            path = (*self._path(), at)
            journal.size -= self._type.item.size(admitted)
            journal.log.append((REMOVE, path, None, None))
        self._delete(admitted, journal)

    def pop(self) -> T:
        """Remove and return the oldest value. Raises KeyError when there is none."""
        self._check_live()
        if not self._items:
            raise KeyError("the set is empty")
        value: T = next(iter(self._items))
        self.discard(value)
        return value

    def clear(self) -> None:
        """Remove all values."""
        journal = self._writing()
        if journal is not None:
            assert self._type is not None
            journal.charge_for(len(self._items))
            path = self._path()
            journal.size += 5 - self._type.size(self)
            journal.log.append((REPLACE, path, self._type, []))
        self._reset(journal)

    def update(self, *others: Iterable[T]) -> None:
        """Add everything of others, in their order."""
        for other in others:
            refuse_builtin_set(other)
            for value in list(other):
                self.add(value)

    @classmethod
    def _from_iterable(cls, values: Iterable[Any]) -> OrderedSet[Any]:
        return OrderedSet(values)

    def __or__(self, other: Iterable[S]) -> OrderedSet[T | S]:
        refuse_builtin_set(other)
        return OrderedSet([*self, *other])

    def __ror__(self, other: Iterable[S]) -> OrderedSet[T | S]:
        refuse_builtin_set(other)
        return OrderedSet([*other, *self])

    def __and__(self, other: Iterable[Any]) -> OrderedSet[T]:
        kept = other if isinstance(other, AbstractSet) else dict.fromkeys(other)
        return OrderedSet([value for value in self if value in kept])

    __rand__ = __and__

    def __sub__(self, other: Iterable[Any]) -> OrderedSet[T]:
        dropped = other if isinstance(other, AbstractSet) else dict.fromkeys(other)
        return OrderedSet([value for value in self if value not in dropped])

    def __rsub__(self, other: Iterable[Any]) -> OrderedSet[Any]:
        refuse_builtin_set(other)
        return OrderedSet([value for value in other if value not in self])

    def __xor__(self, other: Iterable[S]) -> OrderedSet[T | S]:
        refuse_builtin_set(other)
        right = OrderedSet(other)
        return OrderedSet([*(self - right), *(right - self)])

    __rxor__ = __xor__

    def __ior__(self, other: Iterable[Any]) -> OrderedSet[T]:  # type: ignore[misc]
        self.update(other)
        return self

    def __iand__(self, other: AbstractSet[Any]) -> OrderedSet[T]:  # type: ignore[misc]
        for value in [value for value in self if value not in other]:
            self.discard(value)
        return self

    def __isub__(self, other: Iterable[Any]) -> OrderedSet[T]:
        for value in list(other):
            self.discard(value)
        return self

    def __ixor__(self, other: Iterable[Any]) -> OrderedSet[T]:  # type: ignore[misc]
        refuse_builtin_set(other)
        for value in dict.fromkeys(other):
            if value in self:
                self.discard(value)
            else:
                self.add(value)
        return self

    def union(self, *others: Iterable[T]) -> OrderedSet[T]:
        """What is here or in others, in order of first appearance."""
        result = OrderedSet(self)
        result.update(*others)
        return result

    def _clone(self, depth: int = 0) -> OrderedSet[T]:
        copied: OrderedSet[T] = OrderedSet()
        copied._items = self._items.copy()
        copied._type = self._type
        return copied


class OrderedSetType(StateType):
    """`OrderedSet[T]` of immutable values. In JSON an array in insertion order."""

    __slots__ = ("item",)

    leaf = False
    exact = False

    def __init__(self, item: StateType) -> None:
        super().__init__(f"OrderedSet[{item.name}]")
        if not item.leaf or not item.exact:  # two equal floats or decimals may be different values
            raise TypeError(f"{self.name}: the values of a set must be immutable and equal only to themselves")
        self.item = item

    def admit(self, value: Any, depth: int = 0) -> OrderedSet[Any]:
        check_depth(depth)
        refuse_builtin_set(value)
        if not isinstance(value, AbstractSet | list | tuple):
            raise expected(self.name, value)
        return self._make([self.item.admit(item) for item in value])

    def _make(self, values: list[Any]) -> OrderedSet[Any]:
        made: OrderedSet[Any] = OrderedSet(values)
        made._type = self
        return made

    def empty(self) -> OrderedSet[Any]:
        """A free empty set."""
        return self._make([])

    def to_plain(self, value: Any) -> list[Any]:
        return list(map(self.item.to_plain, value._items))

    def from_plain(self, plain: Any) -> OrderedSet[Any]:
        if type(plain) is not list:
            raise expected(self.name, plain)
        made = self._make(self.item.from_plains(plain))
        if len(made._items) != len(plain):
            raise ValueError("two values of the set are the same")
        return made

    def plain_to_json(self, plain: Any) -> list[Any]:
        return list(map(self.item.plain_to_json, plain))

    def from_json(self, value: Any, depth: int = 0) -> OrderedSet[Any]:
        check_depth(depth)
        if type(value) is not list:
            raise expected(f"an array ({self.name})", value)
        made = self._make([self.item.from_json(item) for item in value])
        if len(made._items) != len(value):
            raise ValueError("two values of the set are the same")
        return made

    def json_schema(self, definitions: dict[str, Schema]) -> Schema:
        return {"type": "array", "items": self.item.json_schema(definitions), "uniqueItems": True}

    def size(self, value: Any) -> int:
        return 5 + self.item.sizes(value._items)
