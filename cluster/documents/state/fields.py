"""What a declaration says about a field besides its type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


class _Absent:
    """There is no default. A class of its own because None is a default."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT = _Absent()


@dataclass(slots=True, frozen=True)
class FieldOptions:
    """The right-hand side of a declaration: `title: str = field.public("")`.

    default: ABSENT when there is none. visibility: "private", "public" or the author's policy.
    key: the field of a Table's rows that names them. was: the field's name in the previous version. options: anything else.
    """

    default: Any = ABSENT
    visibility: Any = "private"
    key: str | None = None
    was: str | None = None
    options: tuple[tuple[str, Any], ...] = ()
