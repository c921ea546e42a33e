"""Random commands against plain Python values: the same answers, exact undo, patches that lead from view to view."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.documents.state import (
    FieldOptions,
    OrderedSet,
    Record,
    StateRoot,
    Table,
    Text,
    apply_patch,
    diff,
    operations,
)
from cluster.documents.state.patch import same
from cluster.ids import Principal


class Suit(enum.Enum):
    HEARTS = "hearts"
    SPADES = "spades"


class Bid(Record):
    bidder: Principal
    cents: int
    note: str = ""


class Cart(Record):
    name: str
    items: list[int]
    best: Bid | None = None
    text: Text = FieldOptions(default="")  # type: ignore[assignment]


DECLARED: dict[str, tuple[Any, Any]] = {
    "count": (int, 0),
    "title": (str, ""),
    "numbers": (list[int], []),
    "carts": (list[Cart], []),
    "ages": (dict[str, int], {}),
    "groups": (dict[str, list[Bid]], {}),
    "tags": (OrderedSet[str], ()),
    "bids": (Table[Bid], FieldOptions(key="bidder")),
    "lines": (Table[Cart], FieldOptions()),
    "body": (Text, "hello"),
    "suit": (Suit | None, None),
}

small = st.integers(-3, 6)
number = st.integers(-(2**63), 2**63 - 1) | small
word = st.sampled_from(["", "a", "b", "c/~d", "é", "naïve", "😀x"])
principal = st.builds(Principal, st.sampled_from(["ann", "bob", "c@d", "x/y"]), st.sampled_from(["acme", "zed"]))
slices = st.builds(slice, st.none() | small, st.none() | small, st.none() | st.sampled_from([-2, -1, 1, 2, 3]))

LIST_CALLS = st.one_of(
    st.tuples(st.just("append"), number),
    st.tuples(st.just("insert"), small, number),
    st.tuples(st.just("extend"), st.lists(number, max_size=3)),
    st.tuples(st.just("pop")),
    st.tuples(st.just("pop"), small),
    st.tuples(st.just("remove"), small),
    st.tuples(st.just("clear")),
    st.tuples(st.just("reverse")),
    st.tuples(st.just("sort")),
    st.tuples(st.just("index"), small),
    st.tuples(st.just("count"), small),
    st.tuples(st.just("__setitem__"), small, number),
    st.tuples(st.just("__setitem__"), slices, st.lists(number, max_size=3)),
    st.tuples(st.just("__delitem__"), small | slices),
    st.tuples(st.just("__getitem__"), small | slices),
    st.tuples(st.just("__contains__"), small),
)
DICT_CALLS = st.one_of(
    st.tuples(st.just("__setitem__"), word, number),
    st.tuples(st.just("__delitem__"), word),
    st.tuples(st.just("pop"), word),
    st.tuples(st.just("pop"), word, number),
    st.tuples(st.just("popitem")),
    st.tuples(st.just("setdefault"), word, number),
    st.tuples(st.just("update"), st.dictionaries(word, number, max_size=3)),
    st.tuples(st.just("clear")),
    st.tuples(st.just("get"), word),
    st.tuples(st.just("__contains__"), word),
)
CALLS = st.one_of(st.tuples(st.just("numbers"), LIST_CALLS), st.tuples(st.just("ages"), DICT_CALLS))


def attempt(target: Any, call: tuple[Any, ...]) -> Any:
    """The result of a call, or the type of what it raised. What returns the element in place of None counts as None."""
    name, *arguments = call
    try:
        result = getattr(target, name)(*arguments)
    except (IndexError, KeyError, ValueError) as error:
        return type(error)
    return None if name in ("append", "insert") else result


@settings(max_examples=300)
@given(commands=st.lists(st.tuples(st.lists(CALLS, max_size=8), st.booleans()), max_size=5))
def test_lists_and_dicts_answer_like_pythons_own_and_rollback_restores_them(
    make_desk: Any, commands: list[tuple[list[tuple[str, tuple[Any, ...]]], bool]]
) -> None:
    desk = make_desk(DECLARED)
    model: dict[str, Any] = {"numbers": [], "ages": {}}
    for calls, keep in commands:
        before, size, saved = (
            desk.root.dump(),
            desk.root.size_bytes(),
            {"numbers": model["numbers"][:], "ages": dict(model["ages"])},
        )
        desk.begin()
        for field, call in calls:
            assert attempt(desk.root.get(field), call) == attempt(model[field], call)
            assert desk.root.get(field) == model[field]
        if keep:
            desk.journal.commit()
            assert list(desk.root.get("ages").items()) == list(model["ages"].items())
        else:
            desk.journal.rollback()
            model = saved
            assert desk.root.dump() == before
            assert desk.root.size_bytes() == size


bids = st.builds(Bid, principal, number, word)
carts = st.builds(Cart, word, st.lists(small, max_size=3), st.none() | bids, word)
Step = Callable[[StateRoot], object]


def _pick(container: Any, at: int) -> Any:
    items = list(container)
    return items[at % len(items)] if items else None


def _row(field: str, at: int, change: Callable[[Any], object]) -> Step:
    def step(root: StateRoot) -> None:
        row = _pick(root.get(field), at)
        if row is not None:
            change(row)

    return step


def _group(at: int, change: Callable[[Any], object]) -> Step:
    def step(root: StateRoot) -> None:
        groups = root.get("groups")
        name = _pick(groups, at)
        if name is not None:
            change(groups[name])

    return step


def _splice(at: int, delete: int, insert: str, behind: int) -> Step:
    def step(root: StateRoot) -> None:
        body = root.get("body")
        start = at % (len(body) + 1)
        body.splice(start, min(delete, len(body) - start), insert)
        if behind and root._journal.index > behind:
            body.splice(0, 0, "|", base=max(body.earliest_base, root._journal.index - behind))

    return step


STEPS: st.SearchStrategy[Step] = st.one_of(
    st.builds(lambda value: lambda root: root.set("count", value), number),
    st.builds(lambda value: lambda root: root.set("title", value), word),
    st.builds(lambda value: lambda root: root.set("carts", value), st.lists(carts, max_size=2)),
    st.builds(lambda value: lambda root: root.get("carts").append(value), carts),
    st.builds(lambda at, value: lambda root: root.get("carts").insert(at, value), small, carts),
    st.builds(lambda at: lambda root: root.get("carts").pop(at) if root.get("carts")[at:][:1] else None, st.integers(0, 2)),
    st.builds(lambda: lambda root: root.get("carts").sort(key=lambda each: each.name)),
    st.builds(lambda: lambda root: root.get("carts").reverse()),
    st.builds(lambda at, value: _row("carts", at, lambda row: row.items.append(value)), small, number),
    st.builds(lambda at, value: _row("carts", at, lambda row: setattr(row, "best", value)), small, st.none() | bids),
    st.builds(
        lambda at, value: _row("carts", at, lambda row: setattr(row.best, "cents", value) if row.best else None), small, number
    ),
    st.builds(lambda at, text: _row("carts", at, lambda row: row.text.splice(0, 0, text)), small, word),
    st.builds(lambda key, value: lambda root: root.get("groups").put(key, value), word, st.lists(bids, max_size=2)),
    st.builds(lambda at, value: _group(at, lambda group: group.append(value)), small, bids),
    st.builds(lambda at, value: _group(at, lambda group: setattr(group[0], "note", value) if group else None), small, word),
    st.builds(lambda key: lambda root: root.get("groups").pop(key, None), word),
    st.builds(lambda value: lambda root: root.get("tags").add(value), word),
    st.builds(lambda value: lambda root: root.get("tags").discard(value), word),
    st.builds(
        lambda field: lambda root: root.get(field).clear(), st.sampled_from(["tags", "bids", "lines", "groups", "carts"])
    ),
    st.builds(lambda value: lambda root: root.get("bids").put(value), bids),
    st.builds(lambda who: lambda root: root.get("bids").discard(who), principal),
    st.builds(lambda at, value: _row("bids", at, lambda row: setattr(row, "cents", value)), small, number),
    st.builds(lambda value: lambda root: root.get("lines").put(value), carts),
    st.builds(lambda at, value: _row("lines", at, lambda row: row.items.extend([value, value])), small, number),
    st.builds(lambda at: lambda root: root.get("lines").discard(_pick(root.get("lines"), at)), small),
    st.builds(_splice, st.integers(0, 30), st.integers(0, 4), word, st.integers(0, 3)),
    st.builds(lambda value: lambda root: root.set("body", value), word),
    st.builds(lambda value: lambda root: root.set("suit", value), st.none() | st.sampled_from(Suit)),
)


@settings(max_examples=300, deadline=None)
@given(commands=st.lists(st.tuples(st.lists(STEPS, max_size=7), st.booleans()), max_size=6))
def test_commands_commit_to_patches_and_roll_back_to_the_same_bytes(
    make_desk: Any, commands: list[tuple[list[Step], bool]]
) -> None:
    desk = make_desk(DECLARED)
    first, kept = desk.view(), []
    for steps, keep in commands:
        before, size, view = desk.root.dump(), desk.root.size_bytes(), desk.view()
        desk.begin()
        for step in steps:
            step(desk.root)
        if not keep:
            desk.journal.rollback()
            assert desk.root.dump() == before
            assert desk.root.size_bytes() == size
            continue
        changes = desk.journal.commit()
        kept.append(changes)
        assert same(apply_patch(view, operations(changes, desk.specs)), desk.view())
        assert changes.writes or desk.root.dump() == before
        assert {name for name in view if not same(view[name], desk.view()[name])} <= changes.fields
        other = desk.reloaded()
        assert other.root.dump() == desk.root.dump()
        assert other.root.size_bytes() == desk.root.size_bytes()
    assert same(apply_patch(first, operations(kept, desk.specs)), desk.view())
    assert same(apply_patch(first, diff(first, desk.view())), desk.view())


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | small | st.sampled_from([0.0, 1.0, "x", "long " * 30, "long " * 29 + "end"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(word, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=400)
@given(json_values, json_values)
def test_diff_leads_from_any_value_to_any_other(old: Any, new: Any) -> None:
    patched = apply_patch({"view": old}, diff({"view": old}, {"view": new}))
    assert same(patched, {"view": new})
