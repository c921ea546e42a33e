"""The sets that handlers see: `set` and `frozenset` with an order, the order of insertion.

The interpreter's own sets are ordered by hash, which for strings differs from process to process. Everything that these yield
is in insertion order: of the left operand first, then of the right.

Invariant: an operation costs steps as its operands' size; membership costs one hash. They are values of one command: state
uses OrderedSet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableSet, Set
from typing import Any, TypeVar

from cluster.documents.meter import METER, charge_items
from cluster.documents.sizes import key

T = TypeVar("T")


class SetOfPlain(Set[T]):
    """What both kinds share."""

    __slots__ = ("_items",)

    def __init__(self, items: Iterable[T] = ()) -> None:
        self._items = _collect(items)

    @classmethod
    def _from_iterable(cls, it: Iterable[Any]) -> Any:
        return cls(it)

    def __contains__(self, item: object) -> bool:
        return item in self._items

    def __iter__(self) -> Iterator[T]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SetOfPlain):
            return NotImplemented
        charge_items(len(self))
        return self._items.keys() == other._items.keys()

    def __repr__(self) -> str:
        return f"{{{', '.join(map(repr, self._items))}}}" if self._items else f"{self._name()}()"

    @classmethod
    def _name(cls) -> str:
        return "frozenset" if cls is FrozenSet else "set"

    def union(self, *others: Iterable[T]) -> Any:
        """A set of everything in this one or in any other."""
        charge_items(len(self))
        result = dict(self._items)
        for other in others:
            result |= _collect(other)
        return self._of(result)

    def intersection(self, *others: Iterable[Any]) -> Any:
        """A set of what is in this one and in all others."""
        charge_items(len(self) * (1 + len(others)))
        kept = [_collect(other) for other in others]
        return self._of({item: None for item in self._items if all(item in other for other in kept)})

    def difference(self, *others: Iterable[Any]) -> Any:
        """A set of what is in this one and in no other."""
        charge_items(len(self) * (1 + len(others)))
        gone = [_collect(other) for other in others]
        return self._of({item: None for item in self._items if not any(item in other for other in gone)})

    def symmetric_difference(self, other: Iterable[T]) -> Any:
        """A set of what is in exactly one of the two."""
        found = _collect(other)
        charge_items(len(self) + len(found))
        mine = {item: None for item in self._items if item not in found}
        return self._of(mine | {item: None for item in found if item not in self._items})

    def issubset(self, other: Iterable[Any]) -> bool:
        """Whether all of this is in the other."""
        found = _collect(other)
        charge_items(len(self))
        return self._items.keys() <= found.keys()

    def issuperset(self, other: Iterable[Any]) -> bool:
        """Whether all of the other is in this."""
        return _collect(other).keys() <= self._items.keys()

    def copy(self) -> Any:
        """A set of the same items."""
        return self.union()

    def _of(self, items: dict[Any, None]) -> Any:
        made = type(self)()
        made._items = items
        return made

    def __or__(self, other: Set[Any]) -> Any:
        return self.union(other) if isinstance(other, Set) else NotImplemented

    def __and__(self, other: Set[Any]) -> Any:
        return self.intersection(other) if isinstance(other, Set) else NotImplemented

    def __sub__(self, other: Set[Any]) -> Any:
        return self.difference(other) if isinstance(other, Set) else NotImplemented

    def __xor__(self, other: Set[Any]) -> Any:
        return self.symmetric_difference(other) if isinstance(other, Set) else NotImplemented

    def __le__(self, other: Set[Any]) -> bool:
        return self.issubset(other) if isinstance(other, Set) else NotImplemented

    def __ge__(self, other: Set[Any]) -> bool:
        return self.issuperset(other) if isinstance(other, Set) else NotImplemented


class FrozenSet(SetOfPlain[T]):
    """What handlers know as frozenset."""

    __slots__ = ()

    def __hash__(self) -> int:
        return self._hash()


class PlainSet(SetOfPlain[T], MutableSet[T]):
    """What handlers know as set."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]

    def add(self, value: T) -> None:
        """Put an item in, at the end if it is new."""
        self._items[key(value)] = None

    def discard(self, value: Any) -> None:
        """Take an item out if it is there."""
        self._items.pop(key(value), None)

    def remove(self, value: Any) -> None:
        """Take an item out. Raises KeyError if it is not there."""
        del self._items[key(value)]

    def pop(self) -> T:
        """Take the oldest item out. Raises KeyError if there is none."""
        for item in self._items:
            del self._items[item]
            return item
        raise KeyError("pop from an empty set")

    def clear(self) -> None:
        """Take everything out."""
        self._items.clear()

    def update(self, *others: Iterable[T]) -> None:
        """Put everything in the others in."""
        for other in others:
            self._items |= _collect(other)

    def difference_update(self, *others: Iterable[Any]) -> None:
        """Take everything in the others out."""
        self._items = self.difference(*others)._items

    def intersection_update(self, *others: Iterable[Any]) -> None:
        """Keep only what is in all the others."""
        self._items = self.intersection(*others)._items

    def __ior__(self, other: Any) -> Any:  # type: ignore[misc]
        self.update(other)
        return self

    def __iand__(self, other: Any) -> Any:  # type: ignore[misc]
        self.intersection_update(other)
        return self

    def __isub__(self, other: Any) -> Any:  # type: ignore[misc]
        self.difference_update(other)
        return self


def _collect(items: Iterable[T]) -> dict[T, None]:
    if isinstance(items, SetOfPlain):
        charge_items(len(items))
        return dict(items._items)
    found: dict[T, None] = {}
    for item in items:
        METER.left = left = METER.left - 1
        if left < 0:
            METER.exhausted()
        found[key(item)] = None
    return found
