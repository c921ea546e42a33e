"""Empty containers that everybody shares, for objects of which a node has thousands and most of which hold nothing.

A field begins as one of these and whoever puts something in makes it a container of its own first:

    if not self.waiting:
        self.waiting = []
    self.waiting.append(read)

Everything that reads, removes or clears works as with any other container.

Invariant: they stay empty. Whoever forgets to make one of its own gets a TypeError and changes nothing.
"""

from __future__ import annotations

from typing import Any, Final, NoReturn


class _NoItems(list[Any]):
    __slots__ = ()

    def _refuse(self, *_: object) -> NoReturn:
        raise TypeError("this list is shared by all who have nothing in theirs: make one first")

    append = extend = insert = __setitem__ = __iadd__ = __imul__ = _refuse


class _NoEntries(dict[Any, Any]):
    __slots__ = ()

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("this dictionary is shared by all who have nothing in theirs: make one first")

    update = setdefault = __setitem__ = __ior__ = _refuse


NO_ITEMS: Final[list[Any]] = _NoItems()
NO_ENTRIES: Final[dict[Any, Any]] = _NoEntries()
