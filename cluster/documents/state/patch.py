"""From writes to what viewers get: JSON Patch (RFC 6902) with one operation of our own for texts.

A view is an object {field: JSON}. Wire shapes:
- list and OrderedSet: arrays; elements are addressed by index at the time of the operation;
- dict: an object by wire key; Table: an object by row name (key, or row id as 16 hexadecimal digits);
- record: an object; Text: a string, changed by {"op": "splice", "path", "at", "delete", "insert"} in code points.

Operations are applied in order. Places that no array index leads to are stable, so an earlier operation there is left out
when a later one overwrites it: a counter that rose a hundred times is one `replace`.

Invariant: applying the operations to the view before the changes gives the view after them. It knows whole fields only: which
fields a viewer sees is decided above.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

import msgspec

from cluster.documents.state.journal import ADD, REMOVE, REPLACE, SPLICE, Changes, Path, Write

Patch = list[dict[str, Any]]

_NAMES = {ADD: "add", REPLACE: "replace", REMOVE: "remove"}
SPLICE_TEXT_MIN = 64
"""`diff` shows a change of a string as a splice from this length on."""

encode = msgspec.json.Encoder().encode


def operations(changes: Changes | Iterable[Changes], visible: Container[str]) -> Patch:
    """What a viewer who sees the `visible` fields is told of consecutive changes."""
    several = (changes,) if isinstance(changes, Changes) else changes
    writes = [write for change in several for write in change.operations if write[1][0] in visible]
    if len(writes) > 1:
        writes = net(writes)
    return [_operation(write) for write in writes]


def touched_rows(changes: Changes | Iterable[Changes], field: str) -> set[str]:
    """Names of the entries of a table or dict that were written, as the view names them."""
    several = (changes,) if isinstance(changes, Changes) else changes
    return {str(write[1][1]) for change in several for write in change.operations if write[1][0] == field and len(write[1]) > 1}


def net(writes: list[Write]) -> list[Write]:
    """Leave out what a later write at a stable place makes void. Applying the result gives the same."""
    last: dict[Path, int] = {}
    for position, write in enumerate(writes):
        if write[0] != SPLICE and _is_stable(write[1]):
            last[write[1]] = position
    kept: list[Write] = []
    existed: dict[Path, bool] = {}  # before the first write that no later write around it makes void
    for position, write in enumerate(writes):
        operation, path, value_type, plain = write
        if _is_void(path, len(path) - 1, position, last):
            continue
        if operation != SPLICE and _is_stable(path):
            there = existed.setdefault(path, operation != ADD)
            if last[path] != position or (operation == REMOVE and not there):
                continue
            if operation != REMOVE:
                operation = REPLACE if there else ADD
        elif _is_void(path, len(path), position, last):
            continue
        kept.append((operation, path, value_type, plain))
    return kept


def _is_stable(path: Path) -> bool:
    return all(type(step) is str for step in path)


def _is_void(path: Path, depth: int, position: int, last: dict[Path, int]) -> bool:
    """Whether a later write replaces one of the first `depth` places on the way to `path`."""
    for length in range(1, depth + 1):
        if type(path[length - 1]) is int:
            return False
        if last.get(path[:length], -1) > position:
            return True
    return False


def _operation(write: Write) -> dict[str, Any]:
    return operation_at(write, write[1])


def operation_at(write: Write, path: Path) -> dict[str, Any]:
    """What a viewer is told of a write, who sees the place at `path`."""
    operation, _, value_type, plain = write
    if operation == SPLICE:
        at, delete, insert = plain
        return {"op": "splice", "path": pointer(path), "at": at, "delete": delete, "insert": insert}
    if operation == REMOVE:
        return {"op": "remove", "path": pointer(path)}
    assert value_type is not None
    return {"op": _NAMES[operation], "path": pointer(path), "value": value_type.plain_to_json(plain)}


def pointer(path: Iterable[str | int]) -> str:
    """The JSON Pointer (RFC 6901) of a path."""
    return "".join(f"/{str(step).replace('~', '~0').replace('/', '~1')}" for step in path)


def steps_of(pointed: str) -> list[str]:
    """The steps of a JSON Pointer. Raises ValueError."""
    if pointed and not pointed.startswith("/"):
        raise ValueError(f"{pointed!r} is not a JSON Pointer")
    return [step.replace("~1", "/").replace("~0", "~") for step in pointed.split("/")[1:]]


def apply_patch(view: Any, patch: Patch) -> Any:
    """The view after `patch`. The given view is not changed; parts that the patch does not reach are shared with it.
    Raises ValueError when the patch does not fit the view."""
    holder = {"": view}
    owned: dict[int, Any] = {id(holder): holder}
    for operation in patch:
        try:
            _apply(holder, ["", *steps_of(operation["path"])], operation, owned)
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(f"the operation {operation!r} does not fit the view") from error
    return holder[""]


def _apply(holder: Any, steps: list[str], operation: dict[str, Any], owned: dict[int, Any]) -> None:
    parent = holder
    for step in steps[:-1]:
        key: Any = _index(parent, step, False) if isinstance(parent, list) else step
        child = parent[key]
        if id(child) not in owned:
            child = child.copy() if isinstance(child, list | dict) else child
            owned[id(child)] = child
            parent[key] = child
        parent = child
    name = operation["op"]
    last: Any = _index(parent, steps[-1], name == "add") if isinstance(parent, list) else steps[-1]
    if not isinstance(parent, list | dict):
        raise TypeError("the path leads into a value")
    if name == "splice":
        text, at, delete = parent[last], operation["at"], operation["delete"]
        if not isinstance(text, str) or not 0 <= at <= at + delete <= len(text):
            raise IndexError("the splice is outside the text")
        parent[last] = text[:at] + operation["insert"] + text[at + delete :]
    elif name == "remove":
        del parent[last]
    elif name == "add" and isinstance(parent, list):
        parent.insert(last, operation["value"])
    elif name == "add":
        parent[last] = operation["value"]
    elif name == "replace":
        parent[last]  # it must be there
        parent[last] = operation["value"]
    else:
        raise TypeError(f"unknown operation {name!r}")


def _index(array: list[Any], step: str, append: bool) -> int:
    if append and step == "-":
        return len(array)
    if not step.isascii() or not step.isdigit() or (len(step) > 1 and step[0] == "0"):
        raise TypeError(f"{step!r} is no index")
    index = int(step)
    if index > len(array) - (0 if append else 1):
        raise IndexError(f"index {index} is outside the array")
    return index


def diff(old: Any, new: Any) -> Patch:
    """A small patch from one JSON value to another, by value. Arrays are compared from both ends, objects by name; `old` and
    `new` are whole views (objects), or a single operation replaces everything."""
    patch: Patch = []
    _diff(old, new, (), patch)
    return patch


def diff_at(path: Path, old: Any, new: Any) -> Patch:
    """`diff` of the values at a place of a view."""
    patch: Patch = []
    _diff(old, new, path, patch)
    return patch


def _diff(old: Any, new: Any, path: Path, patch: Patch) -> None:
    if type(old) is not type(new):
        patch.append({"op": "replace", "path": pointer(path), "value": new})
    elif isinstance(old, dict):
        for name in old:
            if name not in new:
                patch.append({"op": "remove", "path": pointer((*path, name))})
        for name, value in new.items():
            if name in old:
                _diff(old[name], value, (*path, name), patch)
            else:
                patch.append({"op": "add", "path": pointer((*path, name)), "value": value})
    elif isinstance(old, list):
        _diff_arrays(old, new, path, patch)
    elif old != new:
        _diff_leaves(old, new, path, patch)


def _diff_leaves(old: Any, new: Any, path: Path, patch: Patch) -> None:
    if isinstance(old, str) and len(old) >= SPLICE_TEXT_MIN:
        start, end = _common(old, new)
        if 2 * (start + end) >= len(old):
            inserted = new[start : len(new) - end]
            delete = len(old) - start - end
            patch.append({"op": "splice", "path": pointer(path), "at": start, "delete": delete, "insert": inserted})
            return
    patch.append({"op": "replace", "path": pointer(path), "value": new})


def _diff_arrays(old: list[Any], new: list[Any], path: Path, patch: Patch) -> None:
    start, end = _common(old, new)
    olds, news = old[start : len(old) - end], new[start : len(new) - end]
    shared = min(len(olds), len(news))
    if len(olds) > 1 and len(news) > 1 and 2 * max(len(olds), len(news)) > 3 * len(new):
        patch.append({"op": "replace", "path": pointer(path), "value": new})
        return
    for offset in range(shared):
        _diff(olds[offset], news[offset], (*path, start + offset), patch)
    for _ in range(shared, len(olds)):
        patch.append({"op": "remove", "path": pointer((*path, start + shared))})
    for offset in range(shared, len(news)):
        patch.append({"op": "add", "path": pointer((*path, start + offset)), "value": news[offset]})


def _common(old: Any, new: Any) -> tuple[int, int]:
    """How many elements are the same at the start, and at the end of the rest."""
    shorter = min(len(old), len(new))
    start = 0
    while start < shorter and same(old[start], new[start]):
        start += 1
    end = 0
    while end < shorter - start and same(old[-1 - end], new[-1 - end]):
        end += 1
    return start, end


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are the same: true is not 1, and 1 is not 1.0."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[name]) for name, value in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)
