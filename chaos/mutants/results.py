"""What a run of hunts has found so far, in a file that outlives it, and as the table of docs/internals/testing.md.

One JSON object a line: first the conditions, then each result as it comes. A run that was stopped left whole lines, but for the
last one perhaps, which is dropped: that bug is hunted again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from chaos.mutants.hunt import Caught


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a run was asked for, and what results of two runs must share to stand in one file."""

    first: int
    seeds_max: int


class Results:
    """A file that results are added to one at a time. Raises OSError as files do."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    @classmethod
    def begin(cls, path: Path, conditions: Conditions) -> Results:
        """A new file; what stood there is gone."""
        results = cls(path.open("w", encoding="utf-8"))
        results._add({"first": conditions.first, "seeds_max": conditions.seeds_max})
        return results

    @classmethod
    def resume(cls, path: Path, conditions: Conditions) -> tuple[Results, list[Caught]]:
        """A file to go on with, and what stands in it. Raises ValueError, nothing changed, when it is no such file, or one of
        other conditions."""
        whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
        try:
            header, *rows = (json.loads(line) for line in whole.splitlines())
            found = [Caught(**{**row, "sick": tuple(row["sick"])}) for row in rows]
            before = Conditions(**header)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} holds no results of planted bugs: {error}") from None
        if before != conditions:
            raise ValueError(f"{path} is of seeds from {before.first} on, {before.seeds_max} at most")
        results = cls(path.open("r+", encoding="utf-8"))
        results._file.truncate(len((whole + "\n").encode()))
        results._file.seek(0, 2)
        return results, found

    def add(self, one: Caught) -> None:
        """Keep it, whatever becomes of this process."""
        self._add(one.row())

    def _add(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def markdown(found: Iterable[Caught]) -> str:
    """A table in Markdown."""
    lines = ["| planted bug | what it breaks | seeds | of those with | caught by |", "|---|---|---|---|---|"]
    for one in found:
        by = one.checker if one.caught else "**missed**"
        lines.append(f"| `{one.name}` | {one.story} | {one.seeds} | {one.reach} | {by} |")
    return "\n".join(lines)
