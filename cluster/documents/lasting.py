"""Finds what a loaded bundle holds that could carry something from one command to the next.

Modules, classes and functions outlive commands, and they are shared by all documents of a node. So what hangs on them must be
constant: values that can not change, classes, and functions whose defaults and closures are constant too. (`nonlocal` is
refused in the source, so a closure's variables are not assigned again once its maker has returned.)

Invariant: when nothing is found, no author code can reach an object that it could change and that lives longer than a command,
except through the state.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
from collections.abc import Iterator
from enum import Enum
from typing import Any, Final

import msgspec

from cluster.documents.declare import Document
from cluster.documents.ordered import FrozenSet
from cluster.documents.sizes import ATOMS
from cluster.documents.state import BlobReference, FieldOptions, Record, Refused, Window

LEVELS_MAX: Final = 16
_OURS: Final = ("typing", "types", "__future__", "cluster.documents.declare", "cluster.documents.state.fields")
_CONSTANT: Final = (str, bytes, type, types.ModuleType, Enum, range, FieldOptions, Window, BlobReference)
_DESCRIPTORS: Final = (types.MemberDescriptorType, types.GetSetDescriptorType, types.WrapperDescriptorType)


def changeable(module: types.ModuleType) -> Iterator[str]:
    """Names of what a module holds that could change, dotted for what is inside its classes."""
    for name, value in vars(module).items():
        if _is_special(name):
            continue
        if isinstance(value, type) and value.__module__ == module.__name__:
            yield from (f"{name}.{inner}" for inner in _changeable_in(value))
        elif not is_constant(value):
            yield name


def _changeable_in(cls: type) -> Iterator[str]:
    if issubclass(cls, Enum):
        for member in cls:
            if not all(is_constant(value) for name, value in vars(member).items() if name != "__objclass__"):
                yield member.name
    copied = issubclass(cls, Document | Record)
    for name, value in vars(cls).items():
        if _is_special(name) and not isinstance(value, types.FunctionType):
            continue
        if name.startswith(("_moot", "_abc")) or (issubclass(cls, Enum) and (name.startswith("_") or name in cls.__members__)):
            continue
        if copied and (name in inspect.get_annotations(cls) or name in ("_declared", "_record_type")):
            continue
        generated = _is_special(name) and not issubclass(cls, Document | Record | Refused)
        if not generated and not is_constant(value):
            yield name


def is_constant(value: Any, levels: int = LEVELS_MAX) -> bool:
    """Whether neither the value nor anything that it holds can change."""
    if levels == 0:
        return False
    if type(value) in ATOMS or isinstance(value, _CONSTANT):
        return True
    if isinstance(value, tuple | FrozenSet):
        return all(is_constant(item, levels - 1) for item in value)
    held = _held(value)
    if held is not None:
        return all(is_constant(item, levels - 1) for item in held)
    if getattr(type(value), "__dataclass_params__", None) is not None:
        names = [field.name for field in dataclasses.fields(value)]
        frozen = bool(type(value).__dataclass_params__.frozen)
        return frozen and all(is_constant(getattr(value, name), levels - 1) for name in names)
    if isinstance(value, msgspec.Struct):
        names = list(type(value).__struct_fields__)
        return bool(type(value).__struct_config__.frozen) and all(
            is_constant(getattr(value, name), levels - 1) for name in names
        )
    return isinstance(value, _DESCRIPTORS) or type(value).__module__ in _OURS


def _held(value: Any) -> list[Any] | None:
    """What a function, method or wrapper of one holds; None when it is something else."""
    if isinstance(value, types.FunctionType):
        if value.__globals__ is vars(dataclasses):
            return []  # the defaults of `field` are marks of its module
        cells = [_content(cell) for cell in value.__closure__ or ()]
        return [*cells, *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    if isinstance(value, types.BuiltinFunctionType | types.MethodType):
        owner = value.__self__
        return [] if owner is None else [owner]
    if isinstance(value, staticmethod | classmethod):
        return [value.__func__]
    if isinstance(value, property):
        return [function for function in (value.fget, value.fset, value.fdel) if function is not None]
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, types.GenericAlias | types.UnionType):
        return []
    return None


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _is_special(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")
