"""JSON Patch in both directions: pointers, what is left out, and patches that do not fit."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.documents.state import OrderedSet, Text, apply_patch, diff, encode, operations
from cluster.documents.state.patch import Patch, pointer, steps_of

DECLARED: dict[str, tuple[Any, Any]] = {
    "count": (int, 0),
    "secret": (int, 0),
    "ages": (dict[str, int], {"old": 1}),
    "nested": (dict[str, dict[str, int]], {"in": {"x": 1}}),
    "numbers": (list[int], [1, 2, 3]),
    "tags": (OrderedSet[str], ["a", "b"]),
    "body": (Text, "text"),
}


@pytest.fixture
def desk(make_desk: Any) -> Any:
    return make_desk(DECLARED)


@pytest.mark.parametrize("steps", [[], ["a"], ["a/b", "c~d", ""], ["~1", "~01", "0"], ["é😀"]])
def test_pointers_escape_and_read_back(steps: list[str]) -> None:
    assert steps_of(pointer(steps)) == steps


def test_hidden_fields_are_not_mentioned(desk: Any) -> None:
    changes = desk.run(lambda root: root.set("secret", 5))
    assert operations(changes, {"count"}) == []
    assert encode(operations(changes, {"count"})) == b"[]"
    assert changes.fields == {"secret"}


def test_a_counter_that_rose_often_is_one_operation(desk: Any) -> None:
    several = [desk.run(lambda root, value=value: root.set("count", value)) for value in range(1, 100)]
    assert operations(several, DECLARED) == [{"op": "replace", "path": "/count", "value": 99}]


def test_what_came_and_went_is_not_mentioned(desk: Any) -> None:
    def handler(root: Any) -> None:
        ages = root.get("ages")
        ages["new"] = 1
        ages["new"] = 2
        del ages["new"]
        del ages["old"]
        ages["old"] = 7

    assert operations(desk.run(handler), DECLARED) == [{"op": "replace", "path": "/ages/old", "value": 7}]


def test_writes_below_a_place_that_is_replaced_later_are_left_out(desk: Any) -> None:
    def handler(root: Any) -> None:
        root.get("nested")["in"]["x"] = 5
        root.get("nested")["in"] = {}
        root.get("nested")["in"]["x"] = 6
        root.get("body").append("!")
        root.set("body", "new")

    before = desk.view()
    patch = operations(desk.run(handler), DECLARED)
    assert patch == [
        {"op": "replace", "path": "/nested/in", "value": {}},
        {"op": "add", "path": "/nested/in/x", "value": 6},
        {"op": "replace", "path": "/body", "value": "new"},
    ]
    assert apply_patch(before, patch) == desk.view()


def test_texts_change_by_splices_in_code_points(desk: Any) -> None:
    changes = desk.run(lambda root: root.get("body").splice(1, 2, "😀"))
    assert operations(changes, DECLARED) == [{"op": "splice", "path": "/body", "at": 1, "delete": 2, "insert": "😀"}]
    assert apply_patch({"body": "text"}, operations(changes, {"body"})) == {"body": "t😀t"}


def test_sets_and_lists_are_addressed_by_index_at_the_time(desk: Any) -> None:
    def handler(root: Any) -> None:
        root.get("tags").discard("a")
        root.get("tags").add("c")
        root.get("numbers").pop(0)
        root.get("numbers").append(9)

    patch = operations(desk.run(handler), DECLARED)
    assert [(each["op"], each["path"]) for each in patch] == [
        ("remove", "/tags/0"),
        ("add", "/tags/1"),
        ("remove", "/numbers/0"),
        ("add", "/numbers/2"),
    ]


def test_applying_shares_what_is_not_reached_and_leaves_the_old_view_alone() -> None:
    view = {"a": {"b": [1, {"c": 2}]}, "d": {"e": 1}}
    patched = apply_patch(
        view, [{"op": "replace", "path": "/a/b/1/c", "value": 3}, {"op": "add", "path": "/a/b/-", "value": 4}]
    )
    assert patched == {"a": {"b": [1, {"c": 3}, 4]}, "d": {"e": 1}}
    assert view == {"a": {"b": [1, {"c": 2}]}, "d": {"e": 1}}
    assert patched["d"] is view["d"]
    assert apply_patch(view, [{"op": "replace", "path": "", "value": 5}]) == 5


def test_values_of_a_patch_are_not_changed_by_later_operations_of_it() -> None:
    patch: Patch = [{"op": "add", "path": "/l", "value": []}, {"op": "add", "path": "/l/-", "value": 1}]
    assert apply_patch({}, patch) == {"l": [1]}
    assert patch[0]["value"] == []


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "replace", "path": "/missing", "value": 1},
        {"op": "remove", "path": "/missing"},
        {"op": "add", "path": "/missing/x", "value": 1},
        {"op": "add", "path": "/list/3", "value": 1},
        {"op": "add", "path": "/list/-1", "value": 1},
        {"op": "add", "path": "/list/01", "value": 1},
        {"op": "replace", "path": "/list/-", "value": 1},
        {"op": "replace", "path": "/list/2", "value": 1},
        {"op": "add", "path": "/text/0", "value": 1},
        {"op": "splice", "path": "/text", "at": 4, "delete": 1, "insert": ""},
        {"op": "splice", "path": "/text", "at": -1, "delete": 1, "insert": ""},
        {"op": "splice", "path": "/list", "at": 0, "delete": 0, "insert": "x"},
        {"op": "move", "path": "/text", "from": "/list"},
        {"op": "add", "path": "text", "value": 1},
        {"op": "add", "path": "/text"},
        {"path": "/text"},
    ],
    ids=str,
)
def test_a_patch_that_does_not_fit_is_refused(operation: dict[str, Any]) -> None:
    view = {"list": [1, 2], "text": "abcd"}
    with pytest.raises(ValueError, match=r"fit|Pointer"):
        apply_patch(view, [operation])
    assert view == {"list": [1, 2], "text": "abcd"}


def test_diff_is_small_where_it_matters() -> None:
    rows = [{"id": number, "name": "n"} for number in range(50)]
    assert diff({"rows": rows}, {"rows": [*rows, {"id": 50}]}) == [{"op": "add", "path": "/rows/50", "value": {"id": 50}}]
    assert diff({"rows": rows}, {"rows": rows[1:]}) == [{"op": "remove", "path": "/rows/0"}]
    renamed = [*rows[:3], {"id": 3, "name": "m"}, *rows[4:]]
    assert diff({"rows": rows}, {"rows": renamed}) == [{"op": "replace", "path": "/rows/3/name", "value": "m"}]
    long = "word " * 100
    assert diff({"t": long}, {"t": f"{long[:100]}X{long[100:]}"}) == [
        {"op": "splice", "path": "/t", "at": 100, "delete": 0, "insert": "X"}
    ]
    assert diff({"x": 1}, {"x": True}) == [{"op": "replace", "path": "/x", "value": True}]
    assert diff({"x": 1}, {"x": 1.0}) == [{"op": "replace", "path": "/x", "value": 1.0}]
    assert diff({"x": {"y": []}}, {"x": {"y": []}}) == []
