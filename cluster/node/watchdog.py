"""Ends the process when one command runs far longer than any legal budget: the only thing that can, since it holds the loop.

A thread looks a few times within the limit whether the running note is still the same. Ending the process counts against
the command (see `marker.py`), so a command that hangs twice is isolated and everything else goes on.
"""

from __future__ import annotations

import logging
import os
import threading
import time

from cluster.node.marker import PageMarker

EXIT_CODE = 87
_log = logging.getLogger(__name__)


class Watchdog:
    """limit_ms: wall-clock time that one command may take."""

    def __init__(self, marker: PageMarker, limit_ms: int) -> None:
        self._marker = marker
        self._limit_ms = limit_ms
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(timeout=1)

    def _watch(self) -> None:
        seen, since_ms = -1, 0.0
        while not self._stopped.wait(self._limit_ms / 4000):
            now_ms = time.monotonic() * 1000
            noted = self._marker.noted if self._marker.active else -1
            if noted != seen:
                seen, since_ms = noted, now_ms
            elif noted >= 0 and now_ms - since_ms > self._limit_ms:
                shard, index, offset = self._marker.running()
                _log.critical("command %d of entry %d of shard %d ran longer than %d ms", offset, index, shard, self._limit_ms)
                os._exit(EXIT_CODE)
