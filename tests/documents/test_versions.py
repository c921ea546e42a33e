"""The same command comes to the same outcome, state and steps under every supported Python and every hash seed."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

SCRIPTS = ("outcomes.py", "sights.py", "asked.py")
SUPPORTED = ("python3.11", "python3.12", "python3.13")


def outcomes(python: str, **environment: str) -> list[str]:
    """What the tables of handlers and of random commands come to under one interpreter: states, steps, views and patches."""
    lines = []
    for script in SCRIPTS:
        path = str(pathlib.Path(__file__).with_name(script))
        done = subprocess.run(
            [python, path], env=os.environ | environment, capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, done.stderr
        lines += done.stdout.splitlines()
    return lines


@pytest.fixture(scope="module")
def expected() -> list[str]:
    return outcomes(sys.executable, PYTHONHASHSEED="0")


def others() -> list[str]:
    """Interpreters beside this one: MOOT_TEST_PYTHONS (separated as PATH is), else those of the supported names on PATH."""
    named = os.environ.get("MOOT_TEST_PYTHONS")
    if named:
        return named.split(os.pathsep)
    own = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return [name for name in SUPPORTED if name != own]


def test_outcomes_do_not_depend_on_the_hash_seed_or_the_interpreters_limits(expected: list[str]) -> None:
    """Sets in hash order, and PYTHONINTMAXSTRDIGITS, would make replicas differ."""
    assert len(expected) > 500
    assert outcomes(sys.executable, PYTHONHASHSEED="4711", PYTHONINTMAXSTRDIGITS="640") == expected


@pytest.mark.parametrize("python", others())
def test_outcomes_and_steps_are_equal_under_another_python(expected: list[str], python: str) -> None:
    found = shutil.which(python)
    if found is None:
        pytest.skip(f"{python} is not installed here; name interpreters that have msgspec in MOOT_TEST_PYTHONS")
    ready = subprocess.run([found, "-c", "import msgspec"], capture_output=True, text=True, timeout=30, check=False)
    if ready.returncode != 0:
        pytest.skip(f"{python} has no msgspec; name interpreters that have it in MOOT_TEST_PYTHONS")
    assert outcomes(found) == expected
