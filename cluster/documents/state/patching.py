"""From a JSON Patch to tracked writes: the other way round of patch.py, for an operator who changes a state by hand.

The operations and the wire shapes are those of patch.py (add, replace, remove, splice), and `test` of RFC 6902, which compares.
Here every operation goes through the declared types, as if a handler had made the write: what the class does not declare, or
would not take, is refused.

    {"op": "replace", "path": "/title", "value": "tea"}              a field; fields are never added or removed
    {"op": "add", "path": "/members/-", "value": "ann@acme"}         the end of a list or an OrderedSet
    {"op": "remove", "path": "/bids/ann@acme"}                       an entry of a dict, a list, an OrderedSet or a Table
    {"op": "add", "path": "/notes/-", "value": {...}}                a row of a Table without a key: its id is drawn

Invariant: nothing is written but through the journal, so whoever rolls back has the state of before, byte for byte. Hidden
fields (what the document has armed) are out of reach.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from cluster.documents.state.dicts import Dict
from cluster.documents.state.forms import StateType
from cluster.documents.state.lists import List
from cluster.documents.state.node import Node
from cluster.documents.state.patch import Patch, same, steps_of
from cluster.documents.state.record import Record, record_type_of
from cluster.documents.state.root import StateRoot
from cluster.documents.state.sets import OrderedSet
from cluster.documents.state.table import Table
from cluster.documents.state.text import Text

OPERATIONS_MAX: Final = 1000
"""Operations in one patch."""
ROW_ID_DIGITS: Final = 16
HEXADECIMAL: Final = frozenset("0123456789abcdef")
END: Final = "-"
"""The step behind the last element of an array; for a Table without a key, a row that gets a new id."""

_MEMBERS: Final = {
    "add": frozenset(("op", "path", "value")),
    "replace": frozenset(("op", "path", "value")),
    "test": frozenset(("op", "path", "value")),
    "remove": frozenset(("op", "path")),
    "splice": frozenset(("op", "path", "at", "delete", "insert")),
}


def check_operations(patch: object) -> None:
    """Raise ValueError unless it is a list of operations. Whether they fit a state is not looked at."""
    if not isinstance(patch, list):
        raise ValueError("a patch is a list of operations")
    if len(patch) > OPERATIONS_MAX:
        raise ValueError(f"a patch has at most {OPERATIONS_MAX} operations, not {len(patch)}")
    for place, operation in enumerate(patch):
        if not isinstance(operation, dict) or not isinstance(operation.get("op"), str):
            raise ValueError(f"operation {place} is no object with `op` and `path`")
        wanted = _MEMBERS.get(operation["op"])
        if wanted is None:
            raise ValueError(f"operation {place}: {operation['op']!r} is none of {', '.join(_MEMBERS)}")
        if operation.keys() != wanted:
            raise ValueError(f"operation {place}: {operation['op']} has the members {', '.join(sorted(wanted))}")
        if not isinstance(operation["path"], str) or not operation["path"].startswith("/"):
            raise ValueError(f"operation {place}: a path begins with /")


def write_operations(root: StateRoot, patch: Patch) -> None:
    """Make the writes that a checked patch asks for, in order. A command has begun on the root's journal.

    Raises ValueError, which names the operation, for what does not fit: the caller then rolls back.
    """
    for place, operation in enumerate(patch):
        try:
            _write(root, steps_of(operation["path"]), operation)
        except (TypeError, ValueError, LookupError, ArithmeticError) as error:
            what = f"there is no {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"operation {place} ({operation['op']} {operation['path']}): {what}") from None


def _write(root: StateRoot, steps: list[str], operation: dict[str, Any]) -> None:
    field = steps[0]
    if field.startswith("-") or field not in root.names():
        raise ValueError(f"the class declares no field {field!r}")
    holder: Any = root
    for step in steps[:-1]:
        holder = _inside(holder, step)
    name, step = operation["op"], steps[-1]
    if name == "test":
        _test(holder, step, operation["value"])
    elif name == "splice":
        text = _inside(holder, step)
        if not isinstance(text, Text):
            raise TypeError("only a Text is spliced")
        text.splice(operation["at"], operation["delete"], operation["insert"])
    elif name == "remove":
        _remove(holder, step)
    elif isinstance(holder, List | OrderedSet) and name == "add":
        _insert(holder, step, operation["value"])
    else:
        _put(holder, step, operation["value"], new=name == "add")


# -- where -----------------------------------------------------------------------------------------------------------------


def _inside(holder: Any, step: str) -> Any:
    """The value at a step below a value. Raises KeyError, IndexError, TypeError or ValueError when there is none."""
    if isinstance(holder, StateRoot):
        if not holder.is_set(step):
            raise KeyError(step)
        return holder.get(step)
    if isinstance(holder, Record):
        _field_of(holder, step)
        return getattr(holder, step)
    if isinstance(holder, Table):
        return holder[_row_name(holder, step)]
    if isinstance(holder, Dict):
        return holder[holder._type.key.from_wire_key(step)]
    if isinstance(holder, List):
        return holder[_index(step, len(holder))]
    if isinstance(holder, OrderedSet):
        return list(holder)[_index(step, len(holder))]
    raise TypeError("the path leads into a value: replace the whole of it")


def _type_at(holder: Any, step: str) -> StateType:
    """The declared type of what stands, or may stand, at a step below a value."""
    if isinstance(holder, StateRoot):
        return holder.type_of(step)
    if isinstance(holder, Record):
        return _field_of(holder, step)
    if isinstance(holder, Table):
        return holder._type.row
    if isinstance(holder, Dict):
        return holder._type.value
    if isinstance(holder, List | OrderedSet) and holder._type is not None:
        return holder._type.item
    raise TypeError("the path leads into a value: replace the whole of it")


def _field_of(record: Record, name: str) -> StateType:
    record_type = record_type_of(type(record))
    if name not in record_type.fields:
        raise KeyError(name)
    return record_type.fields[name]


def _row_name(table: Table[Any], step: str) -> Any:
    if table._key_field is not None:
        return table._type.name_type.from_wire_key(step)
    if len(step) != ROW_ID_DIGITS or not HEXADECIMAL.issuperset(step):
        raise ValueError(f"a row id has {ROW_ID_DIGITS} hexadecimal digits")
    return int(step, 16)


def _index(step: str, size: int) -> int:
    if not step.isascii() or not step.isdigit() or (len(step) > 1 and step[0] == "0"):
        raise ValueError(f"{step!r} is no index")
    if int(step) >= size:
        raise IndexError(f"index {step} is outside the array of {size}")
    return int(step)


# -- what ------------------------------------------------------------------------------------------------------------------


def _test(holder: Any, step: str, value: Any) -> None:
    """What is there is not said: the error may be read by more people than the state."""
    found = _type_at(holder, step).to_json(_inside(holder, step))
    if not same(found, value):
        raise ValueError("the test fails: another value is there")


def _remove(holder: Any, step: str) -> None:
    if isinstance(holder, StateRoot | Record):
        raise TypeError("a declared field can not be removed, only replaced")
    present = _inside(holder, step)
    if isinstance(holder, Table):
        holder.remove(present)
    elif isinstance(holder, Dict):
        del holder[holder._type.key.from_wire_key(step)]
    elif isinstance(holder, OrderedSet):
        holder.discard(present)
    else:
        del holder[_index(step, len(holder))]


def _insert(holder: List[Any] | OrderedSet[Any], step: str, value: Any) -> None:
    size = len(holder)
    at = size if step == END else _index(step, size + 1)
    item = _type_at(holder, step).from_json(value)
    if isinstance(holder, List):
        holder.insert(at, item)
    elif at != size:
        raise ValueError(f"an OrderedSet takes new values at its end: /{END}")
    elif item in holder:
        raise ValueError("the OrderedSet has this value already")
    else:
        holder.add(item)


def _put(holder: Any, step: str, value: Any, *, new: bool) -> None:
    """Add (`new`) or replace what stands at a step. What is there may be added again, as RFC 6902 has it, except a row."""
    if isinstance(holder, Table):
        _put_row(holder, step, value, new=new)
        return
    if isinstance(holder, OrderedSet):
        raise TypeError("a value of an OrderedSet is removed and added, not replaced")
    wanted = _type_at(holder, step)
    present = None if new and isinstance(holder, Dict) else _present(holder, step)
    if isinstance(present, Table):
        _refill(present, value)
    elif isinstance(present, Text) and isinstance(value, str):
        if str(present) != value:  # as an edit, so that edits on their way are carried over it
            present.splice(0, len(present), value)
    elif isinstance(holder, StateRoot):
        holder.set(step, wanted.from_json(value))
    elif isinstance(holder, Record):
        setattr(holder, step, wanted.from_json(value))
    elif isinstance(holder, Dict):
        holder.put(holder._type.key.from_wire_key(step), wanted.from_json(value))
    else:
        holder[_index(step, len(holder))] = wanted.from_json(value)


def _present(holder: Any, step: str) -> Node | None:
    """What is to be replaced, if it can change. A field of the document may never have been set."""
    if isinstance(holder, StateRoot) and not holder.is_set(step):
        return None
    found = _inside(holder, step)
    return found if isinstance(found, Node) else None


def _put_row(table: Table[Any], step: str, value: Any, *, new: bool) -> None:
    row = table._type.row.from_json(value)
    if step == END and table._key_field is None:
        table.put(row)
        return
    name = _row_name(table, step)
    if table._key_field is not None and row.__dict__[table._key_field] != name:
        raise ValueError(f"the row's {table._key_field!r} is not the name in the path")
    if new is (name in table):
        raise ValueError("there is such a row already" if new else "there is no such row")
    if table._key_field is not None:
        table.put(row)
    elif new:
        _with_id(table, name, lambda: table.put(row))
    else:
        table._overwrite(table[name], row, table._writing())


def _with_id(table: Table[Any], name: int, put: Callable[[], object]) -> None:
    """Put a row of a Table without a key under an id that is not drawn."""
    journal = table._writing()
    assert journal is not None, "the table is the document's"
    drawing, journal.new_id = journal.new_id, lambda: name
    try:
        put()
    finally:
        journal.new_id = drawing


def _refill(table: Table[Any], value: Any) -> None:
    """Replace all rows."""
    if not isinstance(value, dict):
        raise TypeError("a Table is an object from row name to row")
    if len(table):
        table.clear()
    for name, row in value.items():
        _put_row(table, name, row, new=True)
