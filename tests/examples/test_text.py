"""The shared text, as editors would use it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from cluster.documents.runtime import Code, Settings


def test_splices_of_one_edit_are_applied_in_order(deploy: Callable[..., Any]) -> None:
    text = deploy("text", content="hello")
    text.watch("alice", "bob")
    patches = [{"at": 5, "insert": " world"}, {"at": 0, "delete": 1, "insert": "H"}]
    assert text.answer("edit", "alice", patches=patches) == 11
    assert text.view("bob") == {"body": "Hello world"}


def test_an_edit_is_carried_over_what_others_wrote_since_its_base(deploy: Callable[..., Any]) -> None:
    text = deploy("text", content="one three")
    text.watch("alice", "bob")
    base = text.index
    text.answer("edit", "alice", patches=[{"at": 0, "insert": "zero "}], base=base)
    text.answer("edit", "bob", patches=[{"at": 4, "insert": "two "}, {"at": 13, "insert": "!"}], base=base)
    assert text.view("alice") == {"body": "zero one two three!"}


def test_offsets_are_code_points(deploy: Callable[..., Any]) -> None:
    text = deploy("text", content="a\N{GRINNING FACE}b")
    text.answer("edit", "alice", patches=[{"at": 2, "delete": 1, "insert": "c"}])
    assert text.view("alice") == {"body": "a\N{GRINNING FACE}c"}


def test_an_edit_outside_the_text_fails_and_leaves_it(deploy: Callable[..., Any]) -> None:
    text = deploy("text", content="abc")
    before = text.instance.dump()
    outcome = text.run("edit", "alice", patches=[{"at": 0, "insert": "x"}, {"at": 50, "delete": 1}])
    assert outcome.code is Code.FAILED
    assert text.instance.dump() == before


def test_an_edit_of_a_forgotten_past_is_refused_with_the_text(deploy: Callable[..., Any]) -> None:
    text = deploy("text", settings=Settings(splices_retained_max=8))
    for _ in range(20):
        text.answer("edit", "alice", patches=[{"at": 0, "insert": "x"}])
    outcome = text.run("edit", "bob", patches=[{"at": 0, "insert": "y"}], base=1)
    answer = json.loads(outcome.answer)
    assert (outcome.code, answer["name"]) == (Code.REFUSED, "StaleEdit")
    assert answer["arguments"] == [text.view("bob")["body"], text.index]
