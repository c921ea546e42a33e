"""Which command runs, where it survives the death of the process.

A handler can not end its node by anything it is allowed to do; if a command ends it all the same (a fault of ours, a hole
in the sandbox), replay would end it again for ever. So the running command is noted in a mapped page before it runs: the
kernel keeps the page when the process dies. At start the note is counted; a command that ended the process twice is a
suspect, and its shard halts there until an operator isolates it. (Design section 5, poison.)

Writing the page costs well under a microsecond and no system call. Losing it in a power failure costs one count, nothing else.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
from pathlib import Path

from cluster.shard.commands import Command

ENDINGS_TO_SUSPECT = 2
_NOTE = struct.Struct("<QQQQ")
_ACTIVE = 1


class PageMarker:
    """The note and the counts of one data directory.

    poison_hook: TEST HOOK, off when empty: the process exits at a payload that contains this text.
    """

    def __init__(self, directory: Path, poison_hook: str = "") -> None:
        self._counts_path = directory / "suspects.json"
        page_path = directory / "running.page"
        self._hook = poison_hook.encode()
        self._counts = self._load_counts()
        descriptor = os.open(page_path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(descriptor, mmap.PAGESIZE)
            self._page = mmap.mmap(descriptor, mmap.PAGESIZE)
        finally:
            os.close(descriptor)
        self._count_last_ending()
        self.noted = 0

    def note(self, shard: int, index: int, offset: int, command: Command) -> None:
        """This command runs next."""
        self.noted += 1
        _NOTE.pack_into(self._page, 0, _ACTIVE, shard, index, offset)
        if self._hook and self._hook in command.payload:
            os._exit(86)

    def clear(self) -> None:
        """No command runs."""
        self._page[0] = 0

    @property
    def active(self) -> bool:
        return self._page[0] != 0

    def running(self) -> tuple[int, int, int]:
        """(shard, index, offset) of the newest note."""
        _, shard, index, offset = _NOTE.unpack_from(self._page, 0)
        return shard, index, offset

    def suspected(self, shard: int, index: int) -> int | None:
        """The offset in this entry of a command that ended the process twice, if there is one."""
        if not self._counts:
            return None
        for (at_shard, at_index, offset), count in self._counts.items():
            if (at_shard, at_index) == (shard, index) and count >= ENDINGS_TO_SUSPECT:
                return offset
        return None

    def suspects(self) -> list[tuple[int, int, int]]:
        """Every suspected command."""
        return sorted(place for place, count in self._counts.items() if count >= ENDINGS_TO_SUSPECT)

    def close(self) -> None:
        self.clear()
        self._page.close()

    def _count_last_ending(self) -> None:
        active, shard, index, offset = _NOTE.unpack_from(self._page, 0)
        if active != _ACTIVE:
            return
        place = (shard, index, offset)
        self._counts[place] = self._counts.get(place, 0) + 1
        rows = [[*at, count] for at, count in sorted(self._counts.items())]
        temporary = self._counts_path.with_suffix(".new")
        with temporary.open("w") as file:
            json.dump(rows, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._counts_path)
        self.clear()

    def _load_counts(self) -> dict[tuple[int, int, int], int]:
        """A damaged file is an empty one: suspects are found again by the next two endings."""
        try:
            rows = json.loads(self._counts_path.read_text())
            return {(int(shard), int(index), int(offset)): int(count) for shard, index, offset, count in rows}
        except (OSError, ValueError, TypeError):
            return {}
