"""Layout version and node identity: refused before anything is touched, counted before anything is used."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from cluster.errors import DirectoryInUse, FormatTooNew, StorageDamaged, WrongCluster
from cluster.ids import NodeId
from cluster.storage import keys
from cluster.storage.engine import Batch, Engine, Family
from cluster.storage.format import FORMAT_VERSION, begin_boot, ensure_format, load_identity
from cluster.storage.memory import MemoryEngine
from cluster.storage.rocks import FORMAT_FILE, OWNER_FILE, RocksEngine

CLUSTER = b"c" * 16


def snapshot_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def test_an_empty_engine_is_marked_with_this_format_durably() -> None:
    engine = MemoryEngine()
    ensure_format(engine)
    found = engine.crash()
    assert found.get(Family.META, keys.META_FORMAT) is not None
    ensure_format(found)


def test_content_without_a_version_is_damage(engine: Engine) -> None:
    batch = Batch()
    batch.delete(Family.META, keys.META_FORMAT)
    batch.put(Family.LOG, b"k", b"v")
    engine.write(batch)
    with pytest.raises(StorageDamaged):
        ensure_format(engine)


def test_a_newer_format_in_meta_is_refused_with_nothing_changed() -> None:
    engine, batch = MemoryEngine(), Batch()
    body = msgspec.msgpack.encode(FORMAT_VERSION + 1)
    batch.put(Family.META, keys.META_FORMAT, keys.seal(Family.META, keys.META_FORMAT, body))
    engine.write(batch)
    written = engine.batches_written
    with pytest.raises(FormatTooNew):
        ensure_format(engine)
    assert engine.batches_written == written


def test_a_newer_directory_is_refused_before_any_file_is_touched(tmp_path: Path) -> None:
    RocksEngine.open(tmp_path).close()
    (tmp_path / FORMAT_FILE).write_text(f"{FORMAT_VERSION + 1}\n")
    before = snapshot_of(tmp_path)
    with pytest.raises(FormatTooNew):
        RocksEngine.open(tmp_path)
    assert snapshot_of(tmp_path) == before


@pytest.mark.parametrize("text", ["", "one", "-1", "\x00"])
def test_a_garbled_format_file_is_damage(tmp_path: Path, text: str) -> None:
    RocksEngine.open(tmp_path).close()
    (tmp_path / FORMAT_FILE).write_text(text)
    with pytest.raises(StorageDamaged):
        RocksEngine.open(tmp_path)


def test_a_vanished_database_is_damage_and_not_a_new_node(tmp_path: Path) -> None:
    """Trap 11: a wiped node under an old name must not look like a fresh one."""
    RocksEngine.open(tmp_path).close()
    for path in tmp_path.iterdir():
        if path.name not in (FORMAT_FILE, OWNER_FILE):
            path.unlink()
    with pytest.raises(StorageDamaged):
        RocksEngine.open(tmp_path)


def test_a_creation_that_was_cut_short_is_finished(tmp_path: Path) -> None:
    RocksEngine.open(tmp_path).close()
    (tmp_path / FORMAT_FILE).unlink()
    RocksEngine.open(tmp_path).close()
    assert (tmp_path / FORMAT_FILE).read_text() == f"{FORMAT_VERSION}\n"


def test_two_users_of_one_directory_are_a_typed_error(tmp_path: Path) -> None:
    first = RocksEngine.open(tmp_path)
    with pytest.raises(DirectoryInUse):
        RocksEngine.open(tmp_path)
    first.close()
    RocksEngine.open(tmp_path).close()


def test_the_boot_generation_rises_durably_with_each_boot() -> None:
    engine = MemoryEngine()
    for boot in (1, 2, 3):
        identity = begin_boot(engine, CLUSTER, NodeId("n1"))
        assert (identity.cluster_id, identity.node_id, identity.boot_generation) == (CLUSTER, "n1", boot)
        engine = engine.crash()
        assert load_identity(engine) == identity


def test_a_directory_of_another_cluster_or_node_is_refused(engine: Engine) -> None:
    assert load_identity(engine) is None
    mine = begin_boot(engine, CLUSTER, NodeId("n1"))
    with pytest.raises(WrongCluster):
        begin_boot(engine, b"d" * 16, NodeId("n1"))
    with pytest.raises(WrongCluster):
        begin_boot(engine, CLUSTER, NodeId("n2"))
    assert load_identity(engine) == mine


def test_a_damaged_identity_is_told() -> None:
    engine = MemoryEngine()
    begin_boot(engine, CLUSTER, NodeId("n1"))
    value = bytearray(engine.get(Family.META, keys.META_IDENTITY) or b"")
    value[-1] ^= 1
    engine.corrupt(Family.META, keys.META_IDENTITY, bytes(value))
    with pytest.raises(StorageDamaged):
        begin_boot(engine, CLUSTER, NodeId("n1"))
