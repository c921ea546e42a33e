"""Frozen dataclasses, Structs and tuples: converted field by field, stored as leaves, refused when they could change."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from cluster.documents.state import OrderedSet, Record, state_type
from cluster.ids import Principal


@dataclass(frozen=True)
class Point:
    x: int
    y: int = 0
    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Named(Point):
    who: Principal | None = None


class Box(msgspec.Struct, frozen=True):
    low: Point
    price: Decimal
    inner: Box | None = None


class Shape(Record):
    box: Box
    points: list[Point]


@pytest.mark.parametrize(
    ("kind", "value", "shown"),
    [
        (Point, Point(1, 2, ("a",)), {"x": 1, "y": 2, "words": ["a"]}),
        (Named, Named(1, who=Principal("a", "x")), {"x": 1, "y": 0, "words": [], "who": "a@x"}),
        (
            Box,
            Box(Point(1), Decimal("1.50"), Box(Point(2), Decimal(3))),
            {
                "low": {"x": 1, "y": 0, "words": []},
                "price": "1.50",
                "inner": {"low": {"x": 2, "y": 0, "words": []}, "price": "3", "inner": None},
            },
        ),
        (tuple[Point, ...], (Point(1), Point(2)), [{"x": 1, "y": 0, "words": []}, {"x": 2, "y": 0, "words": []}]),
    ],
)
def test_a_value_comes_back_from_each_of_its_forms(kind: Any, value: Any, shown: Any) -> None:
    of = state_type(kind, owner=Box)
    assert of.leaf
    assert of.admit(value) is value
    assert of.to_json(value) == shown
    assert of.from_json(json.loads(json.dumps(shown))) == value
    assert of.from_plain(of.to_plain(value)) == value
    assert of.same(value, of.from_json(shown))


def test_a_parameter_may_leave_out_what_has_a_default_and_nothing_else() -> None:
    of = state_type(Point, owner=Point)
    assert of.from_json({"x": 3}) == Point(3)
    for wrong in ({}, {"x": "three"}, {"x": 1, "z": 1}, [1], {"x": 1, "words": [1]}):
        with pytest.raises((TypeError, ValueError)):
            of.from_json(wrong)


def test_frozen_values_are_stored_alone_in_records_and_in_containers(make_desk: Callable[..., Any]) -> None:
    made = make_desk(
        {
            "home": (Point, Point(0)),
            "shapes": (list[Shape], []),
            "by_name": (dict[str, Point], {}),
            "seen": (OrderedSet[Point], ()),
            "path": (tuple[Point, ...], ()),
        }
    )

    def handler(root: Any) -> None:
        root.set("home", Point(1))
        root.get("shapes").append(Shape(Box(Point(2), Decimal(1)), [Point(3)]))
        root.get("by_name")["a"] = Point(4)
        root.get("seen").add(Point(5))
        root.set("path", (Point(6), Point(7)))

    made.run(handler)
    assert made.reloaded().view() == made.view()
    assert made.reloaded().root.get("shapes")[0].box == Box(Point(2), Decimal(1))
    unchanged = made.run(lambda root: root.set("home", Point(1)))
    assert not unchanged, "an equal value is the same value"


@dataclass
class Loose:
    x: int


@dataclass(frozen=True)
class Held:
    xs: list[int]


@dataclass(frozen=True)
class Checked:
    x: int

    def __post_init__(self) -> None:
        raise ValueError


@dataclass(frozen=True)
class Made:
    xs: tuple[int, ...] = dataclasses.field(default_factory=tuple)


class LooseStruct(msgspec.Struct):
    x: int


class Renamed(msgspec.Struct, frozen=True, array_like=True):
    x: int


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Loose, "frozen=True"),
        (LooseStruct, "frozen=True"),
        (Held, "tuple"),
        (Checked, "__post_init__"),
        (Made, "default_factory"),
        (Renamed, "array_like"),
        (tuple[int, str], "tuple"),
        (tuple[list[int], ...], "can change"),
    ],
)
def test_what_could_change_or_would_run_code_is_refused_with_what_to_do(kind: Any, why: str) -> None:
    with pytest.raises(TypeError, match=why):
        state_type(kind, owner=Loose)


def test_a_value_that_was_forced_into_another_shape_is_not_admitted() -> None:
    of = state_type(Point, owner=Point)
    odd = Point(1)
    object.__setattr__(odd, "x", "one")
    with pytest.raises(TypeError, match=r"Point\.x"):
        of.admit(odd)
    with pytest.raises(TypeError):
        of.admit(Named(1))
