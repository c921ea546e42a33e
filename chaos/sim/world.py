"""The simulated world: one clock, one heap of events, and everything that happens on it.

Invariant: the run is a function of its scenario. Events of one instant happen in the order in which they were scheduled, random
numbers come from named streams, and nothing here or below looks at anything else. `trace` is a digest of every event, so two
runs are the same when their traces are.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec

import chaos.sim.clock
import chaos.sim.ledger
import cluster.examples
from chaos.checkers.answers import Answers
from chaos.checkers.checker import Checker
from chaos.checkers.commands import Commands
from chaos.checkers.connections import Connections
from chaos.checkers.consensus import Consensus
from chaos.checkers.history import NOWHERE, Call, History, Name, Place
from chaos.checkers.ledgers import Ledgers
from chaos.checkers.listings import Listings
from chaos.checkers.passing import Passing
from chaos.checkers.replicas import Replicas
from chaos.checkers.secrets import Secrets
from chaos.checkers.upgrades import Upgraded
from chaos.checkers.violation import Violation
from chaos.checkers.waiting import Waiting
from chaos.checkers.watches import Watches
from chaos.sim.by_hand import ByHand
from chaos.sim.clients import Listing, SessionClient, Stream, UnaryCall
from chaos.sim.divergence import Planted
from chaos.sim.injector import Injector
from chaos.sim.late_code import LateCode
from chaos.sim.marks import Marks
from chaos.sim.network import Network
from chaos.sim.node import WALL_EPOCH_MS, SimulatedNode
from chaos.sim.operator import Operator
from chaos.sim.placing import Placing
from chaos.sim.randomness import Streams
from chaos.sim.scenario import Scenario, node_names
from chaos.sim.sites import Sites
from chaos.sim.thaws import Thaws
from chaos.sim.workload import Work
from cluster.documents.bundle import from_path
from cluster.documents.loader import BundleLoader
from cluster.documents.runtime import Program, Settings
from cluster.errors import StorageDamaged
from cluster.ids import NodeId, Principal, ShardId, Term
from cluster.pump import frames
from cluster.pump.lanes import Lane
from cluster.session.operations import Delta, Failure, Kind, Operation, Reply
from cluster.shard.commands import Command
from cluster.shard.turn import RaftItem
from cluster.storage.engine import Batch

RING = 40
STORY = 400
EVENTS_PER_INSTANT_MAX = 20_000
INSTANT_MS = 25.0
"""More events than this in so short a time is a loop, or a timer that is always due."""

_EXAMPLES = Path(cluster.examples.__file__).parent
SPACES: dict[str, bytes] = {
    "ledger": from_path(Path(chaos.sim.ledger.__file__)).encode(),
    "clock": from_path(Path(chaos.sim.clock.__file__)).encode(),
    "hands": from_path(Path(chaos.sim.ledger.__file__).with_name("hands.py")).encode(),
    "lobby": from_path(Path(chaos.sim.ledger.__file__).with_name("lobby.py")).encode(),
    "notes": from_path(Path(chaos.sim.ledger.__file__).with_name("notes.py")).encode(),
    **{name: from_path(_EXAMPLES / f"{name}.py").encode() for name in ("counter", "text", "chat")},
}
_HERE = Path(chaos.sim.ledger.__file__).parent
VERSIONS: list[bytes] = [SPACES["ledger"], *(from_path(_HERE / f"ledger_{name}.py").encode() for name in ("second", "third"))]
"""Of the ledger, in the order in which they are deployed."""
_COMPILED: list[Program] = [BundleLoader().load(bundle) for bundle in (*SPACES.values(), *VERSIONS)]
"""Held so that code is compiled once in a process, not once a run."""


class World:
    """One run in progress. Built by `chaos.sim.run`."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.streams = Streams(scenario.seed)
        self.now_ms = 0.0
        self.began_ms = 0.0
        self.events = 0
        self.marks: Counter[str] = Counter()
        self.ring: deque[tuple[float, str, tuple[Any, ...]]] = deque(maxlen=RING)
        self.story: deque[str] = deque(maxlen=STORY)
        self.history = History()
        self.names = node_names(scenario.limits.nodes)
        self._heap: list[tuple[float, int, str, tuple[Any, ...]]] = []
        self._order = 0
        self._digest = blake2b(digest_size=16)
        self._undigested: list[str] = []
        self._streams_open: list[Stream] = []
        self.shunned: SimulatedNode | None = None
        self._documents: dict[ShardId, dict[Name, None]] = {}
        limits = scenario.limits
        settings = Settings(
            session_window=limits.session_window,
            sessions_max=limits.sessions_max,
            change_ring_bytes=limits.change_ring_bytes,
        )
        self.answers = Answers(self)
        self.listings = Listings(self)
        self.watches = Watches(self, self.answers)
        self.consensus = Consensus(self)
        self.commands = Commands(self)
        self.replicas = Replicas(self)
        self.observed = Marks(self)
        self.planted = Planted(self)
        self.upgraded = Upgraded(self, VERSIONS)
        self.waiting = Waiting(self)
        self.secrets = Secrets(self)
        self.passing, self.connections = Passing(self), Connections(self)
        self.checkers: tuple[Checker, ...] = (
            self.consensus, self.commands, self.replicas, self.answers, self.watches, Ledgers(self), self.planted,
            self.upgraded, self.waiting, self.observed, self.secrets, self.passing, self.connections,
        )  # fmt: skip
        self.nodes = {
            name: SimulatedNode(self, name, place, self.planted.loader(name, settings), self.streams.named(f"node/{name}"))
            for place, name in enumerate(self.names)
        }
        pairs = [(one, other) for one in self.names for other in self.names if one != other]
        sources = {pair: self.streams.named(f"network/{pair[0]}>{pair[1]}") for pair in pairs}
        self.network = Network(self, dict(self.nodes), sources)
        self.principals: dict[str, str] = {}
        self.clients = [SessionClient(self, number) for number in range(scenario.clients)]
        self.injector = Injector(self)
        self.operator = Operator(self)
        self.late_code = LateCode(self)
        self.by_hand, self.thaws, self.placing = ByHand(self), Thaws(self), Placing(self)
        self.sites = Sites(*[self.streams.named(name) for name in ("sites/armed", "sites/odd", "sites")])
        self._handlers: dict[str, Callable[..., None]] = {
            "frame": self.network.arrive,
            "silence": self.network.silence,
            "dial": self.network.dial,
            "reset": self.network.reset,
            "turn": SimulatedNode.turn,
            "timer": SimulatedNode.on_timer,
            "synced": SimulatedNode.on_synced,
            "restart": SimulatedNode.restart,
            "call": lambda action, *arguments: action(*arguments),
            "work": self._work,
            "begin": self.injector.begin,
            "end": self.injector.end,
            "errand": self.operator.begin,
            "upgrade": self.upgraded.deploy,
        }

    # -- time --------------------------------------------------------------------------------------------------------

    @property
    def true_wall_ms(self) -> int:
        return int(WALL_EPOCH_MS + self.now_ms)

    @property
    def trace(self) -> str:
        """A digest of everything that happened so far."""
        self._digest.update("".join(self._undigested).encode())
        self._undigested.clear()
        return self._digest.hexdigest()

    def safety_ms(self, at_ms: float) -> float:
        """A time of the scenario as a time of the world."""
        return self.began_ms + at_ms

    def after(self, delay_ms: float, kind: str, *arguments: object) -> None:
        """Schedule an event."""
        self._order += 1
        heapq.heappush(self._heap, (self.now_ms + delay_ms, self._order, kind, arguments))

    def run_until(self, ends_ms: float, holds: Callable[[], bool] | None = None, every_ms: float = 20.0) -> bool:
        """Let events happen until `ends_ms`, or until `holds`, looked at every so often. Says whether it held."""
        next_look_ms = self.now_ms
        same, instant_ends_ms = 0, self.now_ms + INSTANT_MS
        heap, handlers, undigested, ring = self._heap, self._handlers, self._undigested, self.ring
        while True:
            if holds is not None and self.now_ms >= next_look_ms:
                if holds():
                    return True
                next_look_ms = self.now_ms + every_ms
            if not heap or heap[0][0] > ends_ms:
                self.now_ms = max(self.now_ms, ends_ms)
                return holds() if holds is not None else False
            at_ms, _, kind, arguments = heapq.heappop(heap)
            same += 1
            if at_ms > instant_ends_ms:
                same, instant_ends_ms = 0, at_ms + INSTANT_MS
            if same > EVENTS_PER_INSTANT_MAX:
                raise Violation("liveness", f"time stands still at {self.now_ms} ms: {kind} {arguments[:1]}")
            if at_ms > self.now_ms:
                self.now_ms = at_ms
            self.events += 1
            if kind != "call":
                detail = crc32(arguments[3]) if kind == "frame" else 0
                undigested.append("%.6f %s %d;" % (self.now_ms, kind, detail))  # noqa: UP031 - the fastest, 10,000 times a run
                ring.append((self.now_ms, kind, arguments))
            handlers[kind](*arguments)

    def note(self, kind: str, who: str, what: str) -> None:
        """Something worth telling."""
        self._undigested.append(f"{kind} {who} {what};")
        self.story.append(f"{self.now_ms - self.began_ms:9.1f} {kind:<10} {who} {what}")

    # -- what nodes do -----------------------------------------------------------------------------------------------

    def send(self, node: SimulatedNode, receiver: NodeId, lane: Lane, frame: bytes) -> bool:
        """A frame leaves a node; says whether its connection took it."""
        orderly = False
        if lane is Lane.RAFT:
            for item in frames.unpack_raft(frame):
                if type(item) is RaftItem:
                    self.consensus.sent(node, receiver, item)
                else:
                    orderly = True
                    self.observed.said(node, item)
        elif lane is Lane.BULK:
            self.observed.bulk(node, frame)
        return self.network.send(node.name, receiver, lane, frame, orderly=orderly)

    def booted(self, node: SimulatedNode) -> None:
        self.note("boots", node.name, str(node.generation))
        for checker in self.checkers:
            checker.booted(node)
        self.network.process_new(node.name)

    def process_gone(self, node: SimulatedNode, host_down: bool) -> None:
        self.observed.died(node)
        self.network.process_gone(node.name, host_down)
        for stream in self._streams_open:
            if stream.node is node and stream.open:
                self.after(self.streams.named("clients/breaks").uniform(0.1, 30.0), "call", stream.broken)
        self._streams_open = [stream for stream in self._streams_open if stream.open and stream.node is not node]

    def shun(self, node: SimulatedNode | None) -> None:
        """Clients leave this node, and come to it again once it is None."""
        self.shunned = node
        for stream in self._streams_open:
            if stream.node is node and stream.open:
                self.after(self.streams.named("clients/breaks").uniform(0.1, 30.0), "call", stream.broken)

    def welcomes(self, node: SimulatedNode) -> bool:
        """Whether a client that dials this node gets an answer."""
        return node.answers and node is not self.shunned

    def stepped(self, node: SimulatedNode) -> None:
        """Raft has moved and nothing of it is applied yet, so nothing that it rests on is compacted."""
        self.consensus.turned(node)

    def applied(self, node: SimulatedNode) -> None:
        """A node has applied what it could, and nothing of that has left it yet."""
        self.replicas.turned(node)

    def turned(self, node: SimulatedNode) -> None:
        self.observed.turned(node)
        self.planted.turned(node)

    def observe_write(self, name: NodeId) -> Callable[[object, Batch], None]:
        """What the disk of a node calls with each batch."""

        def seen(disk: object, batch: Batch) -> None:
            if not self.nodes[name].wiped:
                self.consensus.wrote(name, batch)
            self.observed.wrote(name, batch)

        return seen

    def ran(self, node: SimulatedNode, shard: int, index: int, offset: int, command: Command) -> None:
        self.commands.ran(node, shard, index, offset, command)
        self.upgraded.ran(node, shard, index, offset, command)
        self.replicas.ran(node, shard, index, offset, command)
        self.planted.ran(node, shard, index, offset, command)

    def committed(self, shard: ShardId, index: int, commands: list[Command]) -> None:
        """An entry is known to be committed for the first time."""
        documents = self._documents.setdefault(shard, {})
        for command in commands:
            documents[(command.space, command.key)] = None
        self.observed.committed(commands)

    def elected(self, node: SimulatedNode, shard: ShardId, term: Term) -> None:
        self.note("leads", node.name, f"shard {shard} in term {term}")
        self.marks["elections"] += 1
        held = [other.pump.replicas.get(shard) for other in self.nodes.values() if other.up and other is not node]
        if any(replica is not None and replica.leads for replica in held):
            self.marks["rival_leaders"] += 1

    # -- what clients do ---------------------------------------------------------------------------------------------

    def opened(self, stream: Stream) -> None:
        self._streams_open.append(stream)

    def _work(self, work: Work) -> None:
        client = self.clients[work.client]
        if not work.alone:
            client.do(work)
            return
        call = self.begin(client.name, work)
        source = self.streams.named(f"unary/{work.at_ms}/{work.payload!r}")
        if work.kind is Kind.LIST:
            Listing(self, source, call, client.principal, source.randint(1, 5)).ask()
            return
        key = b"" if work.kind is Kind.READ or work.keyless else source.randbytes(16)
        operation = Operation(
            0, work.kind, work.space, work.key, client.principal, work.channel, work.payload, key, 0, 0, work.consistency
        )
        if work.consistency:
            operation.epoch, operation.index = call.own_floor

        def answered(reply: Reply) -> None:
            call.attempts = unary.attempts
            self.end(call, reply)

        unary = UnaryCall(self, source, operation, answered, once=work.keyless, patience_ms=call.patience_ms)
        unary.start()

    def operate(self, channel: str, kind: Kind, payload: bytes, on_reply: Callable[[Reply], None]) -> None:
        """Something an operator does to the system document."""
        operation = Operation(0, kind, "system", "cluster", str(Principal("operator", "moot")), channel, payload)
        UnaryCall(self, self.streams.named("operator"), operation, on_reply).start()

    def begin(self, client: str, work: Work) -> Call:
        name = (work.space, work.key)
        call = self.history.begin(
            client, work.kind, name, work.channel, work.payload, work.consistency, work.alone, self.now_ms,
            self.scenario.limits.operation_timeout_ms,
        )  # fmt: skip
        self.passing.asked(call)
        return call

    def end(self, call: Call, reply: Reply) -> None:
        """A client has its answer."""
        self.history.end(call, reply, self.now_ms)
        self.answers.answered(call)
        self.waiting.answered(call)
        self.observed.answered(call)
        self.secrets.answered(call)
        if reply.failure is None and call.kind is not Kind.LIST:
            if call.alone and call.kind is not Kind.READ:
                # a repeat is told its first place, which may be long past: nobody's newest, but somebody's truth.
                self.history.learn(f"{call.client}/alone", call.name, call.place)
            else:
                self.history.learn(call.client, call.name, call.place)

    def changed(self, client: str, watch: int, delta: Delta) -> None:
        self.watches.changed(client, watch, delta)
        self.secrets.changed(client, watch, delta)
        self.passing.changed(client, watch, delta)
        name = self.watches.name_of(client, watch)
        self.history.learn(f"{client}/watch", name, (delta.epoch, delta.index))

    def watch_ended(self, client: str, watch: int, failure: Failure) -> None:
        self.watches.ended(client, watch, failure)
        self.connections.ended(client, watch, failure)
        self.observed.watch_ended(failure)

    # -- the end -----------------------------------------------------------------------------------------------------

    def running(self) -> list[SimulatedNode]:
        """Nodes that run and are what they were, and well."""
        return [node for node in self.nodes.values() if node.up and not node.wiped and node is not self.shunned]

    def documents_of(self, shard: ShardId) -> list[Name]:
        """Every document that a committed command of the shard names."""
        return list(self._documents.get(shard, {}))

    def final_places(self) -> dict[Name, Place]:
        """Where every document stands at the leader of its shard."""
        places: dict[Name, Place] = {}
        for node in self.running():
            for shard, replica in node.pump.replicas.items():
                if replica.serves:
                    for name in self.documents_of(shard):
                        try:
                            live = replica.cache.get(*name)
                        except StorageDamaged:
                            places[name] = self.replicas.newest.get(name, NOWHERE)  # rot that no reader has met yet
                        else:
                            places[name] = (live.epoch, live.index)
        return places

    def final_view(self, name: Name, client: str) -> Any:
        """What a living document shows a client at the leader of its shard, None when there is none."""
        for node in self.running():
            replica = node.pump.replicas.get(node.pump.router.shard_of(*name))
            if replica is not None and replica.serves:
                live = replica.cache.get(*name)
                if live.instance is not None:
                    return msgspec.json.decode(live.instance.view(Principal.parse(self.principals[client])))
        return None

    def final_views(self) -> dict[Name, Any]:
        """What living documents show at the leader of their shard."""
        views: dict[Name, Any] = {}
        who = Principal("c0", "sim")
        for node in self.running():
            for shard, replica in node.pump.replicas.items():
                if replica.serves and shard != 0:
                    for name in self.documents_of(shard):
                        try:
                            live = replica.cache.get(*name)
                        except StorageDamaged:
                            continue  # likewise
                        if live.instance is not None:
                            views[name] = msgspec.json.decode(live.instance.view(who))
        return views
