"""Names of sessions: 16 bytes that carry the time of their making (UUID version 7, RFC 9562 5.7).

The time is what lets a document forget: a table that has dropped its oldest sessions refuses whatever is that old and unknown
instead of running it a second time. So the time is part of the contract, and a name from the future would make a table forget
everybody else's: the edge checks it on the way in.
"""

from __future__ import annotations

from cluster.errors import InvalidRequest

IDENTITY_BYTES = 16
TIME_BYTES = 6
RANDOM_BYTES = IDENTITY_BYTES - TIME_BYTES
AHEAD_MS_MAX = 5_000
"""How far a client's clock may be ahead of the gateway's. When a document forgets a session, those made before it are refused,
so this is also how long a client with a correct clock can be held up by one whose clock is ahead."""


def new_identity(now_ms: int, random_bytes: bytes) -> bytes:
    """A fresh name made at `now_ms` (Unix milliseconds) from 10 random bytes."""
    assert len(random_bytes) == RANDOM_BYTES
    assert 0 <= now_ms < 1 << 48
    rest = bytearray(random_bytes)
    rest[0] = 0x70 | rest[0] & 0x0F
    rest[2] = 0x80 | rest[2] & 0x3F
    return now_ms.to_bytes(TIME_BYTES, "big") + bytes(rest)


def check_identity(what: str, identity: bytes, now_ms: int) -> None:
    """Raise InvalidRequest unless these are 16 bytes in the form of a UUID version 7 whose time is not ahead of `now_ms`."""
    if len(identity) != IDENTITY_BYTES or identity[6] >> 4 != 7 or identity[8] >> 6 != 2:
        raise InvalidRequest(f"{what} must be the 16 bytes of a UUID version 7, got {len(identity)} bytes")
    made_ms = int.from_bytes(identity[:TIME_BYTES], "big")
    if made_ms > now_ms + AHEAD_MS_MAX:
        raise InvalidRequest(f"{what} is {made_ms - now_ms} ms ahead of this node's clock", ahead_ms=made_ms - now_ms)
