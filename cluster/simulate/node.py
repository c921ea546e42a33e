"""One node of a cluster of one, in this process: the real pump on a memory engine, with a clock that moves when it is told to.

Invariant: the same seed and the same calls give the same bytes: time, session names and seeds of commands come from here alone.
"""

from __future__ import annotations

import base64
import math
import random
import sys
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from cluster.documents.bundle import code_hash
from cluster.documents.loader import BundleLoader
from cluster.documents.runtime import Settings
from cluster.errors import HandlerRefused, InvalidBundle
from cluster.ids import SYSTEM_SHARD, DocumentId, NodeId, Position
from cluster.pump.assembly import PumpSurroundings, open_pump
from cluster.pump.config import PumpConfig
from cluster.pump.outbox import Output
from cluster.pump.pump import Pump
from cluster.replay.file import exported, stored_rows
from cluster.session.failures import error_of
from cluster.session.operations import Delta, Kind, Operation, Reply
from cluster.shard.apply import HandlerFailure
from cluster.shard.commands import Command, decode_row
from cluster.shard.document import LiveDocument
from cluster.shard.pending import pending
from cluster.shard.system.program import OPERATOR
from cluster.shardmap.map import SYSTEM_KEY, SYSTEM_SPACE
from cluster.storage.bundles import BundleStore
from cluster.storage.engine import Batch
from cluster.storage.history import HistoryStore
from cluster.storage.memory import MemoryEngine
from cluster.storage.records import RecordStore

NODE: Final = NodeId("simulated")
CACHE_BYTES_MAX: Final = 64 * 1024 * 1024
HEARTBEAT_MS: Final = 3_600_000.0
"""Nobody listens; a day that passes in a test need not be full of them."""
START_MS: Final = 60_000
"""Time that starting may take, before the test's time begins."""
TURNS_MAX: Final = 10_000
"""More turns than this without time moving is a loop, and a bug."""

Deliver = Callable[[list[Reply | Delta]], None]


class SimulatedNode:
    """now_ms: Unix milliseconds of the simulated time. failures: bugs of authors' handlers, newest last."""

    def __init__(self, seed: int, now_ms: int, settings: Settings | None, loader: BundleLoader | None = None) -> None:
        self.now_ms = now_ms - START_MS
        self.failures: list[HandlerFailure] = []
        self.random = random.Random(seed)
        self._began_ms = self.now_ms
        self._engine = MemoryEngine()
        self._loader = loader or BundleLoader(settings)
        self._generation = 0
        self._streams: dict[int, Deliver] = {}
        self.pump: Pump
        self._boot()
        assert self.now_ms <= now_ms, "it has started when the test's time begins"
        self.now_ms = now_ms
        shard_map = base64.b64encode(self.pump.router.map.encode()).decode()
        self.operate(Kind.CREATE, "", {"shard_map": shard_map})

    @property
    def _clock_ms(self) -> float:
        return float(self.now_ms - self._began_ms)

    def _boot(self) -> None:
        self._generation += 1
        self._streams.clear()
        self.pump = open_pump(
            PumpSurroundings(
                node=NODE,
                engine=self._engine,
                generation=self._generation,
                first_nodes=[NODE],
                shard_count=1,
                replication_factor=1,
                loader=self._loader,
                marker=self,
                on_failure=self.failures.append,
                clock=lambda: self._clock_ms,
                entropy=self.random.randbytes,
                random=self.random,
                cache_bytes_max=CACHE_BYTES_MAX,
                pump=PumpConfig(heartbeat_ms=HEARTBEAT_MS),
            )
        )
        while not all(replica.serves for replica in self.pump.replicas.values()):
            self.now_ms = max(self.now_ms, self._began_ms + int(self.pump.deadline_ms) + 1)
            self.run()

    def restart(self) -> None:
        """Lose everything that is not on the disk, as a killed process does, and come back."""
        self._engine = self._engine.crash()
        self._boot()

    # RunningMarker

    def note(self, shard: int, index: int, offset: int, command: Command) -> None:
        """A command runs next. A test that does not end shows where by itself."""

    def suspected(self, shard: int, index: int) -> int | None:
        """Nothing is suspected: a test is not tried again."""
        return None

    # time

    def pass_time(self, until_ms: int) -> None:
        """Move the clock to the next moment at which something falls due, at most to `until_ms`."""
        due_ms = self._began_ms + math.ceil(min(self.pump.deadline_ms, until_ms - self._began_ms))
        self.now_ms = min(max(due_ms, self.now_ms + 1), until_ms)

    def run(self) -> None:
        """Do everything that can be done now."""
        pump = self.pump
        for _ in range(TURNS_MAX):
            self._carry(pump.step(self._clock_ms, self.now_ms))
            while pump.needs_sync:
                self._engine.sync()
                self._carry(pump.persisted(pump.written, self._clock_ms))
            self._carry(pump.apply(self._clock_ms))
            if not pump.busy and not pump.needs_sync and not pump.calls_for_turn:
                return
        raise AssertionError(f"the node does not come to rest at {self.now_ms}")

    def _carry(self, output: Output) -> None:
        if output.write and output.batch:
            self._engine.write(output.batch)
        for stream, events in output.deliveries:
            deliver = self._streams.get(stream)
            if deliver is not None:
                deliver(events)

    # streams

    def open_stream(self, deliver: Deliver) -> int:
        """A client's stream; what comes on it goes to `deliver`, at once."""
        stream = self.pump.streams.open()
        self._streams[stream] = deliver
        return stream

    def submit(self, stream: int, operations: list[Operation], grants: list[tuple[int, int]]) -> None:
        """What a gateway takes out of one frame of a client."""
        for watch, credit_bytes in grants:
            self.pump.streams.grant(stream, watch, credit_bytes)
        if operations:
            self.pump.submit(stream, operations, self._clock_ms)

    def close_stream(self, stream: int) -> None:
        """The client is gone, or its connection is."""
        if self._streams.pop(stream, None) is not None:
            self.pump.close_stream(stream)

    def operate(self, kind: Kind, channel: str, payload: dict[str, object]) -> None:
        """What an operator does to the system document. Raises the error that answers it."""
        body = msgspec.json.encode(payload)
        try:
            self._send(Operation(1, kind, SYSTEM_SPACE, SYSTEM_KEY, str(OPERATOR), channel, body))
        except HandlerRefused as error:
            raise InvalidBundle(error.message) if error.details.get("name") == InvalidBundle.__name__ else error from None

    def operator(self, kind: Kind, document: DocumentId, who: str, order: dict[str, object]) -> Position:
        """What an operator does to a document (REPAIR, THAW, FORK); where it is then. Raises the error that answers it."""
        body = msgspec.json.encode(order)
        reply = self._send(Operation(1, kind, document.space, document.key, who, payload=body))
        return Position(reply.epoch, reply.index)

    def _send(self, operation: Operation) -> Reply:
        replies: list[Reply | Delta] = []
        stream = self.open_stream(replies.extend)
        operation.session = self.random.randbytes(16)
        self.submit(stream, [operation], [])
        self.run()
        self.close_stream(stream)
        (reply,) = replies
        assert isinstance(reply, Reply)
        if reply.failure is not None:
            raise error_of(reply.failure)
        return reply

    def pending(self, space: str, wanted: frozenset[str]) -> frozenset[str]:
        """Which of these handlers something pending names."""
        replicas = [replica for shard, replica in self.pump.replicas.items() if shard != SYSTEM_SHARD]
        return frozenset().union(*(pending(replica.cache, space, wanted).handlers for replica in replicas))

    def plant(self, live: LiveDocument, bundles: Iterable[bytes]) -> None:
        """Put a document of elsewhere on the disk, with its code, as if it had come to be here; nothing may have touched it."""
        batch = Batch()
        store = BundleStore(self._engine)
        for bundle in bundles:
            store.put(batch, code_hash(bundle), bundle)
        records = RecordStore(self._engine, self.pump.router.shard_of(live.id.space, live.id.key))
        live.applied_through = 1  # the entry with which the shard's first leader began: no command is of it
        records.put(batch, records.generation, live.id, live.record())
        self._engine.write(batch)
        self._engine.sync()

    def document(self, document: DocumentId) -> LiveDocument:
        """A document as the node holds it."""
        replica = self.pump.replicas[self.pump.router.shard_of(document.space, document.key)]
        return replica.cache.get(document.space, document.key)

    def history(self, document: DocumentId) -> dict[str, Any]:
        """A document's whole history with its code, as cluster.replay.file has it."""
        shard, live = self.pump.router.shard_of(document.space, document.key), self.document(document)
        store = HistoryStore(self._engine, shard)
        rows = [
            row
            for epoch in range(1, live.epoch + 1)
            for first, _, body in store.read(document, epoch, store.earliest_index(document, epoch) or 1, sys.maxsize)
            for row in stored_rows(epoch, first, decode_row(body))
        ]
        hashes = {row["code_hash"] for row in rows}
        bundles = {name: BundleStore(self._engine).get(bytes.fromhex(name)) for name in hashes}
        found = {name: bundle for name, bundle in bundles.items() if bundle is not None}
        return exported(document, live.position, live.chain, rows, found, whole=bool(rows) and live.epoch > 0)

    def deploy(self, space: str, bundle: bytes) -> None:
        """Give a space its code. Raises InvalidBundle and what else a cluster says."""
        self.operate(Kind.SEND, "deploy", {"space": space, "bundle": base64.b64encode(bundle).decode()})
