"""How much of a log is kept for followers that are behind. What records still lack is kept in any case."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cluster.ids import LogIndex


@dataclass(frozen=True, slots=True)
class CompactionConfig:
    """When a replica's log is cut.

    every_entries: applied entries between two looks. kept_entries: applied entries kept for followers that are a little behind.
    lagging_entries: a follower further behind than this no longer holds the log; it gets a snapshot.
    """

    every_entries: int = 2048
    kept_entries: int = 1024
    lagging_entries: int = 8192


def safe_floor(
    wanted: LogIndex,
    oldest_unsaved: LogIndex | None,
    followers: Iterable[LogIndex],
    snapshots: Iterable[LogIndex],
    config: CompactionConfig,
) -> LogIndex:
    """How far a log may be cut where `wanted` is asked for.

    oldest_unsaved: first entry that a record still lacks. followers: what each has for certain; those that are absurdly far
    behind get a snapshot and keep nothing. snapshots: where transfers under way end. A follower passes the last two empty.
    """
    floor = min((match for match in followers if match >= wanted - config.lagging_entries), default=wanted)
    floor = min([wanted, floor, *snapshots])
    return floor if oldest_unsaved is None else min(floor, LogIndex(oldest_unsaved - 1))
