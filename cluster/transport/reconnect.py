"""When to dial a lost peer again.

The first retry comes quickly because most losses are a restart or a single broken connection, and a refused dial within
50 ms is what fast failover lives on. Growth is jittered so that the nodes of a cluster do not dial one that returns in step.
"""

from __future__ import annotations

import random
from typing import Final

RETRY_FIRST_MS: Final = 50
RETRY_MAX_MS: Final = 1000
STABLE_AFTER_MS: Final = 1000
"""A connection that lived this long proves the peer healthy: its loss starts over with the shortest wait."""


class Reconnect:
    """The waits of one lane. Invariant: 0 <= wait <= RETRY_MAX_MS; never 0 twice without a stable connection between."""

    __slots__ = ("_failures", "_random")

    def __init__(self, source: random.Random) -> None:
        self._random = source
        self._failures = 0

    def after_failure(self) -> int:
        """Milliseconds to wait after a dial that failed or a connection that died young."""
        self._failures += 1
        if self._failures == 1:
            return RETRY_FIRST_MS
        ceiling = min(RETRY_MAX_MS, RETRY_FIRST_MS << min(self._failures - 1, 10))
        return int(ceiling * self._random.uniform(0.6, 1.0))

    def after_loss(self, lived_ms: int) -> int:
        """Milliseconds to wait after an established connection was lost: none if it was stable, for the evidence."""
        if lived_ms < STABLE_AFTER_MS:
            return self.after_failure()
        self._failures = 0
        return 0
