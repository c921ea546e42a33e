"""The files of one document: which bytes its state keeps, and who may be given them.

The bytes stand in a hidden field of the state, once for each hash; the values of the author's fields are names. So what is kept
follows from what the fields hold: bytes come with the command that first stores a name of them, and leave with the command that
takes the last one away. Undo, snapshots, upgrades and forks carry the field as they carry every other.

What a command costs follows what it wrote: new names are found in its writes, and all fields with blobs are looked through only
if it took a name away, which the journal's undo tells.

Invariant: between commands the store has the bytes of every blob of the state, and no others. Classes without blobs have no
such field. A viewer is given bytes only under a name that the viewer's own view shows at that position.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from cluster.documents import payload as json
from cluster.documents.meter import charge
from cluster.documents.state import FieldSpec, Journal, Record, StateRoot, StateType
from cluster.documents.state.blob import (
    Blob,
    BlobStore,
    BlobStoreType,
    BlobType,
    Reference,
    as_sent,
    own_data,
    provide,
    stored_size,
)
from cluster.documents.state.dicts import DictType, Keyed
from cluster.documents.state.forms import OptionalType
from cluster.documents.state.frozen import FrozenType, TupleType
from cluster.documents.state.journal import Write
from cluster.documents.state.lists import List, ListType
from cluster.documents.state.members import MembersType
from cluster.documents.state.sets import OrderedSetType
from cluster.documents.state.table import TableType
from cluster.errors import UnknownBlob

if TYPE_CHECKING:
    from cluster.documents.channels import Parameter

BLOBS_FIELD: Final = "-blobs"
"""Not a legal attribute name: no author's field can be called so, and no author code can reach it."""

_STORE: Final = BlobStoreType("blobs")


def holds_blobs(kind: StateType) -> bool:
    """Whether values of a type may be or contain blobs."""
    return _holds(kind, set())


def _holds(kind: StateType, seen: set[StateType]) -> bool:
    if isinstance(kind, BlobType):
        return True
    if kind in seen:
        return False
    seen.add(kind)
    return any(_holds(part, seen) for part in _parts(kind))


def _parts(kind: StateType) -> list[StateType]:
    """The types of what is inside of values of a type and may be a blob: keys never are."""
    if isinstance(kind, MembersType):
        return list(kind.fields.values())
    if isinstance(kind, OptionalType):
        return [kind.inner]
    if isinstance(kind, ListType | TupleType | OrderedSetType):
        return [kind.item]
    if isinstance(kind, DictType):
        return [kind.value]
    return [kind.row] if isinstance(kind, TableType) else []


def hidden_store() -> dict[str, FieldSpec]:
    """The field of classes that may have blobs."""
    return {BLOBS_FIELD: FieldSpec(BLOBS_FIELD, _STORE, has_default=True)}


def no_blobs(parameters: Iterable[Parameter], where: str, refuse: Callable[[str, str, str], None]) -> None:
    """Refuse parameters in which a blob would have to stand without a document that keeps its bytes."""
    for one in parameters:
        if holds_blobs(one.type):
            refuse("blob", f"parameter {one.name}: {where}", "keep the blob in a field, and pass its hash")


def sent_form(kind: StateType) -> Callable[[Any], Any]:
    """How a value of a type is written so that `from_json` reads it again: as it is shown, but blobs with their bytes."""
    return (lambda value: _sent(kind, value)) if holds_blobs(kind) else kind.to_json


def _sent(kind: StateType, value: Any) -> Any:
    if isinstance(kind, BlobType):
        return as_sent(value)
    if value is None:
        return None
    if isinstance(kind, OptionalType):
        return _sent(kind.inner, value)
    if isinstance(kind, MembersType):
        return {name: _sent(each, _member(kind, value, name)) for name, each in kind.fields.items()}
    if isinstance(kind, ListType | OrderedSetType):
        return [_sent(kind.item, item) for item in value._items]
    if isinstance(kind, TupleType):
        return [_sent(kind.item, item) for item in value]
    if isinstance(kind, DictType):
        key = kind.key
        return {key.wire_key(key.to_plain(name)): _sent(kind.value, item) for name, item in value._items.items()}
    return kind.to_json(value)


def _member(kind: MembersType, value: Any, name: str) -> Any:
    return getattr(value, name) if isinstance(kind, FrozenType) else value.__dict__[name]


class BlobFields:
    """Where documents of a class may have blobs. fields: the types of the fields that may, by name; empty for most classes."""

    __slots__ = ("_held", "fields")

    def __init__(self, fields: dict[str, FieldSpec]) -> None:
        self.fields = {name: spec.type for name, spec in fields.items() if holds_blobs(spec.type)}
        self._held: dict[MembersType, list[tuple[str, StateType]]] = {}

    def all(self, root: StateRoot) -> Iterator[Blob]:
        """Every blob that a document refers to, as often as it does. Exhausts the budget."""
        for name, kind in self.fields.items():
            if root.is_set(name):
                yield from self._inside(kind, root.raw(name))

    def _inside(self, kind: StateType, value: Any) -> Iterator[Blob]:
        if isinstance(kind, BlobType):
            yield value
        elif value is None:
            return
        elif isinstance(kind, OptionalType):
            yield from self._inside(kind.inner, value)
        elif isinstance(kind, MembersType):
            for name, each in self._members(kind):
                yield from self._inside(each, _member(kind, value, name))
        else:
            items, inner = _items(kind, value)
            charge(1 + len(items))
            for item in items:
                yield from self._inside(inner, item)

    def _members(self, kind: MembersType) -> list[tuple[str, StateType]]:
        """The members of a record that may have blobs."""
        held = self._held.get(kind)
        if held is None:
            held = self._held[kind] = [(name, each) for name, each in kind.fields.items() if holds_blobs(each)]
        return held


class Blobs:
    """The blobs of one document."""

    __slots__ = ("_fields", "_journal", "_root")

    def __init__(self, fields: BlobFields, root: StateRoot, journal: Journal) -> None:
        self._fields = fields
        self._root = root
        self._journal = journal
        self.reload()

    @property
    def _stored(self) -> dict[str, bytes]:
        store: BlobStore = self._root.raw(BLOBS_FIELD)
        return store.items

    def reload(self, *, sweep: bool = False) -> None:
        """The state was replaced: give its blobs their bytes; those that came from the class's defaults have them.

        sweep: forget what no blob names, as after a change of code that dropped fields. Raises ValueError when bytes are
        missing or are not what they are called.
        """
        stored = self._stored
        named = set()
        for blob in self._fields.all(self._root):
            data = stored.get(blob.hash)
            if data is None:
                data = stored[blob.hash] = own_data(blob)
                self._journal.size += stored_size((data,))
            provide(blob, data)
            named.add(blob.hash)
        unnamed = [hash for hash in stored if hash not in named]
        if unnamed and not sweep:
            raise ValueError(f"nothing names blob {unnamed[0]}")
        for hash in unnamed:
            self._journal.size -= stored_size((stored.pop(hash),))

    def settle(self) -> None:
        """Before a command's writes are kept: take in the bytes that it brought, let go of those that nothing names any more.
        Exhausts the budget.
        """
        journal, stored = self._journal, self._stored
        for blob in self._brought(journal.log):
            data = stored.get(blob.hash)
            if data is None:
                stored[blob.hash] = blob.data
                journal.undo.append((stored.__delitem__, blob.hash))
                journal.size += stored_size((blob.data,))
            elif data is not blob.data:
                provide(blob, data)  # equal bytes: one copy is enough
        if any(_mentions(entry[1:]) for entry in journal.undo):
            named = {blob.hash for blob in self._fields.all(self._root)}
            for hash in [hash for hash in stored if hash not in named]:
                data = stored.pop(hash)
                journal.undo.append((stored.__setitem__, hash, data))
                journal.size -= stored_size((data,))

    def _brought(self, log: list[Write]) -> list[Blob]:
        """The blobs in what was written, each reference once: what is kept of the writes later holds no bytes."""
        found: list[Blob] = []
        for _, path, kind, plain in log:
            if kind is not None and path[0] in self._fields.fields:
                for reference in references(plain):
                    if reference.blob is not None:
                        found.append(reference.blob)
                        reference.blob = None
        return found

    def shown(self, view: object, hash: str) -> bytes:
        """The blob of this hash that a view shows, as JSON {"hash", "size", "media_type", "data"}. Raises UnknownBlob: what is
        not shown and what is not there is the same."""
        for reference in references(view):
            data = self._stored.get(hash)
            if reference["hash"] == hash and data is not None:
                return json.encode({**reference, "data": base64.b64encode(data).decode("ascii")})
        raise unknown_blob()


def unknown_blob() -> UnknownBlob:
    """What whoever asks is told, whether the blob is hidden or does not exist."""
    return UnknownBlob("what you may see of the document shows no such blob")


def _items(kind: StateType, value: Any) -> tuple[list[Any], StateType]:
    """The items of a container that may have blobs, and their type."""
    if isinstance(kind, DictType):
        return list(value._items.values()), kind.value
    if isinstance(kind, TableType):
        return list(value._items.values()), kind.row
    if isinstance(kind, ListType | OrderedSetType):
        return list(value._items), kind.item
    assert isinstance(kind, TupleType), kind
    return list(value), kind.item


def references(form: object) -> Iterator[Reference]:
    """The blobs in a plain or JSON form."""
    pending = [form]
    while pending:
        item = pending.pop()
        if type(item) is Reference:
            yield item
        elif isinstance(item, dict):
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)


def _mentions(value: object) -> bool:
    """Whether something that undo would put back may have a blob in it."""
    pending = [value]
    while pending:
        item = pending.pop()
        kind = type(item)
        if kind is Blob:
            return True
        if kind is tuple or kind is list:
            pending.extend(item)  # type: ignore[arg-type]
        elif kind is dict:
            pending.extend(item.keys())  # type: ignore[attr-defined]
            pending.extend(item.values())  # type: ignore[attr-defined]
        elif isinstance(item, Record):
            pending.extend(item.__dict__.values())
        elif isinstance(item, Keyed):
            pending.append(item._items)
        elif isinstance(item, List):
            pending.extend(item._items)
        else:
            names: Iterable[str] = getattr(kind, "__dataclass_fields__", ()) or getattr(kind, "__struct_fields__", ())
            pending.extend(getattr(item, name, None) for name in names)
    return False
