"""What a declaration says about a field besides its type."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

WINDOW_ROWS_MAX: Final = 1_000
"""Most rows that a viewer may ask a window for, unless the declaration says less."""


class _Absent:
    """There is no default. A class of its own because None is a default."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT = _Absent()


@dataclass(slots=True, frozen=True)
class Window:
    """Which rows of a table a viewer is shown: the `latest` that it may see. at_most: what a viewer may ask for instead."""

    latest: int
    at_most: int


def latest(count: int, *, at_most: int | None = None) -> Window:
    """The window of the `count` rows that were put last: `field.visible(may_see, window=latest(50))`.

    at_most: how many a viewer may ask for (`{"messages": {"latest": 200}}`). Raises ValueError for counts out of range.
    """
    most = max(count, WINDOW_ROWS_MAX) if at_most is None else at_most
    if not 1 <= count <= most:
        raise ValueError("a window shows at least one row, and no more than at_most")
    return Window(count, most)


@dataclass(slots=True, frozen=True)
class FieldOptions:
    """The right-hand side of a declaration: `title: str = field.public("")`.

    default: ABSENT when there is none. visibility: "private", "public" or the author's policy.
    key: the field of a Table's rows that names them. index: the fields of its rows that can be looked up by value.
    window: how much of a Table a viewer is shown. add: who may add to a Tally from outside.
    was: the field's name in the previous version. options: anything else.
    """

    default: Any = ABSENT
    visibility: Any = "private"
    key: str | None = None
    was: str | None = None
    options: tuple[tuple[str, Any], ...] = ()
    index: tuple[str, ...] = ()
    window: Window | None = None
    add: Callable[..., bool] | None = None
