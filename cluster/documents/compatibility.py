"""What a change of code asks for: which fields carry over by themselves, and what needs a hook or breaks messages.

New fields with a default, removed fields, new handlers and new optional parameters need nothing; `field(was="old")` renames.
A type that reads everything that the old one could have written carries over too: T under T | None, an Enum with more members,
a record with more fields that have a default. All else is for `@on.upgrade(since=...)`.

Invariant: what is said to carry over can be loaded from any dump of the old class. Nothing here looks at a document.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cluster.documents.state import StateType
from cluster.documents.state.forms import OptionalType
from cluster.documents.state.named import EnumType, LiteralType
from cluster.documents.state.record import RecordType

if TYPE_CHECKING:
    from cluster.documents.channels import Channel
    from cluster.documents.declaration import Declaration

_PARTS = ("item", "key", "value", "row", "inner")
"""Attributes in which a type keeps the types that it is made of."""


@dataclass(frozen=True, slots=True)
class Change:
    """Something that a new class does not take over by itself.

    where: the field's or handler's name. code: `upgrade` (state: a hook is needed), `message` (clients of the old code would be
    refused), `version`, or `armed`.
    """

    where: str
    code: str
    reason: str
    replacement: str


@dataclass(frozen=True, slots=True)
class Carried:
    """sources: new field -> old field that it takes its value from. changes: what only a hook can settle. dropped: old fields
    that end.
    """

    sources: dict[str, str]
    changes: tuple[Change, ...]
    dropped: tuple[str, ...]


def carried(old: Declaration, new: Declaration) -> Carried:
    """How the fields of `old` become those of `new`."""
    sources: dict[str, str] = {}
    changes: list[Change] = []
    for name, spec in new.fields.items():
        source = spec.was if spec.was is not None and name not in old.fields else name
        before = old.fields.get(source)
        if before is not None and source in sources.values():
            changes.append(Change(name, "upgrade", f"two fields were {source}", "rename one field to one field"))
        elif before is not None:
            why = unreadable(before.type, spec.type)
            if not why:
                sources[name] = source
            else:
                changes.append(Change(name, "upgrade", f"field {name}: {why}", _hook(old)))
        elif not spec.has_default:
            what = f"field {name} is new and has no default" if source == name else f"field {name} was no {source} before"
            changes.append(Change(name, "upgrade", what, f"give it a default, or {_hook(old)}"))
    dropped = tuple(name for name in old.fields if name not in sources.values() and not name.startswith("-"))
    return Carried(sources, tuple(changes), dropped)


def hooks_needed(old: Declaration, new: Declaration) -> list[Change]:
    """Changes of state that nothing in `new` settles. A hook for the old version settles what it finds."""
    if old.version in new.upgrades:
        return []
    return list(carried(old, new).changes)


def messages_refused(old: Declaration, new: Declaration) -> list[Change]:
    """Messages that clients of `old` may send and `new` would not take."""
    changes = []
    for name, channel in old.channels.items():
        successor = new.channels.get(name)
        if successor is None:
            changes.append(Change(name, "message", f"channel {name} is gone: its messages would be refused", _KEEP))
        else:
            changes += _parameters_refused(channel, successor)
    changes += _requests_refused(old, new)
    pairs = [(channel, new.alarms.get(name)) for name, channel in old.alarms.items()]
    for fired, after in pairs:
        changes += _parameters_refused(fired, after) if after is not None else []
    if old.construct is not None and new.construct is not None:
        changes += _parameters_refused(old.construct, new.construct)
    return changes


def _requests_refused(old: Declaration, new: Declaration) -> list[Change]:
    """Requests that pages and hooks of `old` may make and `new` would not take."""
    after = {(route.method, route.shape): route for route in new.routes.all}
    changes = []
    for route in old.routes.all:
        successor = after.get((route.method, route.shape))
        where = route.function.__name__
        if successor is None:
            changes.append(Change(where, "message", f"nothing takes {route.method} {route.path} any more", _KEEP))
            continue
        for was, now in zip(route.parts, successor.parts, strict=True):
            if not isinstance(was, str) and not isinstance(now, str) and now[1] and not was[1]:
                reason = f"{route.method} {route.path}: {was[0]} was any text and is a number"
                changes.append(Change(where, "message", reason, "keep it a str, or deploy with --force"))
    return changes


_KEEP = "keep it and let it refuse, or deploy with --force"


def _parameters_refused(old: Channel, new: Channel) -> list[Change]:
    where = new.name or "construct"
    after = {parameter.name: parameter for parameter in new.parameters}
    before = {parameter.name: parameter for parameter in old.parameters}
    changes = []
    for name, parameter in before.items():
        successor = after.get(name)
        if successor is None:
            changes.append(Change(where, "message", f"{where} takes no {name} any more", "keep it, or deploy with --force"))
        elif why := unreadable(parameter.type, successor.type, wire=True):
            changes.append(Change(where, "message", f"{where}.{name}: {why}", "keep its type, or deploy with --force"))
        elif successor.required and not parameter.required:
            changes.append(Change(where, "message", f"{where} needs {name} now", "give it a default, or deploy with --force"))
    added = [name for name, parameter in after.items() if parameter.required and name not in before]
    fix = "give it a default, or deploy with --force"
    return changes + [Change(where, "message", f"{where} needs {name} now", fix) for name in added]


def handlers_gone(armed: Iterable[str], new: Declaration) -> list[Change]:
    """Handlers that something pending names and that `new` does not have."""
    known = new.handlers
    return [
        Change(name, "armed", f"handler {name} is gone, and something pending names it", "keep it until nothing waits for it")
        for name in sorted(set(armed))
        if name not in known
    ]


def _hook(old: Declaration) -> str:
    return f"write a hook: @on.upgrade(since={old.version})"


def unreadable(old: StateType, new: StateType, *, wire: bool = False) -> str:
    """Why what `old` wrote can not be read as `new`; empty when it can. wire: what clients of `old` send, where a record may
    not have lost a field.
    """
    return _unreadable(old, new, wire, set())


def _unreadable(old: StateType, new: StateType, wire: bool, seen: set[tuple[int, int]]) -> str:
    if old is new or (id(old), id(new)) in seen:
        return ""
    seen.add((id(old), id(new)))
    if isinstance(new, OptionalType):
        return _unreadable(old.inner if isinstance(old, OptionalType) else old, new.inner, wire, seen)
    if type(old) is not type(new):
        return f"it was {old.name} and is {new.name}"
    if isinstance(old, RecordType) and isinstance(new, RecordType):
        return _record_unreadable(old, new, wire, seen)
    members = [_members(each) for each in (old, new)]
    if members[0] is not None and members[1] is not None:
        gone = members[0] - members[1]
        return f"{old.name} has lost {', '.join(sorted(repr(one[1]) for one in gone))}" if gone else ""
    if getattr(old, "key_field", None) != getattr(new, "key_field", None):
        return "its rows have another key"
    parts = [(getattr(old, part), getattr(new, part)) for part in _PARTS if isinstance(getattr(old, part, None), StateType)]
    if not parts and (old.name != new.name or old.json_schema({}) != new.json_schema({})):
        return f"it was {old.name} and is {new.name}"
    return next((why for one, other in parts if (why := _unreadable(one, other, wire, seen))), "")


def _record_unreadable(old: RecordType, new: RecordType, wire: bool, seen: set[tuple[int, int]]) -> str:
    for name, kind in new.fields.items():
        if name not in old.fields:
            if name not in new.defaults:
                return f"{new.name}.{name} is new and has no default"
        elif why := _unreadable(old.fields[name], kind, wire, seen):
            return f"{new.name}.{name}: {why}"
        elif wire and name in old.defaults and name not in new.defaults:
            return f"{new.name}.{name} has no default any more"
    gone = [name for name in old.fields if name not in new.fields]
    return f"{new.name} has no {gone[0]} any more" if wire and gone else ""


def _members(kind: StateType) -> frozenset[Any] | None:
    """The values of an Enum or a Literal, as they are stored."""
    if isinstance(kind, LiteralType):
        return frozenset(kind._options)
    return frozenset((type(value), value) for value in kind._members) if isinstance(kind, EnumType) else None
