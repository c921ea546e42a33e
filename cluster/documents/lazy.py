"""Iterators that handlers may hold: generator expressions, map, filter and their like.

Invariant: every step of a lazy iterator that runs inside another counts as a call, so chains of them are as bounded as
recursion is. The interpreter's own map or zip would recurse in C instead.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any, Generic, TypeVar

from cluster.documents.meter import METER

T = TypeVar("T", covariant=True)


class Lazy(Iterator[T], Generic[T]):
    """An iterator over a generator whose body is counted."""

    __slots__ = ("_generator",)

    def __init__(self, generator: Generator[T, None, None]) -> None:
        self._generator: Generator[T, None, None] = generator

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        METER.depth = depth = METER.depth - 1
        if depth < 0:
            METER.exhausted()
        try:
            return next(self._generator)
        finally:
            METER.depth = depth + 1

    def unwrapped(self) -> Iterator[T]:
        """The generator itself, for a consumer that has counted the call."""
        return self._generator


def lazy(generator: Any) -> Lazy[Any]:
    """What a generator expression becomes."""
    return Lazy(generator)
