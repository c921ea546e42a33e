"""BundleStore: a name is the hash of what it names, on the way in and on the way out."""

from __future__ import annotations

from hashlib import blake2b

import pytest

from cluster.errors import InvalidBundle, StorageDamaged
from cluster.storage.bundles import BundleStore, bundle_hash
from cluster.storage.engine import Batch, Engine, Family
from cluster.storage.memory import MemoryEngine


def test_a_bundle_comes_back_by_its_hash_until_it_is_deleted(engine: Engine) -> None:
    store, batch = BundleStore(engine), Batch()
    bodies = [b"code %d" % number for number in range(3)]
    for body in bodies:
        store.put(batch, bundle_hash(body), body)
    engine.write(batch)
    assert [store.get(bundle_hash(body)) for body in bodies] == bodies
    assert list(store.hashes()) == sorted(map(bundle_hash, bodies))
    batch.clear()
    store.delete(batch, bundle_hash(bodies[0]))
    engine.write(batch)
    assert store.get(bundle_hash(bodies[0])) is None


def test_the_hash_is_blake2b_256() -> None:
    assert bundle_hash(b"code") == blake2b(b"code", digest_size=32).digest()


def test_a_bundle_under_a_wrong_hash_is_refused_and_the_batch_untouched() -> None:
    batch = Batch()
    with pytest.raises(InvalidBundle):
        BundleStore(MemoryEngine()).put(batch, bundle_hash(b"other"), b"code")
    assert not batch


def test_a_rotten_bundle_is_told() -> None:
    engine, batch = MemoryEngine(), Batch()
    store = BundleStore(engine)
    store.put(batch, bundle_hash(b"code"), b"code")
    engine.write(batch)
    engine.corrupt(Family.BUNDLES, bundle_hash(b"code"), b"cude")
    with pytest.raises(StorageDamaged):
        store.get(bundle_hash(b"code"))
