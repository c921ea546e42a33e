"""What a deployment may change without a hook, and what it is refused for: each finding with its place."""

from __future__ import annotations

import textwrap

import pytest

from cluster.documents import bundle
from cluster.documents.deploying import check_successor, fields_dropped, goes_back
from cluster.documents.loader import BundleLoader
from cluster.documents.program import DocumentProgram
from cluster.errors import InvalidBundle

HEAD = """from enum import Enum
from typing import Literal
from cluster import Command, Document, OrderedSet, Principal, Record, Table, Text, anyone, field, on, read

class Bid(Record):
    who: str
    cents: int = 0

class Colour(Enum):
    RED = "red"
    BLUE = "blue"

"""


def program(body: str, version: int = 1, head: str = HEAD) -> DocumentProgram:
    source = (
        f"{head}class Note(Document, version={version}):\n    gate = anyone\n{textwrap.indent(textwrap.dedent(body), '    ')}"
    )
    return BundleLoader().load(bundle.from_source(source, name="note").encode())


def refusal(old: DocumentProgram, new: DocumentProgram, *armed: str) -> str:
    with pytest.raises(InvalidBundle) as caught:
        check_successor([old], new, clients=old, armed=armed)
    return caught.value.message


FREE = [
    ("a: int = 0", "a: int = 0\nb: str = 'x'"),
    ("a: int = 0\nb: str = 'x'", "a: int = 0"),
    ("a: int = 0", "b: int = field.private(0, was='a')"),
    ("a: int = 0", "a: int | None = None"),
    ("a: int", "a: int"),
    ("a: Table[Bid] = field.public(key='who')", "a: Table[Bid] = field.private(key='who')"),
    ("a: list[dict[str, Bid]]", "a: list[dict[str, Bid]]"),
    ("a: Literal['x'] = 'x'", "a: Literal['x', 'y'] = 'x'"),
    ("a: int = 0", "a: int = 0\n@on.message\ndef go(self, ctx: Command) -> None: pass"),
    (
        "@on.message\ndef go(self, ctx: Command, a: int) -> None: pass",
        "@on.message\ndef go(self, ctx: Command, a: int | None, b: str = '') -> None: pass",
    ),
]


@pytest.mark.parametrize(("old", "new"), FREE)
def test_these_changes_need_nothing(old: str, new: str) -> None:
    before, after = program(old), program(new, 2)
    check_successor([before], after, clients=before)


HOOKED = [
    ("a: int = 0", "a: str = ''", "field a: it was int and is str", 15),
    ("a: int | None = None", "a: int = 0", "field a: it was int | None and is int", 15),
    ("a: int = 0", "a: int = 0\nb: str", "field b is new and has no default", 16),
    ("a: int = 0", "b: str = field.private(was='c')", "field b was no c before", 15),
    ("a: list[int]", "a: list[str]", "field a: it was int and is str", 15),
    ("a: Table[Bid]", "a: Table[Bid] = field.private(key='who')", "field a: its rows have another key", 15),
    ("a: Literal['x', 'y'] = 'x'", "a: Literal['x'] = 'x'", "has lost", 15),
    ("a: int = 0", "b: int = field.private(0, was='a')\nc: int = field.private(0, was='a')", "two fields were a", 16),
]


@pytest.mark.parametrize(("old", "new", "told", "line"), HOOKED)
def test_these_changes_need_a_hook(old: str, new: str, told: str, line: int) -> None:
    before = program(old)
    message = refusal(before, program(new, 2))
    assert told in message
    assert message.startswith(f"note.py:{line}: upgrade: "), message
    hook = "\n@on.upgrade(since=1)\ndef lead(self, ctx: Command) -> None: pass"
    check_successor([before], program(new + hook, 2), clients=before)


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ("    who: str\n    cents: str = ''\n", "Bid.cents: it was int and is str"),
        ("    who: str\n    cents: int = 0\n    more: int\n", "Bid.more is new and has no default"),
    ],
)
def test_a_record_inside_of_a_field_is_compared_too(record: str, told: str) -> None:
    head = HEAD.replace("    who: str\n    cents: int = 0\n", record)
    assert told in refusal(program("a: dict[str, Bid]"), program("a: dict[str, Bid]", 2, head))


def test_an_enum_may_gain_members_and_not_lose_one() -> None:
    more, fewer = HEAD.replace('"blue"\n', '"blue"\n    GREEN = "green"\n'), HEAD.replace('    BLUE = "blue"\n', "")
    before = program("a: Colour = Colour.RED")
    check_successor([before], program("a: Colour = Colour.RED", 2, more))
    assert "has lost 'blue'" in refusal(before, program("a: Colour = Colour.RED", 2, fewer))


GO = "@on.message\ndef go(self, ctx: Command, a: int, b: str = '') -> None: pass"


@pytest.mark.parametrize(
    ("new", "told"),
    [
        ("", "channel go is gone"),
        (GO.replace("a: int, ", ""), "go takes no a any more"),
        (GO.replace("a: int", "a: str"), "go.a: it was int and is str"),
        (GO.replace("b: str = ''", "b: str"), "go needs b now"),
        (GO.replace("a: int", "a: int, c: int"), "go needs c now"),
    ],
)
def test_messages_of_the_version_before_must_be_accepted_unless_forced(new: str, told: str) -> None:
    before, after = program(GO), program(new, 2)
    message = refusal(before, after)
    assert told in message
    assert ": message: " in message
    check_successor([before], after, clients=None)


def test_a_hook_for_one_version_does_not_serve_documents_of_another() -> None:
    first, second = program("a: int = 0"), program("a: float = 0.0", 2)
    third = "a: str = ''\n@on.upgrade(since=2)\ndef lead(self, ctx: Command) -> None: pass"
    check_successor([second], program(third, 3))
    with pytest.raises(InvalidBundle, match=r"since=1"):
        check_successor([first, second], program(third, 3))


def test_a_pending_call_of_a_handler_that_is_gone_refuses_the_deployment() -> None:
    before = program(GO)
    after = program("", 2)
    with pytest.raises(InvalidBundle, match="handler go is gone, and something pending names it"):
        check_successor([before], after, armed=["go"])
    check_successor([before], after, armed=[])


def test_what_goes_back_without_a_hook_and_what_it_loses() -> None:
    first, wider, other = program("a: int = 0"), program("a: int = 0\nb: int = 0", 2), program("a: str = ''", 2)
    assert goes_back(wider, first)
    assert fields_dropped(wider, first) == ("b",)
    assert not goes_back(other, first)
