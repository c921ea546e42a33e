"""From a JSON Patch to tracked writes: every container, its refusals, and that a difference of two states leads from one to the
other."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.documents.armed import hidden_fields
from cluster.documents.state import (
    Journal,
    OrderedSet,
    Record,
    StateRoot,
    Table,
    Tally,
    Text,
    apply_patch,
    diff,
    field_spec,
    operations,
)
from cluster.documents.state.fields import FieldOptions
from cluster.documents.state.patching import OPERATIONS_MAX, check_operations, write_operations

Patch = list[dict[str, Any]]


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Place:
    row: int
    column: int


class Item(Record):
    name: str
    count: int = 0
    tags: list[str] = []  # noqa: RUF012 (declares a field)
    notes: Text = Text("")


class Holder:
    """Where the annotations below are resolved."""


FIELDS: dict[str, tuple[Any, FieldOptions]] = {
    "title": (str, FieldOptions(default="")),
    "count": (int, FieldOptions(default=0)),
    "color": (Color | None, FieldOptions(default=None)),
    "place": (Place, FieldOptions(default=Place(0, 0))),
    "item": (Item, FieldOptions(default=Item("first"))),
    "maybe": (Item | None, FieldOptions(default=None)),
    "words": (list[str], FieldOptions()),
    "items": (list[Item], FieldOptions()),
    "members": (OrderedSet[str], FieldOptions()),
    "by_name": (dict[str, Item], FieldOptions()),
    "totals": (dict[int, int], FieldOptions()),
    "keyed": (Table[Item], FieldOptions(key="name", index=("count",))),
    "rows": (Table[Item], FieldOptions()),
    "body": (Text, FieldOptions()),
    "likes": (Tally, FieldOptions()),
}


def make() -> StateRoot:
    """A document's fields, the hidden ones too."""
    specs = {name: field_spec(name, *declared, owner=Holder) for name, declared in FIELDS.items()}
    return StateRoot(specs | hidden_fields(), Journal())


def shown(root: StateRoot) -> dict[str, Any]:
    return {name: root.to_json(name) for name in FIELDS}


def repair(root: StateRoot, *patch: dict[str, Any]) -> Patch:
    """Carry a patch out; returns what viewers of everything are told. Leaves the state as it was when it raises."""
    numbers = iter(range(1, 1000))
    journal = root._journal
    check_operations(list(patch))
    journal.begin(index=journal.index + 1, new_id=lambda: next(numbers))
    try:
        write_operations(root, list(patch))
    except ValueError:
        journal.rollback()
        raise
    return operations(journal.commit(), FIELDS)


def add(path: str, value: Any) -> dict[str, Any]:
    return {"op": "add", "path": path, "value": value}


def replace(path: str, value: Any) -> dict[str, Any]:
    return {"op": "replace", "path": path, "value": value}


def remove(path: str) -> dict[str, Any]:
    return {"op": "remove", "path": path}


ONE: Patch = [
    replace("/title", "tea"),
    replace("/count", 7),
    replace("/color", "red"),
    replace("/place", {"row": 1, "column": 2}),
    replace("/item/count", 3),
    add("/item/tags/-", "new"),
    replace("/maybe", {"name": "there"}),
    add("/words/-", "one"),
    add("/words/-", "three"),
    add("/words/1", "two"),
    add("/items/-", {"name": "a", "notes": "hello"}),
    {"op": "splice", "path": "/items/0/notes", "at": 5, "delete": 0, "insert": " there"},
    add("/members/-", "ann"),
    add("/members/-", "ben"),
    add("/by_name/x", {"name": "x"}),
    add("/totals/12", 1),
    add("/keyed/vase", {"name": "vase", "count": 5}),
    add("/rows/-", {"name": "drawn"}),
    add("/rows/00000000000000ff", {"name": "given"}),
    replace("/body", "some text"),
    replace("/likes", 9),
]


def test_every_container_is_reached_and_viewers_are_told_what_was_written() -> None:
    root = make()
    before = shown(root)
    told = repair(root, *ONE)
    after = shown(root)
    assert apply_patch(before, told) == after
    assert after["words"] == ["one", "two", "three"]
    assert after["item"] == {"name": "first", "count": 3, "tags": ["new"], "notes": ""}
    assert after["items"][0]["notes"] == "hello there"
    assert after["rows"] == {
        "0000000000000001": {"name": "drawn", "count": 0, "tags": [], "notes": ""},
        "00000000000000ff": {"name": "given", "count": 0, "tags": [], "notes": ""},
    }
    assert after["totals"] == {"12": 1}
    assert (after["likes"], after["body"], after["color"], after["members"]) == (9, "some text", "red", ["ann", "ben"])
    loaded = make()
    loaded.load(root.dump())
    assert loaded.dump() == root.dump()
    assert loaded.size_bytes() == root.size_bytes(), "sizes were kept"


def test_what_was_added_is_found_by_its_index_and_can_be_removed() -> None:
    root = make()
    repair(root, *ONE)
    root._journal.begin()
    assert [row.name for row in root.get("keyed").where(count=5)] == ["vase"]
    root._journal.end_unchanged()
    repair(
        root,
        remove("/words/1"),
        remove("/items/0"),
        remove("/members/0"),
        remove("/by_name/x"),
        remove("/totals/12"),
        remove("/keyed/vase"),
        remove("/rows/00000000000000ff"),
        replace("/maybe", None),
    )
    after = shown(root)
    assert (after["words"], after["items"], after["members"], after["maybe"]) == (["one", "three"], [], ["ben"], None)
    assert (after["by_name"], after["totals"], after["keyed"], list(after["rows"])) == ({}, {}, {}, ["0000000000000001"])


def test_an_ordered_set_takes_new_values_at_its_end_and_each_once() -> None:
    root = make()
    repair(root, add("/members/0", "ann"), add("/members/-", "ben"))
    for operation, why in ((add("/members/0", "x"), "at its end"), (add("/members/-", "ann"), "already")):
        with pytest.raises(ValueError, match=why):
            repair(root, operation)
    assert shown(root)["members"] == ["ann", "ben"]


def test_a_row_is_replaced_in_place_and_a_whole_table_keeps_the_ids_that_are_given() -> None:
    root = make()
    repair(root, *ONE)
    told = repair(root, replace("/rows/00000000000000ff", {"name": "other", "count": 2}))
    assert {each["path"] for each in told} == {"/rows/00000000000000ff/name", "/rows/00000000000000ff/count"}
    repair(root, replace("/rows", {"000000000000000a": {"name": "a"}}), replace("/keyed", {"k": {"name": "k"}}))
    assert list(shown(root)["rows"]) == ["000000000000000a"]
    assert list(shown(root)["keyed"]) == ["k"]


def test_a_text_is_repaired_by_an_edit_so_that_edits_on_their_way_are_carried_over_it() -> None:
    root = make()
    repair(root, replace("/body", "hello"))
    assert repair(root, replace("/body", "hello")) == [], "what is there is not written"
    journal = root._journal
    seen = journal.index
    repair(root, {"op": "splice", "path": "/body", "at": 0, "delete": 0, "insert": "> "})
    journal.begin(index=journal.index + 1)
    root.get("body").splice(5, 0, "!", base=seen)
    journal.commit()
    assert shown(root)["body"] == "> hello!"


@pytest.mark.parametrize(
    ("operation", "why"),
    [
        (replace("/nothing", 1), "declares no field 'nothing'"),
        (replace("/-alarms", {}), "declares no field '-alarms'"),
        (add("/-asks/x", {}), "declares no field '-asks'"),
        (replace("/count", "seven"), "int"),
        (replace("/count", 2**63), "64"),
        (replace("/place", {"row": 1}), "'column' is missing"),
        (replace("/place/row", 1), "leads into a value"),
        (replace("/title/0", "x"), "leads into a value"),
        (replace("/item/size", 1), "there is no 'size'"),
        (replace("/item/count", None), "expected int"),
        (replace("/maybe/count", 1), "leads into a value"),
        (remove("/title"), "only replaced"),
        (remove("/item/name"), "only replaced"),
        (replace("/words/0", "x"), "outside the array"),
        (add("/words/1", "x"), "outside the array"),
        (add("/words/01", "x"), "no index"),
        (remove("/words/-"), "no index"),
        (add("/members/1", "x"), "outside the array"),
        (replace("/members/0", "x"), "removed and added"),
        (remove("/by_name/x"), "there is no 'x'"),
        (add("/totals/one", 1), "int"),
        (add("/keyed/vase", {"name": "jar"}), "not the name in the path"),
        (add("/keyed/-", {"name": "jar"}), "not the name in the path"),
        (replace("/keyed/vase", {"name": "vase"}), "no such row"),
        (remove("/keyed/vase"), "there is no 'vase'"),
        (add("/rows/7", {"name": "x"}), "16 hexadecimal digits"),
        (add("/rows/000000000000000z", {"name": "x"}), "16 hexadecimal digits"),
        (add("/rows/0000_0000_0000_0", {"name": "x"}), "16 hexadecimal digits"),
        (replace("/rows", [{"name": "x"}]), "object from row name to row"),
        ({"op": "splice", "path": "/title", "at": 0, "delete": 0, "insert": "x"}, "only a Text"),
        ({"op": "splice", "path": "/body", "at": 5, "delete": 0, "insert": "x"}, "outside the text"),
        ({"op": "splice", "path": "/body", "at": "0", "delete": 0, "insert": "x"}, "offsets"),
        ({"op": "test", "path": "/count", "value": 1}, "another value is there"),
        ({"op": "test", "path": "/count", "value": False}, "another value is there"),
    ],
)
def test_what_does_not_fit_is_refused_by_name_and_all_before_it_is_undone(operation: dict[str, Any], why: str) -> None:
    root = make()
    before = root.dump()
    with pytest.raises(ValueError, match=r"^operation 1 ") as refused:
        repair(root, replace("/title", "changed"), operation)
    assert why in str(refused.value)
    assert root.dump() == before
    assert "changed" not in str(refused.value)


@pytest.mark.parametrize(
    "patch",
    [
        {},
        ["x"],
        [{"op": "add"}],
        [{"op": "move", "from": "/a", "path": "/b"}],
        [{"op": "add", "path": "/a"}],
        [{"op": "remove", "path": "/a", "value": 1}],
        [{"op": "remove", "path": "a"}],
        [{"op": "remove", "path": ""}],
        [{"op": "remove", "path": 1}],
        [{"op": "remove", "path": "/a"}] * (OPERATIONS_MAX + 1),
    ],
)
def test_what_is_no_patch_is_refused_before_any_state_is_looked_at(patch: object) -> None:
    with pytest.raises(ValueError, match=r"patch|operation"):
        check_operations(patch)


WORDS = st.text("ab\n~/é", max_size=4)
ITEMS = st.fixed_dictionaries(
    {"name": WORDS, "count": st.integers(-3, 3), "tags": st.lists(WORDS, max_size=3), "notes": st.text("xy", max_size=70)}
)
STATES = st.fixed_dictionaries(
    {
        "title": WORDS,
        "color": st.sampled_from((None, "red", "blue")),
        "item": ITEMS,
        "maybe": st.none() | ITEMS,
        "words": st.lists(WORDS, max_size=6),
        "items": st.lists(ITEMS, max_size=3),
        "by_name": st.dictionaries(WORDS, ITEMS, max_size=3),
        "totals": st.dictionaries(st.integers(-20, 20).map(str), st.integers(), max_size=3).filter(
            lambda totals: all(abs(each) < 2**53 for each in totals.values())
        ),
        "keyed": st.dictionaries(WORDS, ITEMS, max_size=3).map(
            lambda rows: {name: row | {"name": name} for name, row in rows.items()}
        ),
        "rows": st.dictionaries(st.integers(0, 2**64 - 1).map(lambda id: f"{id:016x}"), ITEMS, max_size=3),
        "body": st.text("xyz", max_size=100),
        "likes": st.integers(-5, 5),
    }
)


@given(STATES, STATES)
def test_the_difference_of_two_states_leads_from_one_to_the_other(one: dict[str, Any], other: dict[str, Any]) -> None:
    root = make()
    repair(root, *[replace(f"/{name}", value) for name, value in one.items()])
    assert {name: shown(root)[name] for name in one} == one
    before = shown(root)
    told = repair(root, *diff(one, other))
    assert {name: shown(root)[name] for name in other} == other
    assert apply_patch(before, told) == shown(root)
    loaded = make()
    loaded.load(root.dump())
    assert loaded.size_bytes() == root.size_bytes()
