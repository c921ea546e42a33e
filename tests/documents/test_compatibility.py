"""What is said to carry over can be loaded, whatever the old code wrote; and the ways in which a type may widen are known."""

from __future__ import annotations

import enum
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.documents.compatibility import unreadable
from cluster.documents.state import OrderedSet, Record, StateType, state_type
from cluster.ids import Principal


class Few(enum.Enum):
    A = "a"


class More(enum.Enum):
    A = "a"
    B = "b"


class Other(enum.Enum):
    A = 1


class Pair(Record):
    one: int
    two: str | None


class Wider(Record):
    one: int | None
    two: str | None
    three: float = 1.0


class Narrower(Record):
    one: int


class Stranger(Record):
    one: int
    four: str


SIMPLE: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bool: st.booleans(),
    str: st.text(st.characters(exclude_categories=["Cs"])),
    bytes: st.binary(),
    Decimal: st.decimals(-1000, 1000, places=2),
    datetime: st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1)).map(lambda at: at.replace(microsecond=0, tzinfo=UTC)),
    timedelta: st.integers(-(10**9), 10**9).map(lambda ms: timedelta(milliseconds=ms)),
    UUID: st.uuids(),
    Principal: st.just(Principal("alice", "acme")),
    Literal["x"]: st.just("x"),
    Literal["x", "y"]: st.sampled_from(["x", "y"]),
    Few: st.sampled_from(list(Few)),
    More: st.sampled_from(list(More)),
    Other: st.sampled_from(list(Other)),
    Pair: st.builds(Pair, st.integers(-5, 5), st.none() | st.text("ab")),
    Wider: st.builds(Wider, st.none() | st.integers(-5, 5), st.none(), st.floats(0, 1)),
    Narrower: st.builds(Narrower, st.integers(-5, 5)),
    Stranger: st.builds(Stranger, st.integers(-5, 5), st.text("ab")),
}


LISTS: Any = list
DICTS: Any = dict


@st.composite
def kinds(draw: st.DrawFn, depth: int = 2) -> tuple[Any, st.SearchStrategy[Any]]:
    """A type and its values."""
    plain = st.sampled_from(list(SIMPLE.items()))
    if depth == 0 or draw(st.booleans()):
        chosen: tuple[Any, st.SearchStrategy[Any]] = draw(plain)
        return chosen
    inner, values = draw(kinds(depth=depth - 1))
    kind = draw(st.sampled_from(["list", "dict", "optional", "set"]))
    if kind == "list":
        return LISTS[inner], st.lists(values, max_size=3)
    if kind == "dict":
        return DICTS[str, inner], st.dictionaries(st.text("ab", max_size=2), values, max_size=3)
    if kind == "optional":
        return inner | None, st.none() | values
    return OrderedSet[str], st.lists(st.text("ab", max_size=2), max_size=3).map(OrderedSet)


def of(annotation: Any) -> StateType:
    return state_type(annotation, owner=Pair)


@given(kinds(), kinds(), st.data())
def test_what_is_said_to_carry_over_can_be_loaded(
    old: tuple[Any, st.SearchStrategy[Any]], new: tuple[Any, st.SearchStrategy[Any]], data: st.DataObject
) -> None:
    before, after = of(old[0]), of(new[0])
    value = before.admit(data.draw(old[1]))
    assert unreadable(before, before) == ""
    if not unreadable(before, after):
        after.admit(after.from_plain(before.to_plain(value)))
    if not unreadable(before, after, wire=True):
        after.from_json(before.to_json(value))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (int, int | None),
        (list[int], list[int | None]),
        (Few, More),
        (Literal["x"], Literal["x", "y"]),
        (dict[str, Pair], dict[str, Wider]),
        (Pair, Narrower),
    ],
)
def test_these_widen_and_do_not_narrow(old: Any, new: Any) -> None:
    assert unreadable(of(old), of(new)) == ""
    assert unreadable(of(new), of(old)) != "" or old is Pair


@pytest.mark.parametrize(
    ("old", "new"), [(Few, Other), (Pair, Stranger), (int, float), (int, str), (list[int], OrderedSet[int]), (int | None, int)]
)
def test_these_need_a_hook(old: Any, new: Any) -> None:
    assert unreadable(of(old), of(new)) != ""


def test_a_record_of_a_message_may_not_lose_a_field() -> None:
    """What a client still sends would be refused, though what is stored could be read."""
    assert unreadable(of(Pair), of(Narrower)) == ""
    assert "has no two any more" in unreadable(of(Pair), of(Narrower), wire=True)
