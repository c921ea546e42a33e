"""Presence at deployment: what may be declared, who sees it, and that no code of the document can."""

from __future__ import annotations

import pytest

from cluster.documents import bundle
from cluster.documents.loader import BundleLoader
from cluster.documents.presence import PRESENCE_BYTES_MAX
from cluster.documents.program import DocumentProgram
from cluster.documents.runtime import Code, Invocation
from cluster.errors import InvalidBundle, InvalidPayload, InvalidRequest, TooLarge
from cluster.ids import DocumentId, Principal

SOURCE = """
from cluster import Command, Document, OrderedSet, Presence, Principal, Record, anyone, field, on, read

class Cursor(Record):
    at: int
    note: str = ""

class Stage(Document):
    gate = anyone
    members: OrderedSet[Principal] = field.private()

    @read.policy
    def is_member(self, who: Principal) -> bool:
        return who in self.members

    cursors: Presence[Cursor] = field.visible(is_member)

    @on.message
    def join(self, ctx: Command) -> None:
        self.members.add(ctx.sender)
"""
ALICE = Principal("alice", "acme")


def load(source: str) -> DocumentProgram:
    return BundleLoader().load(bundle.from_source(source).encode())


def test_it_is_no_part_of_state_or_view_and_the_schema_tells_it() -> None:
    program = load(SOURCE)
    instance = program.new(DocumentId("stage", "one"))
    assert b"cursors" not in instance.dump()
    assert instance.view(ALICE) == b"{}"
    assert "cursors" not in program.schema()["fields"]
    assert program.schema()["presence"]["cursors"]["visible"] == "by policy"
    assert instance.presence_name == "cursors"


def test_who_sees_it_is_asked_of_the_state() -> None:
    program = load(SOURCE)
    instance = program.new(DocumentId("stage", "one"))
    assert instance.run(Invocation("", b"{}", ALICE, 0, bytes(32), 1)).code is Code.OK
    assert not instance.sees_presence(ALICE)
    instance.run(Invocation("join", b"{}", ALICE, 0, bytes(32), 2))
    assert instance.sees_presence(ALICE)


def test_values_are_checked_against_the_type_and_made_canonical() -> None:
    instance = load(SOURCE).new(DocumentId("stage", "one"))
    assert instance.presented(b'{ "at" : 3 }') == b'{"at":3,"note":""}'
    for wrong in (b"3", b"{}", b'{"at": "x"}', b'{"at": 1, "more": 2}', b"\xff", b'{"at": 1'):
        with pytest.raises(InvalidPayload):
            instance.presented(wrong)
    with pytest.raises(TooLarge):
        instance.presented(b'{"at": 1, "note": "%s"}' % (b"x" * PRESENCE_BYTES_MAX))
    with pytest.raises(InvalidRequest):
        load("from cluster import Document, anyone\nclass Stage(Document):\n    gate = anyone\n").new(
            DocumentId("stage", "one")
        ).presented(b"{}")


@pytest.mark.parametrize(
    ("handler", "kind"),
    [("on.message\n    def look(self, ctx: Command) -> int", "a"), ("read.view\n    def look(self) -> int", "b")],
)
def test_code_that_reads_it_is_refused_at_deployment(handler: str, kind: str) -> None:
    """Handlers run on every replica and in replay, where nobody is connected; a view of it were no function of the state."""
    with pytest.raises(InvalidBundle, match="presence: cursors is what connections show each other, and is in no log"):
        load(SOURCE + f"\n    @{handler}:\n        return len(self.cursors)\n")


def test_code_that_reads_it_by_another_way_fails_when_it_runs() -> None:
    source = (
        SOURCE
        + "\n    @on.message\n    def look(self, ctx: Command) -> int:\n        me = self\n        return len(me.cursors)\n"
    )
    instance = load(source).new(DocumentId("stage", "one"))
    instance.run(Invocation("", b"{}", ALICE, 0, bytes(32), 1))
    outcome = instance.run(Invocation("look", b"{}", ALICE, 0, bytes(32), 2))
    assert outcome.code is Code.FAILED
    assert "a document's code can not see it" in outcome.error


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("Presence[Cursor] = field.private()", "nobody would see cursors"),
        ("Presence[Cursor]", "nobody would see cursors"),
        ("Presence[int] = field.public()", "says nothing of what connections show"),
        ("Presence = field.public()", "says nothing of what connections show"),
        ("Presence[Cursor] = field.public(3)", "has an option of a field of the state"),
        ("Presence[Cursor] = field.visible(join)", "visible by something else than a policy"),
        ("Presence[Cursor] = field.public()\n    more: Presence[Cursor] = field.public()", "there are two Presence fields"),
    ],
)
def test_what_can_not_be_declared(written: str, why: str) -> None:
    declared = "    cursors: Presence[Cursor] = field.visible(is_member)\n"
    source = SOURCE.replace(declared, "") + f"\n    cursors: {written}\n"
    with pytest.raises(InvalidBundle, match=why):
        load(source)
