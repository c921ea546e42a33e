"""Documents that come to be because several came at once, through a storm of deaths, partitions and changes of leader."""

from __future__ import annotations

import base64

import msgspec
import pytest

from cluster.documents import bundle
from cluster.ids import NodeId
from cluster.session.operations import Kind
from cluster.shard.replica import CompactionConfig
from cluster.shard.system.program import OPERATOR
from cluster.shardmap.map import SYSTEM_KEY, SYSTEM_SPACE
from tests.pump.test_real_documents import AnyLoader, Speaker, Viewer, through_a_storm
from tests.pump.world import World

SOURCE = """
from cluster import Command, Document, Principal, anyone, field, on

class Book(Document, on_missing="create"):
    gate = anyone
    owner: Principal = field.public()
    written: list[int] = field.public()

    @on.construct
    def open(self, ctx: Command) -> None:
        self.owner = ctx.sender

    @on.message
    def write(self, ctx: Command, number: int) -> None:
        self.written.append(number)
"""
SEEDS = 3
MESSAGES = 25


def deployed(seed: int) -> World:
    small = CompactionConfig(every_entries=12, kept_entries=4, lagging_entries=8)
    world = World(shards=2, seed=seed, compaction=small, loader=lambda node: AnyLoader())
    client = world.start()
    request = {"space": "book", "bundle": base64.b64encode(bundle.from_source(SOURCE).encode()).decode()}
    system = {"space": SYSTEM_SPACE, "principal": str(OPERATOR)}
    assert client.insist(Kind.SEND, SYSTEM_KEY, "deploy", request, **system).failure is None
    return world


@pytest.mark.parametrize("seed", range(SEEDS))
def test_all_who_come_at_once_through_a_storm_come_to_one_document(seed: int) -> None:
    world = deployed(seed)

    def write(base: int):  # type: ignore[no-untyped-def]
        return lambda number: ("write", {"number": base + number})

    speakers = [Speaker(world, "book", f"w{place}@acme", place, MESSAGES, write(1000 * place)) for place in range(3)]
    viewers = [Viewer(world, "book", f"v{place}@acme") for place in range(2)]
    through_a_storm(world, speakers, viewers)
    reply = world.client("n2").insist(Kind.READ, "one", space="book")
    view = msgspec.json.decode(reply.payload)
    assert (reply.epoch, reply.index) == (1, 1 + 3 * MESSAGES), "one creation, and every message once"
    assert view["owner"] in {speaker.principal for speaker in speakers} | {viewer.principal for viewer in viewers}
    for place in range(3):
        own = [number for number in view["written"] if number // 1000 == place]
        assert own == [1000 * place + number for number in range(1, MESSAGES + 1)]
    assert all(viewer.view == view for viewer in viewers)
    world.run_until(lambda: len(set(world.records("one", "book"))) == 1)


@pytest.mark.parametrize("after_ms", [0, 1, 2, 4])
def test_a_read_that_waits_for_its_document_is_answered_although_the_leader_dies(after_ms: int) -> None:
    """Whoever waits for a creation may not wait for ever: the next leader knows nothing of him."""
    world = deployed(7)
    leader = world.leader_of(world.nodes[NodeId("n1")].pump.router.shard_of("book", "one"))
    client = world.client(next(name for name in world.nodes if name != leader.name))
    read = client.submit(Kind.READ, "one", "", None, space="book", principal="alice@acme")
    world.run(after_ms)
    leader.crash()
    world.run_until(lambda: bool(client.replies.get(read)))
    (reply,) = client.replies[read]
    assert reply.failure is None or reply.failure.retryable
    view = msgspec.json.decode(client.insist(Kind.READ, "one", space="book", principal="bob@acme").payload)
    assert view["owner"] in ("alice@acme", "bob@acme")
