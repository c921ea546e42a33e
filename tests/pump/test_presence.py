"""What connections show each other, through a storm of deaths, cuts and changes of leader: never logged, never left over."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest

from cluster.documents import bundle
from cluster.session.operations import Delta, Kind
from cluster.shard.replica import CompactionConfig
from cluster.shard.system.program import OPERATOR
from cluster.shardmap.map import SYSTEM_KEY, SYSTEM_SPACE
from tests.pump.test_real_documents import EXAMPLES, AnyLoader, Viewer
from tests.pump.test_storms import Storm
from tests.pump.world import World

SEEDS = 3
STEPS = 400


class Looker(Viewer):
    """Watches and moves a cursor; the number says who it is."""

    def __init__(self, world: World, number: int) -> None:
        super().__init__(world, "cursors", f"w{number}@acme")
        self.number = number
        self.shows = 0
        self.open = False

    def opened(self) -> None:
        assert self.client is not None
        epoch, index = self.at
        more: dict[str, Any] = {"space": self.space, "principal": self.principal, "epoch": epoch, "index": index}
        shown = msgspec.json.encode({"at": self.shows}).decode() if self.shows else ""
        self.watch = self.client.submit(Kind.WATCH, "one", shown, None, credit=1 << 20, **more)
        self.seen = 0

    def step(self) -> None:
        super().step()
        if self.client is not None and self.world.random.random() < 0.05:
            self.show()

    def show(self) -> None:
        assert self.client is not None
        self.shows += 1
        value = {"at": self.shows}
        self.client.submit(Kind.PRESENT, "one", "", value, space=self.space, principal=self.principal, credit=self.watch)


def deployed(seed: int) -> World:
    small = CompactionConfig(every_entries=12, kept_entries=4, lagging_entries=8)
    world = World(shards=2, seed=seed, compaction=small, loader=lambda node: AnyLoader())
    client = world.start()
    code = bundle.from_path(EXAMPLES / "cursors.py").encode()
    request = {"space": "cursors", "bundle": base64.b64encode(code).decode()}
    system = {"space": SYSTEM_SPACE, "principal": str(OPERATOR)}
    assert client.insist(Kind.SEND, SYSTEM_KEY, "deploy", request, **system).failure is None
    return world


def cursors(viewer: Looker) -> dict[str, int]:
    shown = {} if viewer.view is None else viewer.view["cursors"]
    return {connection.partition("#")[0]: cursor["at"] for connection, cursor in shown.items()}


def looked(looker: Looker) -> Looker:
    """The same, having taken what came."""
    Viewer.step(looker)
    return looker


@pytest.mark.parametrize("seed", range(SEEDS))
def test_after_a_storm_everybody_sees_the_last_cursor_of_everybody_who_is_there(seed: int) -> None:
    world = deployed(seed)
    lookers = [Looker(world, number) for number in range(4)]
    storm = Storm(world)
    for _ in range(STEPS):
        storm.step()
        for looker in lookers:
            looker.step()
        world.run(2)
    storm.heal()
    assert all(looker.shows for looker in lookers)

    def agreed() -> bool:
        wanted = {looker.principal: looker.shows for looker in lookers}
        views = [cursors(looked(looker)) for looker in lookers]
        return views == [wanted] * len(lookers)

    world.run_until(agreed)
    view = msgspec.json.decode(world.client("n2").insist(Kind.READ, "one", space="cursors").payload)
    assert view == {"body": ""}
    reply = world.client("n2").insist(Kind.READ, "one", space="cursors")
    assert (reply.epoch, reply.index) == (1, 1), "nothing but the creation was logged"

    lookers[0].leave()
    there = {looker.principal: looker.shows for looker in lookers[1:]}
    world.run_until(lambda: [cursors(looked(looker)) for looker in lookers[1:]] == [there] * 3)


def test_a_delta_that_carries_cursors_alone_starts_and_ends_at_one_position() -> None:
    world = deployed(9)
    first, second = Looker(world, 0), Looker(world, 1)
    world.run_until(lambda: all(looked(looker).view is not None for looker in (first, second)))
    at = second.at
    first.show()
    world.run_until(lambda: bool(cursors(looked(second))))
    assert second.client is not None
    last = [event for event in second.client.order if isinstance(event, Delta)][-1]
    assert (last.from_epoch, last.from_index) == (last.epoch, last.index) == at
