"""HistoryStore: consecutive commands of a document, by epoch and index; gaps are told, never stepped over."""

from __future__ import annotations

import pytest

from cluster.errors import HistoryTrimmed, InvalidName, StorageDamaged
from cluster.ids import DocumentId, ShardId
from cluster.storage import keys
from cluster.storage.engine import Batch, Engine, Family
from cluster.storage.history import HistoryStore, erase_history
from cluster.storage.memory import MemoryEngine

SHARD = ShardId(3)
LOBBY = DocumentId("chat", "lobby")
Rows = list[tuple[int, int, bytes]]


def append(engine: Engine, history: HistoryStore, document: DocumentId, epoch: int, *rows: tuple[int, int]) -> None:
    batch = Batch()
    for first, count in rows:
        history.append(batch, document, epoch, first, count, b"%d+%d" % (first, count))
    engine.write(batch)


def read(history: HistoryStore, from_index: int, epoch: int = 1, limit: int = 100, document: DocumentId = LOBBY) -> Rows:
    return list(history.read(document, epoch, from_index, limit))


def trim(engine: Engine, history: HistoryStore, before_index: int, epoch: int | None = None) -> None:
    batch = Batch()
    history.trim(batch, LOBBY, before_index, epoch)
    engine.write(batch)


def test_reads_begin_with_the_value_that_holds_the_index(engine: Engine) -> None:
    history = HistoryStore(engine, SHARD)
    append(engine, history, LOBBY, 1, (1, 2), (3, 300), (303, 1))
    everything = [(1, 2, b"1+2"), (3, 300, b"3+300"), (303, 1, b"303+1")]
    assert read(history, 0) == everything
    assert read(history, 1) == everything
    assert read(history, 2) == everything
    assert read(history, 3) == everything[1:]
    assert read(history, 302) == everything[1:]
    assert read(history, 303) == everything[2:]
    assert read(history, 304) == []
    assert read(history, 1, limit=2) == everything[:2]


def test_documents_epochs_and_shards_are_apart(engine: Engine) -> None:
    history = HistoryStore(engine, SHARD)
    append(engine, history, LOBBY, 1, (1, 1))
    append(engine, history, LOBBY, 2, (1, 5))
    append(engine, history, DocumentId("chat", "lobby2"), 1, (1, 7))
    append(engine, history, DocumentId("cha", "tlobby"), 1, (1, 8))
    append(engine, HistoryStore(engine, ShardId(4)), LOBBY, 1, (1, 9))
    assert read(history, 1) == [(1, 1, b"1+1")]
    assert read(history, 1, epoch=2) == [(1, 5, b"1+5")]
    assert read(history, 1, epoch=3) == []


def test_appending_again_in_replay_changes_nothing(engine: Engine) -> None:
    history = HistoryStore(engine, SHARD)
    append(engine, history, LOBBY, 1, (1, 2), (3, 1))
    before = list(engine.scan(Family.HISTORY, b"", b"\xff"))
    append(engine, history, LOBBY, 1, (1, 2), (3, 1))
    assert list(engine.scan(Family.HISTORY, b"", b"\xff")) == before


def test_older_than_kept_is_told_with_the_earliest_index(engine: Engine) -> None:
    history = HistoryStore(engine, SHARD)
    append(engine, history, LOBBY, 1, (1, 2), (3, 2), (5, 2))
    trim(engine, history, 4)
    assert history.earliest_index(LOBBY, 1) == 3
    assert read(history, 3) == [(3, 2, b"3+2"), (5, 2, b"5+2")]
    with pytest.raises(HistoryTrimmed) as told:
        read(history, 1)
    assert told.value.details["earliest"] == "3"


def test_a_gap_left_by_a_snapshot_is_told_and_can_be_filled(engine: Engine) -> None:
    history = HistoryStore(engine, SHARD)
    append(engine, history, LOBBY, 1, (1, 2), (9, 1))
    rows = history.read(LOBBY, 1, 1, 100)
    assert next(rows) == (1, 2, b"1+2")
    with pytest.raises(HistoryTrimmed):
        next(rows)
    append(engine, history, LOBBY, 1, (3, 6))
    assert [row[0] for row in read(history, 1)] == [1, 3, 9]


def test_trim_forgets_older_epochs_whole_and_spares_newer_ones(engine: Engine) -> None:
    history = HistoryStore(engine, SHARD)
    for epoch in (1, 2, 3):
        append(engine, history, LOBBY, epoch, (1, 2), (3, 2))
    trim(engine, history, 3, epoch=2)
    assert [history.earliest_index(LOBBY, epoch) for epoch in (1, 2, 3)] == [None, 3, 1]
    trim(engine, history, 3)
    assert [history.earliest_index(LOBBY, epoch) for epoch in (1, 2, 3)] == [None, None, 3]


def test_trim_and_delete_spare_other_documents(engine: Engine) -> None:
    history, other = HistoryStore(engine, SHARD), DocumentId("chat", "lobby2")
    append(engine, history, LOBBY, 1, (1, 1))
    append(engine, history, other, 1, (1, 1))
    trim(engine, history, 100)
    batch = Batch()
    history.delete(batch, LOBBY)
    history.trim(batch, DocumentId("chat", "never"), 5)
    engine.write(batch)
    assert history.earliest_index(LOBBY, 1) is None
    assert read(history, 1, document=other) == [(1, 1, b"1+1")]


def test_a_whole_history_moves_to_another_node(engine: Engine) -> None:
    history, other = HistoryStore(engine, SHARD), MemoryEngine()
    for name in range(100):
        append(engine, history, DocumentId("chat", f"d{name}"), 1, (1, 2), (3, 1))
    copy, batch, after = HistoryStore(other, ShardId(8)), Batch(), b""
    while page := history.scan_all(after, 500):
        for name_bytes, body in page:
            copy.put_named(batch, name_bytes, body)
        after = page[-1][0]
    other.write(batch)
    for name in range(100):
        assert read(copy, 1, document=DocumentId("chat", f"d{name}")) == [(1, 2, b"1+2"), (3, 1, b"3+1")]


@pytest.mark.parametrize("name", [b"", b"chat\0a" + b"\0" * 12, b"chat\0a\0" + b"\0" * 11, b"\0a\0" + b"\0" * 12])
def test_names_from_other_nodes_are_checked(name: bytes) -> None:
    batch = Batch()
    with pytest.raises(InvalidName):
        HistoryStore(MemoryEngine(), SHARD).put_named(batch, name, b"")
    assert not batch


def test_erase_takes_the_shard_only(engine: Engine) -> None:
    history, neighbour = HistoryStore(engine, SHARD), HistoryStore(engine, ShardId(4))
    append(engine, history, LOBBY, 1, (1, 1))
    append(engine, neighbour, LOBBY, 1, (1, 1))
    batch = Batch()
    erase_history(SHARD, batch)
    engine.write(batch)
    assert (read(history, 1), read(neighbour, 1)) == ([], [(1, 1, b"1+1")])


def test_every_flipped_bit_of_a_value_is_told() -> None:
    engine = MemoryEngine()
    history = HistoryStore(engine, SHARD)
    append(engine, history, LOBBY, 1, (1, 1))
    key = keys.history_entry(keys.history_document(SHARD, LOBBY), 1, 1)
    good = engine.get(Family.HISTORY, key)
    assert good is not None
    for bit in range(8 * len(good)):
        rotten = bytearray(good)
        rotten[bit // 8] ^= 1 << bit % 8
        engine.corrupt(Family.HISTORY, key, bytes(rotten))
        with pytest.raises(StorageDamaged):
            read(history, 1)
