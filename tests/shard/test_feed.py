"""Viewers: one encoded patch a class, nothing queued, positions that only rise, and nobody shown what another may see."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import msgspec
import pytest

from cluster.documents.runtime import Settings
from cluster.errors import DocumentDeleted, PermissionDenied, PositionRewound
from cluster.ids import NodeId, Principal
from cluster.session.operations import Delta
from cluster.shard.commands import CommandKind
from cluster.shard.turn import Turn
from tests.pump.tally import TallyInstance
from tests.shard.parts import STREAM, Parts

ALICE, EVE = Principal("alice", "acme"), Principal("eve", "outside")


def opened(parts: Parts, watch: int, seen: tuple[int, int] | None = None, credit: int = 1 << 20, key: str = "a") -> list[Delta]:
    turn = Turn()
    parts.feed.open(parts.live(key), STREAM, watch, ALICE, seen, credit, turn)
    return turn.deltas.get(STREAM, [])


def watched() -> Parts:
    parts = Parts()
    parts.apply(parts.create("a"))
    return parts


def test_a_viewer_gets_the_view_and_then_only_what_changes() -> None:
    parts = watched()
    first = opened(parts, 1)
    assert [(delta.reset, delta.epoch, delta.index) for delta in first] == [(True, 1, 1)]
    parts.apply(parts.add("a", 5), parts.add("a", 6))
    (delta,) = parts.deltas
    assert (delta.from_index, delta.index, delta.reset) == (1, 3, False)
    assert [operation["value"] for operation in msgspec.json.decode(delta.body)] == [5, 6]


def test_viewers_of_a_class_share_one_encoded_patch(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = watched()
    for watch in range(10):
        opened(parts, watch)
    asked: list[int] = []
    encode = TallyInstance.patch_since

    def counted(self: TallyInstance, changes: list[Any], who: Principal) -> bytes | None:
        asked.append(len(changes))
        return encode(self, changes, who)

    monkeypatch.setattr(TallyInstance, "patch_since", counted)
    parts.apply(parts.add("a", 5))
    assert len(parts.deltas) == 10
    assert asked == [1]
    assert all(delta.body is parts.deltas[0].body for delta in parts.deltas)


def test_who_is_out_of_credit_is_skipped_and_catches_up_in_one_patch() -> None:
    parts = watched()
    opened(parts, 1, credit=1)
    parts.apply(parts.add("a", 5))
    parts.apply(parts.add("a", 6))
    assert parts.deltas == []
    turn = Turn()
    parts.feed.grant(STREAM, 1, 1_000, turn)
    (delta,) = turn.deltas[STREAM]
    assert (delta.from_index, delta.index) == (1, 3)
    assert [operation["value"] for operation in msgspec.json.decode(delta.body)] == [5, 6]


def test_who_fell_out_of_the_ring_gets_a_reset() -> None:
    parts = watched()
    parts.directory.program(parts.live("a").code_hash).settings_now = Settings(change_ring_bytes=200)  # type: ignore[attr-defined]
    opened(parts, 1, credit=1)
    for amount in range(9):
        parts.apply(parts.add("a", amount))
    turn = Turn()
    parts.feed.grant(STREAM, 1, 1_000, turn)
    (delta,) = turn.deltas[STREAM]
    assert (delta.reset, delta.index) == (True, 10)


def test_a_viewer_resumes_where_it_stood_and_not_where_it_never_was() -> None:
    parts = watched()
    parts.apply(parts.add("a", 5))
    (delta,) = opened(parts, 1, seen=(1, 1))
    assert (delta.reset, delta.from_index, delta.index) == (False, 1, 2)
    (delta,) = opened(parts, 2, seen=(1, 2))
    assert (delta.body, delta.index) == (b"[]", 2)
    for never in ((1, 3), (2, 1)):
        with pytest.raises(PositionRewound):
            opened(parts, 3, seen=never)
    assert len(parts.feed) == 2


def test_a_deletion_ends_the_watch_and_a_refused_one_is_not_opened() -> None:
    parts = watched()
    opened(parts, 1)
    with pytest.raises(PermissionDenied):
        parts.feed.open(parts.live("a"), STREAM, 2, EVE, None, 0, Turn())
    parts.apply(parts.command(CommandKind.DELETE, "a"))
    (ended,) = parts.deltas
    assert ended.failure is not None
    assert ended.failure.reason == "DOCUMENT_DELETED"
    assert len(parts.feed) == 0
    with pytest.raises(DocumentDeleted):
        opened(parts, 1)


def test_a_document_created_again_under_a_watch_divides_its_viewers_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """The code may be other code: a class of the instance before would show one viewer another's view."""
    parts = watched()
    bob = Principal("bob", "acme")
    opened(parts, 1)
    parts.feed.open(parts.live("a"), STREAM, 2, bob, None, 0, Turn())

    def own(self: TallyInstance, who: Principal) -> Hashable:
        return who

    def private(self: TallyInstance, who: Principal) -> bytes:
        return msgspec.json.encode({"for": str(who)})

    monkeypatch.setattr(TallyInstance, "visibility_class", own)
    monkeypatch.setattr(TallyInstance, "view", private)
    parts.apply(parts.command(CommandKind.DELETE, "a"), parts.create("a"))
    views = {delta.watch: msgspec.json.decode(delta.body)["for"] for delta in parts.deltas}
    assert views == {1: "alice@acme", 2: "bob@acme"}
    assert all(delta.reset and (delta.epoch, delta.index) == (2, 1) for delta in parts.deltas)


def test_a_watch_opened_again_replaces_the_one_before_even_on_another_document() -> None:
    parts = watched()
    parts.apply(parts.create("b"))
    opened(parts, 1)
    opened(parts, 1, key="b")
    assert len(parts.feed) == 1
    parts.apply(parts.add("a", 1))
    assert parts.deltas == []
    parts.apply(parts.add("b", 1))
    assert [delta.watch for delta in parts.deltas] == [1]


def test_closing_leaves_nothing() -> None:
    parts = watched()
    for watch in range(3):
        opened(parts, watch)
    parts.feed.close(STREAM, 7)
    parts.feed.close(STREAM, 0)
    parts.feed.close_streams((NodeId("n9"), 1).__eq__)
    assert len(parts.feed) == 2
    parts.feed.close_streams(lambda stream: stream[0] == STREAM[0])
    assert (len(parts.feed), parts.feed.documents, parts.feed._by_stream) == (0, {}, {})
