"""The state of one document: declared types, tracked writes, exact undo, and patches made from what changed.

    types.py                            from annotations to types, and what can not be declared
    forms.py                            StateType: a value's three forms (the author's, plain, JSON)
    scalars.py moments.py named.py      the immutable types
    frozen.py                           the author's own immutable types: frozen dataclasses and Structs, tuples
    blob.py                             Blob: a file, named by its hash; the store of the bytes
    node.py                             what mutable values share: where they hang, which journal they write to
    lists.py dicts.py sets.py           List, Dict, OrderedSet
    members.py                          what types of named members share
    record.py                           Record: the author's own value classes
    table.py index.py                   Table: records under a key or under stable row ids; its indexes
    tally.py                            Tally: a number that many add to
    text.py splices.py                  Text: a string edited by splices that are transformed over later ones
    journal.py                          Journal: the writes of the running command; commit and rollback
    fields.py root.py                   FieldOptions, FieldSpec, StateRoot: a document's fields; dump and load
    patch.py                            Changes -> JSON Patch; apply; diff by value
    patching.py                         JSON Patch -> tracked writes, for operators
    refusals.py                         Refused, StaleEdit and the errors that handlers meet

Invariant: between `begin` and `commit` every mutation is in the journal before it can be seen, so `rollback` restores
`dump()` byte for byte; cost follows what is written, not the size of the document. State is a tree: whatever is inserted is
copied, so no object is reachable twice. It does not know handlers, budgets, policies or principals' rights.

How the code half uses it
-------------------------
Types. `state_type(annotation, *, owner, key=None, index=()) -> StateType` raises TypeError with a clear text for what can not
be declared (`owner` is the class, for resolving string annotations; `key` and `index` are options of a Table). A StateType has

    admit(value) -> value          check and copy in: raises TypeError or ValueError; the result may be kept
    check(value) -> None           the same without the result
    to_plain / from_plain          msgpack-safe form of `dump`, insertion order kept
    to_json / from_json            wire form of views, payloads and answers (from_json raises TypeError or ValueError)
    json_schema(definitions) -> dict; records are put into `definitions` by name and referred to
    size(value) -> int             its share of StateRoot.size_bytes

Parameters of handlers and results use the same types: `t.from_json(x)` gives what the handler receives (free, unattached
values), `t.to_json(t.admit(result))` what is answered.

A command.

    journal = Journal()                            # one for each StateRoot
    root = StateRoot(specs, journal)               # specs: dict[str, FieldSpec], in declared order
    journal.begin(index=7, new_id=context_new_id)  # new_id() -> int below 2**64, derived from the command's seed
    root.set("closed", True); root.get("bids").put(Bid(...))
    changes = journal.commit()                     # or journal.rollback(); both end the command and its handles
    changes.writes                                 # canonical bytes for the chain: b"" when nothing was written
    changes.fields                                 # frozenset of top-level field names written
    changes.size                                   # approximate bytes, for the ring

`journal.read_only = True` makes every write raise WriteInReadHandler. Writes outside begin/commit raise StaleHandle, as
does every container method on a handle of an earlier command. `journal.splices_retained_max` bounds what Text retains.
`journal.reads = set()` collects the names of the fields that are read until it is None again: a view or policy need only
run again when a command wrote one of them (`changes.fields`). `journal.charge` may be set to a callable(int): it is told the
size of work that follows the size of a container before the work is done, and may raise.

Dump and load. `root.dump() -> bytes`; `root.load(data, upgrade=False)` raises ValueError when data is not a dump of this
schema; with upgrade=True fields that are gone are dropped, new ones take their default and `FieldSpec.was` is followed.
`root.missing() -> list[str]`, `root.size_bytes() -> int`, `root.to_json(name)`, `root.names()`.

Field options. What `field.public(...)` and its like return is a `FieldOptions`; Record understands it as a class attribute
(default, visibility), and `field_spec(name, annotation, value, owner=cls)` makes a FieldSpec from a declaration.

`record_type.options[name].visibility` keeps what a record's own field declares; hiding it from a viewer is the caller's work.

Patches. `operations(changes, visible) -> list[dict]` takes Changes or a list of them; `encode(ops)`, `apply_patch(view, ops)`,
`diff(old, new)`, `touched_rows(changes, field) -> set of row keys as they appear in the view`. Wire shapes: see patch.py.
"""

from __future__ import annotations

from cluster.documents.state.blob import Blob, BlobReference
from cluster.documents.state.dicts import Dict
from cluster.documents.state.fields import Window, latest
from cluster.documents.state.journal import Changes, Journal
from cluster.documents.state.lists import List
from cluster.documents.state.patch import apply_patch, diff, encode, operations, touched_rows
from cluster.documents.state.record import Event, Record
from cluster.documents.state.refusals import Refused, StaleEdit, StaleHandle, WriteInReadHandler
from cluster.documents.state.root import FieldOptions, FieldSpec, StateRoot, field_spec
from cluster.documents.state.sets import OrderedSet
from cluster.documents.state.table import Table
from cluster.documents.state.tally import Tally
from cluster.documents.state.text import Text
from cluster.documents.state.types import StateType, state_type

__all__ = [
    "Blob",
    "BlobReference",
    "Changes",
    "Dict",
    "Event",
    "FieldOptions",
    "FieldSpec",
    "Journal",
    "List",
    "OrderedSet",
    "Record",
    "Refused",
    "StaleEdit",
    "StaleHandle",
    "StateRoot",
    "StateType",
    "Table",
    "Tally",
    "Text",
    "Window",
    "WriteInReadHandler",
    "apply_patch",
    "diff",
    "encode",
    "field_spec",
    "latest",
    "operations",
    "state_type",
    "touched_rows",
]
