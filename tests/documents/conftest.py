"""A stage for documents: deploy source text, send messages, look at outcomes, as a shard would."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from typing import Any

import pytest

from cluster.documents import bundle
from cluster.documents.loader import BundleLoader
from cluster.documents.runtime import Code, Invocation, Outcome, Settings
from cluster.ids import DocumentId, Principal


class Stage:
    """One document of a deployed source, and the log it was fed."""

    def __init__(self, source: str, settings: Settings | None = None) -> None:
        self.program = BundleLoader(settings).load(bundle.from_source(textwrap.dedent(source)).encode())
        self.instance = self.program.new(DocumentId("stage", "one"))
        self.index = 0

    def run(self, channel: str, sender: str = "alice", now_ms: int = 1_700_000_000_000, **arguments: Any) -> Outcome:
        """Check and run one command at the next index."""
        payload = self.program.check(channel, json.dumps(arguments).encode())
        self.index += 1
        seed = self.index.to_bytes(32, "little")
        return self.instance.run(Invocation(channel, payload, Principal(sender, "acme"), now_ms, seed, self.index))

    def create(self, **arguments: Any) -> Outcome:
        return self.run("", **arguments)

    def answer(self, channel: str, **arguments: Any) -> Any:
        """The answer of a command that must succeed."""
        outcome = self.run(channel, **arguments)
        assert outcome.code is Code.OK, (outcome.code, outcome.answer, outcome.error)
        return json.loads(outcome.answer)

    def view(self, who: str = "alice") -> Any:
        return json.loads(self.instance.view(Principal(who, "acme")))


@pytest.fixture
def stage() -> Callable[..., Stage]:
    """Deploys a source and creates a document of it."""

    def make(source: str, settings: Settings | None = None, **arguments: Any) -> Stage:
        made = Stage(source, settings)
        created = made.create(**arguments)
        assert created.code is Code.OK, created
        return made

    return make


@pytest.fixture
def handler(stage: Callable[..., Stage]) -> Callable[..., Outcome]:
    """Runs statements as the body of one handler."""

    def run(body: str, settings: Settings | None = None, top: str = "", result: str = "None") -> Outcome:
        source = (
            "from cluster import Command, Document, OrderedSet, Record, Refused, Table, Text, anyone, field, on, read\n"
            + textwrap.dedent(top)
            + "\nclass Stage(Document):\n    gate = anyone\n    title: str = field.public('before')\n"
            + f"    @on.message\n    def go(self, ctx: Command) -> {result}:\n        self.title = 'after'\n"
            + textwrap.indent(textwrap.dedent(body).strip(), " " * 8)
            + "\n"
        )
        made = stage(source, settings)
        before = made.instance.dump()
        outcome = made.run("go")
        if outcome.code is not Code.OK:
            assert made.instance.dump() == before
        return outcome

    return run
