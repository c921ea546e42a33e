"""str, repr and formatting as handlers see them: no addresses, no versions of Python, no width that was not paid for.

What the interpreter prints for an object without a `__str__` is where it lives in memory; what it says in its own exceptions
and how it formats enumerations differs between versions. Here such objects show as their type's name, and only messages that
an author wrote are shown.

Invariant: the text of a value follows from the value alone. Nesting deeper than sizes.NESTING_MAX exhausts the budget.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Set
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from string import Formatter
from types import FunctionType, MethodType
from typing import Any, Final
from uuid import UUID

from cluster.documents.meter import METER, charge, charge_items
from cluster.documents.ordered import FrozenSet
from cluster.documents.sizes import NESTING_MAX
from cluster.documents.state import Dict, List, OrderedSet, Record, Tally, Text
from cluster.ids import Principal

AUTHORED: Final = "_moot_authored"
"""Set on exceptions that author code raised: their message is the author's."""

_SPEC = re.compile(r"(?:.?[<>=^])?[-+ ]?z?#?0?(\d*)[_,]?(?:\.(\d+))?([bcdeEfFgGosxX%]?)\Z", re.DOTALL)
_PERCENT = re.compile(r"%(?:\((\w*)\))?([-#0 +]*)(\d*)(?:\.(\d+))?([diouxXeEfFgGcrsa%])")
_DIGITS_MAX: Final = 1_000_000
_FIELD = re.compile(r"\w*\Z")
_formatter = Formatter()


def text(value: object) -> str:
    """str(value)."""
    kind = value.__class__
    if kind is str:
        return value  # type: ignore[return-value]
    if kind is int:
        charge(4)
        return str(value)
    return _paid(_text(value))


def representation(value: object) -> str:
    """repr(value)."""
    return _paid(_show(value, NESTING_MAX))


def escaped(text: str, quote: bool = True) -> str:
    """html.escape(text)."""
    charge_items(6 * len(text))
    text = str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return text.replace('"', "&quot;").replace("'", "&#x27;") if quote else text


def formatted(value: object, conversion: str = "", spec: str = "") -> str:
    """format(value, spec), after a conversion r, s or a: one piece of an f-string."""
    if conversion:
        value = text(value) if conversion == "s" else representation(value)
        if conversion == "a":
            value = ascii(value)
    if not spec:
        if value.__class__ is int:
            charge(1)
            return str(value)
        shown = text(value)
        charge_items(len(shown))
        return shown
    if isinstance(value, Enum):
        value = value.value if isinstance(value, IntEnum | StrEnum) else text(value)
    if not isinstance(value, str | int | float | Decimal):
        own = _own_method(value, "__format__")
        if own is None:
            raise TypeError(f"{type(value).__name__} takes no format specification in a document")
        return text(own(spec))
    _pay_for_spec(value, spec)
    return format(value, spec)


def percent(template: Any, arguments: Any) -> str:
    """template % arguments for str."""
    charge_items(len(template))
    values = list(arguments) if isinstance(arguments, tuple) else [arguments]
    done: list[str] = []
    place = used = 0
    named = False
    while (start := template.find("%", place)) >= 0:
        done.append(template[place:start])
        match = _PERCENT.match(template, start)
        if match is None:
            raise ValueError("a conversion of the template is not one that documents have")
        name, flags, width, precision, kind = match.groups()
        place = match.end()
        if kind == "%":
            done.append("%")
            continue
        if name is not None:
            named = True
            value = arguments[name]
        elif used == len(values):
            raise TypeError("not enough arguments for format string")
        else:
            value = values[used]
            used += 1
        _pay_for_width(width, precision)
        if kind in "sra":
            value, kind = formatted(value, "" if kind == "s" else kind), "s"
        piece = f"%{flags}{width}{'.' + precision if precision else ''}{kind}" % (value,)
        done.append(_paid(piece))
    done.append(template[place:])
    if not named and used < len(values) and not isinstance(arguments, dict):
        raise TypeError("not all arguments converted during string formatting")
    return "".join(done)


def format_template(template: str, /, *arguments: object, **named: object) -> str:
    """template.format(...): names and positions only; attributes and items of arguments can not be reached from a template."""
    return _expand(template, arguments, named, [0], 2)


def _expand(template: str, arguments: tuple[object, ...], named: dict[str, object], auto: list[int], levels: int) -> str:
    if levels == 0:
        raise ValueError("format fields are nested too deeply")
    charge_items(len(template) * 4)
    done: list[str] = []
    for literal, field, spec, conversion in _formatter.parse(template):
        done.append(literal)
        if field is None:
            continue
        charge(4)
        if not _FIELD.match(field):
            raise ValueError("format fields name an argument and nothing inside it")
        if not field:
            field, auto[0] = str(auto[0]), auto[0] + 1
        value = arguments[int(field)] if field.isascii() and field.isdigit() else named[field]
        inner = _expand(spec, arguments, named, auto, levels - 1) if spec else ""
        done.append(formatted(value, conversion or "", inner))
    return "".join(done)


def _paid(result: str) -> str:
    charge_items(len(result))
    return result


def _pay_for_spec(value: str | int | float | Decimal, spec: str) -> None:
    match = _SPEC.match(spec)
    if match is None:
        raise ValueError("the format specification is not one that documents have")
    width, precision, _ = match.groups()
    _pay_for_width(width, precision)
    if isinstance(value, Decimal):
        charge_items(abs(value.adjusted()) + value.__sizeof__())
    else:
        charge_items(len(value) if isinstance(value, str) else 64)


def _pay_for_width(width: str | None, precision: str | None) -> None:
    for digits in (width, precision):
        if digits:
            if len(digits) > 7:
                METER.exhaust("steps")
            charge_items(int(digits))


def _own_method(value: object, name: str) -> Callable[..., object] | None:
    """The author's own special method, never the interpreter's."""
    for kind in type(value).__mro__:
        method = kind.__dict__.get(name)
        if method is not None:
            return MethodType(method, value) if _is_authored(method) else None
    return None


def _is_authored(function: object) -> bool:
    """Whether it was compiled from a bundle: only those see the table of library.py."""
    table = function.__globals__.get("__builtins__") if isinstance(function, FunctionType) else None
    return isinstance(table, dict) and "@meter" in table


def _text(value: object) -> str:
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Text):
        charge_items(len(value))
        return str(value)
    if isinstance(value, Enum):
        if isinstance(value, IntEnum):
            return int.__repr__(value)
        return str(value.value) if isinstance(value, StrEnum) else f"{type(value).__name__}.{value.name}"
    if isinstance(value, BaseException):
        return _message(value)
    own = _own_method(value, "__str__")
    if own is not None:
        shown = own()
        if not isinstance(shown, str):
            raise TypeError("__str__ returned something that is not a string")
        return shown
    if isinstance(value, Decimal | datetime | date | time | timedelta | timezone | UUID | Principal):
        return str(value)
    return _show(value, NESTING_MAX)


def _message(error: BaseException) -> str:
    if not getattr(error, AUTHORED, False):
        return type(error).__name__
    if len(error.args) == 1:
        return _text(error.args[0])
    return _show(error.args, NESTING_MAX) if error.args else ""


def _show(value: object, levels: int) -> str:
    if levels == 0:
        METER.exhaust("depth")
    charge(1)
    kind = value.__class__
    if kind is str or kind is bytes:
        charge_items(len(value))  # type: ignore[arg-type]
        return repr(value)
    if kind is bool or kind is int or kind is float or value is None:
        return repr(value)
    own = _own_method(value, "__repr__")
    if own is not None:
        return text(own())
    if kind is list or isinstance(value, List):
        return f"[{_join(value, levels)}]"
    if kind is tuple:
        return f"({_join(value, levels)}{',' if len(value) == 1 else ''})"  # type: ignore[arg-type]
    if kind is dict or isinstance(value, Dict):
        pairs = [f"{_show(key, levels - 1)}: {_show(item, levels - 1)}" for key, item in value.items()]  # type: ignore[attr-defined]
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, Set | OrderedSet):
        inside = f"{{{_join(value, levels)}}}" if len(value) else ""
        return f"frozenset({inside})" if isinstance(value, FrozenSet) else inside or "set()"
    if isinstance(value, Enum):
        return f"<{type(value).__name__}.{value.name}: {_show(value.value, levels - 1)}>"
    if isinstance(value, Decimal | UUID | Principal | datetime | date | time | timedelta):
        return f"{kind.__name__}({str(value)!r})"
    if isinstance(value, type):
        return f"<class {value.__name__!r}>"
    if isinstance(value, BaseException):
        return f"{kind.__name__}({_join(value.args, levels) if getattr(value, AUTHORED, False) else ''})"
    return _show_fields(value, levels)


def _show_fields(value: object, levels: int) -> str:
    if isinstance(value, Record):
        names: list[str] = list(value.__dict__)
    else:
        kind = type(value)
        names = list(getattr(kind, "__dataclass_fields__", ()) or getattr(kind, "__struct_fields__", ()))
    if not names and not isinstance(value, Record):
        if isinstance(value, Tally):
            return f"Tally({value.value})"
        return f"<{type(value).__name__}>"
    parts = [f"{name}={_show(getattr(value, name, None), levels - 1)}" for name in names]
    return f"{type(value).__name__}({', '.join(parts)})"


def _join(items: Any, levels: int) -> str:
    return ", ".join([_show(item, levels - 1) for item in items])
