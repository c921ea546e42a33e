"""A document's record and chain: equal histories give equal bytes, any difference in the past shows."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.documents.runtime import Code, Outcome
from cluster.errors import StorageDamaged
from cluster.ids import DocumentId, LogIndex
from cluster.shard.commands import SEMANTICS, CommandKind, Entry, encode_entry
from cluster.shard.document import LiveDocument, Ran, decode_record
from cluster.shard.turn import Turn
from tests.pump.tally import session_id
from tests.shard.parts import Parts


@given(st.lists(st.integers(0, 99), max_size=8), st.integers(0, 3), st.booleans())
def test_a_record_read_back_gives_the_same_document_and_the_same_record(amounts: list[int], sends: int, deleted: bool) -> None:
    parts = Parts()
    parts.apply(parts.create("a"))
    for amount in amounts:
        parts.apply(parts.add("a", amount))
    for sequence in range(1, sends + 1):
        parts.apply(parts.add("a", 1, session=session_id(1), sequence=sequence))
    if deleted:
        parts.apply(parts.command(CommandKind.DELETE, "a"))
    live = parts.live("a")
    again = LiveDocument.load(live.id, live.record(), None if deleted else live.program)
    assert again.record() == live.record()
    assert (again.position, again.alive, again.chain) == (live.position, not deleted, live.chain)


def test_a_restart_in_the_middle_gives_the_record_of_an_uninterrupted_run() -> None:
    """Invariant 2: by replay or from a record, one position has one record, sessions included (traps 13 and 54)."""
    entries = [("create", 0), ("add", 3), ("add", 4), ("add", 5)]

    def run(parts: Parts, some: list[tuple[str, int]]) -> None:
        for kind, amount in some:
            parts.apply(parts.create("a") if kind == "create" else parts.add("a", amount, session=session_id(amount)))

    straight = Parts()
    run(straight, entries)
    for cut in range(1, len(entries)):
        first = Parts()
        run(first, entries[:cut])
        first.save_all()
        second = Parts(first.engine)
        second.index = cut
        run(second, entries[cut:])
        assert second.live("a").record() == straight.live("a").record()


def test_replay_skips_what_the_record_holds() -> None:
    """Trap 13: state and how far it goes are one value."""
    parts = Parts()
    parts.apply(parts.create("a"), parts.add("a", 1))
    parts.save_all()
    restarted = Parts(parts.engine)
    before = restarted.live("a").record()
    payload = encode_entry(Entry(SEMANTICS, 1_000, bytes(32), [parts.create("a"), parts.add("a", 1)]))
    assert restarted.applier.apply(LogIndex(1), payload, None, Turn(), 0.0) == []
    assert restarted.live("a").record() == before


BASE = {"channel": "add", "payload": b"{}", "principal": "a@b", "kind": CommandKind.SEND}


@pytest.mark.parametrize(
    "change",
    [
        {"channel": "refuse"},
        {"payload": b'{"amount":1}'},
        {"principal": "c@b"},
        {"kind": CommandKind.DELETE},
        {"now_ms": 2},
        {"seed": b"s" * 32},
        {"code": Code.REFUSED},
        {"answer": b"2"},
        {"writes": b"w"},
        {"index": 8},
        {"epoch": 2},
        {"chain": b"\1" * 32},
        {"payload": b"{}1", "answer": b""},
    ],
)
def test_the_chain_changes_with_everything_that_it_binds(change: dict[str, object]) -> None:
    def chain(**more: object) -> bytes:
        fields = {**BASE, "now_ms": 1, "seed": bytes(32), "code": Code.OK, "answer": b"1", "writes": b"", **more}
        live = LiveDocument(DocumentId("tally", "a"))
        live.chain = fields.get("chain", live.chain)  # type: ignore[assignment]
        command = Parts().command(
            fields["kind"],  # type: ignore[arg-type]
            "a",
            fields["channel"],  # type: ignore[arg-type]
            fields["payload"],  # type: ignore[arg-type]
            principal=str(fields["principal"]),
        )
        place = (fields.get("epoch", 1), fields.get("index", 7), fields["now_ms"], fields["seed"])
        outcome = ([int(fields["code"])], [fields["answer"]], [fields["writes"]])  # type: ignore[call-overload]
        live.extend_chain(Ran(*place, False, [0], [command], *outcome))  # type: ignore[arg-type]
        return live.chain

    assert chain() == chain()
    assert chain(**change) != chain()


def test_the_chain_tells_the_commands_of_one_entry_apart() -> None:
    def chain(*payloads: bytes, answers: tuple[bytes, ...] = (b"1", b"2"), writes: tuple[bytes, ...] = (b"", b"w")) -> bytes:
        live = LiveDocument(DocumentId("tally", "a"))
        commands = [Parts().command(CommandKind.SEND, "a", "add", payload) for payload in payloads]
        live.extend_chain(Ran(1, 1, 1, bytes(32), False, [0, 1], commands, [0, 0], list(answers), list(writes)))
        return live.chain

    told = {
        chain(b"x", b"y"),
        chain(b"y", b"x"),
        chain(b"xy", b""),
        chain(b"x", b"y", answers=(b"12", b"")),
        chain(b"x", b"y", writes=(b"w", b"")),
    }
    assert len(told) == 5


def test_a_record_that_is_none_is_damage() -> None:
    parts = Parts()
    parts.apply(parts.create("a"))
    good = msgspec.msgpack.decode(parts.live("a").record())
    for bad in (b"", b"\xc1", msgspec.msgpack.encode([1, 2]), msgspec.msgpack.encode([9, *good[1:]])):
        with pytest.raises(StorageDamaged):
            decode_record(bad)


def test_the_ring_gives_changes_from_where_it_reaches_and_nothing_before() -> None:
    live = LiveDocument(DocumentId("tally", "a"))
    for number in range(1, 6):
        live.index = number
        live.push_change(Outcome(Code.OK, b"", b"", number, 36), 300)
    assert live.changes_since(5) == []
    assert live.changes_since(3) == [4, 5]
    assert live.changes_since(2) == [3, 4, 5]
    assert live.changes_since(1) is None
    assert live.changes_since(9) is None
