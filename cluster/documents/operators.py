"""Operators as handlers see them: the result is Python's, and what follows the operands' size is charged before it is done.

Two risks are handled here: work (copying, searching, multiplying) is paid for; numbers are kept below 2**2048 either way, so
no single operation is long and no limit of the interpreter's own is ever met. Nesting is bounded by sizes.py.

Invariant: none of these functions keeps anything, and each costs the same on every supported Python.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from enum import Enum
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, Final, TypeVar

from cluster.documents.lazy import Lazy
from cluster.documents.meter import METER, charge, charge_items, enter, leave
from cluster.documents.ordered import FrozenSet, PlainSet
from cluster.documents.sizes import ATOMS, COMPARED_PER_STEP, flat, key, measure

T = TypeVar("T")

NUMBER_BITS_MAX: Final = 2048
NUMBER_END: Final = 1 << NUMBER_BITS_MAX
_NONE: Final[dict[int, int]] = {}
_VIEWS: Final[tuple[Any, ...]] = (type(_NONE.keys()), type(_NONE.items()), type(_NONE.values()))
SIZED: Final[frozenset[Any]] = frozenset({list, tuple, dict, str, bytes, range, PlainSet, FrozenSet, *_VIEWS})
_native_iadd: Final[Callable[[Any, Any], Any]] = operator.iadd
_native_imul: Final[Callable[[Any, Any], Any]] = operator.imul
_SEQUENCES: Final = (str, bytes, list, tuple)
_LOADED: Final = (type, FunctionType, BuiltinFunctionType, MethodType, ModuleType, Enum)


# Sequences and containers


def measured(value: T) -> T:
    """`value`, after paying for copying it or a part of it."""
    kind = value.__class__
    if kind in SIZED or isinstance(value, _SEQUENCES):
        charge_items(len(value))  # type: ignore[arg-type]
    return value


def shifted(value: T) -> T:
    """A list out of which something is taken: what comes after it moves."""
    if value.__class__ is list:
        charge(len(value) // COMPARED_PER_STEP)  # type: ignore[arg-type]
    return value


def gather(items: Iterable[T]) -> list[T]:
    """All items as a list, each paid for before it is taken."""
    kind = items.__class__
    if kind in SIZED:
        charge_items(len(items))  # type: ignore[arg-type]
        return list(items)
    if kind is Lazy:
        enter()
        source: Iterable[T] = Lazy.unwrapped(items)  # type: ignore[arg-type]
        found = list(source)  # its body is counted
        leave()
        return found
    found = []
    for item in items:
        METER.left = left = METER.left - 1
        if left < 0:
            METER.exhausted()
        found.append(item)
    return found


def spread(items: Iterable[T]) -> Iterable[T]:
    """What follows a star."""
    return items if measured(items).__class__ in SIZED else gather(items)


def spread_mapping(items: Mapping[str, T]) -> Mapping[str, T]:
    """What follows two stars."""
    charge_items(len(items))
    return items


def cut(value: Any, start: Any, stop: Any, step: Any) -> Any:
    """value[start:stop:step]."""
    part = slice(start, stop, step)
    if value.__class__ in SIZED or isinstance(value, _SEQUENCES):
        charge_items(len(range(*part.indices(len(value)))))
    return value[part]


def contains(item: Any, container: Any) -> bool:
    """item in container."""
    kind = container.__class__
    if kind is str or kind is bytes:
        charge(len(container) // COMPARED_PER_STEP)
    elif kind is list or kind is tuple or kind is _VIEWS[2]:
        charge(len(container) // 2 * (1 + _cost(item)))
    elif kind is range:
        charge(0 if item.__class__ is int else len(container))
    else:
        flat(item)
    return item in container


def _cost(value: object) -> int:
    kind = value.__class__
    if kind in ATOMS:
        return 0
    return len(value) // COMPARED_PER_STEP if kind is str or kind is bytes else measure(value)  # type: ignore[arg-type]


def own(value: T) -> T:
    """What an attribute is stored in: nothing that outlives the command."""
    if isinstance(value, _LOADED):
        raise AttributeError("classes, functions, modules and enumeration members can not be changed by a document")
    return value


# Arithmetic


def bounded(number: T) -> T:
    """`number`, which must be smaller than 2**2048 either way. Raises OverflowError."""
    if number.__class__ is int and not -NUMBER_END < number < NUMBER_END:  # type: ignore[operator]
        raise OverflowError(f"whole numbers have at most {NUMBER_BITS_MAX} bits in a document")
    return number


def add(left: Any, right: Any) -> Any:
    kind = left.__class__
    if kind is int:
        result = left + right
        return result if -4611686018427387904 < result < 4611686018427387904 else bounded(result)
    if isinstance(left, _SEQUENCES) and isinstance(right, _SEQUENCES):
        charge_items(len(left) + len(right))
    elif kind is Decimal:
        _decimals(left, right)
    return left + right


def iadd(left: Any, right: Any) -> Any:
    if left.__class__ is list:
        left += gather(right)
        return left
    return add(left, right) if left.__class__ in ATOMS or left.__class__ in SIZED else _native_iadd(left, right)


def sub(left: Any, right: Any) -> Any:
    if left.__class__ in _VIEWS:
        return PlainSet(gather(left)) - PlainSet(gather(right))
    if left.__class__ is Decimal:
        _decimals(left, right)
    return bounded(left - right)


def mul(left: Any, right: Any) -> Any:
    kind, other = left.__class__, right.__class__
    if kind is int and other is int:
        result = left * right
        if -4611686018427387904 < result < 4611686018427387904:
            return result
        charge(left.bit_length() * right.bit_length() >> 16)
        return bounded(result)
    if kind is float or other is float:
        return left * right
    if isinstance(left, _SEQUENCES) and isinstance(right, int):
        charge_items(len(left) * max(right, 0))
    elif isinstance(right, _SEQUENCES) and isinstance(left, int):
        charge_items(len(right) * max(left, 0))
    elif isinstance(left, int) and isinstance(right, int):
        return mul(int(left), int(right))
    elif kind is Decimal or other is Decimal:
        _decimals(left, right)
    return left * right


def imul(left: Any, right: Any) -> Any:
    if left.__class__ is list and isinstance(right, int):
        charge_items(len(left) * max(right, 0))
        left *= right
        return left
    return mul(left, right) if left.__class__ in ATOMS or left.__class__ in SIZED else _native_imul(left, right)


def pow_(base: Any, exponent: Any, modulus: Any = None) -> Any:
    """base ** exponent. Floats take whole exponents and one half only: others are not the same on every machine."""
    if isinstance(base, float) or isinstance(exponent, float):
        return _float_power(base, exponent)
    if isinstance(base, int) and isinstance(exponent, int):
        if modulus is not None:
            charge(1 + (abs(exponent).bit_length() * bounded(modulus).bit_length() >> 5))
            return pow(base, exponent, modulus)
        if exponent < 0:
            return _float_power(float(base), exponent)
        size = base.bit_length()
        if size > 1 and (size - 1) * exponent > NUMBER_BITS_MAX:
            raise OverflowError(f"whole numbers have at most {NUMBER_BITS_MAX} bits in a document")
        charge(size * exponent >> 6)
        return bounded(base**exponent)
    if isinstance(base, Decimal):
        charge(64)
        _decimals(base, exponent)
        if not isinstance(exponent, int):
            raise TypeError("a Decimal can only be raised to a whole number")
    return base**exponent


def _float_power(base: Any, exponent: Any) -> float:
    if exponent == 0.5 and base >= 0:
        return math.sqrt(base)
    if exponent != int(exponent) or abs(exponent) > NUMBER_BITS_MAX:
        raise ValueError("a float can only be raised to a whole number up to 2048, or to 0.5")
    charge(8)
    result, square, left = 1.0, float(base), abs(int(exponent))
    while left:
        if left & 1:
            result *= square
        square *= square
        left >>= 1
    return 1.0 / result if exponent < 0 else result


def lshift(left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int):
        if left and left.bit_length() + right > NUMBER_BITS_MAX:
            raise OverflowError(f"whole numbers have at most {NUMBER_BITS_MAX} bits in a document")
        if not left:
            return 0 if right >= 0 else left << right
    return left << right


def _decimals(left: Any, right: Any) -> None:
    """Decimals are rounded to the context's precision, but operands may be longer."""
    charge(1 + (left.__sizeof__() + right.__sizeof__() >> 7))


def _set_operator(native: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def operate(left: Any, right: Any) -> Any:
        if left.__class__ in _VIEWS:
            return native(PlainSet(gather(left)), PlainSet(gather(right)))
        if left.__class__ is dict and right.__class__ is dict:
            charge_items(len(left) + len(right))
        return native(left, right)

    return operate


def _in_place(native: Callable[[Any, Any], Any], guarded: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def operate(left: Any, right: Any) -> Any:
        kind = left.__class__
        if kind in ATOMS or kind is str or kind is bytes or kind is tuple or kind in _VIEWS:
            return guarded(left, right)
        measured(right)
        return native(left, right)

    return operate


or_ = _set_operator(operator.or_)
and_ = _set_operator(operator.and_)
xor = _set_operator(operator.xor)

OPERATORS: Final[dict[str, Callable[..., Any]]] = {
    "add": add, "sub": sub, "mul": mul, "pow": pow_, "lshift": lshift, "or": or_, "and": and_, "xor": xor,
    "iadd": iadd, "imul": imul, "isub": _in_place(operator.isub, sub), "ipow": pow_, "ilshift": lshift,
    "ior": _in_place(operator.ior, or_), "iand": _in_place(operator.iand, and_), "ixor": _in_place(operator.ixor, xor),
    "flat": flat, "key": key, "measured": measured, "shifted": shifted, "spread": spread, "cut": cut,
    "spread_mapping": spread_mapping, "contains": contains, "own": own,
}  # fmt: skip
