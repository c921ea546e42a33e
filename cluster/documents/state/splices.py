"""Splices and how an edit made at an earlier position is carried over later ones (operational transformation).

Sun and Ellis, "Operational transformation in real-time group editors" (CSCW 1998), reduced to one total order: the document
has already decided which edit came first, so only the later edit is transformed and convergence needs no inverse.

Rules, all in code points:
- an insertion at the place of an earlier insertion goes after it;
- a deletion takes what its author saw and nothing that others have inserted meanwhile, so it may fall apart into ranges;
- what others have deleted already is not deleted again; an insertion into deleted text stays where that text was.
"""

from __future__ import annotations

from dataclasses import dataclass

Splice = tuple[int, int, int]
"""(at, how many were deleted, how many were inserted)."""


@dataclass(slots=True)
class Edit:
    """An edit being transformed: where it inserts, and the ranges [start, end) it deletes: disjoint, ascending."""

    point: int
    ranges: list[tuple[int, int]]

    def over(self, splice: Splice) -> None:
        """Carry this edit over a splice that was applied before it."""
        at, deleted, inserted = splice
        end, shift = at + deleted, inserted - deleted
        if self.point > end:
            self.point += shift
        elif self.point >= at:
            self.point = at + inserted
        carried: list[tuple[int, int]] = []
        for start, stop in self.ranges:
            if start < at:
                _extend(carried, start, min(stop, at))
            if stop > end:
                _extend(carried, max(start, end) + shift, stop + shift)
        self.ranges = carried

    def splices(self) -> list[tuple[int, int, bool]]:
        """What to apply, in this order: (at, how many to delete, whether the text is inserted here). Last places come first,
        so that no step moves a later one."""
        assert all(start >= self.point for start, _ in self.ranges), "nothing in front of the insertion is deleted"
        steps = [(start, stop - start, start == self.point) for start, stop in reversed(self.ranges)]
        if not steps or not steps[-1][2]:
            steps.append((self.point, 0, True))
        return steps


def _extend(ranges: list[tuple[int, int]], start: int, stop: int) -> None:
    if ranges and ranges[-1][1] == start:
        ranges[-1] = (ranges[-1][0], stop)
    else:
        ranges.append((start, stop))
