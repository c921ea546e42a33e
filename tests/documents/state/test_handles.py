"""Handles, undo at awkward moments, and writes that must not happen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cluster.documents.state import (
    FieldOptions,
    OrderedSet,
    Record,
    StaleHandle,
    Table,
    Text,
    WriteInReadHandler,
    apply_patch,
    operations,
    touched_rows,
)


class Item(Record):
    name: str
    size: int = 0
    parts: list[int] = FieldOptions(default=())  # type: ignore[assignment]


class Page(Record):
    name: str
    score: float
    text: Text = FieldOptions(default="")  # type: ignore[assignment]


DECLARED: dict[str, tuple[Any, Any]] = {
    "count": (int, 0),
    "owner": (str, FieldOptions()),
    "items": (list[Item], []),
    "byname": (dict[str, Item], {}),
    "tags": (OrderedSet[str], ()),
    "table": (Table[Item], FieldOptions(key="name")),
    "rows": (Table[Item], FieldOptions()),
    "body": (Text, ""),
}


@pytest.fixture
def desk(make_desk: Any) -> Any:
    desk = make_desk(DECLARED)

    def fill(root: Any) -> None:
        for name in ("a", "b", "c"):
            root.get("items").append(Item(name))
            root.get("byname").put(name, Item(name))
            root.get("table").put(Item(name))
            root.get("rows").put(Item(name))
            root.get("tags").add(name)
        root.get("body").append("text")

    desk.run(fill)
    return desk


def test_append_and_put_return_the_live_row_and_leave_the_authors_record_free(desk: Any) -> None:
    mine = Item("mine")

    def handler(root: Any) -> None:
        for live in (root.get("items").append(mine), root.get("byname").put("m", mine), root.get("table").put(mine)):
            live.size = 7
            live.parts.append(1)
        mine.size = 99

    desk.run(handler)
    expected = {"name": "mine", "size": 7, "parts": [1]}
    view = desk.view()
    assert view["items"][-1] == view["byname"]["m"] == view["table"]["mine"] == expected


@pytest.mark.parametrize("field", ["items", "byname", "tags", "table", "rows", "body"])
def test_handles_die_with_their_command(desk: Any, field: str) -> None:
    kept: list[Any] = []
    desk.run(lambda root: kept.append(root.get(field)))
    with pytest.raises(StaleHandle):
        len(kept[0])
    with pytest.raises(StaleHandle):
        desk.run(lambda root: len(kept[0]))


def test_rows_kept_from_an_earlier_command_can_not_be_written(desk: Any) -> None:
    kept: list[Any] = []
    desk.run(lambda root: kept.extend([root.get("table")["a"], root.get("items")[0], root.get("table")["a"].parts]))
    before = desk.root.dump()
    for write in (lambda: setattr(kept[0], "size", 1), lambda: setattr(kept[1], "size", 1), lambda: kept[2].append(1)):
        with pytest.raises(StaleHandle):
            desk.run(lambda root, write=write: write())
    assert desk.root.dump() == before


def test_removed_rows_can_not_be_written_and_popped_ones_are_free_copies(desk: Any) -> None:
    def handler(root: Any) -> None:
        row, element, entry = root.get("table")["a"], root.get("items")[1], root.get("byname")["c"]
        root.get("table").remove("a")
        del root.get("items")[1]
        root.get("byname").clear()
        for dead in (row, element, entry):
            with pytest.raises(StaleHandle):
                dead.size = 5
            with pytest.raises(StaleHandle):
                dead.parts.append(5)
        popped = root.get("items").pop()
        popped.size = 8
        root.get("items").insert(0, popped)

    desk.run(handler)
    assert [(each["name"], each["size"]) for each in desk.view()["items"]] == [("c", 8), ("a", 0)]


def test_elements_of_lists_are_found_after_the_list_has_shifted(desk: Any) -> None:
    def handler(root: Any) -> None:
        items = root.get("items")
        last = items[2]
        items.insert(0, Item("c"))
        items.reverse()
        last.size = 3
        del items[3]
        last.parts.append(4)

    before = desk.view()
    changes = desk.run(handler)
    assert [(each["name"], each["size"]) for each in desk.view()["items"]] == [("c", 3), ("b", 0), ("a", 0)]
    assert apply_patch(before, operations(changes, DECLARED)) == desk.view()


WRITES: list[Callable[[Any], object]] = [
    lambda root: root.set("count", 5),
    lambda root: root.get("items").append(Item("x")),
    lambda root: setattr(root.get("items")[0], "size", 2),
    lambda root: root.get("byname").clear(),
    lambda root: root.get("tags").discard("a"),
    lambda root: root.get("table").put(Item("z")),
    lambda root: root.get("body").append("!"),
]


@pytest.mark.parametrize("write", WRITES)
def test_every_write_is_refused_in_read_handlers_and_outside_commands(desk: Any, write: Callable[[Any], object]) -> None:
    before = desk.root.dump()
    with pytest.raises(StaleHandle):
        write(desk.root)
    desk.begin()
    desk.journal.read_only = True
    with pytest.raises(WriteInReadHandler):
        write(desk.root)
    desk.journal.read_only = False
    assert not desk.journal.commit()
    assert desk.root.dump() == before


def exploding() -> Iterator[Any]:
    yield Item("ok")
    raise ZeroDivisionError


FAILURES: list[Callable[[Any], object]] = [
    lambda root: root.set("count", 2**64),
    lambda root: root.set("owner", 5),
    lambda root: root.set("nothing", 5),
    lambda root: root.get("items").extend(exploding()),
    lambda root: root.get("items").extend([Item("x"), "y"]),
    lambda root: root.get("items").__setitem__(slice(0, 2), [Item("x"), None]),
    lambda root: root.get("items").__setitem__(slice(0, 3, 2), [Item("x")]),
    lambda root: root.get("items").sort(),
    lambda root: root.get("items").sort(key=lambda each: root.get("items").append(each)),
    lambda root: root.get("byname").put("k", {"name": "x"}),
    lambda root: root.get("byname").put(5, Item("x")),
    lambda root: root.get("byname").update([("k", Item("x")), ("l", 3)]),
    lambda root: root.get("tags").add(5),
    lambda root: root.get("tags").update(["x", 5]),
    lambda root: root.get("table").put(Item),
    lambda root: setattr(root.get("table")["a"], "name", "other"),
    lambda root: setattr(root.get("table")["a"], "parts", [1, "x"]),
    lambda root: root.get("table").remove("none"),
    lambda root: root.get("table").remove(Item("a")),
    lambda root: root.get("table").where(colour=1),
    lambda root: root.get("body").splice(0, 0, "\ud800"),
    lambda root: root.get("body").splice(3, 9),
    lambda root: root.get("body").splice(-1, 0, "x"),
]


@pytest.mark.parametrize("number", range(len(FAILURES)))
def test_a_mutation_that_raises_leaves_no_trace_after_rollback(desk: Any, number: int) -> None:
    before, size = desk.root.dump(), desk.root.size_bytes()

    def handler(root: Any) -> None:
        for write in WRITES:
            write(root)
        FAILURES[number](root)

    with pytest.raises((TypeError, ValueError, KeyError, IndexError, AttributeError, ZeroDivisionError)):
        desk.run(handler)
    assert desk.root.dump() == before
    assert desk.root.size_bytes() == size


@pytest.mark.parametrize("number", [number for number in range(len(FAILURES)) if number not in (8, 11, 13)])
def test_a_mutation_that_raises_has_changed_nothing_even_when_the_handler_goes_on(desk: Any, number: int) -> None:
    before = desk.root.dump()

    def handler(root: Any) -> None:
        with pytest.raises((TypeError, ValueError, KeyError, IndexError, AttributeError, ZeroDivisionError)):
            FAILURES[number](root)

    assert not desk.run(handler)
    assert desk.root.dump() == before


REMOVALS: list[Any] = [
    lambda root: root.get("table").remove("b"),
    lambda root: root.get("rows").remove(root.get("rows").find(name="b")),
    lambda root: root.get("byname").pop("b"),
    lambda root: root.get("byname").update({"b": Item("b", 5, [1]), "z": Item("z")}),
    lambda root: root.get("tags").discard("b"),
    lambda root: root.get("items").pop(1),
    lambda root: root.get("items").__delitem__(slice(0, 2)),
    lambda root: root.get("items").__setitem__(slice(0, 3, 2), [Item("x"), Item("yy")]),
    lambda root: root.get("body").splice(1, 2, "xyz"),
    *(lambda root, field=field: root.get(field).clear() for field in ("items", "byname", "tags", "table", "rows")),
]


@pytest.mark.parametrize("number", range(len(WRITES) + len(REMOVALS)))
def test_the_size_that_writes_keep_is_the_size_of_the_state_that_is_loaded(desk: Any, number: int) -> None:
    before, size = desk.root.dump(), desk.root.size_bytes()
    write = [*WRITES, *REMOVALS][number]
    desk.begin()
    write(desk.root)
    desk.journal.rollback()
    assert (desk.root.dump(), desk.root.size_bytes()) == (before, size)
    assert desk.run(write)
    assert desk.root.dump() != before
    assert desk.reloaded().root.size_bytes() == desk.root.size_bytes()


def test_rollback_restores_insertion_order_of_many_deletions_in_linear_time(make_desk: Any) -> None:
    desk = make_desk({"ages": (dict[str, int], {str(number): number for number in range(20_000)})})
    before = desk.root.dump()
    desk.begin()
    ages = desk.root.get("ages")
    for number in range(0, 20_000, 2):
        del ages[str(number)]
    ages["0"] = 1
    desk.journal.rollback()
    assert desk.root.dump() == before


def test_setting_what_is_there_already_is_no_write(desk: Any) -> None:
    def handler(root: Any) -> None:
        root.set("count", 0)
        root.get("tags").add("a")
        root.get("table").put(Item("a"))
        root.get("table")["a"].size = 0
        root.get("body").splice(0)

    assert desk.run(handler).writes == b""


def test_augmented_assignment_of_a_container_writes_only_what_was_added(desk: Any) -> None:
    def handler(root: Any) -> None:
        row = root.get("table")["a"]
        row.parts += [1, 2]
        tags = root.get("tags")
        tags |= ["z"]
        root.set("tags", tags)

    changes = desk.run(handler)
    assert [operation["path"] for operation in operations(changes, DECLARED)] == [
        "/table/a/parts/0",
        "/table/a/parts/1",
        "/tags/3",
    ]


def test_put_under_a_key_overwrites_in_place_field_by_field(desk: Any) -> None:
    changes = desk.run(lambda root: root.get("table").put(Item("b", 4)))
    assert operations(changes, {"table"}) == [{"op": "replace", "path": "/table/b/size", "value": 4}]
    assert list(desk.view()["table"]) == ["a", "b", "c"]
    assert touched_rows(changes, "table") == {"b"}


def test_overwriting_a_row_keeps_texts_that_are_the_same_and_tells_zeros_apart(make_desk: Any) -> None:
    desk = make_desk({"pages": (Table[Page], FieldOptions(key="name"))})
    desk.run(lambda root: root.get("pages").put(Page("p", 0.0, Text("text"))))
    desk.run(lambda root: root.get("pages")["p"].text.append("!"))
    changes = desk.run(lambda root: root.get("pages").put(Page("p", -0.0, Text("text!"))))
    assert [operation["path"] for operation in operations(changes, {"pages"})] == ["/pages/p/score"]
    desk.run(lambda root: root.get("pages")["p"].text.splice(0, 0, ">", base=1))
    assert desk.view()["pages"]["p"]["text"] == ">text!"


def test_fields_that_are_read_are_collected_on_request(desk: Any) -> None:
    desk.journal.reads = set()
    desk.root.get("count")
    len(desk.root.get("table"))
    read, desk.journal.reads = desk.journal.reads, None
    desk.root.get("tags")
    assert read == {"count", "table"}


def test_row_ids_come_from_the_command_and_are_stable(desk: Any) -> None:
    names: list[Any] = []

    def handler(root: Any) -> None:
        row = root.get("rows").put(Item("new"))
        names.append(root.get("rows").name_of(row))

    desk.run(handler)
    desk.run(lambda root: root.get("rows").remove(root.get("rows").find(name="a")))
    again = desk.reloaded()
    assert again.root.get("rows")[names[0]].name == "new"
    assert f"{names[0]:016x}" in again.view()["rows"]
    assert [row.name for row in again.root.get("rows")] == ["b", "c", "new"]


def test_table_queries_read_rows_in_insertion_order(desk: Any) -> None:
    table = desk.root.get("table")
    assert [row.name for row in table.where(size=0)] == ["a", "b", "c"]
    assert table.find(size=1) is None
    assert table.count(name="b") == 1
    assert "a" in table
    assert table["a"] in table
    assert Item("a") not in table
    last = max(table, key=lambda row: row.name, default=None)
    assert last is not None
    assert last.name == "c"
    assert table.names() == ["a", "b", "c"]


def test_a_field_without_default_is_missing_until_it_is_set(desk: Any) -> None:
    assert desk.root.missing() == ["owner"]
    with pytest.raises(AttributeError, match="has not been set"):
        desk.root.get("owner")
    with pytest.raises(AttributeError, match="not declared"):
        desk.root.get("nothing")
    changes = desk.run(lambda root: root.set("owner", "me"))
    assert operations(changes, {"owner"}) == [{"op": "add", "path": "/owner", "value": "me"}]
    assert desk.root.missing() == []


def test_work_that_follows_a_containers_size_is_charged_the_same_before_and_after_a_reload(desk: Any) -> None:
    def work(root: Any) -> None:
        str(root.get("body"))
        assert "a" in root.get("tags")
        root.get("tags").discard("b")
        del root.get("byname")["a"]
        root.get("items").insert(0, Item("x"))
        root.get("items")[1].size = 4
        root.get("items").index(Item("c"))

    charges: list[list[int]] = []
    for each in (desk.reloaded(), desk):
        charged: list[int] = []
        each.journal.charge = charged.append
        each.begin()
        work(each.root)
        each.journal.rollback()
        charges.append(charged)
    assert charges[0] == charges[1]
    assert sum(charges[0]) > 0


def test_a_charge_that_raises_stops_the_work_before_it_is_done(desk: Any) -> None:
    def refuse(amount: int) -> None:
        raise OverflowError

    desk.journal.charge = refuse
    before = desk.root.dump()
    with pytest.raises(OverflowError):
        desk.run(lambda root: root.get("items").clear())
    assert desk.root.dump() == before
