"""Values of the author's that can not change: frozen dataclasses and msgspec Structs, and tuples of one type.

    @dataclass(frozen=True)                     class Point(Struct, frozen=True):
    class Point:                                    x: int
        x: int                                      y: int = 0
        y: int = 0

They are wire types: parameters and results are converted field by field, and the same types may be stored, alone, in records
and in containers. What can not change needs no copy, no handle and no undo: such a value is a leaf of the state.

Invariant: no code of the author's runs when a value is made or shown: fields are set one by one, so a class with an
`__init__`, `__post_init__` or `__eq__` of its own is refused. Every field is immutable itself, so equal values stay equal.
"""

from __future__ import annotations

import dataclasses
import inspect
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from cluster.documents.state.fields import ABSENT
from cluster.documents.state.forms import Schema, StateType, expected, located
from cluster.documents.state.members import MembersType
from cluster.documents.state.node import check_depth

_MADE_BY_US = frozenset({"__init__", "__post_init__", "__new__", "__eq__", "__hash__", "__getattribute__", "__setattr__"})
_STRUCT_OPTIONS: dict[str, Any] = {"array_like": False, "forbid_unknown_fields": False, "tag": None, "rename": None}


def is_frozen(cls: type) -> bool:
    """Whether it is a dataclass or a Struct, frozen or not: what is wrong with it is said when its type is made."""
    return dataclasses.is_dataclass(cls) or (issubclass(cls, msgspec.Struct) and cls is not msgspec.Struct)


class _JsonReader:
    """`from_json` at a depth."""

    __slots__ = ("_depth", "_type")

    def __init__(self, of: StateType, depth: int) -> None:
        self._type = of
        self._depth = depth

    def __call__(self, value: Any) -> Any:
        return self._type.from_json(value, self._depth)


class FrozenType(MembersType):
    """A frozen dataclass or Struct."""

    __slots__ = ("exact", "of")

    leaf = True

    def __init__(self, of: type) -> None:
        super().__init__(of.__name__)
        self.of = of
        self.exact = True

    def admit(self, value: Any, depth: int = 0) -> Any:
        check_depth(depth)
        if type(value) is not self.of:
            raise expected(self.name, value)
        given = {name: getattr(value, name, ABSENT) for name in self.fields}
        admitted = {name: self._admit(name, one, depth) for name, one in given.items()}
        if all(admitted[name] is one for name, one in given.items()):
            return value
        return self._make(admitted)

    def _admit(self, name: str, value: Any, depth: int) -> Any:
        try:
            if value is ABSENT:
                raise ValueError("it has not been set")
            return self.fields[name].admit(value, depth + 1)
        except (TypeError, ValueError) as error:
            raise located(error, f"{self.name}.{name}") from None

    def _make(self, values: dict[str, Any]) -> Any:
        if issubclass(self.of, msgspec.Struct):
            return self.of(**values)
        made = object.__new__(self.of)
        for name, value in values.items():
            object.__setattr__(made, name, value)
        return made

    def to_plain(self, value: Any) -> dict[str, Any]:
        return {name: each.to_plain(getattr(value, name)) for name, each in self.fields.items()}

    def from_plain(self, plain: Any) -> Any:
        """Names that are gone are dropped and new ones get their default, as in records."""
        if type(plain) is not dict:
            raise expected(self.name, plain)
        return self._make({name: self._read(name, plain, each.from_plain) for name, each in self.fields.items()})

    def plain_to_json(self, plain: Any) -> dict[str, Any]:
        return {name: each.plain_to_json(plain[name]) for name, each in self.fields.items()}

    def from_json(self, value: Any, depth: int = 0) -> Any:
        self.check_members(value, depth)
        return self._make({name: self._read(name, value, _JsonReader(each, depth + 1)) for name, each in self.fields.items()})

    def _read(self, name: str, given: dict[str, Any], read: Callable[[Any], Any]) -> Any:
        if name not in given:
            if name not in self.defaults:
                raise ValueError(f"{self.name}: {name!r} is missing")
            return self.fields[name].admit(self.defaults[name])
        try:
            return read(given[name])
        except (TypeError, ValueError) as error:
            raise located(error, f"{self.name}.{name}") from None

    def size(self, value: Any) -> int:
        return 5 + sum(len(name) + each.size(getattr(value, name)) for name, each in self.fields.items())


_TYPES: weakref.WeakKeyDictionary[type, FrozenType] = weakref.WeakKeyDictionary()
"""One type for each class, so that schemas tell classes of one name apart."""


def frozen_type(cls: type, resolve: Callable[[Any, type], StateType]) -> FrozenType:
    """The type of a class that `is_frozen`. resolve: from an annotation and the class it was written in to its type.

    Raises TypeError, saying what to change, for a class whose values could change or would not be what was sent.
    """
    found = _TYPES.get(cls)
    if found is not None:
        return found
    _check_class(cls)
    found = _TYPES[cls] = FrozenType(cls)  # before the fields: a class may contain itself
    annotations = {
        name: (annotation, base) for base in reversed(cls.__mro__) for name, annotation in inspect.get_annotations(base).items()
    }
    try:
        for name, default in _declared(cls):
            annotation, base = annotations[name]
            _fill(found, name, resolve(annotation, base), default)
    except BaseException:
        del _TYPES[cls]
        raise
    return found


def _fill(found: FrozenType, name: str, field_type: StateType, default: Any) -> None:
    try:
        if not field_type.leaf:
            raise TypeError(f"{field_type.name} can change: use tuple[T, ...], or derive {found.name} from Record")
        if default is not ABSENT:
            field_type.check(default)
            found.defaults[name] = default
    except (TypeError, ValueError) as error:
        raise located(error, f"{found.name}.{name}") from None
    found.fields[name] = field_type
    found.exact = found.exact and field_type.exact


def _check_class(cls: type) -> None:
    if issubclass(cls, msgspec.Struct):
        config: Any = cls.__struct_config__
        frozen = bool(config.frozen)
        odd = [name for name, usual in _STRUCT_OPTIONS.items() if getattr(config, name, usual) != usual]
        if odd:
            raise TypeError(f"{cls.__name__} has the option {odd[0]}, which changes what is sent: leave it out")
    else:
        frozen = bool(cls.__dataclass_params__.frozen)  # type: ignore[attr-defined]
    if not frozen:
        raise TypeError(f"{cls.__name__} can change: declare it frozen=True, or derive it from Record")
    for base in cls.__mro__[:-1]:
        if base.__module__ == msgspec.Struct.__module__:
            continue
        for name in sorted(_MADE_BY_US & vars(base).keys()):
            if _is_written(vars(base)[name]):
                raise TypeError(f"{cls.__name__} has an {name} of its own, which would not run: derive it from Record")


def _is_written(function: Any) -> bool:
    """Whether the author wrote it: what the dataclass decorator makes was compiled from a string."""
    code = getattr(function, "__code__", None)
    return code is not None and code.co_filename not in ("<string>", dataclasses.__file__)


def _declared(cls: type) -> Iterable[tuple[str, Any]]:
    """(name, default or ABSENT) of each field. Raises TypeError for a default that is made by code."""
    for field in dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else msgspec.structs.fields(cls):
        factory = field.default_factory
        if factory is not dataclasses.MISSING and factory is not msgspec.NODEFAULT:
            raise TypeError(f"{cls.__name__}.{field.name}: a default_factory would not run: give a value")
        default = field.default
        yield field.name, ABSENT if default is dataclasses.MISSING or default is msgspec.NODEFAULT else default


class TupleType(StateType):
    """`tuple[T, ...]` of immutable values: a list that can not change, for fields of frozen classes. An array in JSON."""

    __slots__ = ("exact", "item")

    def __init__(self, item: StateType) -> None:
        super().__init__(f"tuple[{item.name}, ...]")
        if not item.leaf:
            raise TypeError(f"{self.name}: {item.name} can change: use list[{item.name}]")
        self.item = item
        self.exact = item.exact

    def admit(self, value: Any, depth: int = 0) -> tuple[Any, ...]:
        check_depth(depth)
        if type(value) is not tuple:
            raise expected(self.name, value)
        admitted = tuple([self.item.admit(item, depth + 1) for item in value])
        return value if all(map(_is, admitted, value)) else admitted

    def to_plain(self, value: Any) -> list[Any]:
        return list(map(self.item.to_plain, value))

    def from_plain(self, plain: Any) -> tuple[Any, ...]:
        if type(plain) is not list:
            raise expected(self.name, plain)
        return tuple(self.item.from_plains(plain))

    def plain_to_json(self, plain: Any) -> list[Any]:
        return list(map(self.item.plain_to_json, plain))

    def from_json(self, value: Any, depth: int = 0) -> tuple[Any, ...]:
        check_depth(depth)
        if type(value) is not list:
            raise expected(f"an array ({self.name})", value)
        return tuple([self.item.from_json(item, depth + 1) for item in value])

    def json_schema(self, definitions: dict[str, Schema]) -> Schema:
        return {"type": "array", "items": self.item.json_schema(definitions)}

    def size(self, value: Any) -> int:
        return 5 + self.item.sizes(value)


def _is(one: object, other: object) -> bool:
    return one is other
