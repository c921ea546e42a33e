"""What a viewer asks of views and windows changes on the open stream: through deaths of leaders, and nothing hidden is told."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest

from cluster.documents import bundle
from cluster.documents.state.patch import apply_patch
from cluster.session.operations import Delta, Kind
from cluster.shard.replica import CompactionConfig
from cluster.shard.system.program import OPERATOR
from cluster.shardmap.map import SYSTEM_KEY, SYSTEM_SPACE
from tests.documents.secrets_model import SOURCE
from tests.pump.test_real_documents import AnyLoader, Speaker, Viewer, through_a_storm
from tests.pump.world import Client, World

SPACE = "secrets"


def started(seed: int = 1) -> World:
    small = CompactionConfig(every_entries=12, kept_entries=4, lagging_entries=8)
    world = World(shards=2, seed=seed, compaction=small, loader=lambda node: AnyLoader())
    client = world.start()
    request = {"space": SPACE, "bundle": base64.b64encode(bundle.from_source(SOURCE).encode()).decode()}
    system = {"space": SYSTEM_SPACE, "principal": str(OPERATOR)}
    assert client.insist(Kind.SEND, SYSTEM_KEY, "deploy", request, **system).failure is None
    assert client.insist(Kind.CREATE, "one", "", {}, space=SPACE, principal="a@x").failure is None
    return world


def of(client: Client, watch: int) -> list[Delta]:
    """The deltas of one watch."""
    return [delta for delta in client.deltas if delta.watch == watch]


def reason(client: Client, number: int) -> str:
    """Why an operation was refused, empty if it was not."""
    failure = client.replies[number][0].failure
    return "" if failure is None else failure.reason


class Asking(Viewer):
    """Asks for other arguments again and again, and checks that each patch fits what it holds."""

    def __init__(self, world: World, principal: str, secret: bytes) -> None:
        super().__init__(world, SPACE, principal, secret)
        self.version = self.held_version = 0
        self.arguments: dict[str, Any] = {}
        self.turns = 0
        self.changes = 0

    def opened(self) -> None:
        assert self.client is not None
        epoch, index = self.at if self.held_version == self.version else (0, -1)
        more = {"space": SPACE, "principal": self.principal, "epoch": epoch, "index": index, "credit": self.credit()}
        self.watch = self.client.submit(Kind.WATCH, "one", "", self.arguments, sequence=self.version, **more)
        self.seen = 0

    def step(self) -> None:
        super().step()
        self.turns += 1
        if self.client is None or self.turns % 9 or self.turns > 600:
            return
        self.version += 1
        self.arguments = {"newest": {"latest": 1 + self.turns % 4}, "mine": {"least": self.turns % 3}}
        more = {"space": SPACE, "principal": self.principal, "sequence": self.version, "credit": self.watch}
        self.client.submit(Kind.ARGUMENTS, "one", "", self.arguments, **more)

    def take(self, delta: Delta) -> None:
        if delta.failure is None and not delta.reset:
            assert delta.from_arguments == self.held_version
            self.changes += delta.arguments != delta.from_arguments
        if delta.failure is None:
            self.held_version = delta.arguments
        super().take(delta)


@pytest.mark.parametrize("seed", range(2))
def test_arguments_that_change_through_a_storm_are_those_of_the_view_in_the_end(seed: int) -> None:
    world = started(seed)

    def puts(number: int) -> tuple[str, dict[str, object]]:
        owner = "c@x" if number % 2 else "a@x"
        secret = "for c alone" if number % 2 else "for a"
        return "put_card", {"name": "pqr"[number % 3], "owner": owner, "secret": secret, "hidden": "nobody's"}

    speaker = Speaker(world, SPACE, "a@x", 0, 40, puts)
    viewers = [Asking(world, "a@x", b"for c alone"), Asking(world, "b@x", b"for ")]
    through_a_storm(world, [speaker], list(viewers))
    for viewer in viewers:
        world.run_until(lambda viewer=viewer: viewer.step() or viewer.held_version == viewer.version)
        read = world.client("n2").insist(Kind.READ, "one", "", viewer.arguments, space=SPACE, principal=viewer.principal)
        assert viewer.view == msgspec.json.decode(read.payload)
        assert viewer.changes, "arguments were changed by patches"


def test_a_change_of_arguments_is_one_patch_at_the_same_position() -> None:
    world = started()
    client = world.client("n1")
    for number in range(4):
        card = {"name": str(number), "owner": "a@x", "secret": "", "hidden": ""}
        assert client.insist(Kind.SEND, "one", "put_card", card, space=SPACE, principal="a@x").failure is None
    more: dict[str, Any] = {"space": SPACE, "principal": "b@x"}
    watch = client.submit(Kind.WATCH, "one", "", {"newest": {"latest": 1}}, **more)
    world.run_until(lambda: bool(of(client, watch)))
    (first,) = of(client, watch)
    view = msgspec.json.decode(first.body)
    assert (len(view["newest"]["rows"]), view["newest"]["total"]) == (1, 4)
    changed = client.submit(Kind.ARGUMENTS, "one", "", {"newest": {"latest": 3}}, sequence=7, credit=watch, **more)
    world.run_until(lambda: changed in client.replies)
    assert reason(client, changed) == ""
    _, second = of(client, watch)
    assert (second.reset, second.from_index, second.index) == (False, first.index, first.index)
    assert (second.from_arguments, second.arguments) == (0, 7)
    patch = msgspec.json.decode(second.body)
    assert {operation["op"] for operation in patch} == {"add"}
    assert len(patch) == 2
    assert len(apply_patch(view, patch)["newest"]["rows"]) == 3


def test_arguments_that_no_view_takes_are_refused_and_the_watch_goes_on() -> None:
    world = started()
    client = world.client("n1")
    more: dict[str, Any] = {"space": SPACE, "principal": "b@x"}
    wrongs: list[dict[str, Any]] = [
        {"nothing": {}},
        {"newest": {"latest": 6}},
        {"mine": {"least": "x"}},
        {"mine": {"most": 1}},
        {"mine": 3},
    ]
    for wrong in wrongs:
        refused = client.call(Kind.READ, "one", "", wrong, **more)
        assert refused.failure is not None
        assert refused.failure.reason == "INVALID_ARGUMENTS"
        watch = client.submit(Kind.WATCH, "one", "", wrong, **more)
        world.run_until(lambda watch=watch: watch in client.replies)
        assert reason(client, watch) == "INVALID_ARGUMENTS"
    watch = client.submit(Kind.WATCH, "one", "", None, **more)
    world.run_until(lambda: bool(of(client, watch)))
    changed = client.submit(Kind.ARGUMENTS, "one", "", {"mine": {"most": 1}}, sequence=1, credit=watch, **more)
    world.run_until(lambda: changed in client.replies)
    assert reason(client, changed) == "INVALID_ARGUMENTS"
    nothing = client.submit(Kind.ARGUMENTS, "one", "", {}, sequence=2, credit=4711, **more)
    world.run_until(lambda: nothing in client.replies)
    assert reason(client, nothing) == "INVALID_REQUEST"
    assert client.insist(Kind.SEND, "one", "show", {"open": True}, space=SPACE, principal="a@x").failure is None
    world.run_until(lambda: len(of(client, watch)) == 2)
    assert of(client, watch)[1].arguments == 0
