"""Where fresh seeds begin.

Anywhere, so that every run of the tests looks at clusters that nobody has seen. On a machine that judges changes (`CI` is
set) the commit names the place: other seeds for every change, and the same verdict whenever one is judged again.
"""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def chance() -> random.Random:
    """What fresh seeds and other choices of a run are drawn from."""
    if os.environ.get("CI"):
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
        if commit:
            return random.Random(commit.strip())
    return random.Random(random.SystemRandom().randrange(1 << 62))


def first_seed() -> int:
    """The first of a run of fresh seeds, far from those that are written down somewhere."""
    return chance().randrange(1_000, 1 << 40)
