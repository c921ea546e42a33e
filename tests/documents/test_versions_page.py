"""The authors' page about versions does what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.documents.bundle import from_source
from cluster.documents.deploying import check_successor
from cluster.documents.loader import BundleLoader
from cluster.documents.program import DocumentProgram
from cluster.documents.runtime import UPGRADE_CHANNEL, Code, Instance, Invocation
from cluster.errors import InvalidBundle
from cluster.ids import DocumentId, Principal

PAGE = Path(__file__).parents[2] / "docs" / "authoring" / "versions.md"
PLACE, ALICE = DocumentId("note", "one"), Principal("alice", "acme")


def samples() -> list[DocumentProgram]:
    sources = [block.removeprefix("python\n") for block in PAGE.read_text().split("```") if block.startswith("python\n")]
    return [BundleLoader().load(from_source(source, name="note").encode()) for source in sources]


def test_the_samples_follow_one_another_and_a_document_goes_through_them() -> None:
    first, second, third = samples()
    check_successor([first], second, clients=first)
    check_successor([second], third, clients=None)
    with pytest.raises(InvalidBundle, match="channel rename is gone"):
        check_successor([second], third, clients=second)
    instance: Instance = first.new(PLACE)
    for index, (channel, payload) in enumerate([("", b"{}"), ("rename", b'{"name":"two words"}')], 1):
        invocation = Invocation(channel, first.check(channel, payload), ALICE, 1_000, bytes(32), index)
        assert instance.run(invocation).code is Code.OK
    code = first
    for place, after in enumerate((second, third)):
        order = Invocation(UPGRADE_CHANNEL, b"{}", Principal("upgrade", "moot"), 2_000, bytes(32), 3 + place)
        upgraded, outcome = after.upgrade(PLACE, instance.dump(), code, order)
        assert upgraded is not None, outcome.error
        instance, code = upgraded, after
    assert json.loads(instance.view(ALICE)) == {"words": ["two", "words"], "stars": 0}
