"""Deploys an example from its file and keeps what a shard would keep: the index, the changes and the viewers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cluster.examples
from cluster.documents import bundle
from cluster.documents.loader import BundleLoader
from cluster.documents.runtime import Code, Invocation, Outcome, Settings
from cluster.documents.state import apply_patch
from cluster.ids import DocumentId, Principal

EXAMPLES = Path(cluster.examples.__file__).parent
REPLAYED_MAX = 50
NOON_MS = 1_700_000_000_000


def principal(name: str) -> Principal:
    return Principal(name, "acme")


class Deployed:
    """One document of an example. Every command checks that its viewers can follow it by patches and that replay agrees."""

    def __init__(self, name: str, creator: str, settings: Settings | None, arguments: dict[str, Any]) -> None:
        self.program = BundleLoader(settings).load(bundle.from_path(EXAMPLES / f"{name}.py").encode())
        self.document = DocumentId(name, "one")
        self.instance = self.program.new(self.document)
        self.index = 0
        self.outcomes: list[Outcome] = []
        self.viewers: dict[str, tuple[Any, Any]] = {}
        created = self.run("", creator, **arguments)
        assert created.code is Code.OK, created

    def run(self, channel: str, sender: str, **arguments: Any) -> Outcome:
        payload = self.program.check(channel, json.dumps(arguments).encode())
        self.index += 1
        seed = self.index.to_bytes(32, "big")
        command = Invocation(channel, payload, principal(sender), NOON_MS + self.index * 1000, seed, self.index)
        outcome = self._run_twice(command) if self.index <= REPLAYED_MAX else self.instance.run(command)
        self.outcomes.append(outcome)
        self._follow(outcome)
        return outcome

    def _run_twice(self, command: Invocation) -> Outcome:
        channel = command.channel
        replica = self.program.load(self.document, self.instance.dump()) if channel else self.program.new(self.document)
        outcome = self.instance.run(command)
        again = replica.run(command)
        assert (again.code, again.answer, again.writes, again.steps) == (
            outcome.code,
            outcome.answer,
            outcome.writes,
            outcome.steps,
        )
        assert replica.dump() == self.instance.dump()
        return outcome

    def _follow(self, outcome: Outcome) -> None:
        changes = [] if outcome.changes is None else [outcome.changes]
        for name, (projection, seen) in self.viewers.items():
            now = apply_patch(seen, json.loads(projection.advance(changes)))
            assert now == self.view(name)
            self.viewers[name] = (projection, now)

    def watch(self, *names: str) -> None:
        """Follow what these principals see by patches from here on."""
        for name in names:
            self.viewers[name] = (self.instance.projection(principal(name)), self.view(name))

    def answer(self, channel: str, sender: str, **arguments: Any) -> Any:
        outcome = self.run(channel, sender, **arguments)
        assert outcome.code is Code.OK, (outcome.code, outcome.answer, outcome.error)
        return json.loads(outcome.answer)

    def refusal(self, channel: str, sender: str, **arguments: Any) -> str:
        """The name of the refusal that a command must end with; nothing has changed then."""
        before = self.instance.dump()
        outcome = self.run(channel, sender, **arguments)
        assert outcome.code is Code.REFUSED, (outcome.code, outcome.answer, outcome.error)
        assert self.instance.dump() == before
        return str(json.loads(outcome.answer)["name"])

    def view(self, who: str) -> Any:
        return json.loads(self.instance.view(principal(who)))

    def patches(self) -> list[Any]:
        """The patch of every command with changes, for documents where all see the same."""
        changes = [outcome.changes for outcome in self.outcomes if outcome.changes is not None]
        found = [self.instance.patch_since([change], principal("anybody")) for change in changes]
        return [json.loads(patch) for patch in found if patch is not None]


@pytest.fixture
def deploy() -> Callable[..., Deployed]:
    def make(name: str, creator: str = "alice", settings: Settings | None = None, **arguments: Any) -> Deployed:
        return Deployed(name, creator, settings, arguments)

    return make
