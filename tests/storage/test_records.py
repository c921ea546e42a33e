"""RecordStore: one value per document and generation, in key order, whole or not at all."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import InvalidName, StorageDamaged
from cluster.ids import DocumentId, ShardId
from cluster.storage import keys
from cluster.storage.engine import Batch, Engine, Family
from cluster.storage.memory import MemoryEngine
from cluster.storage.records import RecordStore, erase_records

SHARD = ShardId(3)


def put(engine: Engine, store: RecordStore, generation: int, *addresses: str) -> None:
    batch = Batch()
    for address in addresses:
        store.put(batch, generation, DocumentId.parse(address), b"body of " + address.encode())
    engine.write(batch)


def listed(store: RecordStore, space: str, prefix: str = "", after: str | None = None, limit: int = 100) -> list[str]:
    return [key for key, _ in store.scan(0, space, prefix, after, limit)]


def test_a_record_comes_back_under_its_generation_only(engine: Engine) -> None:
    store = RecordStore(engine, SHARD)
    put(engine, store, 0, "chat/lobby")
    lobby = DocumentId("chat", "lobby")
    assert store.get(0, lobby) == b"body of chat/lobby"
    assert store.get(1, lobby) is None
    assert RecordStore(engine, ShardId(4)).get(0, lobby) is None


def test_scan_lists_one_space_by_prefix_in_order(engine: Engine) -> None:
    store = RecordStore(engine, SHARD)
    put(engine, store, 0, "chat/a/1", "chat/a/2", "chat/a", "chat/b", "chat/ä", "cha/a/1", "chat2/a/1")
    put(engine, store, 1, "chat/a/9")
    assert listed(store, "chat") == ["a", "a/1", "a/2", "b", "ä"]
    assert listed(store, "chat", "a/") == ["a/1", "a/2"]
    assert listed(store, "chat", "a", limit=2) == ["a", "a/1"]
    assert dict(store.scan(0, "cha", "", None, 9)) == {"a/1": b"body of cha/a/1"}


def test_scan_goes_on_after_a_key_wherever_that_key_lies(engine: Engine) -> None:
    store = RecordStore(engine, SHARD)
    put(engine, store, 0, "chat/a", "chat/b", "chat/b/x", "chat/c")
    assert listed(store, "chat", after="a") == ["b", "b/x", "c"]
    assert listed(store, "chat", after="aa") == ["b", "b/x", "c"]
    assert listed(store, "chat", "b", after="a") == ["b", "b/x"]
    assert listed(store, "chat", "b", after="c") == []
    assert listed(store, "chat", after="") == ["a", "b", "b/x", "c"]


def test_scan_all_pages_through_every_space_by_bytes_and_puts_elsewhere(engine: Engine) -> None:
    store = RecordStore(engine, SHARD)
    addresses = [f"chat/{number:03}" for number in range(150)] + ["note/x"]
    put(engine, store, 0, *addresses)
    elsewhere, batch, pages, after = RecordStore(MemoryEngine(), ShardId(9)), Batch(), 0, None
    other = MemoryEngine()
    elsewhere = RecordStore(other, ShardId(9))
    while page := store.scan_all(0, after, 1000):
        assert len(page) == 1 or sum(len(name) + len(body) for name, body in page) <= 1000
        for name, body in page:
            elsewhere.put_named(batch, 5, name, body)
        after, pages = page[-1][0], pages + 1
    other.write(batch)
    assert pages > 5
    for address in addresses:
        assert elsewhere.get(5, DocumentId.parse(address)) == b"body of " + address.encode()


def test_scan_all_gives_one_record_even_above_the_limit(engine: Engine) -> None:
    store = RecordStore(engine, SHARD)
    put(engine, store, 0, "chat/a", "chat/b")
    assert [name for name, _ in store.scan_all(0, None, 1)] == [b"chat\0a"]


@pytest.mark.parametrize("name", [b"", b"chat", b"chat\0", b"Chat\0a", b"chat\0a\0b", b"chat\0\xff", b"\xff\0a"])
def test_names_from_other_nodes_are_checked(name: bytes) -> None:
    batch = Batch()
    with pytest.raises(InvalidName):
        RecordStore(MemoryEngine(), SHARD).put_named(batch, 0, name, b"")
    assert not batch


def test_switching_the_generation_installs_a_snapshot(engine: Engine) -> None:
    store = RecordStore(engine, SHARD)
    put(engine, store, 0, "chat/old")
    put(engine, store, 1, "chat/new")
    batch = Batch()
    store.set_generation(batch, 1)
    store.put_metadata(batch, b"metadata")
    store.drop_generation(batch, 0)
    engine.write(batch)
    again = RecordStore(engine, SHARD)
    assert (again.generation, again.metadata()) == (1, b"metadata")
    assert again.get(0, DocumentId("chat", "old")) is None
    assert again.get(1, DocumentId("chat", "new")) == b"body of chat/new"


def test_the_present_generation_is_not_dropped_and_none_comes_back() -> None:
    store = RecordStore(MemoryEngine(), SHARD)
    store.set_generation(Batch(), 2)
    with pytest.raises(AssertionError):
        store.drop_generation(Batch(), 2)
    with pytest.raises(AssertionError):
        store.set_generation(Batch(), 1)


def test_delete_and_erase(engine: Engine) -> None:
    store, neighbour = RecordStore(engine, SHARD), RecordStore(engine, ShardId(SHARD + 1))
    put(engine, store, 0, "chat/a", "chat/b")
    put(engine, store, keys.GENERATION_MAX, "chat/a")
    put(engine, neighbour, 0, "chat/a")
    batch = Batch()
    store.delete(batch, 0, DocumentId("chat", "a"))
    engine.write(batch)
    assert listed(store, "chat") == ["b"]
    batch.clear()
    erase_records(SHARD, batch)
    engine.write(batch)
    assert [key for key, _ in engine.scan(Family.RECORDS, b"", b"\xff" * 9)] == [
        keys.record(keys.records_prefix(ShardId(SHARD + 1), 0), DocumentId("chat", "a"))
    ]


NOTHING: tuple[None, tuple[()], bool] = (None, (), False)


def test_documents_that_wait_are_found_by_time_by_whom_they_ask_and_by_their_connections(engine: Engine) -> None:
    store, batch = RecordStore(engine, SHARD), Batch()
    waiting: dict[str, tuple[int | None, tuple[str, ...], bool]] = {
        "late": (900, (), False),
        "soon": (7, ("bob@acme", "eve@acme"), True),
        "same": (7, (), False),
        "asks": (None, ("bob@acme",), True),
    }
    for key, waits in waiting.items():
        store.index(batch, 0, DocumentId("chat", key), NOTHING, waits)
    store.index(batch, 0, DocumentId("game", "a"), NOTHING, (1, ("bob@acme",), False))
    RecordStore(engine, ShardId(SHARD + 1)).index(batch, 0, DocumentId("chat", "x"), NOTHING, (1, ("bob@acme",), False))
    engine.write(batch)

    def due(after: bytes, now_ms: int, limit: int = 9) -> list[tuple[int, str]]:
        return [(at_ms, document.key) for at_ms, document in map(keys.due_of, store.due(0, after, now_ms, limit))]

    assert due(b"", 6) == [(1, "a")]
    assert due(b"", 7) == [(1, "a"), (7, "same"), (7, "soon")]
    assert due(store.due(0, b"", 7, 2)[-1], 900) == [(7, "soon"), (900, "late")]
    assert due(b"", 1 << 62, 1) == [(1, "a")]
    assert store.asking(0, "chat", "bob@acme", "", 9) == ["asks", "soon"]
    assert store.asking(0, "chat", "bob@acme", "asks", 9) == ["soon"]
    assert store.asking(0, "chat", "bob@acm", "", 9) == []
    assert store.connected(0, b"", 9) == [b"chat\0asks", b"chat\0soon"]
    assert store.connected(0, b"chat\0asks", 9) == [b"chat\0soon"]
    assert store.connected(0, b"", 1) == [b"chat\0asks"]
    batch.clear()
    store.index(batch, 0, DocumentId("chat", "soon"), waiting["soon"], (20, ("eve@acme",), True))
    store.index(batch, 0, DocumentId("chat", "same"), waiting["same"], NOTHING)
    store.index(batch, 0, DocumentId("chat", "asks"), waiting["asks"], (None, ("bob@acme",), False))
    engine.write(batch)
    assert store.connected(0, b"", 9) == [b"chat\0soon"]
    assert due(b"", 900) == [(1, "a"), (20, "soon"), (900, "late")]
    assert store.asking(0, "chat", "bob@acme", "", 9) == ["asks"]
    batch.clear()
    erase_records(SHARD, batch)
    engine.write(batch)
    assert due(b"", 900) == []
    assert store.connected(0, b"", 9) == []
    assert len(list(engine.scan(Family.WAITS, b"", b"\xff" * 9))) == 2


def test_what_a_dropped_generation_waited_for_is_dropped_with_it(engine: Engine) -> None:
    store, batch = RecordStore(engine, SHARD), Batch()
    store.index(batch, 0, DocumentId("chat", "a"), NOTHING, (1, (), False))
    store.index(batch, 1, DocumentId("chat", "a"), NOTHING, (2, (), True))
    store.set_generation(batch, 1)
    store.drop_generation(batch, 0)
    engine.write(batch)
    assert (store.due(0, b"", 9, 9), len(store.due(1, b"", 9, 9))) == ([], 1)


def test_every_flipped_bit_of_a_record_is_told() -> None:
    engine = MemoryEngine()
    store, document = RecordStore(engine, SHARD), DocumentId("chat", "a")
    put(engine, store, 0, "chat/a")
    key = keys.record(keys.records_prefix(SHARD, 0), document)
    good = engine.get(Family.RECORDS, key)
    assert good is not None
    for bit in range(8 * len(good)):
        rotten = bytearray(good)
        rotten[bit // 8] ^= 1 << bit % 8
        engine.corrupt(Family.RECORDS, key, bytes(rotten))
        with pytest.raises(StorageDamaged):
            store.get(0, document)
        with pytest.raises(StorageDamaged):
            list(store.scan(0, "chat", "", None, 9))
        with pytest.raises(StorageDamaged):
            store.scan_all(0, None, 100)
    engine.corrupt(Family.RECORDS, key, b"")
    with pytest.raises(StorageDamaged):
        store.get(0, document)


@pytest.mark.parametrize("kind", [keys.SHARD_GENERATION, keys.SHARD_METADATA])
def test_damaged_shard_values_are_told(kind: int) -> None:
    engine = MemoryEngine()
    store, batch = RecordStore(engine, SHARD), Batch()
    store.set_generation(batch, 4)
    store.put_metadata(batch, b"metadata")
    engine.write(batch)
    key = keys.shard_meta(SHARD, kind)
    engine.corrupt(Family.META, key, (engine.get(Family.META, key) or b"") + b"!")
    with pytest.raises(StorageDamaged):
        RecordStore(engine, SHARD).metadata()


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=6)


@settings(max_examples=100, deadline=None)
@given(st.sets(NAMES, max_size=12), NAMES, st.one_of(st.none(), NAMES))
def test_scan_equals_filtering_all_keys_sorted_as_utf8(names: set[str], prefix: str, after: str | None) -> None:
    engine = MemoryEngine()
    store, batch = RecordStore(engine, SHARD), Batch()
    for name in names:
        store.put(batch, 0, DocumentId("chat", name), name.encode())
    engine.write(batch)
    above = [name for name in names if after is None or name.encode() > after.encode()]
    wanted = sorted((name for name in above if name.startswith(prefix)), key=str.encode)
    assert listed(store, "chat", prefix, after) == wanted
