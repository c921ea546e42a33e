"""Reads, listings and the reads that wait for a confirmation of leadership."""

from __future__ import annotations

import msgspec
import pytest

from cluster.session.operations import Consistency, Kind, Operation
from cluster.shard import reading
from cluster.shard.commands import CommandKind
from cluster.shard.reading import WaitingReads
from tests.shard.parts import STREAM, Parts


def listed(parts: Parts, prefix: str = "", page: int = 3) -> list[list[str]]:
    """All pages."""
    pages: list[list[str]] = []
    token = b""
    while True:
        reply = parts.read(parts.operation(Kind.LIST, "", prefix, token, credit=page))
        assert reply.failure is None
        body = msgspec.json.decode(reply.payload)
        pages.append([document["key"] for document in body["documents"]])
        token = body["next_page_token"].encode()
        if not token:
            return pages
        assert len(pages) < 100


def test_pages_hold_every_living_document_once_in_order() -> None:
    parts = Parts()
    keys = [f"k{number:02}" for number in range(10)] + ["other", "kü"]
    for key in keys:
        parts.apply(parts.create(key))
    parts.apply(parts.command(CommandKind.DELETE, "k03"))
    pages = listed(parts, "k")
    assert [key for page in pages for key in page] == sorted(set(keys) - {"k03", "other"}, key=str.encode)
    assert all(len(page) <= 3 for page in pages)


@pytest.mark.parametrize("page", [1, 2, 3])
def test_a_listing_shows_what_the_same_turn_created_before_its_batch_is_written(
    page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new leader applies what its predecessor committed and answers waiting listings in one turn."""
    parts = Parts()
    for key in ("b", "d", "e"):
        parts.apply(parts.create(key))
    monkeypatch.setattr(parts, "write", lambda turn: None)
    for key in ("c", "a", "f", "g"):
        parts.apply(parts.create(key))
    for key in ("d", "f"):
        parts.apply(parts.command(CommandKind.DELETE, key))
    assert [key for keys in listed(parts, page=page) for key in keys] == ["a", "b", "c", "e", "g"]


def test_a_page_behind_many_deleted_documents_is_short_and_the_next_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LIST_ROWS_MAX", 8)
    parts = Parts()
    for number in range(40):
        parts.apply(parts.create(f"k{number:02}"))
        if number < 39:
            parts.apply(parts.command(CommandKind.DELETE, f"k{number:02}"))
    pages = listed(parts)
    assert [key for page in pages for key in page] == ["k39"]
    assert len(pages) > 3


@pytest.mark.parametrize("more", [{"payload": b"$"}, {"payload": b"\xff"}, {"credit": -1}, {"credit": 1001}, {"channel": "\0"}])
def test_a_listing_that_makes_no_sense_is_refused(more: dict[str, object]) -> None:
    parts = Parts()
    fields = {"channel": "", "payload": b"", **more}
    reply = parts.read(parts.operation(Kind.LIST, "", **fields))  # type: ignore[arg-type]
    assert reply.failure is not None
    assert not reply.failure.retryable


def test_a_position_not_reached_yet_is_retryable_whatever_is_known_of_the_document() -> None:
    parts = Parts()
    parts.apply(parts.create("a"))
    parts.apply(parts.command(CommandKind.DELETE, "a"))

    def at(key: str, epoch: int, index: int) -> str:
        more = {"consistency": Consistency.AT_LEAST, "epoch": epoch, "index": index}
        reply = parts.read(parts.operation(Kind.READ, key, "", b"", **more))
        return reply.failure.reason if reply.failure else ""

    assert at("a", 1, 3) == "UNAVAILABLE"
    assert at("a", 2, 1) == "UNAVAILABLE"
    assert at("b", 1, 1) == "UNAVAILABLE"
    assert at("a", 1, 2) == "DOCUMENT_DELETED"
    parts.apply(parts.create("a"))
    assert at("a", 2, 1) == ""
    assert at("a", 1, 2) == "POSITION_REWOUND"


def asked(number: int, kind: Kind = Kind.READ) -> Operation:
    return Operation(number, kind, "tally", "a", "alice@acme")


def test_reads_that_arrive_together_share_a_context_and_each_is_answered_once() -> None:
    reads = WaitingReads()
    for number in (1, 2):
        assert reads.add(STREAM, asked(number))
    first = reads.begin()
    assert reads.add(STREAM, asked(3))
    assert first is not None
    reads.confirm(first, 10)
    assert not reads.answerable(9)
    assert reads.ready(9) == []
    assert [operation.id for _, operation in reads.ready(10)] == [1, 2]
    second = reads.begin()
    assert second not in (None, first)
    assert [operation.id for _, operation in reads.refuse_all()] == [3]
    assert (len(reads), reads.asked, reads.begin()) == (0, False, None)


def test_refusing_all_takes_the_confirmed_too() -> None:
    reads = WaitingReads()
    reads.add(STREAM, asked(1))
    context = reads.begin()
    assert context is not None
    reads.confirm(context, 10)
    assert [operation.id for _, operation in reads.refuse_all()] == [1]
    assert not reads.answerable(99)


def test_a_cancelled_watch_is_never_opened_and_a_read_of_the_same_number_stays() -> None:
    reads = WaitingReads()
    reads.add(STREAM, asked(1, Kind.WATCH))
    reads.add(STREAM, asked(2))
    context = reads.begin()
    assert context is not None
    reads.cancel(STREAM, 1)
    reads.cancel(STREAM, 2)
    reads.confirm(context, 1)
    assert [operation.id for _, operation in reads.ready(1)] == [2]
    assert len(reads) == 0


def test_what_a_lease_answers_is_apart_and_can_be_asked_again() -> None:
    reads = WaitingReads()
    for number, kind in ((1, Kind.READ), (2, Kind.WATCH), (3, Kind.LIST)):
        reads.add(STREAM, asked(number, kind))
    leased = reads.begin(by_lease=True)
    assert leased is not None
    reads.confirm(leased, 5, by_lease=True)
    assert reads.unasked, "a watch waits for a round"
    assert reads.answerable(5)
    assert reads.ready(5) == []
    computed = reads.ready_by_lease(5)
    assert [operation.id for _, operation in computed] == [1, 3]
    assert len(reads) == 1
    reads.ask_again(computed)
    assert len(reads) == 3
    again = reads.begin()
    assert again is not None
    reads.confirm(again, 5)
    assert [operation.id for _, operation in reads.ready(5)] == [1, 3, 2]


def test_refusing_all_takes_what_rests_on_a_lease_too() -> None:
    reads = WaitingReads()
    reads.add(STREAM, asked(1))
    context = reads.begin(by_lease=True)
    assert context is not None
    reads.confirm(context, 10, by_lease=True)
    assert [operation.id for _, operation in reads.refuse_all()] == [1]
    assert (len(reads), reads.answerable(99)) == (0, False)


def test_waiting_reads_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "READS_WAITING_MAX", 1)
    reads = WaitingReads()
    assert reads.add(STREAM, asked(1))
    assert not reads.add(STREAM, asked(2))
