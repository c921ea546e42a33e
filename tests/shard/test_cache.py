"""When records are written, and what stays in memory."""

from __future__ import annotations

import pytest

from cluster.errors import CodeMissing, StorageDamaged
from cluster.ids import DocumentId, LogIndex
from cluster.shard.cache import CHECKPOINT_BYTES_MIN, IDLE_MS
from cluster.shard.commands import CommandKind
from cluster.storage.engine import Batch, Family
from tests.shard.parts import Parts

A = DocumentId("tally", "a")


def stored(parts: Parts) -> bytes | None:
    return parts.records.get(parts.cache.generation, A)


def test_creation_and_deletion_are_written_at_once_and_a_message_is_not() -> None:
    parts = Parts()
    parts.apply(parts.create("a"))
    created = stored(parts)
    assert created is not None
    parts.apply(parts.add("a", 1))
    assert stored(parts) == created
    parts.apply(parts.command(CommandKind.DELETE, "a"))
    assert stored(parts) == parts.live("a").record() != created


def test_a_record_is_written_when_the_commands_since_outweigh_it() -> None:
    parts = Parts()
    parts.apply(parts.create("a"))
    live = parts.live("a")
    command_bytes = 0
    while not command_bytes or live.first_unsaved:
        command_bytes += len(parts.add("a", 1).payload) + 64
        parts.apply(parts.add("a", 1))
        assert command_bytes < 2 * CHECKPOINT_BYTES_MIN
    assert command_bytes >= max(CHECKPOINT_BYTES_MIN, live.record_bytes())
    assert stored(parts) == live.record()


def test_a_document_that_went_idle_is_written() -> None:
    parts = Parts()
    parts.apply(parts.create("a"))
    parts.apply(parts.add("a", 1))
    parts.housekeep(parts.now_ms + IDLE_MS - 1)
    assert "tally" in {space for space, _ in parts.cache.unsaved}
    parts.housekeep(parts.now_ms + IDLE_MS)
    assert not parts.cache.unsaved
    assert stored(parts) == parts.live("a").record()


def test_eviction_writes_what_is_unsaved_drops_the_least_recent_and_spares_the_watched() -> None:
    parts = Parts(bytes_max=2_000)
    for number, key in enumerate("abcdefgh"):
        parts.now_ms = 1_000 + number
        parts.apply(parts.create(key), parts.add(key, number))
    records = {key: parts.live(key).record() for key in "abcdefgh"}
    parts.housekeep(0.0, {("tally", "a")})
    held = [key for key in "abcdefgh" if parts.cache.peek("tally", key) is not None]
    assert held[0] == "a", "watched"
    assert held[1:] == list("abcdefgh")[-len(held) + 1 :], "the most recent"
    assert len(held) < 8
    assert {key: parts.live(key).record() for key in "abcdefgh"} == records


def test_without_checkpoints_nothing_unsaved_is_written_or_dropped() -> None:
    parts = Parts(bytes_max=1, checkpoints=False)
    parts.apply(parts.create("a"))
    first = stored(parts)
    parts.apply(parts.add("a", 1))
    parts.housekeep(parts.now_ms + 10 * IDLE_MS)
    batch = Batch()
    parts.cache.save_older_than(LogIndex(99), batch)
    assert not batch
    assert stored(parts) == first
    assert parts.cache.oldest_unsaved() == 2


def test_what_holds_the_log_back_is_written() -> None:
    parts = Parts()
    for key in "ab":
        parts.apply(parts.create(key))
    parts.apply(parts.add("a", 1))
    parts.apply(parts.add("b", 1))
    assert parts.cache.oldest_unsaved() == 3
    batch = Batch()
    parts.cache.save_older_than(LogIndex(3), batch)
    assert parts.cache.oldest_unsaved() == 4


def test_a_name_without_a_document_leaves_no_trace() -> None:
    parts = Parts()
    assert parts.cache.find("tally", "nothing") is None
    assert len(parts.cache) == 0


def test_a_document_without_its_code_is_not_loaded_and_the_code_is_asked_for() -> None:
    parts = Parts()
    parts.apply(parts.create("a"))
    batch = Batch()
    for key, _ in parts.engine.scan(Family.BUNDLES, b"", b"\xff" * 33):
        batch.delete(Family.BUNDLES, key)
    parts.engine.write(batch)
    restarted = Parts(parts.engine, with_code=False)
    with pytest.raises(CodeMissing):
        restarted.live("a")
    assert restarted.directory.missing
    assert len(restarted.cache) == 0


def test_a_state_that_does_not_load_is_damage() -> None:
    parts = Parts()
    parts.apply(parts.create("a"))
    batch = Batch()
    parts.records.put(batch, 0, A, parts.live("a").record().replace(b"\x91\x00", b"\xc1\x00"))
    parts.engine.write(batch)
    with pytest.raises(StorageDamaged):
        Parts(parts.engine).live("a")
