"""From annotations to types: what an author may declare, and a clear text for what not.

The same types serve fields of documents, fields of records, parameters and results of handlers.
"""

from __future__ import annotations

import decimal
import enum
import sys
import types
import typing
import uuid
from collections import abc
from datetime import date, datetime, time, timedelta
from typing import Any

from cluster.documents.state.blob import BLOB, Blob
from cluster.documents.state.dicts import Dict, DictType
from cluster.documents.state.forms import KeyType, NoneType, OptionalType, Schema, StateType
from cluster.documents.state.frozen import TupleType, frozen_type, is_frozen
from cluster.documents.state.lists import List, ListType
from cluster.documents.state.moments import DatetimeType, TimedeltaType
from cluster.documents.state.named import EnumType, LiteralType, PrincipalType
from cluster.documents.state.record import Record, RecordType, record_type_of
from cluster.documents.state.scalars import BoolType, BytesType, DecimalType, FloatType, IntType, StrType, UuidType
from cluster.documents.state.sets import OrderedSet, OrderedSetType
from cluster.documents.state.table import Table, TableType
from cluster.documents.state.tally import TALLY, Tally
from cluster.documents.state.text import Text, TextType
from cluster.ids import Principal

__all__ = ["KeyType", "RecordType", "Schema", "StateType", "TableType", "state_type"]

_SIMPLE: dict[Any, StateType] = {
    int: IntType("int"),
    float: FloatType("float"),
    bool: BoolType("bool"),
    str: StrType("str"),
    bytes: BytesType("bytes"),
    decimal.Decimal: DecimalType("Decimal"),
    datetime: DatetimeType("datetime"),
    timedelta: TimedeltaType("timedelta"),
    uuid.UUID: UuidType("UUID"),
    Principal: PrincipalType("Principal"),
    Blob: BLOB,
    Text: TextType("Text"),
    Tally: TALLY,
    None: NoneType("None"),
    types.NoneType: NoneType("None"),
}

_INSTEAD: dict[Any, str] = {
    set: "use OrderedSet[T]: a set has no order that is the same everywhere",
    frozenset: "use OrderedSet[T]: a set has no order that is the same everywhere",
    tuple: "use a Record, list[T] or tuple[T, ...]",
    complex: "use two floats in a Record",
    object: "say which type",
    Any: "say which type",
    date: "use datetime",
    time: "use timedelta",
    bytearray: "use bytes",
    abc.Callable: "store data, and name handlers through ctx",
    list: "say of what: list[int]",
    dict: "say of what: dict[str, int]",
    Table: "say of what: Table[Row]",
    OrderedSet: "say of what: OrderedSet[str]",
    Record: "declare a class that derives from Record",
}


def state_type(annotation: Any, *, owner: type, key: str | None = None, index: tuple[str, ...] = ()) -> StateType:
    """The type of an annotation.

    owner: the class in whose module string annotations are resolved. key: the field that names the rows of a Table.
    index: the fields of its rows that have an index. Raises TypeError, saying what to use instead, for what can not be stored.
    """
    resolved = _resolve(annotation, owner)
    origin = typing.get_origin(resolved)
    if origin is Table:
        (row,) = typing.get_args(resolved)
        row_type = _of(row, owner)
        if not isinstance(row_type, RecordType):
            raise TypeError(f"{row_type.name}: the rows of a Table are Records")
        return TableType(row_type, key, index)
    if key is not None or index:
        raise TypeError("only a Table has a key or an index")
    return _of(resolved, owner)


def _of(annotation: Any, owner: type) -> StateType:
    resolved = _resolve(annotation, owner)
    try:
        simple = _SIMPLE.get(resolved)
    except TypeError:
        simple = None
    if simple is not None:
        return simple
    if isinstance(resolved, type) and typing.get_origin(resolved) is None:
        if issubclass(resolved, Record) and resolved is not Record:
            return record_type_of(resolved)
        if issubclass(resolved, enum.Enum):
            return EnumType(resolved)
        if is_frozen(resolved):
            return frozen_type(resolved, _of)
    return _generic(resolved, owner)


def _generic(resolved: Any, owner: type) -> StateType:
    origin, args = typing.get_origin(resolved), typing.get_args(resolved)
    if origin is typing.Literal:
        return LiteralType(args)
    if origin in (list, List, abc.Sequence, abc.MutableSequence):
        return ListType(_of(args[0], owner))
    if origin in (dict, Dict, abc.Mapping, abc.MutableMapping):
        key = _of(args[0], owner)
        if not isinstance(key, KeyType):
            raise TypeError(f"the keys of a dict are str, int, Principal or Enum, not {key.name}")
        return DictType(key, _of(args[1], owner))
    if origin is tuple and len(args) == 2 and args[1] is ...:
        return TupleType(_of(args[0], owner))
    if origin is OrderedSet:
        return OrderedSetType(_of(args[0], owner))
    if origin in (typing.Union, types.UnionType):
        return _union(args, owner)
    if origin is Table:
        raise TypeError("a Table is a field of a document: it can not be inside of something else")
    if origin is typing.Annotated:
        return _of(args[0], owner)
    instead = _INSTEAD.get(origin or resolved) if isinstance(origin or resolved, abc.Hashable) else None
    raise TypeError(f"{_name(resolved)} can not be stored{f': {instead}' if instead else ''}")


def _union(args: tuple[Any, ...], owner: type) -> StateType:
    others = [arg for arg in args if arg is not types.NoneType]
    if len(others) != 1 or len(args) != 2:
        raise TypeError(f"{' | '.join(map(_name, args))} can not be stored: a union is one type and None")
    return OptionalType(_of(others[0], owner))


def _resolve(annotation: Any, owner: type) -> Any:
    """Evaluate a string annotation in its module, where the author's class was written."""
    if isinstance(annotation, typing.ForwardRef):
        annotation = annotation.__forward_arg__
    if not isinstance(annotation, str):
        return annotation
    module = sys.modules.get(owner.__module__)
    names = {owner.__name__: owner}
    try:
        return eval(annotation, dict(vars(module)) if module is not None else {}, names)
    except Exception as error:
        raise TypeError(f"the annotation {annotation!r} can not be resolved: {error}") from None


def _name(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) and typing.get_origin(annotation) is None else str(annotation)
