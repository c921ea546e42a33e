"""What all suites share: Hypothesis profiles, kept modules, an order that suits several workers, a table of where time went."""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from itertools import chain, zip_longest
from pathlib import PurePosixPath

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("default"), derandomize=True, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "default"))

COMPUTE, WAIT = "tests/simulation", ("tests/end_to_end", "tests/cli")
"""Long suites: one that keeps a core busy, and two that mostly wait for the processes of a cluster."""

# Container images like to forbid that compiled modules are kept. Then each of the hundreds of nodes and commands that tests
# start would compile the whole package anew, which takes longer than all else that it does until it serves.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

_seconds: defaultdict[str, float] = defaultdict(float)
_counts: defaultdict[str, int] = defaultdict(int)


def suite_of(node: str) -> str:
    """The layer that a test belongs to, from its node id."""
    return "/".join(PurePosixPath(node.partition("::")[0]).parts[:2])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long suites come first, and those that compute beside those that wait: workers take one file after the other."""
    files: defaultdict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        files[item.nodeid.partition("::")[0]].append(item)
    computing = [name for name in files if suite_of(name) == COMPUTE]
    waiting = [name for name in files if suite_of(name) in WAIT]
    others = [name for name in files if suite_of(name) not in (COMPUTE, *WAIT)]
    computing.sort(key=lambda name: -len(files[name]))
    waiting.sort(key=lambda name: WAIT.index(suite_of(name)))
    beside = chain.from_iterable(zip_longest(computing, waiting, fillvalue=""))
    items[:] = chain.from_iterable(files[name] for name in (*beside, *others) if name)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    suite = suite_of(report.nodeid)
    _seconds[suite] += report.duration
    _counts[suite] += report.when == "call"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if len(_seconds) < 2:
        return
    total = sum(_seconds.values())
    terminalreporter.section("time per suite")
    for suite, seconds in sorted(_seconds.items(), key=lambda pair: -pair[1]):
        terminalreporter.write_line(f"{suite:<28}{_counts[suite]:>6} tests {seconds:>8.1f} s {seconds / total:>6.0%}")
