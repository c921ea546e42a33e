"""A cluster of real pumps in one thread: virtual time, a network that can be cut, memory engines that can lose what is not
synced.
"""

from __future__ import annotations

import base64
import heapq
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from cluster.documents.runtime import Loader
from cluster.ids import NodeId, ShardId
from cluster.pump import facts
from cluster.pump.assembly import PumpSurroundings, open_pump
from cluster.pump.lanes import Lane
from cluster.pump.outbox import Output
from cluster.pump.pump import PumpConfig
from cluster.raft.config import RaftConfig
from cluster.session.operations import Delta, Kind, Operation, Reply
from cluster.shard.apply import HandlerFailure
from cluster.shard.commands import Command
from cluster.shard.directory import Directory
from cluster.shard.replica import CompactionConfig
from cluster.shard.system.program import OPERATOR
from cluster.shardmap import nodes as registry
from cluster.shardmap.map import SYSTEM_KEY, SYSTEM_SPACE
from cluster.storage.memory import MemoryEngine
from tests.pump.tally import BUNDLE, TallyLoader

STEP_MS = 1.0


class Marker:
    """No command is suspected unless a test says so."""

    def __init__(self) -> None:
        self.suspects: dict[tuple[int, int], int] = {}
        self.ran: list[tuple[int, int, int]] = []

    def note(self, shard: int, index: int, offset: int, command: Command) -> None:
        self.ran.append((shard, index, offset))

    def suspected(self, shard: int, index: int) -> int | None:
        return self.suspects.get((shard, index))


@dataclass
class Client:
    """A client stream at one node, with everything it was told, in order."""

    world: World
    node: SimulatedNode
    number: int
    replies: dict[int, list[Reply]] = field(default_factory=dict)
    deltas: list[Delta] = field(default_factory=list)
    order: list[Reply | Delta] = field(default_factory=list)
    next_id: int = 1

    def take(self, events: list[Reply | Delta]) -> None:
        for event in events:
            self.order.append(event)
            if isinstance(event, Reply):
                self.replies.setdefault(event.id, []).append(event)
            else:
                self.deltas.append(event)

    def submit(self, kind: Kind, key: str, channel: str = "", payload: object = None, **more: object) -> int:
        """Queue one operation; returns its id."""
        operation = self.operation(kind, key, channel, payload, **more)
        self.node.pump.submit(self.number, [operation], self.world.now_ms)
        return operation.id

    def submit_all(self, *operations: Operation) -> None:
        """Queue operations together, so that they can share an entry."""
        self.node.pump.submit(self.number, list(operations), self.world.now_ms)

    def operation(self, kind: Kind, key: str, channel: str = "", payload: object = None, **more: object) -> Operation:
        number, self.next_id = self.next_id, self.next_id + 1
        body = payload if isinstance(payload, bytes) else msgspec.json.encode(payload if payload is not None else {})
        space = str(more.pop("space", "tally"))
        principal = str(more.pop("principal", "alice@acme"))
        return Operation(number, kind, space, key, principal, channel, body, **more)  # type: ignore[arg-type]

    def call(self, kind: Kind, key: str, channel: str = "", payload: object = None, **more: object) -> Reply:
        """One operation, to its reply."""
        number = self.submit(kind, key, channel, payload, **more)
        self.world.run_until(lambda: number in self.replies)
        return self.replies[number][0]

    def insist(self, kind: Kind, key: str, channel: str = "", payload: object = None, **more: object) -> Reply:
        """Like `call`, again while the refusal is retryable."""
        for _ in range(400):
            reply = self.call(kind, key, channel, payload, **more)
            if reply.failure is None or not reply.failure.retryable:
                return reply
            self.world.run(20)
        raise AssertionError(f"still refused: {reply.failure}")


class SimulatedNode:
    """One node: an engine that survives, and a pump that does not."""

    def __init__(self, world: World, name: NodeId) -> None:
        self.world = world
        self.name = name
        self.engine = MemoryEngine()
        self.generation = 0
        self.up = False
        self.syncs = True
        self.syncing: tuple[int, int, float] | None = None
        """A sync under way: the write and the engine's batches that it makes durable, and when it returns."""
        self.synced_batches = 0
        self.paused_until_ms = 0.0
        self.clock_ahead_ms = 0
        """How far this node's wall clock is ahead of the true time."""
        self.halts = False
        """Whether the tally's channel `halt` is a fault on this node."""
        self.inbox: list[tuple[float, int, NodeId, Lane, bytes]] = []
        self.clients: dict[int, Client] = {}
        self.marker = Marker()
        self.failures: list[HandlerFailure] = []

    def boot(self) -> None:
        world = self.world
        self.generation += 1
        self.syncing = None
        self.pump = open_pump(
            PumpSurroundings(
                node=self.name,
                engine=self.engine,
                generation=self.generation,
                first_nodes=world.first if self.name in world.first else [],
                shard_count=world.shards,
                replication_factor=world.replication_factor,
                loader=world.loader(self),
                marker=self.marker,
                on_failure=self.failures.append,
                clock=lambda: world.now_ms,
                entropy=world.random.randbytes,
                random=world.random,
                cache_bytes_max=world.cache_bytes_max,
                checkpoints=world.checkpoints,
                raft=world.raft,
                pump=world.pump,
                compaction=world.compaction,
            )
        )
        self.synced_batches = self.engine.batches_written
        self.up = True
        for other in world.nodes.values():
            if other.up and other is not self:
                self.pump.on_connected(other.name, world.now_ms)
                other.pump.on_connected(self.name, world.now_ms)

    @property
    def directory(self) -> Directory:
        return self.pump.directory

    def crash(self, *, lose_unsynced: bool = True, keep_batches: int = 0, refused: bool = True) -> None:
        """End the process. Of what is not synced the first `keep_batches` batches are on the disk all the same."""
        self.up = False
        self.inbox.clear()
        self.clients.clear()
        self.engine = self.engine.crash(keep_batches if lose_unsynced else self.unsynced_batches)
        for other in self.world.nodes.values():
            if other.up:
                other.pump.on_disconnected(self.name, refused, self.world.now_ms)

    @property
    def unsynced_batches(self) -> int:
        return self.engine.batches_written - self.synced_batches

    def due_ms(self) -> float:
        """When this node takes its next turn if it is told nothing more: what its loop goes by (`cluster.node.loop`)."""
        pump = self.pump
        if pump.calls_for_turn or (pump.needs_sync and self.syncs and self.syncing is None):
            return self.paused_until_ms
        due_ms = pump.deadline_ms
        if self.inbox:
            due_ms = min(due_ms, self.inbox[0][0])
        if self.syncing is not None:
            due_ms = min(due_ms, self.syncing[2])
        return max(due_ms, self.paused_until_ms)

    @property
    def has_mail(self) -> bool:
        return bool(self.inbox and self.inbox[0][0] <= self.world.now_ms)

    def turn(self) -> None:
        pump, now_ms = self.pump, self.world.now_ms
        if now_ms < self.paused_until_ms:
            return
        while self.inbox and self.inbox[0][0] <= now_ms:
            _, _, sender, lane, frame = heapq.heappop(self.inbox)
            pump.on_frame(sender, lane, frame, now_ms)
        if self.syncing is not None and self.syncing[2] <= now_ms:
            write, batches, _ = self.syncing
            self.syncing = None
            self.engine.sync_through(batches)
            self.synced_batches = max(self.synced_batches, batches)
            self.carry(pump.persisted(write, now_ms))
        self.carry(pump.step(now_ms, self.world.wall_ms + self.clock_ahead_ms))
        if pump.needs_sync and self.syncs and self.syncing is None:
            takes_ms = self.world.sync_ms()
            if takes_ms:
                self.syncing = (pump.written, self.engine.batches_written, now_ms + takes_ms)
            else:
                write = pump.written
                self.engine.sync()
                self.synced_batches = self.engine.batches_written
                self.carry(pump.persisted(write, now_ms))
        self.carry(pump.apply(now_ms))

    def carry(self, output: Output) -> None:
        if output.batch:
            self.engine.write(output.batch)
        for receiver, lane, frame in output.frames:
            if not self.world.send(self.name, receiver, lane, frame):
                self.pump.on_frame_lost(receiver, lane, self.world.now_ms)
        for stream, events in output.deliveries:
            client = self.clients.get(stream)
            if client is not None:
                client.take(events)


class World:
    """Nodes, time and the network between them."""

    def __init__(
        self,
        nodes: int = 3,
        shards: int = 2,
        seed: int = 1,
        cache_bytes_max: int = 1 << 24,
        checkpoints: bool = True,
        compaction: CompactionConfig | None = None,
        loader: Callable[[SimulatedNode], Loader] | None = None,
        raft: RaftConfig | None = None,
        pump: PumpConfig | None = None,
        replication_factor: int = 3,
        registry: bool = False,
    ) -> None:
        self.registry = registry or (pump is not None and pump.placement is not None)
        self.raft = raft or RaftConfig(invariants_checked=True)
        self.pump = pump or PumpConfig()
        self.loader = loader or (lambda node: TallyLoader(lambda: node.halts))
        self.sync_ms: Callable[[], float] = lambda: 0.0
        self.delay_ms: Callable[[NodeId, NodeId, Lane], float] = lambda sender, receiver, lane: 0.0
        self.duplicated = 0.0
        self.refusing: set[tuple[NodeId, NodeId]] = set()
        """Links whose sender's transport refuses frames."""
        self.broken: set[tuple[NodeId, NodeId]] = set()
        """Links that lost a frame since they were mended."""
        self.zones: dict[str, str] = {}
        self._arrivals: dict[tuple[NodeId, NodeId, Lane], float] = {}
        self._sent = 0
        self.compaction = compaction or CompactionConfig()
        self.random = random.Random(seed)
        self.now_ms = 1_000.0
        self.shards = shards
        self.replication_factor = replication_factor
        self.cache_bytes_max = cache_bytes_max
        self.checkpoints = checkpoints
        self.names = [NodeId(f"n{number}") for number in range(1, nodes + 1)]
        self.first = list(self.names)
        self.cut: set[tuple[NodeId, NodeId]] = set()
        self.loss = 0.0
        self.nodes = {name: SimulatedNode(self, name) for name in self.names}
        for node in self.nodes.values():
            node.boot()

    def listed(self, name: NodeId) -> dict[str, object]:
        """A node as the system document is told of it."""
        ports = {"peer_port": 7401, "gossip_port": 7402, "client_port": 7400}
        zone = self.zones.get(name, "")
        return {"do": "register", "node": name, "directory": "", "host": name, "zone": zone, **ports}

    def join(self, name: str, client: Client) -> SimulatedNode:
        """A node with an empty directory joins: it is registered, and begins with what its sponsor knows then."""
        number = NodeId(name)
        node = SimulatedNode(self, number)
        store = self.random.randbytes(16)
        fields = {**self.listed(number), "directory": store.hex()}
        system = {"space": SYSTEM_SPACE, "principal": str(OPERATOR)}
        assert client.insist(Kind.SEND, SYSTEM_KEY, "node", fields, **system).failure is None
        self.run_until(lambda: registry.find(client.node.directory.decisions.nodes, name) is not None)
        facts.begin_joined(node.engine, store, client.node.directory.encode())
        self.names.append(number)
        self.nodes[number] = node
        node.boot()
        return node

    @property
    def wall_ms(self) -> int:
        return 1_700_000_000_000 + int(self.now_ms)

    def send(self, sender: NodeId, receiver: NodeId, lane: Lane, frame: bytes) -> bool:
        """Frames of one lane arrive in order; lanes overtake each other. False when the sender's own side refuses."""
        if (sender, receiver) in self.refusing:
            return False
        node = self.nodes[receiver]
        if node.up and (sender, receiver) not in self.cut and self.random.random() >= self.loss:
            link = (sender, receiver, lane)
            at_ms = self.now_ms + self.delay_ms(*link)
            for _ in range(2 if self.duplicated and self.random.random() < self.duplicated else 1):
                at_ms = self._arrivals[link] = max(at_ms, self._arrivals.get(link, 0.0))
                self._sent += 1
                heapq.heappush(node.inbox, (at_ms, self._sent, sender, lane, frame))
        else:
            self.broken.add((sender, receiver))
        return True

    def mend(self) -> None:
        """Links that lost frames break and come back: a transport loses nothing on a connection that stands."""
        for sender, receiver in sorted(self.broken):
            if self.nodes[sender].up and self.nodes[receiver].up and (sender, receiver) not in self.cut:
                self.broken.discard((sender, receiver))
                self.nodes[sender].pump.on_disconnected(receiver, False, self.now_ms)
                self.nodes[sender].pump.on_connected(receiver, self.now_ms)

    def run(self, duration_ms: float, without: SimulatedNode | None = None) -> None:
        """Time passes; `without` stands still meanwhile."""
        ends_ms = self.now_ms + duration_ms
        while self.now_ms < ends_ms:
            self._pass(ends_ms, without)

    def run_until(self, holds, within_ms: float = 30_000.0) -> None:  # type: ignore[no-untyped-def]
        ends_ms = self.now_ms + within_ms
        while not holds():
            assert self.now_ms < ends_ms, "nothing came of it in time"
            self._pass(ends_ms)

    def _pass(self, ends_ms: float, without: SimulatedNode | None = None) -> None:
        """Go to the next step at which somebody has something to do, and let those take their turns."""
        due = {node: node.due_ms() for node in self.nodes.values() if node.up and node is not without}
        ahead_ms = min([ends_ms, *due.values()]) - self.now_ms
        self.now_ms += STEP_MS * max(1, math.ceil(ahead_ms / STEP_MS))
        for node, due_ms in due.items():
            if node.up and (due_ms <= self.now_ms or node.has_mail):
                node.turn()

    def client(self, name: str = "n1") -> Client:
        node = self.nodes[NodeId(name)]
        client = Client(self, node, node.pump.streams.open())
        node.clients[client.number] = client
        return client

    def settled(self) -> bool:
        """Every shard has one leader that serves."""
        return self.settled_without()

    def settled_without(self, *away: SimulatedNode) -> bool:
        for shard in range(self.shards + 1):
            leaders = [
                node
                for node in self.nodes.values()
                if node.up
                and node not in away
                and ShardId(shard) in node.pump.replicas
                and node.pump.replicas[ShardId(shard)].serves
            ]
            if len(leaders) != 1:
                return False
        return True

    def start(self) -> Client:
        """Elect, write the system document, deploy the tally; returns a client at n1."""
        self.run_until(self.settled)
        client = self.client("n1")
        payload: dict[str, object] = {
            "shard_map": base64.b64encode(self.nodes[NodeId("n1")].pump.router.map.encode()).decode(),
            "nodes": [self.listed(name) for name in self.first] if self.registry else [],
            "replication_factor": self.replication_factor,
        }
        system = {"space": SYSTEM_SPACE, "principal": str(OPERATOR)}
        assert client.insist(Kind.CREATE, SYSTEM_KEY, "", payload, **system).failure is None
        deploy = {"space": "tally", "bundle": base64.b64encode(BUNDLE).decode()}
        assert client.insist(Kind.SEND, SYSTEM_KEY, "deploy", deploy, **system).failure is None
        self.run_until(lambda: all(node.directory.decisions.version == 2 for node in self.nodes.values() if node.up))
        return client

    def tell_system(self, channel: str, payload: dict[str, object]) -> None:
        """A command of an operator to the system document, until it is answered."""
        up = next(node.name for node in self.nodes.values() if node.up)
        system = {"space": SYSTEM_SPACE, "principal": str(OPERATOR)}
        assert self.client(up).insist(Kind.SEND, SYSTEM_KEY, channel, payload, **system).failure is None

    def leader(self, key: str) -> SimulatedNode:
        """Who leads the shard of tally/key."""
        return self.leader_of(next(iter(self.nodes.values())).pump.router.shard_of("tally", key))

    def leader_of(self, shard: ShardId) -> SimulatedNode:
        """Who leads a shard."""
        return next(node for node in self.holders(shard) if node.pump.replicas[shard].leads)

    def holders(self, shard: ShardId) -> list[SimulatedNode]:
        """The nodes that are up and hold a replica."""
        return [node for node in self.nodes.values() if node.up and shard in node.pump.replicas]

    def records(self, key: str, space: str = "tally") -> list[bytes]:
        """The record of space/key on every node that is up and holds its shard."""
        shard = next(iter(self.nodes.values())).pump.router.shard_of(space, key)
        return [node.pump.replicas[shard].cache.get(space, key).record() for node in self.holders(shard)]
