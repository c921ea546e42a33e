"""Indexed tables answer as a scan would, after every write and every rollback; their order is insertion order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.documents.state import FieldOptions, Record, StateRoot, Table


class Job(Record):
    name: str
    state: str = "new"
    owner: int = 0


class Note(Record):
    state: str


DECLARED: dict[str, tuple[Any, Any]] = {
    "jobs": (Table[Job], FieldOptions(key="name", index=("state", "owner"))),
    "notes": (Table[Note], FieldOptions(index=("state",))),
}
names = st.sampled_from("abcdef")
states = st.sampled_from(["new", "run", "done"])
owners = st.integers(0, 2)
writes = st.one_of(
    st.tuples(st.just("put"), names, states, owners),
    st.tuples(st.just("state"), names, states),
    st.tuples(st.just("owner"), names, owners),
    st.tuples(st.just("remove"), names),
    st.tuples(st.just("clear")),
    st.tuples(st.just("look"), states),
)


def write(table: Any, model: dict[str, list[Any]], step: tuple[Any, ...]) -> None:
    match step:
        case ("put", name, state, owner):
            table.put(Job(name, state, owner))
            model[name] = [state, owner]
        case ("state", name, state) if name in model:
            table[name].state = state
            model[name][0] = state
        case ("owner", name, owner) if name in model:
            table[name].owner = owner
            model[name][1] = owner
        case ("remove", name) if name in model:
            table.remove(name)
            del model[name]
        case ("clear",):
            table.clear()
            model.clear()
        case ("look", state):
            assert [row.name for row in table.where(state=state)] == [name for name in model if model[name][0] == state]


class Undone(Exception):
    pass


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.lists(writes, max_size=8), st.booleans()), max_size=8))
def test_an_index_answers_as_a_scan_does_whatever_was_written_and_undone(
    make_desk: Callable[..., Any], commands: list[tuple[list[tuple[Any, ...]], bool]]
) -> None:
    desk = make_desk(DECLARED)
    model: dict[str, list[Any]] = {}
    for steps, undone in commands:
        after = {name: list(values) for name, values in model.items()}

        def handler(root: StateRoot, steps: Any = steps, after: Any = after, undone: Any = undone) -> None:
            for step in steps:
                write(root.get("jobs"), after, step)
            if undone:
                raise Undone

        if undone:
            with pytest.raises(Undone):
                desk.run(handler)
        else:
            desk.run(handler)
            model = after
        jobs = desk.root.get("jobs")
        again = desk.reloaded().root.get("jobs")
        for state in ("new", "run", "done"):
            expected = [name for name in model if model[name][0] == state]
            assert [row.name for row in jobs.where(state=state)] == expected
            assert [row.name for row in again.where(state=state)] == expected
            for owner in range(3):
                both = [name for name in expected if model[name][1] == owner]
                assert [row.name for row in jobs.where(state=state, owner=owner)] == both
                assert jobs.count(state=state, owner=owner) == len(both)
        assert [row.name for row in jobs.latest(3)] == list(model)[-3:]
        by_owner = sorted(model, key=lambda name: model[name][1])
        assert [row.name for row in jobs.order_by("owner")] == by_owner
        assert [row.name for row in jobs.order_by("owner", limit=2)] == by_owner[:2]


def test_an_order_restored_after_a_clear_was_undone_is_the_order_of_a_replica_that_was_loaded(
    make_desk: Callable[..., Any],
) -> None:
    """The numbers that restore insertion order start again after a clear; undoing it must put their counter back too."""
    table = make_desk({"jobs": (Table[Job], FieldOptions(key="name"))})

    def fill(root: StateRoot) -> None:
        for name in "abcdef":
            root.get("jobs").put(Job(name))
        root.get("jobs").remove("a")

    def clear_and_fail(root: StateRoot) -> None:
        jobs = root.get("jobs")
        jobs.clear()
        jobs.put(Job("x"))
        jobs.remove("x")
        raise Undone

    def remove_and_fail(root: StateRoot) -> None:
        root.get("jobs").remove("c")
        raise Undone

    table.run(fill)
    with pytest.raises(Undone):
        table.run(clear_and_fail)
    table.run(lambda root: root.get("jobs").put(Job("g")))
    with pytest.raises(Undone):
        table.run(remove_and_fail)
    assert [row.name for row in table.root.get("jobs")] == list("bcdefg")


def test_what_an_indexed_query_costs_does_not_depend_on_whether_the_index_exists_already(make_desk: Callable[..., Any]) -> None:
    """Replicas differ in what they have cached; their budgets may not."""
    desk = make_desk(DECLARED)

    def fill(root: StateRoot) -> None:
        for number in range(100):
            root.get("jobs").put(Job(str(number), "new" if number % 10 else "run", number % 3))

    desk.run(fill)
    charged: list[int] = []
    costs = []
    for each in (desk, desk, desk.reloaded()):
        each.journal.charge = charged.append
        assert len(each.root.get("jobs").where(state="run")) == 10
        costs.append(sum(charged))
        charged.clear()
    assert costs == [costs[0]] * 3
    assert costs[0] < 50, "it follows the rows that are found, not the table"


@pytest.mark.parametrize("index", [("words",), ("missing",), ("weight",)])
def test_only_what_is_immutable_and_equal_to_itself_alone_can_be_indexed(
    make_desk: Callable[..., Any], index: tuple[str, ...]
) -> None:
    class Item(Record):
        words: list[str]
        weight: float = 0.0

    with pytest.raises(TypeError, match="index"):
        make_desk({"items": (Table[Item], FieldOptions(index=index))})


def test_rows_without_a_key_are_found_by_value_too(make_desk: Callable[..., Any]) -> None:
    made = make_desk(DECLARED)

    def handler(root: StateRoot) -> None:
        notes = root.get("notes")
        first = notes.put(Note("x"))
        notes.put(Note("y"))
        notes.put(Note("x"))
        assert len(notes.where(state="x")) == 2
        first.state = "y"
        assert [row.state for row in notes.where(state="y")] == ["y", "y"]
        assert notes.find(state="y") is first
        assert notes.find(state="z") is None
        assert notes.where(state=["not", "hashable"]) == []

    made.run(handler)
