"""Tally: a number that many add to.

    likes: Tally = field.public(add=anyone)

Adding commutes, so nobody has to read before writing. With `add=policy` the field is a channel of its own name as well: those
whom the policy admits add without a handler, `send("likes", {"by": 3})`, answered with the value afterwards.

Invariant: the value is the sum of what was added since `construct`, within 64 bits: what would leave them is refused.
"""

from __future__ import annotations

from typing import Any

from cluster.documents.state.forms import Schema, StateType, expected
from cluster.documents.state.journal import REPLACE
from cluster.documents.state.node import Node
from cluster.documents.state.scalars import IntType

ADDED_MAX = 2**31 - 1
"""Most that one message may add to a Tally."""

_INTEGER = IntType("int")


class Tally(Node):
    """A sum. `value` reads it, `add` adds to it; it compares with numbers."""

    __slots__ = ("_value",)

    def __init__(self, value: int = 0) -> None:
        """A free tally. Raises TypeError or ValueError."""
        self._lifetime = None
        self._parent = None
        self._slot = None
        self._value = _INTEGER.admit(value)

    @property
    def value(self) -> int:
        """What was added so far."""
        self._check_live()
        return self._value

    def add(self, amount: int = 1) -> int:
        """Add `amount`, which may be negative, and return the sum. Raises TypeError, or ValueError beyond 64 bits."""
        journal = self._writing()
        old = self._value
        new = _INTEGER.admit(old + _INTEGER.admit(amount))
        if new == old:
            return new
        if journal is not None:
            journal.log.append((REPLACE, self._path(), TALLY, new))
            journal.undo.append((self._put, old))
        self._value = new
        return new

    def _put(self, value: int) -> None:
        self._value = value

    def __int__(self) -> int:
        return self.value

    def __bool__(self) -> bool:
        return self.value != 0

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Tally):
            return self._value == other._value
        return self._value == other if isinstance(other, int | float) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __lt__(self, other: Tally | float) -> bool:
        return self._value < (other._value if isinstance(other, Tally) else other)

    def __le__(self, other: Tally | float) -> bool:
        return self._value <= (other._value if isinstance(other, Tally) else other)

    def __gt__(self, other: Tally | float) -> bool:
        return self._value > (other._value if isinstance(other, Tally) else other)

    def __ge__(self, other: Tally | float) -> bool:
        return self._value >= (other._value if isinstance(other, Tally) else other)

    def __repr__(self) -> str:
        return f"Tally({self._value})"

    def _clone(self, depth: int = 0) -> Tally:
        return Tally(self._value)


class TallyType(StateType):
    """`Tally`. A number in the plain form and, as every int, in JSON."""

    __slots__ = ()

    leaf = False
    exact = False
    fixed_size = True

    def admit(self, value: Any, depth: int = 0) -> Tally:
        if isinstance(value, Tally):
            return value._clone()
        if type(value) is not int:
            raise expected("Tally", value)
        return Tally(value)

    def empty(self) -> Tally:
        """A free tally of nothing."""
        return Tally()

    def to_plain(self, value: Any) -> int:
        return value._value  # type: ignore[no-any-return]

    def from_plain(self, plain: Any) -> Tally:
        return Tally(plain)

    def plain_to_json(self, plain: Any) -> int | str:
        return _INTEGER.plain_to_json(plain)

    def from_json(self, value: Any, depth: int = 0) -> Tally:
        return Tally(_INTEGER.from_json(value))

    def json_schema(self, definitions: dict[str, Schema]) -> Schema:
        return _INTEGER.json_schema(definitions)


class AddedType(IntType):
    """What one message adds."""

    __slots__ = ()

    def admit(self, value: Any, depth: int = 0) -> int:
        if not 1 <= super().admit(value) <= ADDED_MAX:
            raise ValueError(f"a message adds 1 to {ADDED_MAX}")
        return value  # type: ignore[no-any-return]

    def json_schema(self, definitions: dict[str, Schema]) -> Schema:
        return {"type": "integer", "minimum": 1, "maximum": ADDED_MAX}


TALLY = TallyType("Tally")
ADDED = AddedType("int")
