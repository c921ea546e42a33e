"""How large and how deep values are: paid for and bounded before the interpreter compares, hashes or shows them.

The interpreter compares, hashes and prints nested values by recursion, partly without any check of its own; what it does
there would depend on the process. So nesting is bounded here first, level by level.

Invariant: after `measure(value)` returned, looking at all of `value` once recurses at most `NESTING_MAX` deep and was paid.
"""

from __future__ import annotations

from collections.abc import Set
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from types import NoneType
from typing import Final, TypeVar
from uuid import UUID

from cluster.documents.meter import METER, charge
from cluster.documents.state import Dict, List, Record, Table
from cluster.ids import Principal

T = TypeVar("T")

NESTING_MAX: Final = 64
COMPARED_PER_STEP: Final = 64
"""How many characters are compared or hashed for one step."""

ATOMS: Final = frozenset({int, bool, float, NoneType, Principal, UUID, datetime, date, time, timedelta, timezone, Decimal})


def flat(value: T) -> T:
    """`value`, after paying for looking at all of it. Exhausts the budget when it is nested too deeply to compare or hash."""
    kind = value.__class__
    if kind in ATOMS:
        return value
    if kind is str or kind is bytes:
        size = len(value)  # type: ignore[arg-type]
        if size > COMPARED_PER_STEP:
            charge(size // COMPARED_PER_STEP)
        return value
    measure(value)
    return value


def key(value: T) -> T:
    """`value`, about to be hashed: as `flat`, and its hash does not depend on the process when order could show it."""
    kind = value.__class__
    if kind in ATOMS or kind is str:
        return value
    measure(value)
    return value


def measure(value: object) -> int:
    """How many steps looking at the whole of `value` costs, paid. Bounds its nesting."""
    before = METER.left
    level: list[object] = [value]
    for _ in range(NESTING_MAX):
        below: list[object] = []
        for item in level:
            kind = item.__class__
            if kind in ATOMS:
                continue
            if kind is str or kind is bytes:
                charge(len(item) // COMPARED_PER_STEP)  # type: ignore[arg-type]
                continue
            children = _children(item)
            if children:
                charge(1 + len(children) // 2)
                below.extend(children)
        if not below:
            return before - METER.left
        level = below
    METER.exhaust("depth")


def _children(value: object) -> list[object]:
    kind = value.__class__
    if kind is list or kind is tuple or isinstance(value, Set):
        charge(len(value) // 2)  # type: ignore[arg-type]
        return list(value)  # type: ignore[call-overload, no-any-return]
    if kind is dict:
        charge(len(value))  # type: ignore[arg-type]
        return [*value.keys(), *value.values()]  # type: ignore[attr-defined]
    if isinstance(value, List | Dict | Table):
        charge(len(value))
        return list(value.values()) if isinstance(value, Dict) else list(value)
    if isinstance(value, Record):
        return list(value.__dict__.values())
    if isinstance(value, tuple | list | dict):
        return list(value)
    names = getattr(kind, "__dataclass_fields__", None) or getattr(kind, "__struct_fields__", None)
    if names is None or isinstance(value, type):
        return []
    return [getattr(value, name, None) for name in names]
