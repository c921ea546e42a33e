"""Who is right when replicas differ, and where they part: pure functions over chains, records and states."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.documents.runtime import Code
from cluster.ids import DocumentId, LogIndex, NodeId, ReplicaId, ShardId
from cluster.shard.commands import CHAIN_MARK_BYTES, HistoryRow, command_marks, decode_row
from cluster.shard.divergence import (
    Divergence,
    Remedy,
    Side,
    first_difference,
    first_parting,
    majority_chain,
    majority_possible,
    sides_of,
    what_differs,
    with_a_word,
)
from tests.shard.parts import Parts

CHAINS = st.dictionaries(st.integers(1, 7).map(ReplicaId), st.sampled_from([b"a" * 32, b"b" * 32, b"c" * 32]), min_size=1)


@given(chains=CHAINS, missing=st.integers(0, 4))
def test_only_a_strict_majority_of_all_voters_is_right(chains: dict[ReplicaId, bytes], missing: int) -> None:
    """Who is not heard counts against everybody: half of five is not a majority because two are away."""
    voters = [*chains, *(ReplicaId(100 + number) for number in range(missing))]
    right = majority_chain(chains, voters)
    counts = {chain: list(chains.values()).count(chain) for chain in chains.values()}
    best = max(counts, key=lambda chain: counts[chain])
    assert right == (best if 2 * counts[best] > len(voters) else None)


def test_a_learner_has_no_say() -> None:
    one, other, learner = ReplicaId(1), ReplicaId(2), ReplicaId(3)
    chains = {one: b"a", other: b"b", learner: b"b"}
    assert majority_chain(chains, [one, other]) is None


@given(words=CHAINS, silent=st.integers(0, 4), mute=st.integers(0, 4), data=st.data())
def test_a_majority_is_possible_exactly_while_those_who_may_still_speak_could_make_one(
    words: dict[ReplicaId, bytes], silent: int, mute: int, data: st.DataObject
) -> None:
    awaited = [ReplicaId(100 + number) for number in range(silent)]
    voters = [*words, *awaited, *(ReplicaId(200 + number) for number in range(mute))]
    possible = majority_possible(words, voters, awaited)
    together = [majority_chain(words | dict.fromkeys(awaited, chain), voters) for chain in [*words.values(), b"d" * 32]]
    assert possible == any(together)
    said = words | {voter: data.draw(st.sampled_from([b"a" * 32, b"b" * 32])) for voter in awaited}
    assert possible or majority_chain(said, voters) is None


def test_a_learner_makes_no_majority_possible() -> None:
    one, other, learner = ReplicaId(1), ReplicaId(2), ReplicaId(3)
    assert not majority_possible({one: b"a", learner: b"a"}, [one, other], [learner])


def test_a_copy_has_a_word_only_on_commands_behind_what_it_copied() -> None:
    own, copy = ReplicaId(1), ReplicaId(2)
    chains, copied = {own: b"a", copy: b"a"}, {own: LogIndex(0), copy: LogIndex(10)}
    assert with_a_word(chains, copied, LogIndex(10)) == {own: b"a"}
    assert with_a_word(chains, copied, LogIndex(11)) == chains
    assert with_a_word(chains, copied, LogIndex(0)) == {own: b"a"}, "it is not known where they part"


@given(chains=CHAINS)
def test_every_node_is_on_one_side_and_the_largest_comes_first(chains: dict[ReplicaId, bytes]) -> None:
    sides = sides_of(chains, {replica: NodeId(f"n{replica}") for replica in chains})
    assert sorted(node for side in sides for node in side.nodes) == sorted(f"n{replica}" for replica in chains)
    assert all(len(one.nodes) >= len(other.nodes) for one, other in pairwise(sides))


@given(
    marks=st.lists(st.binary(min_size=8, max_size=8), min_size=1, max_size=20, unique=True),
    first=st.integers(1, 5),
    trimmed=st.integers(0, 20),
    data=st.data(),
)
def test_replicas_part_where_the_first_mark_differs(marks: list[bytes], first: int, trimmed: int, data: st.DataObject) -> None:
    """Unless one of them no longer has the commands before: then it is older than what is kept, and 0."""
    parts_at = data.draw(st.integers(first, first + len(marks)))
    own = {first + place: mark if first + place < parts_at else b"other" for place, mark in enumerate(marks)}
    own = {index: mark for index, mark in own.items() if index >= first + trimmed}
    found = first_parting(first, marks, own)
    told = parts_at in own and parts_at < first + len(marks) and (parts_at == 1 or parts_at - 1 in own)
    assert found == (parts_at if told else 0)


LEAVES = st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False, width=16) | st.text(max_size=3)
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=4), max_leaves=12
)


@given(tree=TREES)
def test_equal_states_have_no_difference(tree: Any) -> None:
    dump = msgspec.msgpack.encode(tree)
    assert first_difference(dump, dump) == ""


@given(one=st.dictionaries(st.sampled_from("abc"), TREES), other=st.dictionaries(st.sampled_from("abc"), TREES))
def test_the_path_leads_to_something_different_and_nothing_before_it_is(one: dict[str, Any], other: dict[str, Any]) -> None:
    """States are maps of fields. True is not 1, and 1 is not 1.0."""
    path = first_difference(msgspec.msgpack.encode(one), msgspec.msgpack.encode(other))
    same = msgspec.msgpack.encode(one) == msgspec.msgpack.encode(other)
    assert bool(path) is not same
    if path:
        name = path.partition("/")[0]
        assert name in one or name in other
        if list(one) == list(other):
            before = list(one)[: list(one).index(name)]
            assert all(msgspec.msgpack.encode(one[key]) == msgspec.msgpack.encode(other[key]) for key in before)


@pytest.mark.parametrize(
    ("one", "other", "path"),
    [
        ({"board": {3: {"owner": "ann"}}}, {"board": {3: {"owner": "bob"}}}, "board/3/owner"),
        ({"a": [1, 2]}, {"a": [1, 2, 3]}, "a/2"),
        ({"a": 1}, {"a": True}, "a"),
        ({"a": 1}, {"a": 1.0}, "a"),
        ({"a": {"x": 1, "y": 2}}, {"a": {"y": 2, "x": 1}}, "a/x"),
        ({"a": 1}, {"a": 1, "b": 2}, "b"),
        ({"a": {"x": 1}}, {"a": {}}, "a/x"),
    ],
)
def test_the_first_field_that_differs_is_named(one: Any, other: Any, path: str) -> None:
    assert first_difference(msgspec.msgpack.encode(one), msgspec.msgpack.encode(other)) == path


def test_what_is_no_state_has_no_path() -> None:
    assert first_difference(b"\xc1", msgspec.msgpack.encode({})) == ""


def test_what_differs_in_records_is_named() -> None:
    one, other = Parts(), Parts()
    for parts, amount in ((one, 1), (other, 2)):
        parts.apply(parts.create("a"))
        parts.apply(parts.add("a", amount))
    assert what_differs(one.live("a").record(), other.live("a").record()) == (("state",), "1")
    other.live("a").frozen = "divergence"
    other.live("a").index += 1
    assert what_differs(one.live("a").record(), other.live("a").record())[0] == ("position", "state", "frozen")


def test_history_keeps_the_start_of_the_chain_around_every_entry() -> None:
    parts = Parts()
    chains = [parts.live("a").chain[:CHAIN_MARK_BYTES]]
    parts.apply(parts.create("a"), parts.add("a", 1))
    chains.append(parts.live("a").chain[:CHAIN_MARK_BYTES])
    parts.apply(parts.add("a", 2))
    chains.append(parts.live("a").chain[:CHAIN_MARK_BYTES])
    rows = [decode_row(body) for _, _, body in parts.history.read(DocumentId("tally", "a"), 1, 1, 10)]
    assert [(row.before, row.after) for row in rows] == [(chains[0], chains[1]), (chains[1], chains[2])]
    assert [row.codes for row in rows] == [[Code.OK, Code.OK], [Code.OK]]


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"before": b"2" * 8}, 0),
        ({"codes": [Code.OK, Code.REFUSED, Code.OK]}, 1),
        ({"answers": [b"1", b"2", b"4"], "after": b"x" * 8}, 2),
        ({"answers": [b"0", b"2", b"3"]}, 0),
        ({"writes": [0, 7, 0]}, 1),
        ({"offsets": [0, 2, 3]}, 1),
        ({"after": b"x" * 8}, 2),
    ],
)
def test_the_marks_of_a_row_part_at_the_first_command_that_differs(change: dict[str, object], place: int) -> None:
    parts = Parts()
    commands = [parts.add("a", amount) for amount in (1, 2, 3)]
    row = HistoryRow(5, 1, bytes(32), [0, 1, 2], commands, [0, 0, 0], [b"1", b"2", b"3"], [0, 0, 0], b"1" * 8, b"a" * 8)
    mine, theirs = command_marks(row), command_marks(msgspec.structs.replace(row, **change))
    assert [one == other for one, other in zip(mine, theirs, strict=True)].index(False) == place
    assert mine[-1] == row.after


def test_a_log_line_names_no_key_and_an_operator_sees_the_path() -> None:
    sides = (Side(b"1" * 8, (NodeId("n1"), NodeId("n3"))), Side(b"2" * 8, (NodeId("n2"),)))
    right = (NodeId("n1"), NodeId("n3"))
    report = Divergence(
        ShardId(2), "clinic", "ward", 1, 5, 40, 3, "admit", ("state",), "patients/ann@acme/room", sides, right, NodeId("n2"),
        True, Remedy.HEALING, 1,
    )  # fmt: skip
    line = report.told()
    assert "ann@acme" not in line
    for part in ("clinic/ward", "command 1.5", "'admit'", "'patients'", "n1,n3", "n2", "majority", "healing", "contradicted"):
        assert part in line
    assert report.wrong == (NodeId("n2"),)
