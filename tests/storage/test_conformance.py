"""What every engine owes its users (cluster/storage/engine.py), checked alike on all of them."""

from __future__ import annotations

import threading

import pytest

from cluster.errors import StorageError
from cluster.storage.engine import Batch, Engine, Family

LAST = b"\xff" * 8


def write(engine: Engine, *puts: tuple[Family, bytes, bytes]) -> None:
    batch = Batch()
    for family, key, value in puts:
        batch.put(family, key, value)
    engine.write(batch)


def fill(engine: Engine, keys: list[bytes]) -> None:
    write(engine, *((Family.LOG, key, b"value of " + key) for key in keys))


def listed(engine: Engine, start: bytes = b"", end: bytes = LAST, **how: bool | int) -> list[bytes]:
    return [key for key, _ in engine.scan(Family.LOG, start, end, **how)]  # type: ignore[arg-type]


def test_a_key_never_written_is_none(engine: Engine) -> None:
    assert engine.get(Family.META, b"nothing") is None


def test_a_written_value_is_visible_at_once_without_sync(engine: Engine) -> None:
    write(engine, (Family.META, b"k", b"v"))
    assert engine.get(Family.META, b"k") == b"v"


def test_an_empty_value_is_a_value(engine: Engine) -> None:
    write(engine, (Family.META, b"k", b""))
    assert engine.get(Family.META, b"k") == b""


def test_families_do_not_share_keys(engine: Engine) -> None:
    write(engine, *((family, b"k", family.value.encode()) for family in Family))
    assert {family: engine.get(family, b"k") for family in Family} == {f: f.value.encode() for f in Family}


def test_operations_of_a_batch_apply_in_their_order(engine: Engine) -> None:
    batch = Batch()
    batch.put(Family.LOG, b"a", b"1")
    batch.delete_range(Family.LOG, b"a", b"c")
    batch.put(Family.LOG, b"b", b"2")
    batch.put(Family.LOG, b"c", b"3")
    batch.delete(Family.LOG, b"c")
    engine.write(batch)
    assert listed(engine) == [b"b"]


def test_a_batch_can_be_cleared_and_used_again(engine: Engine) -> None:
    batch = Batch()
    batch.put(Family.LOG, b"a", b"1")
    engine.write(batch)
    batch.clear()
    batch.put(Family.LOG, b"b", b"2")
    engine.write(batch)
    assert listed(engine) == [b"a", b"b"]


def test_scan_is_in_byte_order_and_half_open(engine: Engine) -> None:
    fill(engine, [b"b", b"a", b"\xfe", b"a\x00", b"c"])
    assert listed(engine) == [b"a", b"a\x00", b"b", b"c", b"\xfe"]
    assert listed(engine, b"a\x00", b"c") == [b"a\x00", b"b"]
    assert listed(engine, b"c", b"b") == []


def test_scan_takes_limit_and_direction(engine: Engine) -> None:
    fill(engine, [b"a", b"b", b"c", b"d"])
    assert listed(engine, limit=2) == [b"a", b"b"]
    assert listed(engine, limit=0) == []
    assert listed(engine, reverse=True) == [b"d", b"c", b"b", b"a"]
    assert listed(engine, b"a", b"d", limit=2, reverse=True) == [b"c", b"b"]


def test_scan_shows_the_moment_of_the_call(engine: Engine) -> None:
    fill(engine, [b"a", b"b"])
    pairs = engine.scan(Family.LOG, b"", LAST)
    batch = Batch()
    batch.delete_range(Family.LOG, b"", LAST)
    batch.put(Family.LOG, b"c", b"late")
    engine.write(batch)
    assert [key for key, _ in pairs] == [b"a", b"b"]
    assert listed(engine) == [b"c"]


def test_an_abandoned_scan_does_not_keep_the_engine_from_closing(engine: Engine) -> None:
    fill(engine, [b"a", b"b"])
    assert next(engine.scan(Family.LOG, b"", LAST))[0] == b"a"
    engine.close()


def test_delete_range_spares_its_end_and_other_families(engine: Engine) -> None:
    fill(engine, [b"a", b"b", b"c"])
    write(engine, (Family.META, b"b", b"kept"))
    batch = Batch()
    batch.delete_range(Family.LOG, b"a", b"c")
    batch.delete_range(Family.LOG, b"z", b"c")
    engine.write(batch)
    assert listed(engine) == [b"c"]
    assert engine.get(Family.META, b"b") == b"kept"


def test_an_empty_batch_and_a_sync_without_writes_are_fine(engine: Engine) -> None:
    engine.write(Batch())
    engine.sync()
    assert listed(engine) == []


def test_sync_runs_in_another_thread_while_the_owner_writes_and_reads(engine: Engine) -> None:
    def sync_often() -> None:
        for _ in range(50):
            engine.sync()

    syncing = threading.Thread(target=sync_often)
    syncing.start()
    for number in range(300):
        key = number.to_bytes(4, "big")
        write(engine, (Family.LOG, key, key))
        assert engine.get(Family.LOG, key) == key
    syncing.join(timeout=30)
    assert not syncing.is_alive()
    assert len(listed(engine)) == 300


def test_a_closed_engine_refuses_everything(engine: Engine) -> None:
    engine.close()
    for use in (
        lambda: engine.get(Family.LOG, b"a"),
        lambda: engine.scan(Family.LOG, b"", LAST),
        lambda: engine.write(Batch()),
        engine.sync,
    ):
        with pytest.raises(StorageError):
            use()
    engine.close()
