"""Records as plain values of the author, and as rows of state."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Any, ClassVar

import pytest

from cluster.documents.state import FieldOptions, OrderedSet, Record
from cluster.ids import Principal

ANN = Principal("ann", "acme")


class Bid(Record):
    bidder: Principal
    cents: int = 0
    tags: list[str] = FieldOptions(default=(), visibility="private")  # type: ignore[assignment]

    LIMIT: ClassVar[int] = 10
    unit = "cents"

    def doubled(self) -> int:
        return self.cents * 2


class Marked(Bid):
    mark: str = "x"


def test_records_are_built_by_position_or_keyword_in_declared_order() -> None:
    assert Bid(ANN, 5) == Bid(cents=5, bidder=ANN) == Bid(ANN, 5, [])
    assert Bid(ANN, 5) != Bid(ANN, 6)
    assert Bid(ANN).doubled() == 0
    assert repr(Bid(ANN, 1, ["a"])) == f"Bid(bidder={ANN!r}, cents=1, tags=['a'])"


@pytest.mark.parametrize(
    ("args", "kwargs", "text"),
    [
        ((), {}, "missing"),
        ((ANN, 1, [], 4), {}, "3 fields"),
        ((ANN,), {"bidder": ANN}, "twice"),
        ((ANN,), {"colour": 1}, "no field"),
        ((ANN, "1"), {}, "Bid.cents: expected int, got str"),
        ((ANN, True), {}, "Bid.cents: expected int, got bool"),
        ((ANN, 1, [1]), {}, "Bid.tags: expected str"),
    ],
)
def test_wrong_constructor_arguments_raise_type_errors(args: Any, kwargs: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        Bid(*args, **kwargs)


def test_only_declared_fields_can_be_set_and_only_to_their_type() -> None:
    bid = Bid(ANN, 1)
    with pytest.raises(AttributeError, match="no field 'cent'"):
        bid.cent = 3
    with pytest.raises(AttributeError, match="no field 'unit'"):
        bid.unit = "euros"
    with pytest.raises(TypeError):
        bid.cents = "3"  # type: ignore[assignment]
    with pytest.raises(AttributeError, match="deleted"):
        del bid.cents
    assert bid == Bid(ANN, 1)


def test_what_a_record_is_given_is_copied_in() -> None:
    tags = ["a"]
    bid = Bid(ANN, 1, tags)
    tags.append("b")
    assert bid.tags == ["a"]
    bid.tags.append("c")
    other = Bid(ANN, 1, bid.tags)
    bid.tags.clear()
    assert other.tags == ["a", "c"]


def test_records_inherit_fields_in_order_and_match_by_position() -> None:
    marked = Marked(ANN, 2, [], "y")
    assert marked.mark == "y"
    assert marked != Bid(ANN, 2)
    match marked:
        case Marked(_, cents, _, mark):
            assert (cents, mark) == (2, "y")
        case _:
            pytest.fail("did not match")


def test_private_names_can_not_be_fields() -> None:
    with pytest.raises(TypeError, match="underscore"):

        class Hidden(Record):
            _secret: int


def test_set_operations_keep_order_and_refuse_builtin_sets_where_it_would_show() -> None:
    left, right = OrderedSet(["b", "a"]), OrderedSet(["c", "a"])
    assert list(left | right) == ["b", "a", "c"]
    assert list(left & right) == ["a"]
    assert list(left - right) == ["b"]
    assert list(left ^ right) == ["b", "c"]
    builtin: AbstractSet[str] = {"a", "b"}
    assert left == builtin
    assert list(left & {"a"}) == ["a"]
    for wrong in (
        lambda: left | {"z"},
        lambda: {"z"} | left,
        lambda: left ^ {"z"},
        lambda: left.update({"z"}),
        lambda: OrderedSet({"z"}),
    ):
        with pytest.raises(TypeError, match="no order"):
            wrong()
