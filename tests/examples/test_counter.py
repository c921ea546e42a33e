"""The counter, as its own users would use it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cluster.documents.runtime import Code


def test_add_answers_the_new_total_and_viewers_get_it_as_a_patch(deploy: Callable[..., Any]) -> None:
    counter = deploy("counter")
    assert counter.answer("add", "alice", amount=5) == 5
    assert counter.answer("add", "bob") == 6
    assert counter.patches() == [
        [{"op": "replace", "path": "/total", "value": 5}],
        [{"op": "replace", "path": "/total", "value": 6}],
    ]
    assert counter.view("carol") == {"total": 6, "value": ""}


def test_put_stores_the_word(deploy: Callable[..., Any]) -> None:
    counter = deploy("counter")
    assert counter.answer("put", "alice", value="hello") is None
    assert counter.view("bob")["value"] == "hello"


def test_what_was_there_already_is_no_change(deploy: Callable[..., Any]) -> None:
    counter = deploy("counter")
    counter.answer("put", "alice", value="x")
    outcome = counter.run("put", "alice", value="x")
    assert (outcome.code, outcome.writes, outcome.changes) == (Code.OK, b"", None)
