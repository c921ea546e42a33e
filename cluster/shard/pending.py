"""Which handlers something pending names, in one shard: what new code may not lose.

Invariant: a handler that some living document of the shard has armed is found, unless there is more to look at than the bound;
then `complete` is False and nobody may conclude that a handler is free. Only for a leader, for operators, and rare: it reads
records.
"""

from __future__ import annotations

from dataclasses import dataclass

from cluster.documents.armed import waits_of
from cluster.shard.cache import DocumentCache
from cluster.shard.document import decode_record
from cluster.storage.keys import due_of

LOOKED_AT_MAX = 10_000
PAGE = 256
_LAST_MS = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Pending:
    """handlers: names of those that are armed, of those that were asked about. complete: whether all documents were
    looked at.
    """

    handlers: frozenset[str]
    complete: bool


def pending(cache: DocumentCache, space: str, wanted: frozenset[str]) -> Pending:
    """Which of these handlers the documents of a space have armed. Raises StorageDamaged."""
    found: set[str] = set()
    in_memory = set()
    for live in cache.living():
        if live.id.space == space:
            in_memory.add(live.id)
            if live.due_ms is not None and live.instance is not None:
                found |= wanted & waits_of(live.instance.dump()).handlers
    after = b""
    looked_at = 0
    while found != wanted:
        names = cache.due(after, _LAST_MS, PAGE)
        for name in names:
            _, document = due_of(name)
            if document.space == space and document not in in_memory:
                looked_at += 1
                body = cache.stored(document)
                found |= wanted & waits_of(decode_record(body).state).handlers if body is not None else frozenset()
        if len(names) < PAGE:
            return Pending(frozenset(found), True)
        if looked_at >= LOOKED_AT_MAX:
            return Pending(frozenset(found), False)
        after = names[-1]
    return Pending(frozenset(found), True)
