"""Runs `moot` as people and programs do: as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 90


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON value that --json promises."""
        return json.loads(self.out)


def environment(**more: str) -> dict[str, str]:
    """Ours without MOOT_*, with this checkout on the path and a terminal of a known width."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MOOT_")}
    return {**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "120", "NO_COLOR": "1", **more}


def moot(*arguments: str, cwd: Path, stdin: str = "", **variables: str) -> Finished:
    """`moot ARGUMENTS` in a directory, to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "cluster", *arguments],
        cwd=cwd,
        env=environment(**variables),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Finished(done.returncode, done.stdout, done.stderr)
