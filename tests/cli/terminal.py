"""Runs `moot` as people and programs do: as a process of its own, or, where nothing depends on that, in this one."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from cluster.cli.app import app

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


def called(*arguments: str, cwd: Path, stdin: str = "", **variables: str) -> Finished:
    """The same command inside of this process, for tests that are not about processes: it costs no start of an interpreter.

    Not while an event loop runs here: commands run their own. Text is wrapped at the width that this process found, so
    sentences are looked for without --json in `moot` only.
    """
    kept: dict[str, str | None] = {name: None for name in os.environ if name.startswith("MOOT_")}
    with contextlib.chdir(cwd):
        done = CliRunner().invoke(app, arguments, input=stdin, env={**kept, **variables})
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert "Traceback" not in done.stderr, done.stderr
    return Finished(done.exit_code, done.stdout, done.stderr)
