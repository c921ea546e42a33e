"""`on_missing="create"` at deployment, and the channel on which such a creation runs."""

from __future__ import annotations

import pytest

from cluster.documents import bundle
from cluster.documents.loader import BundleLoader
from cluster.documents.program import DocumentProgram
from cluster.documents.runtime import MISSING_CHANNEL, Code, Invocation
from cluster.errors import InvalidBundle, InvalidPayload, UnknownChannel
from cluster.ids import DocumentId, Principal

SOURCE = """
from cluster import Command, Document, Principal, anyone, field, on, read

class Stage(Document, on_missing="create"):
    owner: Principal = field.public()

    @on.construct
    def open(self, ctx: Command, size: int = 3) -> int:
        self.owner = ctx.sender
        return size

    @read.gate
    def enter(self, who: Principal) -> bool:
        return who.authority == "acme" and (self.owner == who or 1 // 0 == 0)
"""
ALICE, EVE = Principal("alice", "acme"), Principal("eve", "outside")


def load(source: str) -> DocumentProgram:
    return BundleLoader().load(bundle.from_source(source).encode())


def come(program: DocumentProgram, who: Principal) -> tuple[Code, bytes, bytes]:
    instance = program.new(DocumentId("stage", "one"))
    before = instance.dump()
    outcome = instance.run(Invocation(MISSING_CHANNEL, program.check(MISSING_CHANNEL, b"{}"), who, 0, bytes(32), 1))
    assert outcome.code is Code.OK or instance.dump() == before
    return outcome.code, outcome.answer, outcome.writes


def test_the_constructor_runs_with_its_defaults_and_the_gate_is_asked_of_what_it_made() -> None:
    program = load(SOURCE)
    assert come(program, ALICE)[:2] == (Code.OK, b"3")
    assert come(program, EVE) == (Code.DENIED, b"{}", b"")
    assert program.creates_missing
    assert program.schema()["onMissing"] == "create"


def test_a_constructor_that_needs_a_parameter_is_refused_at_deployment() -> None:
    with pytest.raises(InvalidBundle, match=r"on-missing: who comes to a missing document brings no size"):
        load(SOURCE.replace("size: int = 3", "size: int"))


def test_a_class_without_a_constructor_creates_too_if_its_fields_have_defaults() -> None:
    source = (
        'from cluster import Document, anyone\nclass Stage(Document, on_missing="create"):\n    gate = anyone\n    n: int = 0\n'
    )
    assert come(load(source), EVE)[0] is Code.OK


def test_only_create_and_refuse_are_words() -> None:
    with pytest.raises(InvalidBundle, match=r"on_missing of Stage"):
        load(SOURCE.replace('"create"', '"invent"'))


def test_an_ordinary_class_has_no_such_channel_and_it_takes_no_parameters() -> None:
    with pytest.raises(UnknownChannel):
        load(SOURCE.replace(', on_missing="create"', "")).check(MISSING_CHANNEL, b"{}")
    with pytest.raises(InvalidPayload):
        load(SOURCE).check(MISSING_CHANNEL, b'{"size": 4}')
