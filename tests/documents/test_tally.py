"""Tallies: handlers add to them, and so do messages of those whom the policy of `add=` admits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cluster.documents import bundle
from cluster.documents.loader import BundleLoader
from cluster.documents.runtime import Code
from cluster.errors import InvalidBundle, InvalidPayload, UnknownChannel

SOURCE = """
from cluster import Command, Document, Principal, Refused, Tally, anyone, field, on, read

class No(Refused):
    pass

class Stage(Document):
    gate = anyone

    @read.policy
    def is_member(self, who: Principal) -> bool:
        return who.agent != "mallory"

    likes: Tally = field.public(add=is_member)
    steps: Tally = field.private(10)
    shown: bool = field.public(False)

    @on.message
    def walk(self, ctx: Command, by: int) -> int:
        self.steps.add(by)
        if self.steps < 0:
            raise No()
        self.shown = self.steps > 20 or self.likes >= 5
        return self.steps.value + int(self.likes.value)
"""


def test_a_message_adds_to_a_tally_without_a_handler(stage: Callable[..., Any]) -> None:
    document = stage(SOURCE)
    assert document.answer("likes") == 1
    assert document.answer("likes", by=4) == 5
    assert document.view()["likes"] == 5
    assert document.run("likes", sender="mallory").code is Code.DENIED
    with pytest.raises(UnknownChannel):
        document.run("steps", by=1)


@pytest.mark.parametrize("by", [0, -1, 2**31, 1.5, "x", True])
def test_what_a_message_may_add_is_checked_before_it_is_logged(stage: Callable[..., Any], by: Any) -> None:
    document = stage(SOURCE)
    with pytest.raises(InvalidPayload):
        document.run("likes", by=by)


def test_a_handler_adds_and_compares_and_a_refusal_takes_it_back(stage: Callable[..., Any]) -> None:
    document = stage(SOURCE)
    assert document.answer("walk", by=5) == 15
    before = document.instance.dump()
    assert document.run("walk", by=-100).code is Code.REFUSED
    assert document.instance.dump() == before
    assert document.answer("walk", by=6) == 21
    assert document.view() == {"likes": 0, "shown": True}
    assert document.program.load(document.instance._id, document.instance.dump()).dump() == document.instance.dump()


def test_a_tally_stays_within_64_bits(stage: Callable[..., Any]) -> None:
    document = stage(SOURCE)
    assert document.run("walk", by=str(2**63 - 1)).code is Code.FAILED
    assert document.answer("walk", by=0) == 10


@pytest.mark.parametrize(
    ("declaration", "code"),
    [
        ("n: int = field.public(0, add=anyone)", "annotation"),
        ("n: Tally = field.public(add=helper)", "policy"),
        ("n: Tally = field.public(key='x')", "annotation"),
    ],
)
def test_what_can_not_be_added_to_is_refused_when_deployed(declaration: str, code: str) -> None:
    source = f"""
from cluster import Document, Tally, anyone, field

def helper(self, who):
    return True

class Stage(Document):
    gate = anyone
    {declaration}
"""
    with pytest.raises(InvalidBundle, match=code):
        BundleLoader().load(bundle.from_source(source).encode())


def test_the_schema_shows_the_channel_of_a_tally() -> None:
    schema = BundleLoader().load(bundle.from_source(SOURCE).encode()).schema()
    by = schema["channels"]["likes"]["parameters"]["properties"]["by"]
    assert by == {"type": "integer", "minimum": 1, "maximum": 2**31 - 1, "default": 1}
