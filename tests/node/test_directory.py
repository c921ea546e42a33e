"""A node's data directory: whose it is, and what becomes of it when its store is damaged as a whole."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cluster.errors import StorageDamaged, WrongCluster
from cluster.ids import NodeId
from cluster.node.directory import DAMAGED, STORE, open_directory
from cluster.pump import facts
from cluster.storage import keys
from cluster.storage.engine import Batch, Family
from cluster.storage.rocks import RocksEngine, RocksSettings

CLUSTER, NODE = b"c" * 16, NodeId("n1")
SETTINGS = RocksSettings(free_bytes_min=0)


def opened(path: Path, *, replaceable: bool = True) -> tuple[RocksEngine, int]:
    engine, identity = open_directory(path, SETTINGS, CLUSTER, NODE, replaceable=replaceable)
    return engine, identity.boot_generation


def boot(path: Path, *, replaceable: bool = True) -> tuple[bytes, int, bool]:
    """Open and close; the directory's name, its boot generation, and whether it is blank."""
    engine, generation = opened(path, replaceable=replaceable)
    found = (facts.own_store(engine, lambda size: b"?" * size), generation, facts.is_blank(engine))
    engine.close()
    return found


def damage_log(path: Path) -> None:
    """Bits flip in the middle of the write-ahead log."""
    engine, _ = opened(path)
    for number in range(50):
        batch = Batch()
        batch.put(Family.RECORDS, b"key%03d" % number, b"value" * 20)
        engine.write(batch)
        engine.sync()
    copy = path.with_name("copy")
    shutil.copytree(path, copy)  # as a kill leaves it: closing would tidy up
    engine.close()
    shutil.rmtree(path)
    copy.rename(path)
    log = max((path / STORE).glob("*.log"))
    data = bytearray(log.read_bytes())
    data[len(data) // 2] ^= 0x40
    log.write_bytes(data)


def test_a_directory_keeps_its_name_and_counts_its_boots(tmp_path: Path) -> None:
    name, first, blank = boot(tmp_path / "d")
    assert boot(tmp_path / "d") == (name, first + 1, False)
    assert not blank


def test_a_damaged_store_is_set_aside_and_the_node_begins_blank_under_its_name_in_a_later_boot(tmp_path: Path) -> None:
    """It must not vote as if it remembered, and need not pass for somebody else (reference trap 11)."""
    path = tmp_path / "d"
    name, before, _ = boot(path)
    damage_log(path)
    again, generation, blank = boot(path)
    assert (again, blank) == (name, True)
    assert generation > before + 1, "no boot generation is used twice"
    assert (path / DAMAGED / "CURRENT").exists(), "nothing is deleted"
    assert boot(path) == (name, generation + 1, True)


def test_a_second_damaged_store_is_for_people(tmp_path: Path) -> None:
    """Each store that is set aside takes room, and a disk that does it twice should not be trusted a third time."""
    path = tmp_path / "d"
    boot(path)
    damage_log(path)
    boot(path)
    damage_log(path)
    with pytest.raises(StorageDamaged, match="move it away"):
        opened(path)
    shutil.rmtree(path / DAMAGED)
    assert boot(path)[2]


def test_where_nobody_else_has_what_is_lost_damage_stays_an_error(tmp_path: Path) -> None:
    path = tmp_path / "d"
    boot(path)
    damage_log(path)
    with pytest.raises(StorageDamaged):
        opened(path, replaceable=False)
    assert not (path / DAMAGED).exists()


def test_what_the_node_remembers_of_itself_and_its_peers_is_part_of_the_store(tmp_path: Path) -> None:
    """Peers whose directories it no longer knows could be anybody."""
    path = tmp_path / "d"
    engine, _ = opened(path)
    batch = Batch()
    facts.remember_store(batch, NodeId("n2"), b"x" * 16)
    key = next(key for _, key, _, _ in batch.operations)
    batch.put(Family.META, key, b"rotten")
    engine.write(batch)
    engine.close()
    assert boot(path)[2]


@pytest.mark.parametrize("crash_after", ["set aside", "empty store", "marked blank"])
def test_beginning_anew_that_was_interrupted_is_done_again(tmp_path: Path, crash_after: str) -> None:
    path = tmp_path / "d"
    name, generation, _ = boot(path)
    (path / STORE).rename(path / DAMAGED)
    if crash_after != "set aside":
        engine = RocksEngine.open(path / STORE, SETTINGS)
        if crash_after == "marked blank":
            facts.start_over(engine, name)
        engine.close()
    assert boot(path) == (name, generation + 1, True)


def test_a_wiped_directory_has_another_name_and_is_not_blank(tmp_path: Path) -> None:
    """Decision 0010: nothing tells it from a new one, so peers must."""
    path = tmp_path / "d"
    name, _, _ = boot(path)
    shutil.rmtree(path)
    again, generation, blank = boot(path)
    assert again != name
    assert (generation, blank) == (1, False)


def test_another_nodes_identity_is_no_excuse_for_an_empty_store(tmp_path: Path) -> None:
    path = tmp_path / "d"
    boot(path)
    with pytest.raises(WrongCluster):
        open_directory(path, SETTINGS, CLUSTER, NodeId("n2"), replaceable=True)
    shutil.rmtree(path / STORE)
    engine, identity = open_directory(path, SETTINGS, CLUSTER, NodeId("n2"), replaceable=True)
    assert not facts.is_blank(engine)
    assert identity.boot_generation == 1
    engine.close()


def test_a_log_that_ends_cleanly_below_what_was_durable_is_damage(tmp_path: Path) -> None:
    """Reference traps 11 and 14: such an end looks like one that a crash tore, and votes may have been behind it."""
    path = tmp_path / "store"
    engine = RocksEngine.open(path, SETTINGS)
    ends = []
    for number in range(40):
        batch = Batch()
        batch.put(Family.META, keys.shard_meta(1, number % 3 + 1), b"vote %d" % number)  # type: ignore[arg-type]
        engine.write(batch)
        engine.sync()
        ends.append(max(path.glob("*.log")).stat().st_size)
    copy = tmp_path / "copy"
    shutil.copytree(path, copy)
    engine.close()
    whole = RocksEngine.open(Path(shutil.copytree(copy, tmp_path / "whole")), SETTINGS)
    whole.close()
    for cut in (ends[-2], ends[20], ends[0]):
        short = Path(shutil.copytree(copy, tmp_path / f"short-{cut}"))
        log = max(short.glob("*.log"))
        log.write_bytes(log.read_bytes()[:cut])
        with pytest.raises(StorageDamaged, match="was durable"):
            RocksEngine.open(short, SETTINGS)
