"""Running commands: atomic, deterministic, and answered as the seam to the shard says."""

from __future__ import annotations

import hashlib
import json
import linecache
from collections.abc import Callable
from typing import Any

import pytest

from cluster.documents.context import Random, Stream
from cluster.documents.runtime import Code, Outcome
from cluster.errors import StorageDamaged
from cluster.ids import DocumentId

Handler = Callable[..., Outcome]


def test_construct_must_set_every_field_without_a_default(stage: Callable[..., Any]) -> None:
    source = """
        from cluster import Command, Document, anyone, field, on
        class Stage(Document):
            gate = anyone
            name: str = field.public()
            number: int
            @on.construct
            def open(self, ctx: Command, name: str = "") -> None:
                if name:
                    self.name = name
                    self.number = 1
    """
    document = stage(source, name="x")
    assert document.view() == {"name": "x"}
    fresh = document.program.new(DocumentId("stage", "two"))
    document.instance = fresh
    outcome = document.create()
    assert outcome.code is Code.FAILED
    assert "construct left without a value: name, number" in outcome.error


def test_a_refused_construction_leaves_nothing(stage: Callable[..., Any]) -> None:
    document = stage(
        """
        from cluster import Command, Document, Refused, anyone, field, on
        class TooLong(Refused):
            '''The name is too long.'''
        class Stage(Document):
            gate = anyone
            name: str = field.public("")
            @on.construct
            def open(self, ctx: Command, name: str) -> None:
                self.name = name
                if len(name) > 3:
                    raise TooLong(len(name))
        """,
        name="abc",
    )
    document.instance = document.program.new(DocumentId("stage", "two"))
    before = document.instance.dump()
    outcome = document.create(name="abcd")
    assert (outcome.code, json.loads(outcome.answer)) == (
        Code.REFUSED,
        {"name": "TooLong", "message": "4", "arguments": [4]},
    )
    assert (document.instance.dump(), outcome.writes, outcome.changes) == (before, b"", None)


def test_a_bug_is_answered_with_an_opaque_id_and_told_to_operators_with_source_lines(handler: Handler) -> None:
    outcome = handler("helper(3)", top="def helper(n):\n    return [1, 2][n]\n")
    assert outcome.code is Code.FAILED
    expected = hashlib.blake2b((2).to_bytes(32, "little") + (2).to_bytes(8, "little"), person=b"moot.error", digest_size=8)
    assert json.loads(outcome.answer) == {"error_id": expected.hexdigest()}
    lines = outcome.error.splitlines()
    assert lines[0] == "  document.py, line 11, in go"
    assert lines[1] == "    helper(3)"
    assert lines[2:4] == ["  document.py, line 3, in helper", "    return [1, 2][n]"]
    assert lines[4].startswith("IndexError")


@pytest.mark.parametrize(
    "body",
    [
        "self.missing",
        "self.title = 5",
        "self.title = None",
        "return 'x'",
        "raise ValueError('x')",
        "assert False",
        "{}['x']",
        "1 // 0",
        "ctx.sender = None\nself.missing",
        "undefined",
    ],
)
def test_any_other_exception_is_a_bug_and_is_rolled_back(handler: Handler, body: str) -> None:
    assert handler(body).code is Code.FAILED


def test_assertions_hold_whatever_the_interpreters_options(handler: Handler) -> None:
    """`python -O` would leave assertions out, on some nodes."""
    assert "AssertionError" in handler("assert self.title == 'x', 'no'").error


def test_an_answer_has_the_declared_type(handler: Handler) -> None:
    assert handler("return 5", result="int").answer == b"5"
    assert handler("return [1, 2]", result="list[int]").answer == b"[1,2]"
    assert handler("return ctx.sender", result="'Principal'", top="from cluster import Principal").answer == b'"alice@acme"'
    assert handler("return None", result="int | None").answer == b"null"
    assert handler("return 'x'", result="int").code is Code.FAILED
    assert handler("pass").answer == b"null"


def test_a_command_that_writes_nothing_leaves_no_writes_and_no_changes(handler: Handler) -> None:
    outcome = handler("self.title = 'before'")
    assert outcome.code is Code.OK
    settled = handler("return 1", result="int")
    assert settled.writes != b""  # the stage's handler sets the title first


def test_loading_a_dump_gives_the_same_document(stage: Callable[..., Any]) -> None:
    source = """
        from cluster import Command, Document, Record, Table, anyone, field, on
        class Row(Record):
            n: int
        class Stage(Document):
            gate = anyone
            rows: Table[Row] = field.public()
            @on.message
            def go(self, ctx: Command) -> int:
                self.rows.put(Row(ctx.random.integer(1, 100)))
                return sum(row.n for row in self.rows)
    """
    first, second = stage(source), stage(source)
    for _ in range(5):
        second.instance = second.program.load(DocumentId("stage", "one"), second.instance.dump())
        one, two = first.run("go"), second.run("go")
        assert (one.answer, one.writes, one.steps) == (two.answer, two.writes, two.steps)
        assert first.instance.dump() == second.instance.dump()
        assert first.instance.size_bytes() == second.instance.size_bytes()


@pytest.mark.parametrize("state", [b"", b"\x00", b"\x81\xa1x\x01", b"\x90", b"\xc1" * 10])
def test_a_damaged_state_is_not_loaded(stage: Callable[..., Any], state: bytes) -> None:
    document = stage(
        "from cluster import Document, anyone, field\nclass Stage(Document):\n    gate = anyone\n    n: int = field.public(0)\n"
    )
    with pytest.raises(StorageDamaged):
        document.program.load(DocumentId("stage", "one"), state)


def test_printing_goes_to_the_documents_log_within_bounds(handler: Handler, stage: Callable[..., Any]) -> None:
    source = """
        from cluster import Command, Document, anyone, on
        class Stage(Document):
            gate = anyone
            @on.message
            def go(self, ctx: Command, n: int) -> None:
                for place in range(n):
                    print("line", place, sep="-")
    """
    document = stage(source)
    document.run("go", n=2)
    assert document.instance.printed == ["line-0\n", "line-1\n"]
    document.run("go", n=0)
    assert document.instance.printed == []
    document.run("go", n=10_000)
    assert sum(map(len, document.instance.printed)) == 16 * 1024


def test_time_is_the_positions_time_in_utc(stage: Callable[..., Any]) -> None:
    source = """
        from datetime import datetime, timedelta
        from cluster import Command, Document, anyone, field, on
        class Stage(Document):
            gate = anyone
            at: datetime | None = field.public(None)
            @on.message
            def go(self, ctx: Command) -> str:
                self.at = ctx.now + timedelta(milliseconds=1)
                return ctx.now.isoformat()
    """
    document = stage(source)
    outcome = document.run("go", now_ms=1_700_000_000_123)
    assert json.loads(outcome.answer) == "2023-11-14T22:13:20.123000+00:00"
    assert document.view() == {"at": "2023-11-14T22:13:20.124Z"}


def test_decimals_have_one_context_whatever_the_process_uses(handler: Handler) -> None:
    import decimal

    with decimal.localcontext(prec=5):
        outcome = handler("from decimal import Decimal\nreturn str(Decimal(1) / Decimal(3))", result="str")
        assert json.loads(outcome.answer) == "0." + "3" * 34
        assert decimal.getcontext().prec == 5


# The random stream is a contract: recomputed here from its description alone.


def block(seed: bytes, purpose: bytes, counter: int) -> bytes:
    return hashlib.blake2b(counter.to_bytes(8, "little"), key=seed, person=purpose, digest_size=64).digest()


def test_the_stream_is_the_blocks_one_after_the_other() -> None:
    seed = bytes(range(32))
    whole = b"".join(block(seed, b"moot.random", counter) for counter in range(4))
    stream = Stream(seed, b"moot.random")
    taken = b"".join(stream.read(count) for count in (1, 0, 63, 64, 7, 100, 5))
    assert taken == whole[:240]
    assert Stream(seed, b"moot.random").read(256) == whole


def test_draws_follow_from_the_stream() -> None:
    seed = bytes(range(32))
    first = block(seed, b"moot.random", 0)
    assert Random(seed).random() == (int.from_bytes(first[:7], "little") >> 3) / 2**53
    expected = next(value for value in (byte >> 5 for byte in first) if value < 6)
    assert Random(seed).below(6) == expected
    assert Random(seed).bytes(10) == first[:10]


def test_every_value_of_a_range_is_about_equally_likely() -> None:
    random = Random(b"x" * 32)
    counts = [0] * 6
    for _ in range(6_000):
        counts[random.integer(1, 6) - 1] += 1
    assert min(counts) > 850
    assert max(counts) < 1150
    assert {random.below(1) for _ in range(10)} == {0}
    items = list(range(50))
    random.shuffle(items)
    assert sorted(items) == list(range(50)) != items
    assert len(set(random.sample(items, 50))) == 50


def test_ids_are_version_8_uuids_that_follow_from_the_seed(stage: Callable[..., Any]) -> None:
    source = """
        from uuid import UUID
        from cluster import Command, Document, anyone, on
        class Stage(Document):
            gate = anyone
            @on.message
            def go(self, ctx: Command) -> list[UUID]:
                return [ctx.new_id(), ctx.new_id()]
    """
    one, two = stage(source).answer("go"), stage(source).answer("go")
    assert one == two
    assert one[0] != one[1]
    assert all(text[14] == "8" and text[19] in "89ab" for text in one)


def test_source_lines_are_known_to_tracebacks_and_debuggers(stage: Callable[..., Any]) -> None:
    document = stage("from cluster import Document, anyone\nclass Stage(Document):\n    gate = anyone\n")
    filename = f"{document.program.namespace}/document.py"
    assert linecache.getline(filename, 2) == "class Stage(Document):\n"


def test_values_of_a_frozen_dataclass_are_kept_in_sets(stage: Callable[..., Any]) -> None:
    document = stage("""
        from dataclasses import dataclass, field as part
        from cluster import Command, Document, OrderedSet, anyone, field, on

        @dataclass(frozen=True)
        class Spot:
            x: int
            note: str = part(default="", compare=False)

        @dataclass(frozen=True, slots=True, order=True)
        class Narrow:
            x: int

        class Stage(Document):
            gate = anyone
            spots: OrderedSet[Spot] = field.public()

            @on.message
            def act(self, ctx: Command) -> str:
                self.spots.add(Spot(1, "a"))
                self.spots.add(Spot(1, "b"))
                self.spots.add(Spot(2))
                seen = {Narrow(1): "x", Narrow(2): "y"}
                return f"{len(self.spots)} {Spot(1) in self.spots} {seen[Narrow(2)]}"
    """)
    outcome = document.run("act")
    assert (outcome.code, outcome.answer) == (Code.OK, b'"2 True y"'), outcome.error
