"""What handlers know as itertools and functools.reduce: the same results, each item paid for, lazily where it matters.

Invariant: nothing here runs ahead of what it was asked for except product, permutations and combinations, which first take
all of their input, as the interpreter's do.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from cluster.documents.lazy import Lazy
from cluster.documents.meter import charge, enter, leave
from cluster.documents.operators import add, gather

_MISSING: Final = object()


def reduce(function: Callable[[Any, Any], Any], items: Iterable[Any], initial: Any = _MISSING) -> Any:
    """functools.reduce."""
    values = gather(items)
    if initial is _MISSING:
        if not values:
            raise TypeError("reduce() of empty iterable with no initial value")
        initial, values = values[0], values[1:]
    enter()
    for value in values:
        charge(1)
        initial = function(initial, value)
    leave()
    return initial


def _each(items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        charge(1)
        yield item


class Chain(Lazy[Any]):
    """itertools.chain."""

    __slots__ = ()

    def __init__(self, *sources: Iterable[Any]) -> None:
        super().__init__(item for source in sources for item in _each(source))

    @staticmethod
    def from_iterable(sources: Iterable[Iterable[Any]]) -> Lazy[Any]:
        """Chain sources that come from one iterable."""
        return Lazy(item for source in _each(sources) for item in _each(source))


def islice(items: Iterable[Any], *bounds: int | None) -> Lazy[Any]:
    """itertools.islice."""
    charge(1)
    return Lazy(item for item in itertools.islice(_each(items), *bounds))


def pairwise(items: Iterable[Any]) -> Lazy[Any]:
    """itertools.pairwise."""
    return Lazy(pair for pair in itertools.pairwise(_each(items)))


def accumulate(items: Iterable[Any], function: Callable[[Any, Any], Any] = add, *, initial: Any = None) -> Lazy[Any]:
    """itertools.accumulate."""
    return Lazy(total for total in itertools.accumulate(_each(items), function, initial=initial))


def groupby(items: Iterable[Any], key: Callable[[Any], Any] | None = None) -> Lazy[Any]:
    """itertools.groupby, with each group a list that is complete when it is yielded."""

    def groups() -> Any:
        current: Any = _MISSING
        members: list[Any] = []
        for item in _each(items):
            value = item if key is None else key(item)
            if members and value == current:
                members.append(item)
                continue
            if members:
                yield current, members
            current, members = value, [item]
        if members:
            yield current, members

    return Lazy(groups())


def takewhile(predicate: Callable[[Any], Any], items: Iterable[Any]) -> Lazy[Any]:
    """itertools.takewhile."""
    return Lazy(item for item in itertools.takewhile(predicate, _each(items)))


def dropwhile(predicate: Callable[[Any], Any], items: Iterable[Any]) -> Lazy[Any]:
    """itertools.dropwhile."""
    return Lazy(item for item in itertools.dropwhile(predicate, _each(items)))


def starmap(function: Callable[..., Any], items: Iterable[Any]) -> Lazy[Any]:
    """itertools.starmap."""
    return Lazy(function(*gather(row)) for row in _each(items))


def product(*sources: Iterable[Any], repeat: int = 1) -> Lazy[Any]:
    """itertools.product."""
    pools = [gather(source) for source in sources]
    charge(max(repeat, 0) * (1 + len(pools)))
    return Lazy(row for row in itertools.product(*pools, repeat=repeat) if not charge(1 + len(row)))  # type: ignore[func-returns-value]


def permutations(items: Iterable[Any], length: int | None = None) -> Lazy[Any]:
    """itertools.permutations."""
    charge(max(length or 0, 0))
    return Lazy(row for row in itertools.permutations(gather(items), length) if not charge(1 + len(row)))  # type: ignore[func-returns-value]


def combinations(items: Iterable[Any], length: int) -> Lazy[Any]:
    """itertools.combinations."""
    charge(max(length, 0))
    return Lazy(row for row in itertools.combinations(gather(items), length) if not charge(1 + len(row)))  # type: ignore[func-returns-value]


def count(start: Any = 0, step: Any = 1) -> Lazy[Any]:
    """itertools.count."""

    def numbers() -> Any:
        value = start
        while True:
            charge(1)
            yield value
            value = add(value, step)

    return Lazy(numbers())


def repeat(item: Any, times: int | None = None) -> Lazy[Any]:
    """itertools.repeat."""

    def items() -> Any:
        left = times
        while left is None or left > 0:
            charge(1)
            yield item
            left = None if left is None else left - 1

    return Lazy(items())


NAMES: Final[dict[str, object]] = {
    "accumulate": accumulate, "chain": Chain, "combinations": combinations, "count": count, "dropwhile": dropwhile,
    "groupby": groupby, "islice": islice, "pairwise": pairwise, "permutations": permutations, "product": product,
    "repeat": repeat, "starmap": starmap, "takewhile": takewhile,
}  # fmt: skip
