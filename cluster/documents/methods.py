"""Methods of str, bytes, int, list and dict whose cost follows their input, and those that differ between Pythons.

The instrumentation turns `value.join` into `method(value, "join")`. For the built-in types that is a function of this module
that charges before it works; for everything else it is the attribute itself, so authors' own methods of the same name and
`super()` behave as ever.

Invariant: results are Python's, except that letters are classified by Unicode 3.2, which every Python carries, and that
exceptions the interpreter raised have no arguments: its messages differ between versions.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from types import MethodType, ModuleType
from typing import Any, Final

from cluster.documents import textual
from cluster.documents.instrument import AMBIENT_METHODS
from cluster.documents.meter import ITEMS_PER_STEP, charge, charge_items, enter, leave
from cluster.documents.operators import bounded, contains, gather, measured
from cluster.documents.sizes import ATOMS, COMPARED_PER_STEP, key, measure
from cluster.documents.state.node import Node

DECIMAL_FUNCTION_STEPS: Final = 256
_Guard = Callable[..., Any]
_LETTERS = unicodedata.ucd_3_2_0


def method(value: Any, name: str) -> Any:
    """`value.name`."""
    kind = value.__class__
    guards = _TABLE.get(kind)
    if guards is not None:
        guard = guards.get(name)
        return getattr(value, name) if guard is None else MethodType(guard, value)
    if name in AMBIENT_METHODS and (kind in _DATES or (kind is type and issubclass(value, _DATES))):
        raise AttributeError(f"{name} depends on the machine; use ctx.now and timedelta")
    if kind is type:
        return _of_type(value, name)
    if kind is ModuleType:
        found = getattr(value, name)
        return GUARDS_BY_TYPE.get(found, found) if isinstance(found, type) else found
    if isinstance(value, Node) and name in _KEYED:
        found = getattr(value, name)
        return lambda *items, **named: found(*map(key, items[:1]), *items[1:], **named)
    if isinstance(value, BaseException):
        if name == "args" and not getattr(value, textual.AUTHORED, False):
            return ()
        return getattr(value, name)
    if isinstance(value, str | bytes | list | dict | int):
        for base in kind.__mro__:
            guard = _TABLE.get(base, {}).get(name)
            if guard is not None and name not in kind.__dict__:
                return MethodType(guard, value)
    elif callable(value) and value in TYPES_BY_GUARD:
        return _of_type(TYPES_BY_GUARD[value], name)
    return getattr(value, name)


_KEYED: Final = frozenset({"get", "setdefault", "pop", "add", "discard", "remove", "index", "count"})
_DATES: Final = (datetime, date, time)

GUARDS_BY_TYPE: Final[dict[Any, Any]] = {}
TYPES_BY_GUARD: Final[dict[Any, type]] = {}
"""Filled by library.py: the type that each charging constructor stands for."""


def _of_type(kind: type, name: str) -> Any:
    """`str.join` and the like: the function, unbound."""
    if name in _CLASS_METHODS.get(kind, ()):
        return _CLASS_METHODS[kind][name]
    for base in kind.__mro__:
        guard = _TABLE.get(base, {}).get(name)
        if guard is not None:
            return guard
    return getattr(kind, name)


def _linear(name: str, kinds: tuple[type, ...] = (str, bytes), share: int = ITEMS_PER_STEP) -> _Guard:
    """A method that looks at all of its receiver once and makes at most as much."""

    def guarded(value: Any, *arguments: Any) -> Any:
        charge(1 + len(value) // share)
        return getattr(kinds[0] if isinstance(value, kinds[0]) else kinds[1], name)(value, *arguments)

    return guarded


def _join(value: Any, items: Iterable[Any]) -> Any:
    parts = gather(items)
    size = len(value) * len(parts)
    for part in parts:
        size += len(part)
    charge(len(parts) // 2)
    charge_items(size)
    return value.join(parts)


def _replace(value: Any, old: Any, new: Any, count: int = -1) -> Any:
    charge_items(len(value))
    found = value.count(old) if count < 0 else min(count, value.count(old))
    charge_items(len(value) + found * len(new))
    return value.replace(old, new, count)


def _padded(name: str) -> _Guard:
    def guarded(value: Any, width: int, *fill: Any) -> Any:
        charge_items(len(value) + max(width, 0))
        return getattr(value, name)(width, *fill)

    return guarded


def _expandtabs(value: Any, tabsize: int = 8) -> Any:
    tabs = value.count("\t" if isinstance(value, str) else b"\t")
    charge_items(len(value) + tabs * max(tabsize, 0))
    return value.expandtabs(tabsize)


def _encode(value: str, encoding: str = "utf-8", errors: str = "strict") -> bytes:
    charge_items(len(value))
    _check_encoding(encoding, errors)
    return value.encode(encoding)


def _decode(value: bytes, encoding: str = "utf-8", errors: str = "strict") -> str:
    charge_items(len(value))
    _check_encoding(encoding, errors)
    return value.decode(encoding)


def _check_encoding(encoding: str, errors: str) -> None:
    if encoding.lower() not in ("utf-8", "utf8", "ascii") or errors != "strict":
        raise ValueError("documents encode and decode strict utf-8 and ascii")


def _cased(name: str) -> _Guard:
    native_bytes = getattr(bytes, name, None)

    def guarded(value: Any) -> Any:
        charge_items(len(value))
        if isinstance(value, bytes):
            return native_bytes(value) if native_bytes is not None else getattr(value, name)()
        if value.isascii():
            return getattr(value, name)()
        charge(len(value))
        known = "".join(letter if _LETTERS.category(letter) != "Cn" else "\ufffd" for letter in value)
        changed = getattr(known, name)()
        if isinstance(changed, bool) or "\ufffd" not in changed:
            return changed
        unknown = iter([letter for letter in value if _LETTERS.category(letter) == "Cn" or letter == "\ufffd"])
        return "".join(next(unknown) if letter == "\ufffd" else letter for letter in changed)

    return guarded


def _to_bytes(value: int, length: int = 1, byteorder: Any = "big", *, signed: bool = False) -> bytes:
    charge_items(max(length, 0))
    return value.to_bytes(length, byteorder, signed=signed)


def _from_bytes(value: Any, byteorder: Any = "big", *, signed: bool = False) -> int:
    if len(measured(value)) > 256:
        raise OverflowError("whole numbers have at most 2048 bits in a document")
    return bounded(int.from_bytes(value, byteorder, signed=signed))


def _fromhex(value: str) -> bytes:
    charge_items(len(value))
    return bytes.fromhex(value)


def _decimal(name: str) -> _Guard:
    def guarded(value: Decimal, *arguments: Any) -> Any:
        charge(DECIMAL_FUNCTION_STEPS)
        return getattr(value, name)(*arguments)

    return guarded


# Lists and dictionaries


def _extend(value: list[Any], items: Iterable[Any]) -> None:
    value.extend(gather(items))


def _insert(value: list[Any], place: int, item: Any) -> None:
    charge(len(value) // COMPARED_PER_STEP)
    value.insert(place, item)


def _pop(value: Any, *arguments: Any) -> Any:
    if isinstance(value, list):
        charge(len(value) // COMPARED_PER_STEP)
    elif arguments:
        key(arguments[0])
    return value.pop(*arguments)


def _searched(name: str) -> _Guard:
    def guarded(value: Any, item: Any, *bounds: Any) -> Any:
        if isinstance(value, str | bytes):
            charge(1 + len(value) // ITEMS_PER_STEP)
        else:
            contains(item, ()) if value else None
            charge(len(value) // 2 * (1 + measure([item])))
        return getattr(value, name)(item, *bounds)

    return guarded


def ordered(items: list[Any], by: Any = None, reverse: bool = False) -> None:
    """Sort in place. The number of comparisons is charged as if the order were the worst."""
    count = len(items)
    keys = items
    if by is not None:
        enter()
        keys = []
        for item in items:
            charge(1)
            keys.append(by(item))
        leave()
    widest = 0
    for one in keys:
        if one.__class__ not in ATOMS:
            widest = max(widest, 1 + measure((one,)))
    charge(count * count.bit_length() // 16 * (1 + widest))
    if by is None:
        items.sort(reverse=reverse)
        return
    places = sorted(range(count), key=keys.__getitem__, reverse=reverse)
    items[:] = [items[place] for place in places]


def _sort(value: list[Any], *, key: Any = None, reverse: bool = False) -> None:
    work = list(measured(value))
    ordered(work, key, reverse)
    value[:] = work


def _update(value: dict[Any, Any], other: Any = (), /, **named: Any) -> None:
    if isinstance(other, dict):
        charge_items(len(other) * 2)
        value.update(other)
    elif isinstance(other, Mapping):
        value.update({item: other[item] for item in gather(other)})
    else:
        for left, right in gather(other):
            value[key(left)] = right
    value.update(named)


def _keyed(name: str) -> _Guard:
    def guarded(value: Any, item: Any, *default: Any) -> Any:
        return getattr(value, name)(key(item), *default)

    return guarded


def _fromkeys(keys: Iterable[Any], value: Any = None) -> dict[Any, Any]:
    return {key(item): value for item in gather(keys)}


def _split(name: str) -> _Guard:
    def guarded(value: Any, *arguments: Any, **named: Any) -> Any:
        charge(1 + len(value) // 2)
        return getattr(value, name)(*arguments, **named)

    return guarded


_TEXT_AND_BYTES: Final[dict[str, _Guard]] = {
    "join": _join,
    "replace": _replace,
    "expandtabs": _expandtabs,
    **{name: _padded(name) for name in ("ljust", "rjust", "center", "zfill")},
    **{name: _split(name) for name in ("split", "rsplit", "splitlines")},
    **{
        name: _linear(name) for name in ("partition", "rpartition", "strip", "lstrip", "rstrip", "removeprefix", "removesuffix")
    },
    **{name: _linear(name) for name in ("startswith", "endswith", "isascii")},
    **{name: _searched(name) for name in ("find", "rfind", "index", "rindex", "count")},
    **{name: _cased(name) for name in ("upper", "lower", "title", "capitalize", "swapcase", "isalpha", "isdigit", "isalnum")},
    **{name: _cased(name) for name in ("isupper", "islower", "istitle", "isspace")},
}
_TABLE: Final[dict[type, dict[str, _Guard]]] = {
    str: _TEXT_AND_BYTES
    | {"format": textual.format_template, "encode": _encode}
    | {name: _cased(name) for name in ("casefold", "isdecimal", "isnumeric", "isprintable", "isidentifier")},
    bytes: _TEXT_AND_BYTES | {"decode": _decode, "hex": _linear("hex", (bytes, bytes))},
    int: {"to_bytes": _to_bytes},
    Decimal: {name: _decimal(name) for name in ("exp", "ln", "log10", "sqrt", "fma")},
    list: {
        "extend": _extend,
        "insert": _insert,
        "pop": _pop,
        "sort": _sort,
        "reverse": _linear("reverse", (list, list), COMPARED_PER_STEP),
        "copy": _linear("copy", (list, list)),
        **{name: _searched(name) for name in ("remove", "index", "count")},
    },
    tuple: {name: _searched(name) for name in ("index", "count")},
    dict: {
        "update": _update,
        "copy": _linear("copy", (dict, dict), 4),
        "pop": _pop,
        **{name: _keyed(name) for name in ("get", "setdefault")},
    },
}
_CLASS_METHODS: Final[dict[type, dict[str, _Guard]]] = {
    dict: {"fromkeys": _fromkeys},
    int: {"from_bytes": _from_bytes},
    bytes: {"fromhex": _fromhex},
}
