"""Numbers out of range are refused before anything runs with them."""

from __future__ import annotations

import pytest

from cluster.errors import ConfigurationInvalid
from cluster.raft.config import RaftConfig


def test_defaults_leave_ten_heartbeats_to_an_election_timeout() -> None:
    """Paper 5.6: broadcast time is far below the election timeout."""
    config = RaftConfig()
    assert config.election_timeout_ms_min >= 10 * 100
    assert config.election_timeout_ms_max == 2 * config.election_timeout_ms_min


@pytest.mark.parametrize(
    "numbers",
    [
        {"election_timeout_ms_min": 9.0},
        {"election_timeout_ms_min": 2_000.0},
        {"stagger_ms": 0.0},
        {"resend_timeout_ms": 0.0},
        {"resend_timeout_ms": 1_000.0},
        {"snapshot_retry_ms": 0.0},
        {"append_bytes_max": 0},
        {"window_appends": 0},
        {"window_appends": 65},
        {"window_bytes_max": 1_000},
        {"inflight_bytes_max": 1_000},
        {"uncommitted_bytes_max": 0},
        {"promotion_lag_entries": -1},
        {"overloaded_retry_ms": 0},
        {"tail_bytes_max": -1},
        {"reads_pending_max": 0},
    ],
)
def test_number_out_of_range_is_refused(numbers: dict[str, float]) -> None:
    with pytest.raises(ConfigurationInvalid):
        RaftConfig(**numbers)  # type: ignore[arg-type]
