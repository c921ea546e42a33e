"""The journal: every tracked write of the running command, its undo, and what is left of it after commit.

A write is one tuple `(operation, path, type, plain)`: the shape of a JSON Patch operation with the value in plain form, taken
when it was written, so later mutation can not reach it. Undo entries are calls that are made in reverse order. Both grow
with what is written and with nothing else.

Invariant: values are checked before the first entry is made and entries are made before control returns to the author, so
after `rollback` the state is what it was at `begin`, in value, order and size. It does not decide who may see what.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from cluster.documents.state.refusals import StaleHandle, WriteInReadHandler

if TYPE_CHECKING:
    from cluster.documents.state.forms import StateType

SPLICES_RETAINED_MAX = 1024

Path = tuple[str | int, ...]
"""From the document down: names and wire keys are str, positions in a list are int."""

_encode = msgspec.msgpack.Encoder().encode


class Operation(enum.IntEnum):
    """Kinds of writes. Stable numbers: they are in the chain."""

    ADD = 0
    REPLACE = 1
    REMOVE = 2
    SPLICE = 3


ADD, REPLACE, REMOVE, SPLICE = (int(operation) for operation in Operation)

Write = tuple[int, Path, "StateType | None", Any]
"""(operation, path, type of the value, plain value). REMOVE has neither; SPLICE has (at, delete, insert) and no type."""


class Ordered(Protocol):
    """A container whose insertion order has to be put right after deletions were undone."""

    def _restore_order(self) -> None: ...


class Lifetime:
    """How long handles live: one object a command, shared by all handles taken in it, dead when `journal` is None."""

    __slots__ = ("journal",)

    def __init__(self, journal: Journal | None) -> None:
        self.journal = journal


class Changes:
    """What one command wrote. Immutable; it refers to nothing of the state, so it may be kept in a ring.

    index: the command's document index. operations: the writes in order. writes: their canonical bytes, b"" when there are
    none: the same command on the same state gives the same bytes on every supported Python. size: approximate bytes held, for
    bounding a ring.
    """

    __slots__ = ("index", "operations", "size", "writes")

    def __init__(self, index: int, operations: list[Write], writes: bytes) -> None:
        self.index = index
        self.operations = operations
        self.writes = writes
        self.size = len(writes) + 96 * len(operations)

    @property
    def fields(self) -> frozenset[str]:
        """Names of the top-level fields that were written."""
        return frozenset(str(operation[1][0]) for operation in self.operations)

    def __bool__(self) -> bool:
        return bool(self.operations)


class Journal:
    """The log of one document's writes.

    read_only: while set, every write raises WriteInReadHandler.
    splices_retained_max: how many splices each Text keeps for transforming edits (a setting of the space).
    charge: told the size of work that follows a container's size, before it is done; may raise.
    reads: while it is a set, the names of fields that are read are added: what a view or policy depends on.
    index: the running command's document index. size: the incrementally kept size of the state, in approximate bytes.
    """

    __slots__ = (
        "_size_before",
        "active",
        "charge",
        "disordered",
        "index",
        "lifetime",
        "log",
        "new_id",
        "read_only",
        "reads",
        "size",
        "splices_retained_max",
        "undo",
    )

    def __init__(self) -> None:
        self.active = False
        self.read_only = False
        self.reads: set[str] | None = None
        self.index = 0
        self.size = 0
        self.splices_retained_max = SPLICES_RETAINED_MAX
        self.charge: Callable[[int], None] | None = None
        self.new_id: Callable[[], int] | None = None
        self.lifetime: Lifetime | None = None
        self.log: list[Write] = []
        self.undo: list[tuple[Any, ...]] = []
        self.disordered: dict[int, Ordered] = {}
        self._size_before = 0

    def begin(self, *, index: int = 0, new_id: Callable[[], int] | None = None) -> None:
        """Start a command. index: its document index. new_id: source of row ids, below 2**64, derived from its seed."""
        assert not self.active, "a command is running already"
        self._end_lifetime()
        self.active = True
        self.index = index
        self.new_id = new_id
        self._size_before = self.size

    def commit(self) -> Changes:
        """End the command, keep its writes. Handles taken in it die."""
        assert self.active, "no command is running"
        log = self.log
        if log:
            self.log = []
            changes = Changes(self.index, log, _encode([(operation, path, plain) for operation, path, _, plain in log]))
        else:
            changes = Changes(self.index, [], b"")
        self._end()
        return changes

    def end_unchanged(self) -> None:
        """End a command that wrote nothing. Handles taken in it die."""
        assert self.active, "no command is running"
        assert not self.log, "what was written is committed"
        self._end()

    def rollback(self) -> None:
        """End the command and restore the state of its begin exactly: values, order, size. Handles taken in it die."""
        assert self.active, "no command is running"
        for entry in reversed(self.undo):
            entry[0](*entry[1:])
        for container in self.disordered.values():
            container._restore_order()
        self.size = self._size_before
        self.log = []
        self._end()

    def check_writable(self) -> None:
        """Raise WriteInReadHandler or StaleHandle unless a command is running that may write."""
        if self.read_only:
            raise WriteInReadHandler
        if not self.active:
            raise StaleHandle("state can only be changed while a command runs")

    def charge_for(self, amount: int) -> None:
        """Tell the budget about work of this size before it is done."""
        if self.charge is not None:
            self.charge(amount)

    def handles(self) -> Lifetime:
        """The lifetime of handles that are taken now: until the running command, or the pause between two, ends."""
        if self.lifetime is None:
            self.lifetime = Lifetime(self)
        return self.lifetime

    def _end(self) -> None:
        if self.undo:
            self.undo = []
            self.disordered = {}
        self.active = False
        self.new_id = None
        self._end_lifetime()

    def _end_lifetime(self) -> None:
        if self.lifetime is not None:
            self.lifetime.journal = None
            self.lifetime = None
