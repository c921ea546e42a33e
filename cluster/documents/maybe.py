"""Maybe: what handlers get in place of a value that may not have come.

Invariant: immutable; two are equal when their values are and both, or neither, are present. It does not say why a value is
missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")
D = TypeVar("D")


@dataclass(frozen=True)
class Maybe(Generic[T]):
    """A value, or nothing. Works in `match`: `case Maybe(None)`, `case Maybe(str() as receipt)`.

    value: None when nothing came. present: whether something came; tells a None that came from nothing.
    """

    value: T | None = None
    present: bool = False

    def get(self, default: D) -> T | D:
        """The value if there is one, else `default`."""
        return self.value if self.present else default  # type: ignore[return-value]


NOTHING: Final[Maybe[Any]] = Maybe()
