"""What a viewer may see inside of a value: records whose own fields are private, or visible by a policy of the record.

    class Card(Record):
        owner: Principal

        @read.policy
        def is_owner(self, who: Principal) -> bool:
            return who == self.owner

        rank: int = field.visible(is_owner, 0)
        seed: int = field.private(0)

A policy of a record sees that record and the viewer, nothing else of the document, so its answer can change only when the
record is written. It holds wherever the record is shown: in fields, rows, lists, what a view returns, what a handler answers.

Invariant: what `show` gives contains a hidden field's value nowhere; a member that is hidden is absent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from cluster.documents.state.dicts import DictType
from cluster.documents.state.forms import OptionalType, StateType
from cluster.documents.state.lists import ListType
from cluster.documents.state.record import Record, RecordType
from cluster.documents.state.table import TableType

Policy = Callable[..., bool]
Ask = Callable[[Policy, Record], bool]
"""What a policy of a record says about that record to the viewer who looks."""


class Lens(Protocol):
    """Shows values of one type that hides something. by_policy: whether viewers may see different things."""

    by_policy: bool

    def show(self, value: Any, ask: Ask) -> Any:
        """The JSON form of a value without what is hidden."""
        ...


def lens_of(kind: StateType) -> Lens | None:
    """How values of a type are shown, or None when they hide nothing. Of a table: how its rows are."""
    return _lens(kind, {})


def nobody(policy: Policy, record: Record) -> bool:
    """What policies say where no viewer is named: they hide."""
    return False


def _lens(kind: StateType, made: dict[RecordType, _RecordLens]) -> Lens | None:
    inner = _inner(kind)
    if isinstance(kind, RecordType):
        if not _hides(kind, set()):
            return None
        return made[kind] if kind in made else _record_lens(kind, made)
    lens = None if inner is None else _lens(inner, made)
    if lens is None or isinstance(kind, TableType):
        return lens
    if isinstance(kind, ListType):
        return _ListLens(lens)
    if isinstance(kind, DictType):
        return _DictLens(kind, lens)
    assert isinstance(kind, OptionalType), kind
    return _OptionalLens(lens)


def _inner(kind: StateType) -> StateType | None:
    if isinstance(kind, ListType):
        return kind.item
    if isinstance(kind, DictType):
        return kind.value
    if isinstance(kind, TableType):
        return kind.row
    return kind.inner if isinstance(kind, OptionalType) else None


def _hides(kind: StateType, seen: set[RecordType], *, by_policy: bool = False) -> bool:
    """Whether anything below is hidden; by_policy: from some and not from others."""
    if not isinstance(kind, RecordType):
        inner = _inner(kind)
        return inner is not None and _hides(inner, seen, by_policy=by_policy)
    if kind in seen:
        return False
    seen.add(kind)
    for name, field_type in kind.fields.items():
        visibility = kind.options[name].visibility
        if visibility == "private" and not by_policy:
            return True
        if callable(visibility):
            return True
        if visibility != "private" and _hides(field_type, seen, by_policy=by_policy):
            return True
    return False


def _record_lens(kind: RecordType, made: dict[RecordType, _RecordLens]) -> _RecordLens:
    lens = made[kind] = _RecordLens(_hides(kind, set(), by_policy=True))  # before its fields: a record may contain itself
    for name, field_type in kind.fields.items():
        visibility = kind.options[name].visibility
        if visibility != "private":
            policy = visibility if callable(visibility) else None
            lens.fields.append((name, field_type, policy, _lens(field_type, made)))
    return lens


class _RecordLens:
    __slots__ = ("by_policy", "fields")

    def __init__(self, by_policy: bool) -> None:
        self.by_policy = by_policy
        self.fields: list[tuple[str, StateType, Policy | None, Lens | None]] = []

    def show(self, value: Any, ask: Ask) -> dict[str, Any]:
        values: dict[str, Any] = value.__dict__
        shown: dict[str, Any] = {}
        said: dict[Policy, bool] = {}
        for name, kind, policy, lens in self.fields:
            if policy is not None:
                if policy not in said:
                    said[policy] = ask(policy, value)
                if not said[policy]:
                    continue
            shown[name] = kind.to_json(values[name]) if lens is None else lens.show(values[name], ask)
        return shown


class _OptionalLens:
    __slots__ = ("_lens", "by_policy")

    def __init__(self, lens: Lens) -> None:
        self._lens = lens
        self.by_policy = lens.by_policy

    def show(self, value: Any, ask: Ask) -> Any:
        return None if value is None else self._lens.show(value, ask)


class _ListLens:
    __slots__ = ("_lens", "by_policy")

    def __init__(self, lens: Lens) -> None:
        self._lens = lens
        self.by_policy = lens.by_policy

    def show(self, value: Any, ask: Ask) -> list[Any]:
        return [self._lens.show(item, ask) for item in value._items]


class _DictLens:
    __slots__ = ("_key", "_lens", "by_policy")

    def __init__(self, kind: DictType, lens: Lens) -> None:
        self._key = kind.key
        self._lens = lens
        self.by_policy = lens.by_policy

    def show(self, value: Any, ask: Ask) -> dict[str, Any]:
        key = self._key
        return {key.wire_key(key.to_plain(name)): self._lens.show(item, ask) for name, item in value._items.items()}
