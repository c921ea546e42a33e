"""Text: splices, transformation over later splices, and what happens when they are gone."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.documents.state import StaleEdit, Text, operations
from cluster.documents.state.splices import Edit, rebase
from cluster.documents.state.text import CHUNK_MAX, CHUNK_SIZE, SPLICE_SIZE

DECLARED: dict[str, tuple[Any, Any]] = {"body": (Text, "hello world")}


@pytest.fixture
def desk(make_desk: Any) -> Any:
    return make_desk(DECLARED)


def splice(desk: Any, *arguments: Any, **options: Any) -> Any:
    return desk.run(lambda root: root.get("body").splice(*arguments, **options))


def body(desk: Any) -> str:
    return str(desk.root.get("body"))


def test_an_edit_is_carried_over_later_splices(desk: Any) -> None:
    splice(desk, 0, 0, ">> ")
    splice(desk, 6, 5, "moot", base=0)
    assert body(desk) == ">> hello moot"


def test_insertions_at_one_place_stand_in_the_order_of_the_log(desk: Any) -> None:
    splice(desk, 5, 0, "A", base=0)
    splice(desk, 5, 0, "B", base=0)
    splice(desk, 5, 0, "C", base=0)
    assert body(desk) == "helloABC world"


def test_a_deletion_spares_what_others_inserted_meanwhile(desk: Any) -> None:
    splice(desk, 3, 0, "XYZ")
    changes = splice(desk, 0, 11, "bye", base=0)
    assert body(desk) == "byeXYZ"
    assert [(each["at"], each["delete"], each["insert"]) for each in operations(changes, {"body"})] == [
        (6, 8, ""),
        (0, 3, "bye"),
    ]


def test_what_was_deleted_already_is_not_deleted_again(desk: Any) -> None:
    splice(desk, 2, 6, "")
    splice(desk, 4, 5, "--", base=0)
    assert body(desk) == "he--ld"


def test_an_insertion_into_deleted_text_stays_where_it_was(desk: Any) -> None:
    splice(desk, 1, 9)
    splice(desk, 5, 0, "!", base=0)
    assert body(desk) == "h!d"


def test_splice_returns_where_the_text_landed(desk: Any) -> None:
    landed: list[int] = []
    splice(desk, 0, 0, "12345")
    desk.run(lambda root: landed.append(root.get("body").splice(5, 1, "-", base=0)))
    assert landed == [10]
    assert body(desk)[10] == "-"


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        ((27, 0, "x"), {}, IndexError),
        ((20, 7), {}, IndexError),
        ((-1, 0, "x"), {}, IndexError),
        ((0, -1, "x"), {}, IndexError),
        ((12, 0, "x"), {"base": 0}, IndexError),
        ((5, 7), {"base": 0}, IndexError),
        ((0, 0, "x"), {"base": 99}, ValueError),
        ((0, 0, "x"), {"base": True}, TypeError),
        ((True, 0, "x"), {}, TypeError),
        ((0, 0, b"x"), {}, TypeError),
        ((0, 0, "\ud800"), {}, ValueError),
    ],
)
def test_edits_outside_the_text_they_were_made_in_are_refused(desk: Any, arguments: Any, options: Any, error: Any) -> None:
    splice(desk, 0, 0, "a longer text: ")
    assert len(body(desk)) == 26
    before = desk.root.dump()
    with pytest.raises(error):
        splice(desk, *arguments, **options)
    assert desk.root.dump() == before


def test_an_edit_older_than_the_retained_splices_is_refused_with_the_current_text(desk: Any) -> None:
    desk.journal.splices_retained_max = 2
    for letter in "abc":
        splice(desk, 0, 0, letter)
    with pytest.raises(StaleEdit) as refused:
        splice(desk, 0, 0, "x", base=0)
    assert refused.value.text == "cbahello world"
    splice(desk, 0, 0, "x", base=1)
    assert body(desk) == "cbxahello world"


def test_an_edit_of_a_text_that_was_replaced_is_refused(desk: Any) -> None:
    splice(desk, 0, 0, "a")
    desk.run(lambda root: root.set("body", "another"))
    with pytest.raises(StaleEdit):
        splice(desk, 0, 0, "x", base=1)
    splice(desk, 0, 0, "x", base=2)
    assert body(desk) == "xanother"


def test_retained_splices_are_dumped_bounded_and_restored(desk: Any) -> None:
    desk.journal.splices_retained_max = 3
    for letter in "abcde":
        splice(desk, 0, 0, letter)
    empty = desk.root.size_bytes()
    assert empty == len("body") + 15 + 16 + 3 * SPLICE_SIZE
    again = desk.reloaded()
    again.journal.splices_retained_max = 3
    assert again.root.dump() == desk.root.dump()
    for each in (desk, again):
        splice(each, 1, 0, "!", base=3)
    assert body(again) == body(desk) == "edc!bahello world"


def test_rollback_restores_evicted_splices(desk: Any) -> None:
    desk.journal.splices_retained_max = 2
    for letter in "abc":
        splice(desk, 0, 0, letter)
    before = desk.root.dump()
    desk.begin()
    text = desk.root.get("body")
    for _ in range(5):
        text.splice(0, 3, "zz")
    desk.journal.splices_retained_max = 0
    text.append("end")
    desk.journal.rollback()
    assert desk.root.dump() == before


edits = st.tuples(st.integers(0, 12), st.integers(0, 12), st.sampled_from(["", "X", "YZ", "é😀"]))


@given(st.lists(edits, min_size=1, max_size=5))
def test_every_character_an_author_saw_and_deleted_is_gone_and_no_other(concurrent: list[tuple[int, int, str]]) -> None:
    """Edits made at one position, applied in log order: each character lives unless some edit that saw it deleted it, all
    insertions are kept, and both halves of a replaced range keep their neighbours' order."""
    base = [(f"base{number}", number) for number in range(12)]
    text: list[Any] = list(base)
    later: list[tuple[int, int, int]] = []
    doomed: set[int] = set()
    for number, (at, count, insert) in enumerate(concurrent):
        at = min(at, len(base))
        count = min(count, len(base) - at)
        doomed.update(range(at, at + count))
        edit = Edit(at, [(at, at + count)] if count else [])
        for done in later:
            edit.over(done)
        for place, size, inserts in edit.splices():
            added = [(f"edit{number}", each) for each in insert] if inserts else []
            assert all(name.startswith("base") for name, _ in text[place : place + size])
            text[place : place + size] = added
            later.append((place, size, len(added)))
    assert [which for name, which in text if name.startswith("base")] == [each for each in range(12) if each not in doomed]
    for number, (_, _, insert) in enumerate(concurrent):
        assert "".join(each for name, each in text if name == f"edit{number}") == insert


def apply_all(text: str, steps: list[tuple[int, int, str]]) -> str:
    for at, delete, insert in steps:
        assert 0 <= at <= at + delete <= len(text)
        text = text[:at] + insert + text[at + delete :]
    return text


def fitted(wanted: list[tuple[int, int, str]], length: int) -> list[tuple[int, int, str]]:
    """Splices made one after the other on a text of this length."""
    steps = []
    for at, delete, insert in wanted:
        at = min(at, length)
        delete = min(delete, length - at)
        length += len(insert) - delete
        steps.append((at, delete, insert))
    return steps


@given(st.lists(edits, max_size=4), st.lists(edits, max_size=4))
def test_both_sides_of_a_rebase_converge(mine: list[tuple[int, int, str]], theirs: list[tuple[int, int, str]]) -> None:
    """TP1: others then mine carried, and mine then others carried, give one text. Inserted letters are made distinct."""
    text = "0123456789"
    mine = [(at, delete, insert.replace("X", "m").replace("YZ", "no")) for at, delete, insert in fitted(mine, len(text))]
    theirs = fitted(theirs, len(text))
    carried, others = rebase([(a, d, len(i)) for a, d, i in mine], [(a, d, len(i)) for a, d, i in theirs])
    server = apply_all(text, theirs)
    for (_, _, insert), steps in zip(mine, carried, strict=True):
        server = apply_all(server, [(at, delete, insert if inserts else "") for at, delete, inserts in steps])
    client = apply_all(text, mine)
    inserted = iter([insert for _, _, insert in theirs if insert])
    client = apply_all(client, [(at, delete, next(inserted) if size else "") for at, delete, size in others])
    assert client == server


def test_splices_typed_one_after_the_other_stay_together_among_those_of_others(desk: Any) -> None:
    splice(desk, 0, 0, ">>")
    splice(desk, 9, 3, "WO")
    desk.run(lambda root: root.get("body").edit([(5, 1, ","), (6, 0, "a"), (7, 0, "b"), (5, 1, "")], base=0))
    assert body(desk) == ">>helloabwWOd"


@pytest.mark.parametrize(
    ("splices", "base", "error"),
    [
        ([(0, 0, "x"), (13, 0, "y")], 0, IndexError),
        ([(0, 11, ""), (0, 1, "")], 0, IndexError),
        ([(0, 0, "x")], 9, ValueError),
        ([(0, 0, 5)], 0, TypeError),
        ([(0, True, "")], 0, TypeError),
        ([(0, 0)], 0, ValueError),
    ],
)
def test_an_edit_of_many_splices_is_refused_whole(desk: Any, splices: Any, base: int, error: type[Exception]) -> None:
    splice(desk, 0, 0, "later ")
    before = desk.root.dump()

    def handler(root: Any) -> None:
        with pytest.raises(error):
            root.get("body").edit(splices, base=base)

    assert not desk.run(handler)
    assert desk.root.dump() == before


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 3))
def test_chunked_text_equals_a_python_string(make_desk: Any, seed: int, scale: int) -> None:
    draw = random.Random(seed)
    desk = make_desk({"body": (Text, "é" * draw.randrange(4) * CHUNK_MAX)})
    model = body(desk)
    for _ in range(6):
        before, saved = desk.root.dump(), model
        desk.begin()
        text = desk.root.get("body")
        for _ in range(draw.randrange(8)):
            at = draw.randrange(len(model) + 1)
            delete = draw.randrange(min(len(model) - at, 10**scale * 30) + 1)
            insert = "".join(draw.choice("ab😀") for _ in range(draw.choice([0, 1, 5]))) * draw.choice([1, 1, 10**scale])
            text.splice(at, delete, insert)
            model = model[:at] + insert + model[at + delete :]
        assert str(text) == model
        assert len(text) == len(model)
        assert all(0 < len(chunk) <= CHUNK_MAX for chunk in text._chunks) or text._chunks == [""]
        if draw.random() < 0.5:
            desk.journal.rollback()
            model = saved
            assert desk.root.dump() == before
        else:
            desk.journal.commit()
    assert body(desk.reloaded()) == model


def test_a_chunk_that_shrinks_joins_the_one_before_it_and_edits_go_on(make_desk: Any) -> None:
    model = "".join(f"{number:06d}|" for number in range(3 * CHUNK_MAX // 7))
    text = Text(model)
    last = 5 * CHUNK_SIZE
    for at, delete, insert in [
        (last + 50, 3900, "."),
        (last + 10, 0, "a"),
        (last - 5, 0, "b"),
        (last + 20, 2, "c"),
        (0, 1, ""),
    ]:
        text.splice(at, delete, insert)
        model = model[:at] + insert + model[at + delete :]
        assert str(text) == model
        assert all(len(chunk) <= CHUNK_MAX for chunk in text._chunks)
    for at in range(len(model), 3, -97):
        text.splice(at - 3, 3)
        model = model[: at - 3] + model[at:]
        assert str(text) == model


def test_texts_compare_and_slice_like_strings() -> None:
    text = Text("héllo")
    assert text == "héllo"
    assert text != Text("hello")
    assert text[1:3] == "él"
    assert "ll" in text
    assert not Text()
    text.splice(0, 1, "H")
    assert repr(text) == "Text('Héllo')"
