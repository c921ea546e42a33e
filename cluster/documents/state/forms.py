"""StateType: what every declared type can do.

A value has three forms. The author's form is what handlers hold. The plain form is what `dump` writes: msgpack-safe, exact.
The JSON form is what clients see and send. Every type converts author -> plain -> JSON and back, and checks on the way in.

Invariant: `from_plain(to_plain(v)) == v` and `from_json(to_json(v)) == v` for every admitted v, and equal bytes follow from
equal values on every supported Python. Nothing depends on the interpreter's decimal context, locale or clock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import msgspec

Schema = dict[str, Any]

_encode = msgspec.msgpack.Encoder().encode


def expected(what: str, value: object) -> TypeError:
    """The error for a value of the wrong type."""
    return TypeError(f"expected {what}, got {type(value).__name__}")


def located(error: Exception, where: str) -> TypeError | ValueError:
    """The same complaint with the place in front. Not of the error's own class, whose constructor may want anything."""
    text = f"{where}: {error}"
    return TypeError(text) if isinstance(error, TypeError) else ValueError(text)


def check_encodable(text: str) -> None:
    """Raise ValueError when `text` has a lone surrogate: no UTF-8 bytes could carry it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("the text contains a lone surrogate") from None


class StateType:
    """One declared type. leaf: its values are immutable. exact: equal values are the same value, so writing one is no change.
    fixed_size: all its values have the same size. plain_is_value, plain_is_json: these forms are one, so need no conversion.

    name: as the author would write it.
    """

    __slots__ = ("name",)

    leaf = True
    exact = True
    fixed_size = False
    plain_is_value = False
    plain_is_json = False

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<type {self.name}>"

    def admit(self, value: Any, depth: int = 0) -> Any:
        """Check a value and return what the state may keep: itself if immutable, else a free copy.
        Raises TypeError or ValueError; nothing is affected."""
        raise AssertionError(f"{self.name} admits nothing")

    def check(self, value: Any) -> None:
        """Raise TypeError or ValueError unless `value` could be stored."""
        self.admit(value)

    def to_plain(self, value: Any) -> Any:
        """The msgpack-safe form of an admitted value."""
        return value

    def from_plain(self, plain: Any) -> Any:
        """The value of a plain form. Raises TypeError or ValueError when it is none."""
        return self.admit(plain)

    def from_plains(self, plains: list[Any]) -> list[Any]:
        """The values of many plain forms, in the time that their number deserves."""
        return list(map(self.from_plain, plains))

    def plain_to_json(self, plain: Any) -> Any:
        """The JSON form of a plain form."""
        return plain

    def to_json(self, value: Any) -> Any:
        """The JSON form of an admitted value."""
        return self.plain_to_json(self.to_plain(value))

    def from_json(self, value: Any, depth: int = 0) -> Any:
        """The value of decoded JSON. Raises TypeError or ValueError when it is none."""
        return self.admit(value)

    def same(self, one: Any, other: Any) -> bool:
        """Whether two admitted values are shown as the same: 0.0 is not -0.0, and 1.0 is not the decimal 1.00."""
        return _encode(self.to_json(one)) == _encode(self.to_json(other))

    def json_schema(self, definitions: dict[str, Schema]) -> Schema:
        """JSON Schema (2020-12) of the JSON form. Records go into `definitions`."""
        raise AssertionError(f"{self.name} has no schema")

    def size(self, value: Any) -> int:
        """The share of an admitted value in the size of the state: approximate bytes, a function of the value alone."""
        return 9

    def sizes(self, values: Collection[Any]) -> int:
        """The size of many values."""
        if self.fixed_size and values:
            return len(values) * self.size(next(iter(values)))
        return sum(map(self.size, values))


class KeyType(StateType):
    """A type whose values may be keys. The wire key is the member name in JSON and the step in paths."""

    __slots__ = ()

    def wire_key(self, plain: Any) -> str:
        """The plain form of a key as a JSON member name: distinct keys have distinct names."""
        return str(plain)

    def from_wire_key(self, name: str) -> Any:
        """The key of a JSON member name. Raises TypeError or ValueError."""
        return self.from_json(name)

    def name_schema(self, definitions: dict[str, Schema]) -> Schema:
        """JSON Schema of wire keys, empty when every string is one."""
        schema = self.json_schema(definitions)
        return {} if schema == {"type": "string"} else schema


class NoneType(StateType):
    """Nothing: the result of a handler that returns none."""

    __slots__ = ()
    plain_is_value = True
    plain_is_json = True

    def admit(self, value: Any, depth: int = 0) -> None:
        if value is not None:
            raise expected("None", value)

    def json_schema(self, definitions: dict[str, Schema]) -> Schema:
        return {"type": "null"}

    def size(self, value: Any) -> int:
        return 1


class OptionalType(StateType):
    """A type or None."""

    __slots__ = ("exact", "inner", "leaf", "plain_is_json", "plain_is_value")

    def __init__(self, inner: StateType) -> None:
        super().__init__(f"{inner.name} | None")
        self.inner = inner
        self.leaf = inner.leaf
        self.exact = inner.exact
        self.plain_is_value = inner.plain_is_value
        self.plain_is_json = inner.plain_is_json

    def admit(self, value: Any, depth: int = 0) -> Any:
        return None if value is None else self.inner.admit(value, depth)

    def to_plain(self, value: Any) -> Any:
        return None if value is None else self.inner.to_plain(value)

    def from_plain(self, plain: Any) -> Any:
        return None if plain is None else self.inner.from_plain(plain)

    def plain_to_json(self, plain: Any) -> Any:
        return None if plain is None else self.inner.plain_to_json(plain)

    def from_json(self, value: Any, depth: int = 0) -> Any:
        return None if value is None else self.inner.from_json(value, depth)

    def json_schema(self, definitions: dict[str, Schema]) -> Schema:
        return {"anyOf": [self.inner.json_schema(definitions), {"type": "null"}]}

    def size(self, value: Any) -> int:
        return 1 if value is None else self.inner.size(value)


def date(values: Iterable[Any], index: int, item_type: StateType) -> None:
    """Tell values that are being stored for the first time at which document index that happens."""
    if not item_type.leaf:
        for value in values:
            if value is not None:
                value._date(index)
