"""The modules that a bundle may import beside its own: only names that are the same everywhere and have no effects.

A facade is a module object that holds the allowed names and nothing else. Classes in it are the real ones, so annotations and
isinstance agree with the rest of the process; functions whose cost follows their input are replaced by ones that charge.

Invariant: nothing reachable from a facade reads the clock, the environment, a file or randomness, or keeps state.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime
import decimal
import enum
import functools
import math
import string
import typing
import uuid
from collections.abc import Iterable, Mapping
from types import FunctionType, ModuleType
from typing import Any, Final

import msgspec

from cluster.documents import iteration, library, operators, textual
from cluster.documents.context import Command, Random
from cluster.documents.declare import Before, Document, anyone, field, on, read
from cluster.documents.maybe import Maybe
from cluster.documents.presence import Presence
from cluster.documents.requests import BadRequest, Request, Response
from cluster.documents.state import Blob, Event, OrderedSet, Record, Refused, StaleEdit, Table, Tally, Text, latest
from cluster.ids import Principal

AUTHOR_NAMES: Final[dict[str, object]] = {
    "BadRequest": BadRequest,
    "Before": Before,
    "Blob": Blob,
    "Command": Command,
    "Document": Document,
    "Event": Event,
    "Maybe": Maybe,
    "OrderedSet": OrderedSet,
    "Presence": Presence,
    "Principal": Principal,
    "Random": Random,
    "Record": Record,
    "Refused": Refused,
    "Request": Request,
    "Response": Response,
    "StaleEdit": StaleEdit,
    "Table": Table,
    "Tally": Tally,
    "Text": Text,
    "anyone": anyone,
    "field": field,
    "latest": latest,
    "on": on,
    "read": read,
}


def _prod(items: Iterable[Any], *, start: Any = 1) -> Any:
    for item in operators.gather(items):
        start = operators.mul(start, item)
    return start


def _dataclass(cls: type[Any] | None = None, /, **options: Any) -> Any:
    """`dataclasses.dataclass`, whose frozen classes can be kept in sets and be keys: what makes them hashable calls `hash`,
    which authors' modules have not. Nothing that an author can see depends on the number.
    """

    def decorate(plain: type[Any]) -> type[Any]:
        own = plain.__dict__.get("__hash__")
        made: type[Any] = dataclasses.dataclass(plain, **options)
        found = made.__dict__.get("__hash__")
        if found is not None and found is not own:
            names = {"__builtins__": {"hash": hash}}
            hashing = FunctionType(found.__code__, names, found.__name__, found.__defaults__, found.__closure__)
            made.__hash__ = hashing
        return made

    return decorate if cls is None else decorate(cls)


def _from(module: ModuleType, names: str) -> dict[str, Any]:
    return {name: getattr(module, name) for name in names.split()}


NAMES: Final[dict[str, Mapping[str, object]]] = {
    "__future__": {"annotations": None},
    "cluster": AUTHOR_NAMES,
    "collections": {},
    "collections.abc": _from(
        collections.abc,
        "Callable Collection Container Hashable ItemsView Iterable Iterator KeysView Mapping MutableMapping MutableSequence "
        "MutableSet Reversible Sequence Set Sized ValuesView",
    ),
    "dataclasses": _from(dataclasses, "KW_ONLY FrozenInstanceError dataclass field replace") | {"dataclass": _dataclass},
    "datetime": _from(datetime, "UTC date datetime time timedelta timezone"),
    "decimal": _from(
        decimal,
        "Decimal DecimalException DivisionByZero InvalidOperation ROUND_CEILING ROUND_DOWN ROUND_FLOOR ROUND_HALF_DOWN "
        "ROUND_HALF_EVEN ROUND_HALF_UP ROUND_UP",
    ),
    "enum": _from(enum, "Enum IntEnum StrEnum auto unique"),
    "functools": {"reduce": iteration.reduce} | _from(functools, "cmp_to_key partial total_ordering"),
    "html": {"escape": textual.escaped},
    "itertools": iteration.NAMES,
    "msgspec": {"Struct": msgspec.Struct},
    "math": _from(math, "copysign e fabs fmod gcd inf isclose isfinite isinf isnan isqrt lcm pi tau")
    | {
        "ceil": lambda number: library.integer_of(number, math.ceil),
        "comb": library.choices(math.comb),
        "factorial": library.factorial,
        "floor": lambda number: library.integer_of(number, math.floor),
        "perm": library.choices(math.perm),
        "prod": _prod,
        "sqrt": math.sqrt,
        "trunc": lambda number: library.integer_of(number, math.trunc),
    },
    "string": _from(string, "ascii_letters ascii_lowercase ascii_uppercase digits hexdigits punctuation"),
    "typing": _from(
        typing,
        "Annotated Any ClassVar Final Generic Literal NamedTuple Never NewType NoReturn Optional Protocol Self TYPE_CHECKING "
        "TypeAlias TypeVar Union assert_never cast final overload",
    ),
    "uuid": _from(uuid, "UUID"),
}


def _build() -> dict[str, ModuleType]:
    built = {}
    for name, names in NAMES.items():
        module = ModuleType(name)
        module.__dict__.update(names)
        built[name] = module
    built["collections"].__dict__["abc"] = built["collections.abc"]
    return built


_FACADES: Final = _build()


def facade(name: str) -> ModuleType | None:
    """The module that `import name` gives an author, or None when there is none."""
    return _FACADES.get(name)


def names(module: str) -> frozenset[str] | None:
    """What may be imported from `module`, or None when the module itself may not be."""
    allowed = NAMES.get(module)
    return None if allowed is None else frozenset(allowed) | ({"abc"} if module == "collections" else set())
