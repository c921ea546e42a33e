"""Storms over documents as authors write them: a text that many edit, and a chat whose messages are for members alone."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import msgspec
import pytest

import cluster.examples
from cluster.documents import bundle
from cluster.documents.loader import BundleLoader
from cluster.documents.runtime import Program
from cluster.documents.state.patch import apply_patch
from cluster.session.operations import Delta, Kind
from cluster.shard.replica import CompactionConfig
from cluster.shard.system.program import OPERATOR
from cluster.shardmap.map import SYSTEM_KEY, SYSTEM_SPACE
from tests.pump.actors import Watcher, Writer
from tests.pump.tally import TallyLoader
from tests.pump.test_storms import Storm, settle
from tests.pump.world import World

EXAMPLES = Path(cluster.examples.__file__).parent
STORM_STEPS = 700
SEEDS = 3


class AnyLoader:
    """Compiles the tally and what authors write."""

    def __init__(self) -> None:
        self._tally, self._real = TallyLoader(), BundleLoader()

    def load(self, code: bytes) -> Program:
        return self._tally.load(code) if code.startswith(b"tally") else self._real.load(code)


def deployed(seed: int, name: str, **arguments: object) -> World:
    """A cluster with one document `one` of an example."""
    small = CompactionConfig(every_entries=12, kept_entries=4, lagging_entries=8)
    cache_bytes_max = 1 << 24 if seed % 2 else 2_000
    world = World(shards=2, seed=seed, compaction=small, cache_bytes_max=cache_bytes_max, loader=lambda node: AnyLoader())
    client = world.start()
    code = bundle.from_path(EXAMPLES / f"{name}.py").encode()
    request = {"space": name, "bundle": base64.b64encode(code).decode()}
    system = {"space": SYSTEM_SPACE, "principal": str(OPERATOR)}
    assert client.insist(Kind.SEND, SYSTEM_KEY, "deploy", request, **system).failure is None
    created = client.insist(Kind.CREATE, "one", "", arguments, space=name, principal="owner@acme")
    assert created.failure is None, created.failure
    return world


class Viewer(Watcher):
    """Keeps a view by patches and resets. `secret` must never be in a frame that it gets."""

    def __init__(self, world: World, space: str, principal: str, secret: bytes = b"") -> None:
        super().__init__(world, "one")
        self.space, self.principal, self.secret = space, principal, secret
        self.view: Any = None
        self.resets = self.patches = 0

    def opened(self) -> None:
        assert self.client is not None
        epoch, index = self.at
        more = {"space": self.space, "principal": self.principal, "epoch": epoch, "index": index, "credit": self.credit()}
        self.watch = self.client.submit(Kind.WATCH, "one", "", None, **more)
        self.seen = 0

    def take(self, delta: Delta) -> None:
        assert not self.secret or self.secret not in delta.body, "a viewer is shown what it may not see"
        if delta.failure is not None:
            self.ended(delta)
            return
        assert (delta.epoch, delta.index) >= self.at
        body = msgspec.json.decode(delta.body)
        if delta.reset:
            self.view, self.resets = body, self.resets + 1
        else:
            assert (delta.from_epoch, delta.from_index) == self.at
            self.view, self.patches = apply_patch(self.view, body), self.patches + 1
        self.at = (delta.epoch, delta.index)
        assert self.client is not None
        self.client.node.pump.streams.grant(self.client.number, self.watch, len(delta.body) + 32)


class Speaker(Writer):
    """A writer whose message number n is made by `payload(n)`."""

    def __init__(self, world: World, space: str, principal: str, number: int, messages: int, make: Any) -> None:
        super().__init__(world, "one", number, messages)
        self.space, self.principal, self.make = space, principal, make

    def submit(self, sequence: int) -> int:
        assert self.client is not None
        channel, payload = self.make(sequence)
        more: dict[str, Any] = {"session": self.session, "sequence": sequence, "acked_through": self.acked}
        return self.client.submit(Kind.SEND, "one", channel, payload, space=self.space, principal=self.principal, **more)


def through_a_storm(world: World, speakers: list[Speaker], viewers: list[Viewer]) -> None:
    storm = Storm(world)
    actors = [*speakers, *viewers]
    for _ in range(STORM_STEPS):
        storm.step()
        for actor in actors:
            actor.step()
        world.run(2)
    storm.heal()
    settle(world, actors, lambda: all(speaker.done for speaker in speakers))
    last = max(speaker.at for speaker in speakers)
    settle(world, actors, lambda: all(viewer.at == last for viewer in viewers))


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_text_that_many_edit_through_a_storm_is_the_same_for_all(seed: int) -> None:
    world = deployed(seed, "text", content="start ")

    def edit(letter: str):  # type: ignore[no-untyped-def]
        return lambda number: ("edit", {"patches": [{"at": 0, "insert": f"{letter}{number}."}]})

    speakers = [Speaker(world, "text", f"{letter}@acme", place, 40, edit(letter)) for place, letter in enumerate("xyz")]
    viewers = [Viewer(world, "text", f"{name}@acme") for name in ("x", "reader")]
    through_a_storm(world, speakers, viewers)
    view = msgspec.json.decode(world.client("n2").insist(Kind.READ, "one", space="text").payload)
    assert all(viewer.view == view for viewer in viewers)
    words = view["body"].removesuffix("start ").split(".")
    for letter in "xyz":
        own = [int(word[1:]) for word in words if word.startswith(letter)]
        assert own == list(range(40, 0, -1)), "every edit once, the newest in front"
    assert all(viewer.patches for viewer in viewers)
    world.run_until(lambda: len(set(world.records("one", "text"))) == 1)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_what_members_say_through_a_storm_never_reaches_anybody_else(seed: int) -> None:
    world = deployed(seed, "chat", title="lobby", members=["bob@acme"])
    secret = b"between us"

    def says(number: int) -> tuple[str, dict[str, object]]:
        return "say", {"text": f"{secret.decode()} {number}"}

    def inviting(number: int) -> tuple[str, dict[str, object]]:
        return ("invite", "expel")[number % 2], {"who": f"guest{number // 4}@acme"}

    speakers = [
        Speaker(world, "chat", "bob@acme", 0, 40, says),
        Speaker(world, "chat", "owner@acme", 1, 40, inviting),
    ]
    members = [Viewer(world, "chat", name) for name in ("bob@acme", "owner@acme")]
    others = [Viewer(world, "chat", name, secret) for name in ("mallory@acme", "eve@acme")]
    guests = [Viewer(world, "chat", f"guest{number}@acme") for number in range(2)]
    through_a_storm(world, speakers, [*members, *others, *guests])
    for viewer in [*members, *others, *guests]:
        read = world.client("n1").insist(Kind.READ, "one", space="chat", principal=viewer.principal)
        assert viewer.view == msgspec.json.decode(read.payload)
    assert len(members[0].view["messages"]) == 40
    assert all("messages" not in viewer.view and viewer.patches for viewer in others)
