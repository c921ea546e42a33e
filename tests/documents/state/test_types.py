"""What may be declared and what is refused, and the three forms of every value."""

from __future__ import annotations

import decimal
import enum
import json
import typing
import uuid
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, Literal, Optional

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.documents.state import OrderedSet, Record, Table, Text, field_spec, state_type
from cluster.ids import Principal


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Mixed(enum.Enum):
    ONE = 1
    OTHER = "1"


class Point(Record):
    x: int
    y: int = 0


class Tree(Record):
    name: str
    children: list[Tree] = []  # noqa: RUF012


class Wrong(Record):
    found: set[str]


def of(annotation: Any, key: str | None = None) -> Any:
    return state_type(annotation, owner=Point, key=key)


moments = st.datetimes(timezones=st.just(UTC)).map(
    lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000, fold=0)
)
spans = st.timedeltas(timedelta(days=-100_000_000), timedelta(days=100_000_000))
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
decimals = st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**20), max_value=10**20)
principals = st.builds(Principal, st.sampled_from(["a", "document:x/y", "a@b"]), st.sampled_from(["acme", "z"]))

VALUES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (int, st.integers(-(2**63), 2**63 - 1)),
    (float, st.floats(allow_nan=False, allow_infinity=False)),
    (bool, st.booleans()),
    (str, texts),
    (bytes, st.binary(max_size=20)),
    (Decimal, decimals),
    (datetime, moments),
    (timedelta, spans),
    (uuid.UUID, st.uuids()),
    (Colour, st.sampled_from(Colour)),
    (Level, st.sampled_from(Level)),
    (Literal["a", 1, True], st.sampled_from(["a", 1, True])),
    (Principal, principals),
    (int | None, st.none() | st.integers(-5, 5)),
    (list[Decimal], st.lists(decimals, max_size=3)),
    (dict[Principal, bytes], st.dictionaries(principals, st.binary(max_size=3), max_size=3)),
    (dict[int, str], st.dictionaries(st.integers(-(2**63), 2**63 - 1), texts, max_size=3)),
    (dict[Level, list[datetime]], st.dictionaries(st.sampled_from(Level), st.lists(moments, max_size=2))),
    (OrderedSet[uuid.UUID], st.lists(st.uuids(), unique=True, max_size=3)),
    (Point, st.builds(Point, st.integers(-5, 5), st.integers(-5, 5))),
    (Text, texts),
]


@pytest.mark.parametrize(("annotation", "values"), VALUES, ids=lambda each: getattr(each, "__name__", None) or str(each)[:40])
def test_every_value_survives_its_plain_and_its_json_form(annotation: Any, values: st.SearchStrategy[Any]) -> None:
    kind = of(annotation)

    @given(values)
    def check(value: Any) -> None:
        admitted = kind.admit(value)
        plain = msgspec.msgpack.decode(msgspec.msgpack.encode(kind.to_plain(admitted)))
        wire = json.loads(msgspec.json.encode(kind.to_json(admitted)))
        for again in (kind.from_plain(plain), kind.from_json(wire)):
            assert again == admitted
            assert kind.to_plain(again) == kind.to_plain(admitted)
            assert kind.size(again) == kind.size(admitted)

    check()


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (set[str], "OrderedSet"),
        (frozenset[str], "OrderedSet"),
        (tuple[int, int], "Record"),
        (Any, "say which type"),
        (object, "say which type"),
        (list, "list\\[int\\]"),
        (dict, "dict\\[str, int\\]"),
        (complex, "Record"),
        (dict[float, int], "keys of a dict"),
        (dict[bool, int], "keys of a dict"),
        (int | str, "one type and None"),
        (OrderedSet[list[int]], "immutable"),
        (OrderedSet[float], "immutable"),
        (list[Table[Point]], "field of a document"),
        (Table[int], "Records"),  # type: ignore[type-var]
        (Mixed, "all be str or all be int"),
        (Literal[b"x"], "Literal"),
        (Wrong, "Wrong.found"),
        ("NoSuchName", "resolved"),
        (typing.Callable[[], int], "name handlers"),
        (Record, "derives from Record"),
        (type, "can not be stored"),
    ],
    ids=str,
)
def test_what_can_not_be_stored_is_refused_with_what_to_use_instead(annotation: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        of(annotation)


def test_a_key_option_is_checked_against_the_row() -> None:
    assert of(Table[Point], key="x").key_field == "x"
    with pytest.raises(TypeError, match="not declared"):
        of(Table[Point], key="z")
    with pytest.raises(TypeError, match="only a Table"):
        of(list[Point], key="x")


def test_optional_and_string_annotations_mean_the_same_as_unions() -> None:
    assert of(Optional[int]).name == of("int | None").name == "int | None"  # noqa: UP045


class SubInt(int):
    pass


class SubStr(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "changed"


@pytest.mark.parametrize(
    ("annotation", "value", "error"),
    [
        (int, True, TypeError),
        (int, 1.0, TypeError),
        (int, "1", TypeError),
        (int, 2**63, ValueError),
        (int, -(2**63) - 1, ValueError),
        (float, float("nan"), ValueError),
        (float, float("inf"), ValueError),
        (float, 2**53 + 1, ValueError),
        (float, 10**400, ValueError),
        (float, True, TypeError),
        (bool, 1, TypeError),
        (str, b"x", TypeError),
        (str, "\ud800", ValueError),
        (bytes, "x", TypeError),
        (Decimal, Decimal("NaN"), ValueError),
        (Decimal, Decimal("Infinity"), ValueError),
        (Decimal, Decimal("1" * 35), ValueError),
        (Decimal, Decimal("1e7000"), ValueError),
        (Decimal, 0.5, TypeError),
        (datetime, datetime(2026, 1, 1), ValueError),
        (datetime, datetime(2026, 1, 1, microsecond=1, tzinfo=UTC), ValueError),
        (datetime, datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1))), ValueError),
        (timedelta, timedelta.max, ValueError),
        (uuid.UUID, "x", TypeError),
        (Colour, "red", TypeError),
        (Level, 1, TypeError),
        (Literal["a", 1], True, ValueError),
        (Literal["a", 1], 1.0, ValueError),
        (Principal, Principal("", "acme"), ValueError),
        (Principal, Principal("a", "b@c"), ValueError),
        (Principal, Principal("a", "b\n"), ValueError),
        (Principal, "a@b", TypeError),
        (list[int], {1, 2}, TypeError),
        (list[int], "12", TypeError),
        (list[int], [1, "2"], TypeError),
        (dict[str, int], [("a", 1)], TypeError),
        (dict[int, int], {True: 1}, TypeError),
        (OrderedSet[str], {"a"}, TypeError),
        (Point, {"x": 1}, TypeError),
        (Text, 3, TypeError),
        (Text, "\udfff", ValueError),
    ],
    ids=repr,
)
def test_foreign_values_are_refused(annotation: Any, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        of(annotation).check(value)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, 1.0),
        (int, "01"),
        (int, "-0"),
        (int, "9223372036854775808"),
        (int, "\u0661"),
        (int, True),
        (float, "1.0"),
        (bytes, "YQ"),
        (bytes, "YR=="),
        (bytes, "Y Q=="),
        (Decimal, "0x1"),
        (Decimal, "sNaN"),
        (Decimal, 0.1),
        (datetime, "2026-01-01"),
        (datetime, "2026-01-01T00:00:00"),
        (datetime, "2026-13-01T00:00:00Z"),
        (datetime, "2026-01-01T00:00:00.1234Z"),
        (datetime, "0001-01-01T00:00:00+01:00"),
        (timedelta, "P"),
        (timedelta, "PT"),
        (timedelta, "1S"),
        (uuid.UUID, "{12345678-1234-5678-1234-567812345678}"),
        (uuid.UUID, "1234567812345678123456781234567Z"),
        (Principal, "nobody"),
        (Colour, "RED"),
        (Level, True),
        (list[int], {"0": 1}),
        (OrderedSet[int], [1, 1]),
        (Point, {"x": 1, "z": 2}),
        (Point, {"y": 1}),
        (Point, [1, 2]),
        (dict[int, int], {"one": 1}),
    ],
    ids=repr,
)
def test_json_of_another_shape_is_refused(annotation: Any, value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        of(annotation).from_json(value)


def test_integers_beyond_53_bits_travel_as_strings_and_both_forms_are_read() -> None:
    kind = of(int)
    assert kind.to_json(2**53 - 1) == 2**53 - 1
    assert kind.to_json(2**53) == str(2**53)
    assert kind.to_json(-(2**63)) == str(-(2**63))
    assert kind.from_json("17") == kind.from_json(17) == 17


def test_moments_are_written_in_utc_with_milliseconds() -> None:
    kind = of(datetime)
    assert kind.to_json(datetime(2026, 1, 31, 12, 0, 0, 5000, tzinfo=UTC)) == "2026-01-31T12:00:00.005Z"
    offset = datetime(2026, 1, 31, 14, 0, tzinfo=timezone(timedelta(hours=2)))
    assert kind.admit(offset).tzinfo is UTC
    assert kind.from_json("2026-01-31T14:00:00+02:00") == offset


def test_spans_are_iso_durations() -> None:
    kind = of(timedelta)
    assert kind.to_json(timedelta(seconds=-90, milliseconds=-500)) == "-PT90.5S"
    assert kind.from_json("P1DT2H3M4.5S") == timedelta(days=1, hours=2, minutes=3, seconds=4.5)


def test_decimals_do_not_depend_on_the_context_of_the_interpreter() -> None:
    kind = of(Decimal)
    with decimal.localcontext(decimal.Context(prec=2, capitals=0)):
        assert kind.to_plain(kind.admit(Decimal("1E+9"))) == "1E+9"
        assert kind.from_plain("1.2345") == Decimal("1.2345")


def test_subclasses_of_plain_types_are_stored_as_the_plain_type() -> None:
    assert type(of(int).admit(SubInt(3))) is int
    assert type(of(int).admit(Level.HIGH)) is int
    text = of(str).admit(SubStr("kept"))
    assert (type(text), text) == (str, "kept")


def test_values_that_contain_themselves_or_are_nested_too_deeply_are_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises((TypeError, ValueError)):
        of(list[list[list[int]]]).check(loop)
    tree = Tree("leaf")
    with pytest.raises(ValueError, match="nested"):  # noqa: PT012
        for _ in range(40):
            tree = Tree("node", [tree])
    chain = top = Tree("top")
    with pytest.raises(ValueError, match="nested"):  # noqa: PT012
        for _ in range(10_000):
            chain.children.append(Tree("next"))
            chain = chain.children[0]
    assert of(Tree).admit(top) == top
    deep: Any = {"name": "x", "children": []}
    for _ in range(40):
        deep = {"name": "x", "children": [deep]}
    with pytest.raises(ValueError, match="nested"):
        of(Tree).from_json(deep)


def test_defaults_are_checked_when_declared_and_containers_start_empty() -> None:
    with pytest.raises(TypeError, match="count: expected int"):
        field_spec("count", int, "zero", owner=Point)
    assert field_spec("rows", Table[Point], owner=Point).has_default
    assert not field_spec("count", int, owner=Point).has_default


def test_json_schema_refers_to_records_by_name() -> None:
    definitions: dict[str, Any] = {}
    assert of(list[Tree]).json_schema(definitions) == {"type": "array", "items": {"$ref": "#/$defs/Tree"}}
    assert definitions["Tree"]["required"] == ["name"]
    assert definitions["Tree"]["properties"]["children"]["items"] == {"$ref": "#/$defs/Tree"}
    assert of(dict[Level, int]).json_schema({})["propertyNames"] == {"enum": ["1", "2"]}
    assert of(dict[str, bool]).json_schema({}) == {"type": "object", "additionalProperties": {"type": "boolean"}}
