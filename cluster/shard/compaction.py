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


def followers_floor(matches: Iterable[LogIndex], floor: LogIndex, config: CompactionConfig) -> LogIndex:
    """Where a leader that wants to cut at `floor` may: followers that are not absurdly far behind keep the log, others get a
    snapshot.
    """
    return min((match for match in matches if match >= floor - config.lagging_entries), default=floor)
