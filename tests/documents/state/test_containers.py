"""Containers where they differ from Python's own, or do what the abstract classes leave open."""

from __future__ import annotations

import copy
import enum
from collections.abc import Callable, MutableMapping, MutableSequence, MutableSet
from typing import Any

import pytest

from cluster.documents.state import Dict, FieldOptions, List, OrderedSet, Record, StaleHandle, Table, Text
from cluster.ids import Principal


class Rank(enum.Enum):
    LOW = 1
    HIGH = 2


class Job(Record):
    name: str
    tries: int = 0
    words: list[str] = FieldOptions(default=())  # type: ignore[assignment]


DECLARED: dict[str, tuple[Any, Any]] = {
    "numbers": (list[int], [3, 1, 2]),
    "grid": (list[list[int]], [[1], [2, 3]]),
    "jobs": (list[Job], []),
    "maybe": (list[Job | None], [None]),
    "ages": (dict[str, int], {"a": 1, "b": 2}),
    "ranks": (dict[Rank, Job], {}),
    "people": (dict[Principal, list[str]], {}),
    "tags": (OrderedSet[str], ["b", "a"]),
    "table": (Table[Job], FieldOptions(default=[], key="name")),
    "rows": (Table[Job], FieldOptions()),
    "texts": (dict[str, Text], {}),
}


@pytest.fixture
def desk(make_desk: Any) -> Any:
    return make_desk(DECLARED)


def test_containers_are_collections_but_never_builtins(desk: Any) -> None:
    for field, abstract, builtin in [
        ("numbers", MutableSequence, list),
        ("ages", MutableMapping, dict),
        ("tags", MutableSet, set),
    ]:
        assert isinstance(desk.root.get(field), abstract)
        assert not isinstance(desk.root.get(field), builtin)


def test_sums_copies_and_slices_are_plain_and_independent(desk: Any) -> None:
    numbers, ages = desk.root.get("numbers"), desk.root.get("ages")
    more = [9]
    for plain in (numbers + more, more + numbers, numbers * 2, 2 * numbers, numbers.copy(), numbers[:], numbers[::-1]):
        assert type(plain) is list
        plain.clear()
    assert type(ages.copy()) is dict
    ages.copy().clear()
    assert (numbers, ages) == ([3, 1, 2], {"a": 1, "b": 2})
    assert sorted(numbers) == [1, 2, 3]
    assert numbers < [4]
    assert list(reversed(ages)) == ["b", "a"]


def test_a_popped_record_may_be_changed_and_put_back(desk: Any) -> None:
    def handler(root: Any) -> None:
        jobs = root.get("jobs")
        jobs.append(Job("build"))
        job = jobs.pop(0)
        job.tries += 1
        job.words.append("again")
        jobs.append(job)
        job.tries = 99
        key, value = root.get("ages").popitem()
        root.get("ages")[key] = value + 1

    desk.run(handler)
    assert desk.view()["jobs"] == [{"name": "build", "tries": 1, "words": ["again"]}]
    assert desk.view()["ages"] == {"a": 1, "b": 3}


def test_deep_copies_of_handles_are_free(desk: Any) -> None:
    kept: list[Any] = []
    desk.run(lambda root: kept.append(copy.deepcopy(root.get("table").put(Job("x", 1, ["w"])))))
    kept[0].words.append("free")
    assert kept[0].words == ["w", "free"]
    assert desk.view()["table"]["x"]["words"] == ["w"]


def test_inserting_a_live_value_copies_it(desk: Any) -> None:
    def handler(root: Any) -> None:
        grid = root.get("grid")
        grid.append(grid[0])
        grid[0].append(7)
        grid[1] = grid[0]
        grid[0].append(8)
        grid[0] = grid[0]
        root.get("maybe").append(Job("m"))
        root.get("maybe")[0] = root.get("maybe")[1]
        root.get("maybe")[0].tries = 5

    desk.run(handler)
    assert desk.view()["grid"] == [[1, 7, 8], [1, 7], [1]]
    assert [job["tries"] for job in desk.view()["maybe"]] == [5, 0]


def test_slice_assignment_keeps_elements_that_are_here_and_copies_others(desk: Any) -> None:
    def handler(root: Any) -> None:
        jobs = root.get("jobs")
        jobs.extend([Job("a"), Job("b"), Job("c")])
        first = jobs[0]
        jobs.sort(key=lambda job: job.name, reverse=True)
        first.tries = 1
        jobs[::2] = [Job("x"), Job("y")]
        jobs[1:1] = [jobs[0], jobs[0]]
        jobs[1].tries = 4

    desk.run(handler)
    assert [(job["name"], job["tries"]) for job in desk.view()["jobs"]] == [("x", 0), ("x", 4), ("x", 0), ("b", 0), ("y", 0)]


def test_dictionary_keys_of_every_kind_have_their_wire_name(desk: Any) -> None:
    ann = Principal("ann", "acme")

    def handler(root: Any) -> None:
        root.get("ranks").put(Rank.HIGH, Job("x")).tries = 2
        root.get("people")[ann] = ["a"]
        root.get("people")[ann].append("b")
        root.get("texts").put("t", "abc").splice(1, 1, "B")

    desk.run(handler)
    view = desk.view()
    assert view["ranks"] == {"2": {"name": "x", "tries": 2, "words": []}}
    assert view["people"] == {"ann@acme": ["a", "b"]}
    assert view["texts"] == {"t": "aBc"}
    assert desk.specs["ranks"].type.from_json(view["ranks"])[Rank.HIGH].tries == 2
    assert desk.reloaded().view() == view


IN_PLACE: list[tuple[Callable[[Any], object], list[str]]] = [
    (lambda tags: tags.__ior__(["c", "a"]), ["b", "a", "c"]),
    (lambda tags: tags.__iand__({"a", "z"}), ["a"]),
    (lambda tags: tags.__isub__({"b"}), ["a"]),
    (lambda tags: tags.__ixor__(["a", "c"]), ["b", "c"]),
    (lambda tags: tags.update(["x"], ["y"]), ["b", "a", "x", "y"]),
    (lambda tags: tags.pop(), ["a"]),
    (lambda tags: tags.remove("b"), ["a"]),
    (lambda tags: (tags.discard("b"), tags.add("b")), ["a", "b"]),
    (lambda tags: tags.clear(), []),
]


@pytest.mark.parametrize("number", range(len(IN_PLACE)))
def test_sets_change_in_place_in_order_and_roll_back(desk: Any, number: int) -> None:
    change, expected = IN_PLACE[number]
    before = desk.root.dump()
    desk.begin()
    change(desk.root.get("tags"))
    assert list(desk.root.get("tags")) == expected
    desk.journal.rollback()
    assert desk.root.dump() == before
    desk.run(lambda root: change(root.get("tags")))
    assert desk.view()["tags"] == expected
    assert desk.reloaded().root.size_bytes() == desk.root.size_bytes()


def test_set_queries_read_like_sets(desk: Any) -> None:
    tags = desk.root.get("tags")
    assert tags == {"a", "b"}
    assert tags <= {"a", "b", "c"}
    assert tags.isdisjoint(["z"])
    assert list(reversed(tags)) == ["a", "b"]
    assert list(tags.union(["c"])) == ["b", "a", "c"]
    assert list({"x": 1, "a": 2}.keys() - tags) == ["x"]
    with pytest.raises(KeyError):
        OrderedSet[str]().pop()


def test_a_keyed_table_takes_rows_from_a_list_and_one_without_key_does_not(desk: Any) -> None:
    desk.run(lambda root: root.set("table", [Job("a"), Job("b"), Job("a", 3)]))
    assert {name: row["tries"] for name, row in desk.view()["table"].items()} == {"a": 3, "b": 0}
    with pytest.raises(ValueError, match="ids from put"):
        desk.run(lambda root: root.set("rows", [Job("a")]))
    assert [row.name for row in reversed(desk.root.get("table"))] == ["b", "a"]
    assert desk.root.get("table").get("zzz") is None


def test_row_ids_that_are_taken_are_drawn_again(desk: Any) -> None:
    drawn = iter([5, 5, 6])
    desk.journal.begin(index=1, new_id=drawn.__next__)
    rows = desk.root.get("rows")
    assert [rows.name_of(rows.put(Job("a"))), rows.name_of(rows.put(Job("b")))] == [5, 6]
    popped = rows.pop(5)
    desk.journal.commit()
    popped.tries = 4
    assert list(desk.view()["rows"]) == [f"{6:016x}"]
    with pytest.raises(StaleHandle):
        desk.root.get("rows").put(Job("c"))


def test_free_containers_check_what_they_are_given() -> None:
    job = Job("x")
    with pytest.raises(TypeError):
        job.words.append(5)  # type: ignore[arg-type]
    job.words.extend(["a", "b"])
    job.words[0] = "c"
    job.words.reverse()
    assert isinstance(job.words, List)
    assert job.words == ["b", "c"]
    assert not isinstance(job.words, Dict)
