"""What all suites share: Hypothesis profiles and a closing table of where the time went."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import PurePosixPath

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("default"), derandomize=True, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "default"))

_seconds: defaultdict[str, float] = defaultdict(float)
_counts: defaultdict[str, int] = defaultdict(int)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    parts = PurePosixPath(report.nodeid.partition("::")[0]).parts
    suite = "/".join(parts[:2])
    _seconds[suite] += report.duration
    _counts[suite] += report.when == "call"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if len(_seconds) < 2:
        return
    total = sum(_seconds.values())
    terminalreporter.section("time per suite")
    for suite, seconds in sorted(_seconds.items(), key=lambda pair: -pair[1]):
        terminalreporter.write_line(f"{suite:<28}{_counts[suite]:>6} tests {seconds:>8.1f} s {seconds / total:>6.0%}")
