"""New code while documents are in use: who gets it, when, exactly once, and through what breaks."""

from __future__ import annotations

import base64

import msgspec

from cluster.documents import bundle
from cluster.session.operations import Failure, Kind, Reply
from cluster.shard.commands import CommandKind, decode_row
from cluster.shard.system.program import OPERATOR, bundle_hash
from cluster.shard.turn import CompiledItem
from cluster.shardmap.map import SYSTEM_KEY, SYSTEM_SPACE
from cluster.storage.bundles import BundleStore
from cluster.storage.engine import Batch
from cluster.storage.history import HistoryStore
from tests.pump.tally import session_id
from tests.pump.test_real_documents import AnyLoader
from tests.pump.world import Client, SimulatedNode, World

SECOND, THIRD, BROKEN = b"tally 2", b"tally 3", b"tally 2 broken"


def decide(client: Client, channel: str, **request: object) -> Reply:
    return client.insist(Kind.SEND, SYSTEM_KEY, channel, request, space=SYSTEM_SPACE, principal=str(OPERATOR))


def deploy(world: World, client: Client, code: bytes, **plan: object) -> None:
    """Deploy, and wait until everybody who is up knows."""
    before = client.node.directory.decisions.version
    reply = decide(client, "deploy", space="tally", bundle=base64.b64encode(code).decode(), plan=plan)
    assert reply.failure is None, reply.failure
    world.run_until(lambda: all(node.directory.decisions.version > before for node in world.nodes.values() if node.up))
    world.run(50)


def code_of(world: World, key: str) -> bytes:
    node = world.leader(key)
    return node.pump.replicas[node.pump.router.shard_of("tally", key)].cache.get("tally", key).code_hash


def upgrades(node: SimulatedNode, key: str) -> list[tuple[int, int]]:
    """Index and outcome of every upgrade in a document's history."""
    shard = node.pump.router.shard_of("tally", key)
    live = node.pump.replicas[shard].cache.get("tally", key)
    found = []
    for first, _, body in HistoryStore(node.engine, shard).read(live.id, live.epoch, 1, 1000):
        row = decode_row(body)
        found += [(first + at, row.codes[at]) for at, command in enumerate(row.commands) if command.kind == CommandKind.UPGRADE]
    return found


def started(*keys: str, **options: object) -> tuple[World, Client]:
    world = World(**options)  # type: ignore[arg-type]
    client = world.start()
    for key in keys:
        assert client.insist(Kind.CREATE, key, "", {"amount": 1}).failure is None
    return world, client


def test_a_document_gets_new_code_at_its_first_touch_and_once() -> None:
    world, client = started("a", "b")
    deploy(world, client, SECOND)
    assert code_of(world, "a") != bundle_hash(SECOND), "nobody touched it"
    replies = [client.call(Kind.SEND, "a", "add", {"amount": 1}) for _ in range(3)]
    assert [reply.index for reply in replies] == [3, 4, 5], "the upgrade has an index of its own, before the message"
    assert [reply.payload for reply in replies] == [b"2", b"3", b"4"]
    assert code_of(world, "a") == bundle_hash(SECOND)
    assert upgrades(world.leader("a"), "a") == [(2, 0)]
    assert upgrades(world.leader("b"), "b") == []
    world.run(100)
    assert len(set(world.records("a"))) == 1


def test_new_documents_get_the_new_code_at_once() -> None:
    world, client = started()
    deploy(world, client, SECOND)
    client.insist(Kind.CREATE, "n", "", {"amount": 1})
    assert code_of(world, "n") == bundle_hash(SECOND)


def test_a_read_and_an_open_watch_are_touches() -> None:
    world, client = started("read", "watched")
    client.call(Kind.WATCH, "watched", "", None, epoch=0, index=-1)
    client.deltas.clear()
    deploy(world, client, SECOND)
    world.run_until(lambda: code_of(world, "watched") == bundle_hash(SECOND))
    world.run(20)
    assert [(delta.index, delta.reset, delta.body) for delta in client.deltas] == [(2, False, b"[]")], (
        "the view is what it was: the viewer hears of the position and is not sent everything again"
    )
    assert client.call(Kind.READ, "read").index == 1, "a read does not wait for the upgrade that it causes"
    world.run_until(lambda: code_of(world, "read") == bundle_hash(SECOND))


def test_a_document_walks_through_every_version() -> None:
    world, client = started("a")
    deploy(world, client, SECOND)
    deploy(world, client, THIRD)
    assert client.call(Kind.SEND, "a", "add", {"amount": 1}).index == 4
    assert upgrades(world.leader("a"), "a") == [(2, 0), (3, 0)]
    assert code_of(world, "a") == bundle_hash(THIRD)


def test_a_failed_upgrade_is_not_tried_at_every_touch_but_after_the_next_deployment() -> None:
    world, client = started("a")
    deploy(world, client, BROKEN)
    for expected in (3, 4, 5):
        assert client.call(Kind.SEND, "a", "add", {"amount": 1}).index == expected
    leader = world.leader("a")
    assert upgrades(leader, "a") == [(2, 2)]
    assert [(failure.channel, failure.index, failure.traceback) for failure in leader.failures] == [
        ("-upgrade", 2, "the hook failed")
    ]
    deploy(world, client, THIRD)
    assert client.call(Kind.SEND, "a", "add", {"amount": 1}).index == 7
    assert code_of(world, "a") == bundle_hash(THIRD), "straight to the newest, past what failed"


def test_a_retry_by_hand_tries_again() -> None:
    world, client = started("a")
    deploy(world, client, BROKEN)
    client.call(Kind.SEND, "a", "add", {"amount": 1})
    assert decide(client, "retry", space="tally").failure is None
    world.run(100)
    client.call(Kind.SEND, "a", "add", {"amount": 1})
    assert [code for _, code in upgrades(world.leader("a"), "a")] == [2, 2]


def test_a_plan_leaves_others_where_they_are() -> None:
    world, client = started("a", "b", "pre-c")
    deploy(world, client, SECOND, keys=["a", "new"])
    for key in ("a", "b", "pre-c"):
        client.call(Kind.SEND, key, "add", {"amount": 1})
    client.insist(Kind.CREATE, "new", "", {"amount": 1})
    client.insist(Kind.CREATE, "other", "", {"amount": 1})
    newer = {key for key in ("a", "b", "pre-c", "new", "other") if code_of(world, key) == bundle_hash(SECOND)}
    assert newer == {"a", "new"}
    deploy(world, client, SECOND, prefix="pre-")
    client.call(Kind.SEND, "pre-c", "add", {"amount": 1})
    assert code_of(world, "pre-c") == bundle_hash(SECOND)


def test_a_rollback_takes_documents_back_that_can_go() -> None:
    world, client = started("a", "b")
    first = code_of(world, "a")
    deploy(world, client, SECOND)
    client.call(Kind.SEND, "a", "add", {"amount": 1})
    assert decide(client, "rollback", space="tally", returns=True).failure is None
    world.run(100)
    client.call(Kind.SEND, "a", "add", {"amount": 1})
    client.call(Kind.SEND, "b", "add", {"amount": 1})
    assert [code_of(world, key) for key in "ab"] == [first, first]
    assert [index for index, _ in upgrades(world.leader("a"), "a")] == [2, 4]
    assert upgrades(world.leader("b"), "b") == [], "it never left"
    deploy(world, client, THIRD)
    client.call(Kind.SEND, "b", "add", {"amount": 1})
    assert [index for index, _ in upgrades(world.leader("b"), "b")] == [3], "what was withdrawn is passed over"


def test_documents_that_can_not_go_back_stay_until_the_next_deployment() -> None:
    world, client = started("a")
    deploy(world, client, SECOND)
    client.call(Kind.SEND, "a", "add", {"amount": 1})
    decide(client, "rollback", space="tally", returns=False)
    world.run(100)
    client.call(Kind.SEND, "a", "add", {"amount": 1})
    assert code_of(world, "a") == bundle_hash(SECOND)
    deploy(world, client, THIRD)
    client.call(Kind.SEND, "a", "add", {"amount": 1})
    assert code_of(world, "a") == bundle_hash(THIRD)


def test_a_version_that_does_not_rise_is_refused() -> None:
    world, client = started()
    deploy(world, client, SECOND)
    reply = decide(client, "deploy", space="tally", bundle=base64.b64encode(b"tally 2 again").decode())
    assert reply.failure is not None
    assert "write version=3" in reply.failure.message


def test_documents_wait_until_a_quorum_of_voters_has_compiled_the_code() -> None:
    """An upgrade that a majority could not run would commit and then stall apply on every node but the leader's."""
    world, client = started("a")
    leader = world.leader("a")
    deaf = [node for node in world.nodes.values() if node is not leader]
    for node in deaf:
        node.pump._incoming.compiling._compile = lambda code_hash: False  # type: ignore[method-assign]
    deploy(world, client, SECOND)
    assert client.call(Kind.SEND, "a", "add", {"amount": 1}).index == 2
    assert code_of(world, "a") != bundle_hash(SECOND)
    world.run(3000)
    assert client.call(Kind.SEND, "a", "add", {"amount": 1}).index == 3, "it serves meanwhile"
    del deaf[0].pump._incoming.compiling._compile
    world.run(3000)  # the leader asks again
    client.call(Kind.SEND, "a", "add", {"amount": 1})
    assert code_of(world, "a") == bundle_hash(SECOND)


def test_code_that_nobody_deployed_is_neither_compiled_for_a_peer_nor_remembered() -> None:
    world, _ = started()
    node = world.nodes[next(iter(world.nodes))]
    node.pump._incoming.compiling.on_compiled(world.names[1], b"x" * 32)
    node.pump._incoming.compiling.on_request(world.names[1], b"x" * 32)
    assert not node.directory.compilations.has(world.names[1], b"x" * 32)
    assert not node.directory.missing
    assert CompiledItem(b"x" * 32) not in node.pump._turn.raft_now.get(world.names[1], [])


def test_a_pipelined_session_crosses_an_upgrade_and_a_dead_leader_exactly_once() -> None:
    world, client = started("a")
    session = session_id(1)
    deploy(world, client, SECOND)
    leader = world.leader("a")
    asking = world.client(next(name for name in world.names if name != leader.name))
    for sequence in range(1, 6):
        asking.submit(Kind.SEND, "a", "add", {"amount": sequence}, session=session, sequence=sequence)
    world.run(8)
    leader.crash()
    world.run_until(world.settled)
    for sequence in range(1, 6):
        reply = asking.insist(Kind.SEND, "a", "add", {"amount": sequence}, session=session, sequence=sequence)
        assert reply.failure is None
    reply = asking.insist(Kind.READ, "a")
    assert msgspec.json.decode(reply.payload) == {"numbers": [1, 1, 2, 3, 4, 5]}
    assert [code for _, code in upgrades(world.leader("a"), "a")] == [0]


def test_a_node_that_lacks_the_code_fetches_it_and_replays_across_the_upgrade() -> None:
    world, client = started("a")
    deploy(world, client, SECOND)
    leader = world.leader("a")
    lacking = next(node for node in world.nodes.values() if node is not leader and node.name != "n1")
    client.call(Kind.SEND, "a", "add", {"amount": 1})
    world.run(100)
    lacking.crash()
    batch = Batch()
    BundleStore(lacking.engine).delete(batch, bundle_hash(SECOND))
    lacking.engine.write(batch)
    lacking.engine.sync()
    lacking.boot()
    client.insist(Kind.SEND, "a", "add", {"amount": 1})
    world.run_until(lambda: len(set(world.records("a"))) == 1)
    assert lacking.pump.bundle(bundle_hash(SECOND)) == SECOND


SPELT = """
from cluster import Command, Document, anyone, field, on

class Book(Document, version=VERSION):
    gate = anyone
    total: int = field.public(0)

    @on.message
    def write(self, ctx: Command, PARAMETERS) -> int:
        self.total += one + two
        return self.total

    @on.delete
    def end(self, ctx: Command) -> bool:
        return True
"""


class _Books:
    """A cluster with a document whose messages each version of its code spells otherwise."""

    def __init__(self) -> None:
        self.world = World(loader=lambda node: AnyLoader())
        self.client = self.world.start()
        self.deploy(1, "one: int, two: int")
        self.ask(Kind.CREATE)

    def deploy(self, version: int, parameters: str) -> None:
        source = SPELT.replace("VERSION", str(version)).replace("PARAMETERS", parameters)
        code = base64.b64encode(bundle.from_source(source).encode()).decode()
        assert decide(self.client, "deploy", space="book", bundle=code).failure is None
        self.world.run(200)

    def ask(self, kind: Kind) -> None:
        assert self.client.insist(kind, "b", "", {}, space="book").failure is None

    def write(self, sequence: int) -> tuple[int, int, bytes, Failure | None]:
        numbers, session = {"one": 1, "two": 2}, session_id(3)
        reply = self.client.insist(Kind.SEND, "b", "write", numbers, space="book", session=session, sequence=sequence)
        return reply.epoch, reply.index, reply.payload, reply.failure


def test_a_repeat_is_recognised_although_other_code_spells_it_in_other_bytes() -> None:
    """Across an upgrade, and across the end of the document and a new beginning on code that nobody remembers."""
    books = _Books()
    told = books.write(1)
    assert told == (1, 2, b"3", None)
    books.deploy(2, "two: int, one: int")
    assert books.write(2) == (1, 4, b"6", None), "the upgrade came first"
    assert books.write(1) == told
    books.ask(Kind.DELETE)
    books.ask(Kind.CREATE)
    assert books.write(1) == told


def test_a_repeat_to_a_deleted_document_is_recognised_though_its_space_has_other_code_meanwhile() -> None:
    """Nobody can ask the code of a document that is gone how it spelt what it answered."""
    books = _Books()
    told = books.write(1)
    books.ask(Kind.DELETE)
    books.deploy(2, "two: int, one: int")
    assert books.write(1) == told
