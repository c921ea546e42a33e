"""What all tracked values share: their place in the tree and the lifetime of the handle that reached them.

A node is free (made by the author, `_lifetime` None: writes go straight in) or attached (reached through a StateRoot: writes
go through the journal). Attached nodes learn their lifetime when they are handed out, parent to child, so a handle kept from
an earlier command is recognised without keeping lists of handles.

Invariant: a node's parent is asked for its place by identity, never by equality, so a node that was removed or replaced
has no path and can not be written. Reading a plain field of a record does not check the handle; everything else does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from cluster.documents.state.journal import Journal, Lifetime, Path
from cluster.documents.state.refusals import StaleHandle

if TYPE_CHECKING:
    from cluster.documents.state.index import Indexes

DEPTH_MAX = 32
"""How deep values may be nested. It also ends values that contain themselves."""

N = TypeVar("N", bound="Node")


class Node:
    """A mutable value of the state tree. Subclasses say where a child is, how they are copied and how large they are."""

    __slots__ = ("_lifetime", "_parent", "_slot")

    _lifetime: Lifetime | None
    _parent: Node | None
    _slot: Any
    _key_field: str | None = None
    """The field of the rows below that names them: only a Table has one."""
    _indexes: Indexes | None = None
    """What has to know when a field of the rows below is written: only a Table has some."""

    def _locate(self, child: Node) -> str | int:
        """The path step that leads to `child`. Raises StaleHandle when it is not (any longer) here."""
        raise StaleHandle(f"{type(self).__name__} has no parts")

    def _clone(self, depth: int = 0) -> Node:
        """A free copy of this node and everything below it. Raises ValueError when it is nested too deeply for `depth`."""
        raise AssertionError(f"{type(self).__name__} can not be copied")

    def _date(self, index: int) -> None:
        """Told to a free node that is being stored: the document index. Texts remember it; others pass it on."""

    def _path(self) -> Path:
        """Where this node is. Raises StaleHandle when it has been removed from the document."""
        steps: list[str | int] = []
        node: Node = self
        while (parent := node._parent) is not None:
            steps.append(parent._locate(node))
            node = parent
        steps.reverse()
        return tuple(steps)

    def _depth(self) -> int:
        """How many nodes are above this one."""
        depth = 0
        node: Node = self
        while (parent := node._parent) is not None:
            depth += 1
            node = parent
        return depth

    def _check_live(self) -> None:
        lifetime = self._lifetime
        if lifetime is not None and lifetime.journal is None:
            raise StaleHandle(f"this {type(self).__name__} was taken in an earlier command; reach it from self again")

    def _writing(self) -> Journal | None:
        """The journal to write to, or None for a free node. Raises StaleHandle or WriteInReadHandler."""
        lifetime = self._lifetime
        if lifetime is None:
            return None
        journal = lifetime.journal
        if journal is None:
            raise StaleHandle(f"this {type(self).__name__} was taken in an earlier command; reach it from self again")
        if journal.read_only or not journal.active:
            journal.check_writable()
        return journal

    def _charge(self, amount: int) -> None:
        lifetime = self._lifetime
        if lifetime is not None and lifetime.journal is not None:
            lifetime.journal.charge_for(amount)

    def __copy__(self: N) -> N:
        return self.__deepcopy__({})

    def __deepcopy__(self: N, memo: dict[int, Any]) -> N:
        copied = self._clone()
        assert isinstance(copied, type(self))
        return copied


set_lifetime: Callable[[Node, Lifetime | None], None] = vars(Node)["_lifetime"].__set__
"""A slot's own setter, because Record intercepts the writing of attributes."""
set_parent: Callable[[Node, Node | None], None] = vars(Node)["_parent"].__set__
set_slot: Callable[[Node, Any], None] = vars(Node)["_slot"].__set__


def adopt(value: Any, parent: Node, slot: Any) -> None:
    """Hang a free value below `parent`. Values that are not nodes need no place."""
    if isinstance(value, Node):
        set_parent(value, parent)
        set_slot(value, slot)


def clone(value: Any, depth: int = 0) -> Any:
    """A free copy of a value as the state keeps it."""
    return value._clone(depth) if isinstance(value, Node) else value


def hand_out(value: Any, lifetime: Lifetime | None) -> Any:
    """Give a value of a node to the author: a part of a node gets the lifetime of the handle that it was reached through."""
    if isinstance(value, Node):
        set_lifetime(value, lifetime)
    return value


def check_depth(depth: int) -> None:
    """Raise ValueError when a value at this depth may have no parts any more."""
    if depth >= DEPTH_MAX:
        raise ValueError(f"values are nested more than {DEPTH_MAX} deep")
