"""Documents that come to be because somebody came (`class X(Document, on_missing="create")`): what a shard's leader does.

A message to such a key gets a creation in front of it, in the same entry. A read or a watch waits until one is applied, and is
then served like any other; what the creation ended with is its answer if nothing was created. The creation is a plain logged
CREATE by whoever came, on MISSING_CHANNEL: the constructor runs, and unless the gate admits him then, nothing exists. Of two
that are proposed the second finds the document there.

Invariant: every read that waits here is answered or served exactly once. Only keys that never existed are made: what was
deleted stays so until somebody creates it.
"""

from __future__ import annotations

from collections.abc import Callable

from cluster.documents.runtime import MISSING_CHANNEL
from cluster.empty import NO_ENTRIES
from cluster.errors import DocumentExists, Overloaded
from cluster.session.operations import Failure, Kind, Operation, Reply
from cluster.shard.commands import Command, CommandKind
from cluster.shard.reading import Waiting
from cluster.shard.turn import StreamKey

MISSING_MAX = 4096
"""Reads and watches of a shard that wait for documents to be made."""

NO_PARAMETERS = b"{}"


def creation(space: str, key: str, principal: str, code_hash: bytes) -> Command:
    """The command that makes a document for somebody who came."""
    return Command(CommandKind.CREATE, space, key, MISSING_CHANNEL, NO_PARAMETERS, principal, b"", 0, 0, code_hash)


class Missing:
    """Reads and watches of one shard's leader that wait for a document to be made."""

    __slots__ = ("_by_name", "_count", "_last", "_waiting")

    def __init__(self) -> None:
        self._waiting: dict[int, list[Waiting]] = NO_ENTRIES
        self._by_name: dict[tuple[str, str], int] = NO_ENTRIES
        self._count = 0
        self._last = 0

    def __len__(self) -> int:
        return self._count

    def wait(self, stream: StreamKey, operation: Operation) -> Operation | None:
        """Let a read wait; returns the creation to gather, under an id of its own, or None when one is on its way. Raises
        Overloaded.
        """
        if self._count >= MISSING_MAX:
            raise Overloaded("too many reads wait for documents to be made", retry_after_ms=50, bound="missing_max")
        self._count += 1
        name = (operation.space, operation.key)
        known = self._by_name.get(name)
        if known is not None:
            self._waiting[known].append((stream, operation))
            return None
        if not self._waiting:
            self._waiting, self._by_name = {}, {}
        self._last += 1
        self._waiting[self._last] = [(stream, operation)]
        self._by_name[name] = self._last
        return Operation(self._last, Kind.CREATE.value, *name, operation.principal, MISSING_CHANNEL, NO_PARAMETERS)

    def concluded(self, replies: list[Reply]) -> list[tuple[Waiting, Failure | None]]:
        """What a creation was answered concerns these, removed from here: to be served if there is no failure."""
        found: list[tuple[Waiting, Failure | None]] = []
        for reply in replies:
            waiting = self._waiting.pop(reply.id, None)
            if waiting is None:
                continue
            self._count -= len(waiting)
            self._by_name = {name: known for name, known in self._by_name.items() if known != reply.id}
            failure = reply.failure
            if failure is not None and failure.reason == DocumentExists.reason:
                failure = None  # somebody else made it first
            found += [(read, failure) for read in waiting]
        return found

    def cancel(self, stream: StreamKey, watch: int) -> None:
        """A watch ended before there was anything to watch. Not answered; the creation goes its way."""
        for waiting in self._waiting.values():
            for at, (asker, operation) in enumerate(waiting):
                if operation.kind == Kind.WATCH and operation.id == watch and asker == stream:
                    del waiting[at]
                    self._count -= 1
                    return

    def cancel_streams(self, ended: Callable[[StreamKey], bool]) -> None:
        """All watches of some streams ended."""
        for waiting in self._waiting.values():
            left = [read for read in waiting if read[1].kind != Kind.WATCH or not ended(read[0])]
            self._count -= len(waiting) - len(left)
            waiting[:] = left

    def refuse_all(self) -> list[Waiting]:
        """Leadership ended: everything, removed from here."""
        reads = [read for waiting in self._waiting.values() for read in waiting]
        self._waiting = self._by_name = NO_ENTRIES
        self._count = 0
        return reads
