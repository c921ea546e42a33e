"""A cluster in which the handlers of one document see on some nodes what its commands do not say."""

from __future__ import annotations

import base64
from collections.abc import Callable

import msgspec

from cluster.documents.bundle import Bundle
from cluster.documents.loader import BundleLoader
from cluster.documents.runtime import Program
from cluster.ids import NodeId
from cluster.node.divergence_hook import LeakingLoader
from cluster.raft.events import Transfer
from cluster.session.operations import Kind, Reply
from cluster.shard.divergence import Divergence, Remedy
from cluster.shard.replica import ShardReplica
from cluster.shard.system.program import OPERATOR
from cluster.shardmap.map import SYSTEM_KEY, SYSTEM_SPACE
from tests.pump.tally import TallyLoader
from tests.pump.world import Client, SimulatedNode, World

MARKER = "the-host"
BOARD = b'''
from cluster import Command, Document, Record, anyone, field, on

class Cell(Record):
    owner: str
    moves: int

class Board(Document, version=1):
    """Cells and who has them."""

    gate = anyone
    board: dict[int, Cell] = field.private()

    @on.message
    def claim(self, ctx: Command, cell: int, owner: str) -> str:
        self.board[cell] = Cell(owner, len(self.board))
        return owner

    @on.message
    def hush(self, ctx: Command, cell: int, owner: str) -> None:
        self.board[cell] = Cell(owner, len(self.board))

    @on.message
    def count(self, ctx: Command) -> int:
        return len(self.board)
'''


class Loader:
    """The tally, and authors' code that leaks on the nodes that a test says."""

    def __init__(self, leak: str) -> None:
        self._tally = TallyLoader()
        self._real = LeakingLoader(MARKER, lambda: leak) if leak else BundleLoader()

    def load(self, code: bytes) -> Program:
        return self._tally.load(code) if code.startswith(b"tally") else self._real.load(code)


def planted(leaks: Callable[[NodeId], str], seed: int = 1, shards: int = 1, **more: object) -> World:
    """A cluster with the board deployed and one document `a`. leaks: what handlers of a node see instead of the marker."""
    world = World(shards=shards, seed=seed, loader=lambda node: Loader(leaks(node.name)), **more)  # type: ignore[arg-type]
    client = world.start()
    bundle = Bundle("board", (("board.py", BOARD),)).encode()
    request = {"space": "board", "bundle": base64.b64encode(bundle).decode()}
    system = {"space": SYSTEM_SPACE, "principal": str(OPERATOR)}
    assert client.insist(Kind.SEND, SYSTEM_KEY, "deploy", request, **system).failure is None
    world.run_until(lambda: all(node.directory.decisions.version == 3 for node in world.nodes.values()))
    assert client.insist(Kind.CREATE, "a", space="board").failure is None
    return world


def replica_of(node: SimulatedNode, key: str = "a") -> ShardReplica:
    return node.pump.replicas[node.pump.router.shard_of("board", key)]


def leader_of(world: World) -> SimulatedNode:
    return next(node for node in world.nodes.values() if node.up and replica_of(node).leads)


def followers_of(world: World) -> list[SimulatedNode]:
    return [node for node in world.nodes.values() if node.up and not replica_of(node).leads]


def reports(world: World) -> dict[NodeId, list[Divergence]]:
    return {node.name: node.pump.divergences.reports.all() for node in world.nodes.values() if node.up}


def healed(world: World) -> bool:
    """Everybody has settled the report, and has the same record."""
    known = reports(world)
    return (
        all(each and all(report.remedy is Remedy.HEALED for report in each) for each in known.values())
        and len(set(world.records("a", "board"))) == 1
    )


def claim(client: Client, cell: int, owner: str, channel: str = "claim", **more: object) -> Reply:
    return client.insist(Kind.SEND, "a", channel, {"cell": cell, "owner": owner}, space="board", **more)


def state(node: SimulatedNode) -> dict[str, dict[int, dict[str, object]]]:
    live = replica_of(node).cache.get("board", "a")
    assert live.instance is not None
    decoded: dict[str, dict[int, dict[str, object]]] = msgspec.msgpack.decode(live.instance.dump(), strict=False)
    return decoded


def restarted(world: World, node: SimulatedNode) -> None:
    """Start a node anew, so that its loader is made as the test now says."""
    node.crash()
    world.run(50)
    node.boot()
    world.run_until(world.settled)
    world.run(300)


def lead(world: World, node: SimulatedNode) -> None:
    """Make a node lead the board's shard."""
    replica = replica_of(node)
    for _ in range(50):
        if replica.serves:
            return
        now = leader_of(world)
        transfer(world, now, node)
        world.run(400)
    raise AssertionError("it does not come to lead")


def transfer(world: World, now: SimulatedNode, then: SimulatedNode) -> None:
    replica = replica_of(now)
    replica.handle(Transfer(replica_of(then).replica), world.now_ms, now.pump._turn)
