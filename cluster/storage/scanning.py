"""Reading a range by bytes instead of by count, for whoever fills frames with what is stored."""

from __future__ import annotations

from cluster.storage.engine import Engine, Family

SCAN_PAIRS = 64
"""Pairs asked of the engine at once, so that little is read past the byte limit."""


def scan_bytes(engine: Engine, family: Family, start: bytes, end: bytes, limit_bytes: int) -> list[tuple[bytes, bytes]]:
    """Pairs with start <= key < end in order, stopping after `limit_bytes` of keys and values but never before one pair."""
    found: list[tuple[bytes, bytes]] = []
    size = 0
    while True:
        before = len(found)
        for pair in engine.scan(family, start, end, limit=SCAN_PAIRS):
            size += len(pair[0]) + len(pair[1])
            if found and size > limit_bytes:
                return found
            found.append(pair)
        if len(found) - before < SCAN_PAIRS:
            return found
        start = found[-1][0] + b"\0"
