"""Splices and how an edit made at an earlier position is carried over later ones (operational transformation).

Sun and Ellis, "Operational transformation in real-time group editors" (CSCW 1998), reduced to one total order: the document
has already decided which edit came first, so only the later edit is transformed and convergence needs no inverse.

Rules, all in code points:
- an insertion at the place of an earlier insertion goes after it;
- a deletion takes what its author saw and nothing that others have inserted meanwhile, so it may fall apart into ranges;
- what others have deleted already is not deleted again; an insertion into deleted text stays where that text was.

`rebase` carries a whole sequence of edits that one author made one after the other: each is transformed over the others'
splices as they look after the author's earlier edits (the two-way transformation of Jupiter, Nichols et al., UIST 1995).
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
        if at <= self.point <= at + deleted:
            self.point = at + inserted
        elif self.point > at:
            self.point += inserted - deleted
        self._carry_ranges(at, at + deleted, inserted - deleted)

    def under(self, splice: Splice) -> None:
        """Carry this edit over a splice that the log puts after it: an insertion at the same place stays in front."""
        at, deleted, inserted = splice
        if at < self.point <= at + deleted:
            self.point = at + inserted
        elif self.point > at:
            self.point += inserted - deleted
        self._carry_ranges(at, at + deleted, inserted - deleted)

    def _carry_ranges(self, at: int, end: int, shift: int) -> None:
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


def edit_of(splice: Splice) -> Edit:
    """A splice as an edit that can be carried."""
    at, deleted, _ = splice
    return Edit(at, [(at, at + deleted)] if deleted else [])


def rebase(own: list[Splice], others: list[Splice]) -> tuple[list[list[tuple[int, int, bool]]], list[Splice]]:
    """Carry `own`, made one after the other, over `others`, which the log has before them; both start from the same text.

    Returns what to apply for each of own after others (see Edit.splices), and others as they look after own: whoever has
    applied own already gets to the same text by applying these.
    """
    carried = []
    for splice in own:
        edit, inserted = edit_of(splice), splice[2]
        after: list[Splice] = []
        for other in others:
            moved = edit_of(other)
            for at, deleted, inserts in edit.splices():
                moved.under((at, deleted, inserted if inserts else 0))
            after.extend((at, deleted, other[2] if inserts else 0) for at, deleted, inserts in moved.splices())
            edit.over(other)
        carried.append(edit.splices())
        others = [each for each in after if each[1] or each[2]]
    return carried, others


def _extend(ranges: list[tuple[int, int]], start: int, stop: int) -> None:
    if ranges and ranges[-1][1] == start:
        ranges[-1] = (ranges[-1][0], stop)
    else:
        ranges.append((start, stop))
