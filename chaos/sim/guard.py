"""While a simulation runs, everything that would make it differ from its replay raises.

Linters keep clocks and sockets out of the pure layers; this finds what reaches them by a way that no linter sees. Other threads
of the process (a progress bar) are left alone.
"""

from __future__ import annotations

import os
import random
import secrets
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

AMBIENT: tuple[tuple[Any, str], ...] = (
    *((time, name) for name in ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "sleep")),
    *(
        (random, name)
        for name in ("random", "randint", "randrange", "choice", "choices", "sample", "shuffle", "uniform", "getrandbits")
    ),
    (random, "randbytes"),
    (random, "seed"),
    (os, "urandom"),
    (secrets, "token_bytes"),
    (uuid, "uuid1"),
    (uuid, "uuid4"),
    (socket, "socket"),
    (socket, "create_connection"),
    (threading.Thread, "start"),
)
"""What is forbidden: (where, name)."""


class AmbientAccess(BaseException):
    """Simulated code asked the real world for something. Not an Exception: nothing may swallow it."""


@contextmanager
def sealed() -> Iterator[None]:
    """Forbid AMBIENT to this thread."""
    owner = threading.get_ident()
    kept = [(place, name, getattr(place, name)) for place, name in AMBIENT]

    def forbid(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def raising(*arguments: Any, **options: Any) -> Any:
            if threading.get_ident() != owner:
                return original(*arguments, **options)
            raise AmbientAccess(f"{name} was used inside a simulation")

        return raising

    for place, name, original in kept:
        setattr(place, name, forbid(f"{getattr(place, '__name__', place)}.{name}", original))
    try:
        yield
    finally:
        for place, name, original in kept:
            setattr(place, name, original)
