"""How far a log may be cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cluster.ids import LogIndex
from cluster.shard.compaction import CompactionConfig, safe_floor

INDEX = st.integers(1, 1_000).map(LogIndex)


@given(INDEX, st.none() | INDEX, st.lists(INDEX, max_size=6), st.lists(INDEX, max_size=4), st.integers(0, 300))
def test_a_log_is_cut_as_far_as_nothing_needs_it_and_no_further(
    wanted: LogIndex, unsaved: LogIndex | None, followers: list[LogIndex], snapshots: list[LogIndex], lagging: int
) -> None:
    """Reference trap 49: whoever truncates asks for all of it."""
    floor = safe_floor(wanted, unsaved, followers, snapshots, CompactionConfig(lagging_entries=lagging))
    near = [match for match in followers if match >= wanted - lagging]
    bounds = [wanted, *near, *snapshots, *([] if unsaved is None else [unsaved - 1])]
    assert all(floor <= bound for bound in bounds)
    assert floor in bounds, "one of them is the reason"


@given(INDEX, st.lists(INDEX, min_size=1, max_size=6))
def test_a_follower_past_the_bound_holds_nothing(wanted: LogIndex, followers: list[LogIndex]) -> None:
    far = [LogIndex(wanted - 51 - match) for match in followers]
    assert safe_floor(wanted, None, far, [], CompactionConfig(lagging_entries=50)) == wanted
