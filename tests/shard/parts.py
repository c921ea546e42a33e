"""Parts of one shard on a memory engine, without Raft: what a committed entry does to documents, records and viewers."""

from __future__ import annotations

from typing import TypedDict, Unpack

from cluster.ids import LogIndex, NodeId, ShardId
from cluster.session.operations import Delta, Kind, Operation, Reply
from cluster.shard.apply import Applier, HandlerFailure
from cluster.shard.cache import DocumentCache
from cluster.shard.commands import SEMANTICS, Command, CommandKind, Entry, encode_entry
from cluster.shard.deployments import Space
from cluster.shard.digest import AppliedDigest
from cluster.shard.directory import Decisions, Directory
from cluster.shard.document import LiveDocument
from cluster.shard.feed import Feed
from cluster.shard.gathering import Gatherer
from cluster.shard.reading import Reader
from cluster.shard.system.program import SYSTEM_CODE, SystemProgram, bundle_hash
from cluster.shard.turn import Turn
from cluster.storage.bundles import BundleStore
from cluster.storage.engine import Batch
from cluster.storage.history import HistoryStore
from cluster.storage.memory import MemoryEngine
from cluster.storage.records import RecordStore
from tests.pump.tally import BUNDLE, TallyLoader
from tests.pump.world import Marker

SHARD = ShardId(1)
STREAM = (NodeId("n1"), 1)
TALLY = bundle_hash(BUNDLE)


class Identity(TypedDict, total=False):
    """Who sends a command, over which session, checked against which code: where a test says nothing, alice without one."""

    principal: str
    session: bytes
    sequence: int
    acked_through: int
    code_hash: bytes


class Parts:
    """One shard's documents. `engine` may be another's, as after a restart."""

    def __init__(
        self, engine: MemoryEngine | None = None, *, bytes_max: int = 1 << 24, checkpoints: bool = True, with_code: bool = True
    ) -> None:
        self.engine = engine or MemoryEngine()
        self.bundles = BundleStore(self.engine)
        if with_code and self.bundles.get(TALLY) is None:
            batch = Batch()
            self.bundles.put(batch, TALLY, BUNDLE)
            self.engine.write(batch)
        loader = TallyLoader()
        self.directory = Directory(self.bundles, loader, {SYSTEM_CODE: SystemProgram(loader)})
        self.directory.absorb(Decisions(1, None, (Space("tally", TALLY, 1, "operator@moot", 0),)))
        self.records = RecordStore(self.engine, SHARD)
        generation = self.records.generation
        self.cache = DocumentCache(self.records, self.directory, generation, bytes_max=bytes_max, checkpoints=checkpoints)
        self.history = HistoryStore(self.engine, SHARD)
        self.failures: list[HandlerFailure] = []
        self.applier = Applier(
            SHARD, self.cache, self.history, self.directory, Marker(), self.failures.append, AppliedDigest(LogIndex(0))
        )
        self.feed = Feed()
        self.reader = Reader(self.cache, self.records, self.feed)
        self.gatherer = Gatherer(self.cache, self.directory, lambda count: bytes(count))
        self.index = 0
        self.now_ms = 1_000

    def command(
        self, kind: CommandKind, key: str, channel: str = "", payload: bytes = b"{}", **more: Unpack[Identity]
    ) -> Command:
        fields: Identity = {
            "principal": "alice@acme",
            "session": b"",
            "sequence": 0,
            "acked_through": 0,
            "code_hash": TALLY,
            **more,
        }
        return Command(kind, "tally", key, channel, payload, **fields)

    def create(self, key: str, **more: Unpack[Identity]) -> Command:
        return self.command(CommandKind.CREATE, key, **more)

    def add(self, key: str, amount: int, **more: Unpack[Identity]) -> Command:
        return self.command(CommandKind.SEND, key, "add", b'{"amount":%d}' % amount, **more)

    def apply(self, *commands: Command, seed: bytes = bytes(32)) -> list[Reply]:
        """Commit one entry; its effects are written, its viewers served, its answers returned."""
        self.index += 1
        turn = Turn()
        payload = encode_entry(Entry(SEMANTICS, self.now_ms, seed, list(commands)))
        origins = [(STREAM, number) for number in range(len(commands))]
        for live in self.applier.apply(LogIndex(self.index), payload, origins, turn, float(self.now_ms)):
            self.feed.changed(live)
        self.feed.flush(turn)
        self.write(turn)
        return turn.replies.get(STREAM, [])

    def replay(self, *commands: Command, seed: bytes = bytes(32)) -> None:
        """Apply an entry for which nobody waits, as after a restart."""
        self.index += 1
        turn = Turn()
        payload = encode_entry(Entry(SEMANTICS, self.now_ms, seed, list(commands)))
        self.applier.apply(LogIndex(self.index), payload, None, turn, float(self.now_ms))
        self.engine.write(turn.batch)

    def write(self, turn: Turn) -> None:
        self.deltas = turn.deltas.get(STREAM, [])
        self.engine.write(turn.batch)

    deltas: list[Delta]

    def save_all(self) -> None:
        batch = Batch()
        self.cache.save_all(batch)
        self.engine.write(batch)

    def housekeep(self, now_ms: float, pinned: set[tuple[str, str]] | None = None) -> None:
        batch = Batch()
        self.cache.housekeep(now_ms, batch, pinned or set())
        self.engine.write(batch)

    def live(self, key: str) -> LiveDocument:
        return self.cache.get("tally", key)

    def gather(self, *operations: Operation) -> tuple[list[Reply], list[list[Command]]]:
        """Refusals, and the commands of each entry."""
        turn = Turn()
        entries = self.gatherer.gather([(STREAM, list(operations))], self.now_ms, turn)
        return turn.replies.get(STREAM, []), [commands for _, _, commands in entries]

    def read(self, operation: Operation) -> Reply:
        turn = Turn()
        self.reader.run(STREAM, operation, turn, float(self.now_ms))
        self.deltas = turn.deltas.get(STREAM, [])
        return turn.replies[STREAM][0]

    def operation(self, kind: Kind, key: str, channel: str = "", payload: bytes = b"{}", **more: object) -> Operation:
        return Operation(1, kind, "tally", key, "alice@acme", channel, payload, **more)  # type: ignore[arg-type]
