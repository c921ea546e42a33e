"""What a shard's leader does because its time has come: it finds the documents that have something due, and makes commands.

Whatever a document has armed is in its state, and a firing changes nothing unless it is armed and due when it is applied. So
nothing here is a matter of safety: a leader that knows too little is late, one that knows too much proposes in vain, and two
leaders may propose the same.

Two sources say who has something due. Documents that changed while this replica leads are in a heap. All others are as the
index on disk says (`RecordStore.due`), which is written with the records: it is read in order of time, behind a cursor, when
its time has come. The heap is bounded: beyond that it is cut to the documents whose records are not written yet, and the
cursor goes back to the beginning.

Invariant: every document that has something due in this shard is in the heap, or in the index behind the cursor, or has
commands on their way.
"""

from __future__ import annotations

import heapq
import math

from cluster.documents.runtime import ALARM_CHANNEL
from cluster.empty import NO_ENTRIES, NO_ITEMS
from cluster.errors import CodeMissing, StorageDamaged
from cluster.shard.cache import DocumentCache
from cluster.shard.commands import TIME_PRINCIPAL, Command, CommandKind
from cluster.shard.document import LiveDocument
from cluster.storage.keys import due_of

FIRINGS_MAX = 64
"""Commands that time makes in one entry, and so between two turns: what is due at once goes with everybody else's work."""

FIRINGS_PER_DOCUMENT = 8
"""Of one document in one entry."""

HEAP_MAX = 65_536
"""Entries kept in memory."""

LATER_MS = 250
"""A document that can not be looked at now (its code is missing, it is being compared) is looked at again after this."""

_NEVER = math.inf

Name = tuple[str, str]
"""(space, key)."""


class Alarms:
    """The due times of one shard's leader, for as long as it leads. Made when it has applied its own term.

    damaged: what could not be read while looking; the replica looks at it after every step.
    """

    __slots__ = ("_busy", "_cache", "_cursor", "_heap", "_heap_max", "_known", "_stored_ms", "damaged")

    def __init__(self, cache: DocumentCache) -> None:
        self._cache = cache
        self._heap: list[tuple[float, str, str]] = NO_ITEMS
        self._heap_max = HEAP_MAX
        self._known: dict[Name, float] = NO_ENTRIES
        """When a document is to be looked at; entries of the heap that say otherwise count no more."""
        self._busy: dict[Name, int] = NO_ENTRIES
        """Commands on their way."""
        self._cursor = b""
        self._stored_ms = -1.0
        """Nothing in the index behind the cursor is due before."""
        self.damaged = ""
        for live in cache.unsaved.values():  # the rest is on disk
            self.changed(live)

    @property
    def due_ms(self) -> float:
        """When there is something to do, Unix milliseconds, as far as is known."""
        heap, known = self._heap, self._known
        while heap and known.get(heap[0][1:]) != heap[0][0]:
            heapq.heappop(heap)
        first_ms = heap[0][0] if heap else _NEVER
        return first_ms if self.unread else min(first_ms, self._stored_ms)

    @property
    def unread(self) -> bool:
        """Whether it has yet to be looked up what is due on disk: `take` does."""
        return self._stored_ms < 0

    def changed(self, live: LiveDocument) -> None:
        """A command changed this document."""
        due_ms = live.due_ms
        if due_ms is None and not self._known:
            return
        name = (live.id.space, live.id.key)
        if name not in self._busy:
            self._look_at(name, due_ms)

    def _look_at(self, name: Name, due_ms: float | None) -> None:
        if due_ms is None:
            self._known.pop(name, None)
        elif self._known.get(name) != due_ms:
            if not self._known:
                self._known, self._heap = {}, []
            self._known[name] = due_ms
            heapq.heappush(self._heap, (due_ms, *name))
            if len(self._heap) > self._heap_max:
                self._cut()

    def concluded(self, commands: list[Command]) -> None:
        """These were applied, or refused by Raft: what else their documents wait for is looked at again."""
        if not self._busy:
            return
        for command in commands:
            if command.principal != TIME_PRINCIPAL:
                continue
            name = (command.space, command.key)
            left = self._busy.pop(name, 1) - 1
            if left:
                self._busy[name] = left
                continue
            live = self._cache.peek(*name)
            if live is not None:
                self._look_at(name, live.due_ms)

    # -- making commands ---------------------------------------------------------------------------------------------

    def take(self, now_ms: int) -> list[Command]:
        """Commands for what is due at `now_ms`, the shard's time, at most FIRINGS_MAX. Asked before anything is written in a
        turn, so that the index on disk says everything that was ever saved.
        """
        if self.due_ms > now_ms and not self.unread:
            return []
        if self._stored_ms <= now_ms:
            self._read_on(now_ms)
        commands: list[Command] = []
        while self._heap and self._heap[0][0] <= now_ms and len(commands) < FIRINGS_MAX:
            at_ms, *pair = heapq.heappop(self._heap)
            name = (pair[0], pair[1])
            if self._known.get(name) == at_ms:
                del self._known[name]
                commands += self._of(name, now_ms, min(FIRINGS_PER_DOCUMENT, FIRINGS_MAX - len(commands)))
        return commands

    def _of(self, name: Name, now_ms: int, limit: int) -> list[Command]:
        try:
            live = self._cache.find(*name)
        except CodeMissing:
            self._look_at(name, now_ms + LATER_MS)
            return []
        except StorageDamaged as error:
            self.damaged = error.message
            return []
        if live is None or live.instance is None or live.due_ms is None:
            return []
        if live.due_ms > now_ms:
            self._look_at(name, live.due_ms)
            return []
        if name in self._cache.held:
            self._look_at(name, now_ms + LATER_MS)
            return []
        self._cache.read(live)  # this touches it, as reading does: it gets the code that it should have
        commands = [_command(name, live, due.channel, due.payload) for due in live.instance.due(now_ms, limit)]
        if not self._busy:
            self._busy = {}
        self._busy[name] = len(commands)
        return commands

    def _read_on(self, now_ms: int) -> None:
        """Bring what the index says is due into the heap, some of it at a time, and see when there is more."""
        try:
            found = self._cache.due(self._cursor, now_ms, FIRINGS_MAX)
            if len(found) < FIRINGS_MAX:
                ahead = self._cache.due(found[-1] if found else self._cursor, _LAST_MS, 1)
                self._stored_ms = float(due_of(ahead[0])[0]) if ahead else _NEVER
        except StorageDamaged as error:
            self.damaged = error.message
            return
        for stored in found:
            due_ms, document = due_of(stored)
            name = (document.space, document.key)
            if name not in self._known and name not in self._busy:
                self._look_at(name, due_ms)
        if found:
            self._cursor = found[-1]

    def _cut(self) -> None:
        """Keep the heap within its bound: drop what counts no more, and if that is not enough, everything that is written: it
        is read again, from the beginning of the index.
        """
        if 2 * len(self._known) > HEAP_MAX:
            unsaved = self._cache.unsaved
            self._known = {name: at_ms for name, at_ms in self._known.items() if name in unsaved}
            self._cursor, self._stored_ms = b"", -1.0
        self._heap = [(at_ms, *name) for name, at_ms in self._known.items()]
        heapq.heapify(self._heap)
        self._heap_max = max(HEAP_MAX, 2 * len(self._heap))


_LAST_MS = 1 << 62


def _command(name: Name, live: LiveDocument, channel: str, payload: bytes) -> Command:
    kind = CommandKind.ALARM if channel == ALARM_CHANNEL else CommandKind.ANSWER
    return Command(int(kind), *name, channel, payload, TIME_PRINCIPAL, b"", 0, 0, live.code_hash)
