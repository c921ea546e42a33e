"""A document's place in the key-hash space. The function is part of the on-disk and on-wire format: it never changes."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b

HASH_SPACE = 1 << 32


@lru_cache(maxsize=65536)
def key_hash(space: str, key: str) -> int:
    """Hash of (space, key) in [0, 2**32): the first 4 bytes, big-endian, of BLAKE2b over `space NUL key` in UTF-8."""
    return int.from_bytes(blake2b(f"{space}\0{key}".encode(), digest_size=4).digest(), "big")
