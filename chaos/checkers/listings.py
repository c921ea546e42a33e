"""What listings say: every document that surely lives, none twice, in the order of their keys within a shard, at positions that
are neither older than what was known when the listing began nor newer than anything committed.

A listing is not one moment but one for each page; so what comes and goes meanwhile may be on it or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from chaos.checkers.history import Call, Name, Place
from chaos.checkers.violation import Violation
from cluster.session.operations import Kind

if TYPE_CHECKING:
    from chaos.sim.world import World


class Row(msgspec.Struct):
    """One line of a listing."""

    key: str
    epoch: int
    index: int


class Page(msgspec.Struct):
    """One page, as the cluster answers it."""

    documents: list[Row]
    next_page_token: str


decode_page = msgspec.json.Decoder(Page).decode


class Listings:
    """Judges listings. `began` says what was known at the beginning of one."""

    def __init__(self, world: World) -> None:
        self._world = world

    def began(self, space: str) -> dict[Name, Place]:
        """Where documents of a space stand at least: those that were created and that nobody has tried to delete since."""
        history = self._world.history
        created = {call.name for call in history.calls if call.kind is Kind.CREATE and call.ok}
        doubtful = {call.name for call in history.calls if call.kind is Kind.DELETE}
        return {name: place for name, place in history.told.items() if name[0] == space and name in created - doubtful}

    def ended(self, call: Call, known: dict[Name, Place], rows: Sequence[Row], pages: Sequence[int]) -> None:
        """A listing is complete. pages: how many rows each had."""
        space = call.name[0]
        shown = {(space, row.key): (row.epoch, row.index) for row in rows}
        if len(shown) < len(rows):
            raise Violation("listings", f"{call.client} is shown a document twice: {[row.key for row in rows]}")
        start = 0
        for length in pages:
            keys = [row.key for row in rows[start : start + length]]
            if keys != sorted(keys):
                raise Violation("listings", f"{call.client} is shown keys out of order: {keys}")
            start += length
        doubtful = {other.name for other in self._world.history.calls if other.kind is Kind.DELETE}
        for name, floor in known.items():
            if name not in shown and name not in doubtful:
                raise Violation(
                    "listings", f"{'/'.join(name)} lived at {floor} when {call.client} began to list, and is missing"
                )
            if name in shown and shown[name] < floor:
                raise Violation("listings", f"{'/'.join(name)} was at {floor} and is listed at {shown[name]}: {call}")
        for name, place in shown.items():
            self._world.answers.reached(name, place, call)
