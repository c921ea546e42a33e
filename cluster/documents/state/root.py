"""StateRoot: the fields of one document.

Invariant: every value below the root was admitted by its field's type; `dump` is a function of the fields alone, so equal
states have equal bytes, in every process and on every supported Python, and `load(dump())` gives an equal state.
It does not know handlers or viewers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from cluster.documents.state.fields import ABSENT, FieldOptions, Window
from cluster.documents.state.forms import StateType, located
from cluster.documents.state.journal import ADD, REPLACE, Journal
from cluster.documents.state.node import Node, adopt, hand_out
from cluster.documents.state.refusals import StaleHandle
from cluster.documents.state.tally import TALLY
from cluster.documents.state.types import TableType, state_type

__all__ = ["FieldOptions", "FieldSpec", "StateRoot", "field_spec"]

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


@dataclass(slots=True, frozen=True)
class FieldSpec:
    """One declared field. visibility: "private", "public" or the author's policy. was: its name in the previous version.

    window: which rows of a Table are shown. add: who may add to a Tally by a message.
    """

    name: str
    type: StateType
    default: Any = None
    has_default: bool = False
    visibility: Any = "private"
    was: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    window: Window | None = None
    add: Callable[..., bool] | None = None


def field_spec(name: str, annotation: Any, value: Any = ABSENT, *, owner: type) -> FieldSpec:
    """The FieldSpec of a declaration `name: annotation = value`, where value may be a FieldOptions, a default or ABSENT.
    Containers without a default start empty. Raises TypeError or ValueError for a type or a default that can not be stored."""
    options = value if isinstance(value, FieldOptions) else FieldOptions(default=value)
    try:
        found = state_type(annotation, owner=owner, key=options.key, index=options.index)
        if options.default is not ABSENT:
            found.check(options.default)
        if options.window is not None and not isinstance(found, TableType):
            raise TypeError("only a Table has a window")
        if options.add is not None and found is not TALLY:
            raise TypeError("only a Tally can be added to")
    except (TypeError, ValueError) as error:
        raise located(error, name) from None
    starts_empty = options.default is ABSENT and hasattr(found, "empty")
    return FieldSpec(
        name=name,
        type=found,
        default=None if options.default is ABSENT else options.default,
        has_default=starts_empty or options.default is not ABSENT,
        visibility=options.visibility,
        was=options.was,
        options=dict(options.options),
        window=options.window,
        add=options.add,
    )


class StateRoot(Node):
    """One document's fields, in memory.

    specs: by name, in declared order. journal: this document's own; it also keeps the size. Defaults are copied in.
    """

    __slots__ = ("_journal", "_specs", "_values")

    def __init__(self, specs: dict[str, FieldSpec], journal: Journal) -> None:
        self._lifetime = None
        self._parent = None
        self._slot = None
        self._specs = specs
        self._journal = journal
        self._values: dict[str, Any] = {}
        self._replace_all({name: self._default(spec) for name, spec in specs.items() if spec.has_default})

    def _default(self, spec: FieldSpec) -> Any:
        if spec.default is None and hasattr(spec.type, "empty"):
            return spec.type.empty()
        return spec.type.admit(spec.default)

    def _replace_all(self, values: dict[str, Any]) -> None:
        self._values = values
        for name, value in values.items():
            adopt(value, self, name)
        self._journal.size = sum(len(name) + self._specs[name].type.size(value) for name, value in values.items())

    def names(self) -> Iterator[str]:
        """The declared names, in declared order."""
        return iter(self._specs)

    def type_of(self, name: str) -> StateType:
        """The declared type of a field. Raises KeyError for one that is not declared."""
        return self._specs[name].type

    def get(self, name: str) -> Any:
        """A field's value; containers and records live until the command ends. Raises AttributeError for a field that is not
        declared or not yet set."""
        try:
            value = self._values[name]
        except KeyError:
            what = "has not been set" if name in self._specs else "is not declared"
            raise AttributeError(f"field {name!r} {what}") from None
        journal = self._journal
        if journal.reads is not None:
            journal.reads.add(name)
        return hand_out(value, journal.handles()) if isinstance(value, Node) else value

    def set(self, name: str, value: Any) -> None:
        """Set a field to a copy of `value`. Raises AttributeError, TypeError, ValueError, WriteInReadHandler or StaleHandle;
        the state is unaffected then. Setting what is there already is no write."""
        spec = self._specs.get(name)
        if spec is None:
            raise AttributeError(f"field {name!r} is not declared")
        journal = self._journal
        if journal.read_only or not journal.active:
            journal.check_writable()
        values, field_type = self._values, spec.type
        present = name in values
        old = values[name] if present else None
        if present and old is value and not field_type.leaf:
            return  # the second half of an augmented assignment
        try:
            new = field_type.admit(value)
        except (TypeError, ValueError) as error:
            raise located(error, name) from None
        if present and field_type.exact and field_type.leaf and old == new:
            return
        if not field_type.leaf and new is not None:
            new._date(journal.index)
            adopt(new, self, name)
        plain = field_type.to_plain(new)
        if present:
            delta = field_type.size(new) - field_type.size(old)
            journal.undo.append((values.__setitem__, name, old))
            journal.log.append((REPLACE, (name,), field_type, plain))
        else:
            delta = len(name) + field_type.size(new)
            journal.undo.append((values.__delitem__, name))
            journal.log.append((ADD, (name,), field_type, plain))
        journal.size += delta
        values[name] = new

    def missing(self) -> list[str]:
        """Fields without default that have not been set."""
        return [name for name in self._specs if name not in self._values]

    def size_bytes(self) -> int:
        """About the size of `dump()`: kept with every write, and a function of the state alone."""
        return self._journal.size

    def to_json(self, name: str) -> Any:
        """The JSON form of a field that is set."""
        return self._specs[name].type.to_json(self._values[name])

    def raw(self, name: str) -> Any:
        """A field's value without a handle, for who only looks at it. Raises KeyError for one that is not set."""
        return self._values[name]

    def is_set(self, name: str) -> bool:
        """Whether a field has a value."""
        return name in self._values

    def dump(self) -> bytes:
        """The state as canonical MessagePack: a map from field name to plain value, names sorted. Retained splices included."""
        values = self._values
        return _encode({name: self._specs[name].type.to_plain(values[name]) for name in sorted(values)})

    def load(self, data: bytes, *, upgrade: bool = False, sources: Mapping[str, str] | None = None) -> None:
        """Replace everything by what `dump` gave. Not while a command runs.

        upgrade: the dump is of the previous version: `was` is followed, fields that are gone are dropped and new ones get
        their default. sources: the same, with what carries over named: new names to old ones; every other field gets its
        default or is left unset. Raises ValueError when data is not such a dump; the state is unaffected then.
        """
        assert not self._journal.active, "a command is running"
        try:
            plains = _decode(data)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ValueError(f"not a dump: {error}") from None
        if type(plains) is not dict:
            raise ValueError("not a dump: no map of fields")
        if not upgrade and sources is None:
            unknown = [name for name in plains if name not in self._specs]
            if unknown:
                raise ValueError(f"not a dump of this schema: {unknown[0]!r} is not declared")
        carried = sources if sources is not None else self._carried(plains, upgrade=upgrade)
        values: dict[str, Any] = {}
        for name, spec in self._specs.items():
            try:
                if carried.get(name) in plains:
                    values[name] = spec.type.from_plain(plains[carried[name]])
                elif spec.has_default and (upgrade or sources is not None):
                    values[name] = self._default(spec)
            except (TypeError, ValueError, RecursionError) as error:
                raise ValueError(f"not a dump of this schema: {name}: {error}") from None
        self._replace_all(values)

    def _carried(self, plains: dict[str, Any], *, upgrade: bool) -> dict[str, str]:
        """From which of the dumped fields each field takes its value."""
        if not upgrade:
            return {name: name for name in self._specs}
        return {
            name: spec.was if spec.was is not None and spec.was in plains and name not in plains else name
            for name, spec in self._specs.items()
        }

    def _locate(self, child: Node) -> str:
        name: str = child._slot
        if self._values.get(name) is not child:
            raise StaleHandle("the value is no longer in the document")
        return name
