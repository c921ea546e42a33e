"""The builtins that handlers see: a table of our own, with nothing in it that reaches the process, the clock or the memory.

Absent on purpose: open, input, eval, exec, compile, getattr, setattr, delattr, hasattr, vars, dir, globals, locals, id, hash,
type, memoryview, bytearray, complex, aiter, anext, breakpoint, help, exit.

Consumers (sum, sorted, list, any, ...) pay for each item before they take it. Constructors of built-in types exist twice: the
type, for annotations and isinstance, and the function that charges, which is what a call or a value use of the name gets.

Invariant: the results are the same on every supported Python; where versions differ (sum of floats) it is ours that counts.
"""

from __future__ import annotations

import builtins
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Any, Final, NoReturn

from cluster.documents import textual
from cluster.documents.lazy import Lazy, lazy
from cluster.documents.meter import METER, Fault, charge, charge_items, enter, leave
from cluster.documents.methods import GUARDS_BY_TYPE, TYPES_BY_GUARD, method, ordered
from cluster.documents.operators import (
    NUMBER_BITS_MAX,
    OPERATORS,
    SIZED,
    add,
    bounded,
    gather,
    pow_,
)
from cluster.documents.ordered import FrozenSet, PlainSet
from cluster.documents.sizes import flat, measure
from cluster.documents.state import Refused, Text

_DIGITS_MAX: Final = 617  # of a number below 2**2048
_DECIMAL_CHARACTERS_MAX: Final = 1_000
_MISSING: Final = object()


# What the instrumentation calls


def step(steps: int) -> bool:
    """Count one round of a comprehension, or one call of a small lambda."""
    METER.left = left = METER.left - steps
    if left < 0:
        METER.exhausted()
    return True


def enter_lambda(steps: int) -> None:
    METER.left = left = METER.left - steps
    METER.depth = depth = METER.depth - 1
    if left < 0 or depth < 0:
        METER.exhausted()


def leave_lambda(_: None, result: Any) -> Any:
    METER.depth += 1
    return result


def caught() -> None:
    """The first statement of every `except` block: faults pass through."""
    error = sys.exception()
    if isinstance(error, MemoryError | RecursionError | SystemError):
        METER.fault = METER.fault or error
        raise Fault(str(error)) from error
    charge(1)


def raised(error: Any) -> Any:
    """What a `raise` statement raises. A refusal stands from here on, even if it is caught."""
    if isinstance(error, type) and issubclass(error, BaseException):
        error = error()
    if isinstance(error, Exception):
        if error.__traceback__ is None:  # made here: one that was caught and is raised again may be the interpreter's
            setattr(error, textual.AUTHORED, True)
        if isinstance(error, Refused) and METER.refusal is None:
            METER.refusal = error
    elif isinstance(error, BaseException):
        raise TypeError("documents raise subclasses of Exception")
    return error


# Constructors


def _int(value: Any = 0, base: Any = None) -> int:
    if isinstance(value, str | bytes):
        if len(value) > _DIGITS_MAX + 1 and len(value.strip()) > _DIGITS_MAX + 1:
            raise ValueError(f"whole numbers have at most {NUMBER_BITS_MAX} bits in a document")
        charge(1 + len(value) // 8)
        if not value.isascii():
            raise ValueError("whole numbers are written with the digits 0 to 9")
        return bounded(int(value) if base is None else int(value, base))
    if isinstance(value, Decimal) and value.is_finite() and value.adjusted() >= _DIGITS_MAX:
        raise OverflowError(f"whole numbers have at most {NUMBER_BITS_MAX} bits in a document")
    return bounded(int(value))


def _float(value: Any = 0.0) -> float:
    if isinstance(value, str | bytes):
        charge(1 + len(value) // 8)
        if not value.isascii():
            raise ValueError("numbers are written with the digits 0 to 9")
    return float(value)


def _str(value: Any = "", encoding: str | None = None) -> str:
    if encoding is not None:
        return str(method(value, "decode")(encoding))
    return textual.text(value)


def _bytes(value: Any = b"", encoding: str | None = None) -> bytes:
    if isinstance(value, int):
        charge_items(max(value, 0))
        return bytes(value)
    if isinstance(value, str):
        return bytes(method(value, "encode")(encoding or _no_encoding()))
    return bytes(gather(value))


def _no_encoding() -> NoReturn:
    raise TypeError("string argument without an encoding")


def _decimal(value: Any = 0) -> Decimal:
    if isinstance(value, str):
        if len(value) > _DECIMAL_CHARACTERS_MAX:
            raise ValueError(f"a Decimal is made of at most {_DECIMAL_CHARACTERS_MAX} characters")
    elif not isinstance(value, int | float | Decimal):
        raise TypeError("a Decimal is made of a str, int, float or Decimal")
    charge(4)
    return Decimal(value)


def _list(items: Iterable[Any] = ()) -> list[Any]:
    return gather(items)


def _tuple(items: Iterable[Any] = ()) -> tuple[Any, ...]:
    return tuple(gather(items))


def _dict(items: Any = (), /, **named: Any) -> dict[Any, Any]:
    made: dict[Any, Any] = {}
    method(made, "update")(items, **named)
    return made


def _set(items: Iterable[Any] = ()) -> PlainSet[Any]:
    return PlainSet(items if items.__class__ is PlainSet else gather(items))


def _frozenset(items: Iterable[Any] = ()) -> FrozenSet[Any]:
    return FrozenSet(gather(items))


def _enumerate(items: Iterable[Any], start: int = 0) -> Iterator[tuple[int, Any]]:
    if items.__class__ in SIZED:
        return enumerate(items, start)

    def walk() -> Any:
        place = start
        for item in items:
            charge(1)
            yield place, item
            place += 1

    return Lazy(walk())


def _zip(*sources: Iterable[Any], strict: bool = False) -> Iterator[tuple[Any, ...]]:
    if all(source.__class__ in SIZED for source in sources):
        charge(len(sources))
        return zip(*sources, strict=strict)
    iterators = [iter(source) for source in sources]

    def walk() -> Any:
        while iterators:
            charge(1 + len(iterators))
            row = []
            for place, iterator in enumerate(iterators):
                item = next(iterator, _MISSING)
                if item is not _MISSING:
                    row.append(item)
                elif not strict:
                    return
                elif place or any(next(other, _MISSING) is not _MISSING for other in iterators[1:]):
                    raise ValueError("zip() arguments have different lengths")
                else:
                    return
            yield tuple(row)

    return Lazy(walk())


def _map(function: Callable[..., Any], *sources: Iterable[Any]) -> Lazy[Any]:
    if len(sources) == 1:
        return lazy(function(item) for item in sources[0] if step(1))
    return lazy(function(*row) for row in _zip(*sources) if step(1))


def _filter(function: Callable[[Any], Any] | None, items: Iterable[Any]) -> Lazy[Any]:
    if function is None:
        return lazy(item for item in items if step(1) and item)
    return lazy(item for item in items if step(1) and function(item))


def _reversed(items: Sequence[Any]) -> Iterator[Any]:
    backwards: Iterator[Any] = reversed(items if items.__class__ in SIZED else gather(items))
    return backwards


# Consumers


def _sum(items: Iterable[Any], /, start: Any = 0) -> Any:
    if isinstance(start, str | bytes):
        raise TypeError("sum() can't sum strings; use join")
    total = start
    for item in _counted(items):
        total = total + item if item.__class__ is float else add(total, item)
    return total


def _counted(items: Iterable[Any]) -> Iterator[Any]:
    if items.__class__ is list or items.__class__ is tuple:
        charge(len(items) // 2)
        return iter(list(items))
    return iter(gather(items))


def _sorted(items: Iterable[Any], /, *, key: Any = None, reverse: bool = False) -> list[Any]:
    work = gather(items)
    ordered(work, key, reverse)
    return work


def _extreme(native: Callable[..., Any]) -> Callable[..., Any]:
    def extreme(*items: Any, key: Any = None, default: Any = _MISSING) -> Any:
        candidates = gather(items[0]) if len(items) == 1 else list(items)
        if not candidates and default is not _MISSING:
            return default
        charge(len(candidates) // 2)
        if key is None:
            measure(candidates)
            return native(candidates)
        enter()
        found = native(candidates, key=lambda item: flat(key(item)))
        leave()
        return found

    return extreme


def _any(items: Iterable[Any]) -> bool:
    return any(items if items.__class__ is Lazy else gather(items))


def _all(items: Iterable[Any]) -> bool:
    return all(items if items.__class__ is Lazy else gather(items))


def _next(iterator: Iterator[Any], *default: Any) -> Any:
    charge(1)
    return next(iterator, *default)


def _iter(items: Iterable[Any]) -> Iterator[Any]:
    return iter(items)


def _print(*values: Any, sep: str = " ", end: str = "\n") -> None:
    line = textual.text(sep).join([textual.text(value) for value in values]) + end
    charge_items(len(line))
    if len(line) > METER.printed_room:
        line = line[: METER.printed_room]
    METER.printed_room -= len(line)
    if line:
        METER.printed.append(line)


# Tests and numbers


def _isinstance(value: object, kinds: Any) -> bool:
    return isinstance(value, _types(kinds))


def _issubclass(kind: type, kinds: Any) -> bool:
    return issubclass(TYPES_BY_GUARD.get(kind, kind), _types(kinds))


def _types(kinds: Any) -> Any:
    if isinstance(kinds, tuple):
        charge(len(kinds))
        return tuple(_types_of_one(kind) for kind in kinds)
    return _types_of_one(kinds)


def _types_of_one(kind: Any) -> Any:
    kind = TYPES_BY_GUARD.get(kind, kind)
    if kind is str:
        return (str, Text)
    if isinstance(kind, tuple):
        raise TypeError("isinstance() takes a class or a flat tuple of classes in a document")
    return kind


def _round(number: Any, digits: int | None = None) -> Any:
    if isinstance(number, Decimal) and digits is None:
        return _int(number.to_integral_value()) if number.adjusted() < _DIGITS_MAX else _int(number)
    if digits is not None and not -NUMBER_BITS_MAX < digits < NUMBER_BITS_MAX:
        raise OverflowError("too many digits to round to")
    return round(number) if digits is None else round(number, digits)


def _divmod(left: Any, right: Any) -> Any:
    return left // right, left % right if not isinstance(left, str | bytes) else divmod(left, right)


def percent(left: Any, right: Any) -> Any:
    """left % right."""
    if isinstance(left, str):
        return textual.percent(left, right)
    if isinstance(left, bytes):
        raise TypeError("bytes are not formatted in a document; format a str and encode it")
    return left % right


_GUARDED_TYPES: Final[dict[type, Callable[..., Any]]] = {
    int: _int, float: _float, str: _str, bytes: _bytes, list: _list, tuple: _tuple, dict: _dict, PlainSet: _set,
    FrozenSet: _frozenset, Decimal: _decimal, enumerate: _enumerate, zip: _zip, map: _map, filter: _filter,
    reversed: _reversed, range: range,
}  # fmt: skip
_SAME: Final = (
    "abs", "bin", "bool", "callable", "chr", "classmethod", "hex", "len", "object", "oct", "ord", "property", "staticmethod",
    "super", "NotImplemented", "Ellipsis", "True", "False", "None", "__build_class__", "enumerate", "zip", "map", "filter",
    "reversed", "range", "int", "float", "str", "bytes", "list", "tuple", "dict",
    "Exception", "ArithmeticError", "AssertionError", "AttributeError", "IndexError", "KeyError", "LookupError", "NameError",
    "NotImplementedError", "OverflowError", "RuntimeError", "StopIteration", "TypeError", "UnicodeError", "ValueError",
    "ZeroDivisionError", "UnicodeDecodeError", "UnicodeEncodeError", "PermissionError",
)  # fmt: skip
_OURS: Final[dict[str, Any]] = {
    "set": PlainSet, "frozenset": FrozenSet, "sum": _sum, "sorted": _sorted, "min": _extreme(min), "max": _extreme(max),
    "any": _any, "all": _all, "next": _next, "iter": _iter, "print": _print, "repr": textual.representation,
    "isinstance": _isinstance, "issubclass": _issubclass, "round": _round, "divmod": _divmod, "pow": pow_,
    "format": lambda value, spec="": textual.formatted(value, "", spec),
}  # fmt: skip
_NAMES_OF_OURS: Final[dict[type, str]] = {PlainSet: "set", FrozenSet: "frozenset"}
BUILTIN_NAMES: Final = frozenset(_SAME) | frozenset(_OURS)

TYPES_BY_GUARD.update({guard: kind for kind, guard in _GUARDED_TYPES.items() if guard is not kind})
GUARDS_BY_TYPE.update(_GUARDED_TYPES)


def table(importer: Callable[..., Any]) -> dict[str, Any]:
    """The builtins of one program. importer: its `__import__`."""
    found: dict[str, Any] = {name: getattr(builtins, name) for name in _SAME if hasattr(builtins, name)}
    found |= {"True": True, "False": False, "None": None}
    found |= _OURS
    found["__import__"] = importer
    found["__name__"] = "builtins"
    inner: dict[str, Any] = {"meter": METER, "step": step, "enter": enter_lambda, "leave": leave_lambda, "caught": caught}
    inner |= {"raised": raised, "lazy": lazy, "method": method, "format": textual.formatted, "mod": percent, "imod": percent}
    inner |= OPERATORS
    for kind, guard in _GUARDED_TYPES.items():
        inner[_NAMES_OF_OURS.get(kind, kind.__name__)] = guard
    return found | {f"@{name}": value for name, value in inner.items()}


def integer_of(number: Any, native: Callable[[Any], Any]) -> int:
    """floor, ceil and trunc, which could make a long number of a short Decimal."""
    if isinstance(number, Decimal):
        return _int(native(number)) if not number.is_finite() or number.adjusted() < _DIGITS_MAX else _int(number)
    return bounded(int(native(number)))


def factorial(number: int) -> int:
    """number!, below 2**2048."""
    if number > 300:
        raise OverflowError(f"whole numbers have at most {NUMBER_BITS_MAX} bits in a document")
    charge(1 + max(number, 0))
    return bounded(math.factorial(number))


def choices(native: Callable[[int, int], int]) -> Callable[[int, int], int]:
    """comb and perm, below 2**2048."""

    def guarded(number: int, count: int) -> int:
        if number > NUMBER_BITS_MAX and count > 1 and min(count, abs(number - count)) > 64:
            raise OverflowError(f"whole numbers have at most {NUMBER_BITS_MAX} bits in a document")
        charge(1 + max(0, min(number, count)))
        return bounded(native(number, count))

    return guarded
