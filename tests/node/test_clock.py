"""The clock of a node."""

from __future__ import annotations

import sys
import time

import pytest

from cluster.node.loop import monotonic_ms


def test_time_never_falls() -> None:
    read = [monotonic_ms() for _ in range(1_000)]
    assert read == sorted(read)
    assert read[-1] > read[0]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no clock of this name")
def test_time_goes_on_while_the_machine_sleeps() -> None:
    """Reference trap 37: a lease, or a quorum's last answer, must look as old as it is."""
    before = time.clock_gettime(time.CLOCK_BOOTTIME) * 1000
    now = monotonic_ms()
    assert before <= now <= time.clock_gettime(time.CLOCK_BOOTTIME) * 1000
