"""List: what `list[T]` is in state.

It implements MutableSequence and never subclasses list: C code writes into lists without calling us, which would bypass
undo. Slices, sums and copies are plain lists, which are copied in when they are stored.

Invariant: arguments are consumed and checked before anything is written, so an iterator or a value that raises leaves the
list as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, MutableSequence
from typing import Any, SupportsIndex, TypeVar, overload

from cluster.documents.state.forms import Schema, StateType, date, expected
from cluster.documents.state.journal import ADD, REMOVE, REPLACE
from cluster.documents.state.node import Node, adopt, check_depth, clone, hand_out, set_slot
from cluster.documents.state.refusals import StaleHandle

MOVE_SHIFT = 6
"""One unit of work is charged for moving so many elements (as a power of two)."""

T = TypeVar("T")


class List(Node, MutableSequence[T]):
    """A sequence. `append` returns the stored element, which for records is the live row."""

    __slots__ = ("_items", "_type")

    def __init__(self, list_type: ListType, items: list[Any]) -> None:
        self._lifetime = None
        self._parent = None
        self._slot = None
        self._type = list_type
        self._items = items
        if not list_type.item.leaf:
            for index, item in enumerate(items):
                adopt(item, self, index)

    # reading

    def __len__(self) -> int:
        self._check_live()
        return len(self._items)

    def __iter__(self) -> Iterator[T]:
        self._check_live()
        if self._type.item.leaf:
            return iter(self._items)
        return self._hand_out_all()

    def _hand_out_all(self) -> Iterator[T]:
        for index, item in enumerate(self._items):
            if item is not None:
                set_slot(item, index)  # a hint for _locate
            yield hand_out(item, self._lifetime)

    @overload
    def __getitem__(self, index: SupportsIndex) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> T | list[T]:
        self._check_live()
        if isinstance(index, slice):
            items = self._items[index]
            self._charge(len(items))
            return [hand_out(item, self._lifetime) for item in items]
        return hand_out(self._items[index], self._lifetime)  # type: ignore[no-any-return]

    def __contains__(self, value: object) -> bool:
        self._check_live()
        self._charge(len(self._items))
        return value in self._items

    def index(self, value: Any, start: int = 0, stop: int | None = None) -> int:
        self._check_live()
        self._charge(len(self._items))
        return self._items.index(value, start, len(self._items) if stop is None else stop)

    def count(self, value: Any) -> int:
        self._check_live()
        self._charge(len(self._items))
        return self._items.count(value)

    def copy(self) -> list[T]:
        """The elements as a plain list."""
        return self[:]

    def __add__(self, other: Iterable[T]) -> list[T]:
        return self[:] + list(other)

    def __radd__(self, other: Iterable[T]) -> list[T]:
        return list(other) + self[:]

    def __mul__(self, times: int) -> list[T]:
        self._charge(len(self._items) * max(times, 0))
        return self[:] * times

    __rmul__ = __mul__

    def __eq__(self, other: object) -> bool:
        if isinstance(other, List):
            return bool(self._items == other._items)
        if isinstance(other, list):
            return bool(self._items == other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __lt__(self, other: List[T] | list[T]) -> bool:
        return bool(self._items < (other._items if isinstance(other, List) else other))

    def __repr__(self) -> str:
        return repr(self._items)

    # writing

    @overload
    def __setitem__(self, index: SupportsIndex, value: T) -> None: ...
    @overload
    def __setitem__(self, index: slice, value: Iterable[T]) -> None: ...
    def __setitem__(self, index: Any, value: Any) -> None:
        if not isinstance(index, slice):
            at = self._position(index)
            self._set(at, value)
            return
        values = list(value)
        start, stop, step = index.indices(len(self._items))
        if step == 1:
            self._splice(start, max(start, stop), values)
            return
        items = list(self._items)
        items[index] = values
        self._assign(items)

    def __delitem__(self, index: SupportsIndex | slice) -> None:
        if not isinstance(index, slice):
            at = self._position(index)
            self._splice(at, at + 1, [])
            return
        start, stop, step = index.indices(len(self._items))
        if step == 1:
            self._splice(start, max(start, stop), [])
            return
        items = list(self._items)
        del items[index]
        self._assign(items)

    def insert(self, index: SupportsIndex, value: T) -> T:  # type: ignore[override]
        """Insert before `index`, clamped as list.insert does. Returns the stored element."""
        at, size = index.__index__(), len(self._items)
        at = max(at + size, 0) if at < 0 else min(at, size)
        return self._splice(at, at, [value])[0]  # type: ignore[no-any-return]

    def append(self, value: T) -> T:  # type: ignore[override]
        """Add at the end. Returns the stored element: for records the live row."""
        journal = self._writing()
        item_type, items = self._type.item, self._items
        new = item_type.admit(value) if item_type.leaf else item_type.admit(value, self._depth() + 1)
        if journal is not None:
            path = (*self._path(), len(items))
            date((new,), journal.index, item_type)
            journal.log.append((ADD, path, item_type, item_type.to_plain(new)))
            journal.size += item_type.size(new)
            journal.undo.append((items.pop,))
        if not item_type.leaf:
            adopt(new, self, len(items))
            hand_out(new, self._lifetime)
        items.append(new)
        return new  # type: ignore[no-any-return]

    def extend(self, values: Iterable[T]) -> None:
        added = list(values)
        size = len(self._items)
        self._splice(size, size, added)

    def __iadd__(self, values: Iterable[T]) -> List[T]:
        self.extend(values)
        return self

    def pop(self, index: SupportsIndex = -1) -> T:
        """Remove and return an element: a free copy when it is a record."""
        if not self._items:
            raise IndexError("pop from empty list")
        at = self._position(index)
        item = self._items[at]
        popped: T = clone(item)
        self._splice(at, at + 1, [])
        return popped

    def remove(self, value: T) -> None:
        at = self.index(value)
        self._splice(at, at + 1, [])

    def clear(self) -> None:
        self._assign([])

    def reverse(self) -> None:
        self._assign(self._items[::-1])

    def sort(self, *, key: Callable[[T], Any] | None = None, reverse: bool = False) -> None:
        """Sort in place, stably. Raises ValueError when `key` changes the list meanwhile."""
        before = list(self._items)
        self._charge(len(before) * len(before).bit_length())
        copied = self[:]
        copied.sort(key=key, reverse=reverse)
        after = self._items
        if len(after) != len(before) or any(old is not new for old, new in zip(before, after, strict=True)):
            raise ValueError("the list was changed while it was sorted")
        self._assign(copied)

    # the writes everything else is made of

    def _position(self, index: SupportsIndex) -> int:
        self._check_live()
        at, size = index.__index__(), len(self._items)
        if not -size <= at < size:
            raise IndexError("list index out of range")
        return at + size if at < 0 else at

    def _set(self, at: int, value: Any) -> None:
        journal = self._writing()
        item_type, items = self._type.item, self._items
        old = items[at]
        if item_type.leaf:
            new = item_type.admit(value)
            if item_type.exact and new == old:
                return
        elif value is old:
            return
        else:
            new = item_type.admit(value, self._depth() + 1)
            adopt(new, self, at)
        if journal is not None:
            path = (*self._path(), at)
            date((new,), journal.index, item_type)
            plain = item_type.to_plain(new)
            journal.size += item_type.size(new) - item_type.size(old)
            journal.log.append((REPLACE, path, item_type, plain))
            journal.undo.append((items.__setitem__, at, old))
        items[at] = new

    def _splice(self, start: int, stop: int, values: list[Any]) -> list[Any]:
        """Replace items[start:stop]. Returns the stored elements, handed out."""
        journal = self._writing()
        item_type, items = self._type.item, self._items
        if item_type.leaf:
            new = [item_type.admit(value) for value in values]
        else:
            depth = self._depth() + 1
            new = [item_type.admit(value, depth) for value in values]
        if journal is not None:
            journal.charge_for(len(new) + ((len(items) - start) >> MOVE_SHIFT))
            path = self._path()
            date(new, journal.index, item_type)
            plains = [item_type.to_plain(value) for value in new]
            old = items[start:stop]
            journal.size += item_type.sizes(new) - item_type.sizes(old)
            shared, log = min(len(old), len(new)), journal.log
            for offset in range(shared):
                log.append((REPLACE, (*path, start + offset), item_type, plains[offset]))
            for _ in range(shared, len(old)):
                log.append((REMOVE, (*path, start + shared), None, None))
            for offset in range(shared, len(new)):
                log.append((ADD, (*path, start + offset), item_type, plains[offset]))
            journal.undo.append((self._undo_splice, start, len(new), old))
        items[start:stop] = new
        if item_type.leaf:
            return new
        for offset, value in enumerate(new):
            adopt(value, self, start + offset)
            hand_out(value, self._lifetime)
        return new

    def _undo_splice(self, start: int, added: int, old: list[Any]) -> None:
        self._items[start : start + added] = old

    def _assign(self, values: list[Any]) -> None:
        """Replace everything by elements that are here already, or by copies of others."""
        journal = self._writing()
        item_type = self._type.item
        new = values
        added: list[Any] = []
        if not item_type.leaf:
            movable = {id(item): item for item in self._items}
            depth = self._depth() + 1
            new = []
            for value in values:
                if value is not None and movable.pop(id(value), None) is None:
                    value = item_type.admit(value, depth)
                    added.append(value)
                new.append(value)
        else:
            new = [item_type.admit(value) for value in values]
        if journal is not None:
            journal.charge_for(len(new) + len(self._items))
            path = self._path()
            date(added, journal.index, item_type)
            plain = [item_type.to_plain(value) for value in new]
            journal.size += item_type.sizes(new) - item_type.sizes(self._items)
            journal.undo.append((self._undo_assign, self._items))
            journal.log.append((REPLACE, path, self._type, plain))
        self._items = new
        if not item_type.leaf:
            for index, value in enumerate(new):
                adopt(value, self, index)

    def _undo_assign(self, old: list[Any]) -> None:
        self._items = old

    def _locate(self, child: Node) -> int:
        items = self._items
        hint: int = child._slot
        size = len(items)
        if hint < size and items[hint] is child:
            return hint
        for distance in range(1, max(hint, size - hint) + 1):
            for at in (hint - distance, hint + distance):
                if 0 <= at < size and items[at] is child:
                    set_slot(child, at)
                    return at
        raise StaleHandle("the element is no longer in its list")

    def _date(self, index: int) -> None:
        date(self._items, index, self._type.item)

    def _clone(self, depth: int = 0) -> List[T]:
        check_depth(depth)
        items = self._items
        if self._type.item.leaf:
            return List(self._type, items.copy())
        return List(self._type, [None if item is None else item._clone(depth + 1) for item in items])


class ListType(StateType):
    """`list[T]`."""

    __slots__ = ("item",)

    leaf = False
    exact = False

    def __init__(self, item: StateType) -> None:
        super().__init__(f"list[{item.name}]")
        self.item = item

    def admit(self, value: Any, depth: int = 0) -> List[Any]:
        check_depth(depth)
        if isinstance(value, List):
            value._check_live()
            if value._type is self:
                return value._clone(depth)
            value = value._items
        elif not isinstance(value, list | tuple):
            raise expected(self.name, value)
        return List(self, [self.item.admit(item, depth + 1) for item in value])

    def empty(self) -> List[Any]:
        """A free empty list."""
        return List(self, [])

    def to_plain(self, value: Any) -> list[Any]:
        return list(map(self.item.to_plain, value._items))

    def from_plain(self, plain: Any) -> List[Any]:
        if type(plain) is not list:
            raise expected(self.name, plain)
        return List(self, self.item.from_plains(plain))

    def plain_to_json(self, plain: Any) -> list[Any]:
        return list(map(self.item.plain_to_json, plain))

    def from_json(self, value: Any, depth: int = 0) -> List[Any]:
        check_depth(depth)
        if type(value) is not list:
            raise expected(f"an array ({self.name})", value)
        return List(self, [self.item.from_json(item, depth + 1) for item in value])

    def json_schema(self, definitions: dict[str, Schema]) -> Schema:
        return {"type": "array", "items": self.item.json_schema(definitions)}

    def size(self, value: Any) -> int:
        return 5 + self.item.sizes(value._items)
