"""Deployed code by its content: hash -> bytes.

Invariant: what is stored or returned under a hash has that hash (BLAKE2b-256). Nothing else is known of a bundle here, and
who still needs one is for the owner to know.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b

from cluster.errors import InvalidBundle, StorageDamaged
from cluster.storage.engine import Batch, Engine, Family

HASH_BYTES = 32
_BUNDLES = Family.BUNDLES


def bundle_hash(body: bytes) -> bytes:
    """BLAKE2b-256, the name of a bundle."""
    return blake2b(body, digest_size=HASH_BYTES).digest()


class BundleStore:
    """The bundles kept on this node."""

    __slots__ = ("_engine",)

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def put(self, batch: Batch, code_hash: bytes, body: bytes) -> None:
        """Keep a bundle. Raises InvalidBundle, with the batch untouched, when it does not have this hash."""
        if bundle_hash(body) != code_hash:
            raise InvalidBundle(f"bundle does not have the hash {code_hash.hex()}", code_hash=code_hash.hex())
        batch.put(_BUNDLES, code_hash, body)

    def get(self, code_hash: bytes) -> bytes | None:
        """A bundle, None when it is not here. Raises StorageDamaged when its bytes no longer have the hash."""
        body = self._engine.get(_BUNDLES, code_hash)
        if body is not None and bundle_hash(body) != code_hash:
            raise StorageDamaged(f"bundle {code_hash.hex()} does not have its hash", family=_BUNDLES.value)
        return body

    def hashes(self) -> Iterator[bytes]:
        """Names of all bundles kept, in order."""
        for key, _ in self._engine.scan(_BUNDLES, b"", b"\xff" * (HASH_BYTES + 1)):
            yield key

    def delete(self, batch: Batch, code_hash: bytes) -> None:
        """Forget a bundle."""
        batch.delete(_BUNDLES, code_hash)
