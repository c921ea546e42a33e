"""One seed, and from it one stream of random numbers for each concern.

Invariant: what a stream gives depends on the seed and its own name only, so taking a fault away, or asking one concern for
more, leaves the others as they were. That is what makes a failing seed shrink.
"""

from __future__ import annotations

import random


class Streams:
    """Named random streams of one seed."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._streams: dict[str, random.Random] = {}

    def named(self, name: str) -> random.Random:
        """The stream of that name, made at first use."""
        stream = self._streams.get(name)
        if stream is None:
            # A string is hashed by SHA-512 (random.Random.seed, version 2), so it does not depend on PYTHONHASHSEED.
            stream = self._streams[name] = random.Random(f"{self._seed}/{name}")
        return stream
