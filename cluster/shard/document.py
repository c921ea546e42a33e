"""A document in memory, and the one durable value it comes from and goes back to: its record.

Invariant 2 of the design: all replicas at one position have the same record, byte for byte. So a record holds nothing that only
one node knows, and `applied_through` is the last entry that changed this document, not the last entry that this node applied.

The chain binds the whole past. It grows once for all commands of one entry, when the last of them has run:

    chain = H(chain, position, time, headers and codes, H(seed, payloads, answers, tracked writes))

The inner digest is salted by the seed, so content can be erased from history, an entry's share of it at a time, and the chain
still verifies. Nothing leaves a replica between two commands of an entry, so nobody sees a document that is ahead of its chain.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from cluster.documents.armed import waits_of
from cluster.documents.runtime import Instance, Outcome, Program
from cluster.errors import StorageDamaged
from cluster.ids import DocumentId, Position
from cluster.session.table import SessionTable, StoredTable
from cluster.shard.commands import CHAIN_MARK_BYTES, Command

if TYPE_CHECKING:
    from cluster.shard.passing import Passing

RECORD_FORMAT = 1
CHAIN_BYTES = 32
NO_CHAIN = bytes(CHAIN_BYTES)
FREEZE_AFTER_POISON = "poison"
FREEZE_AFTER_DIVERGENCE = "divergence"


class Record(Struct, array_like=True, frozen=True):
    """The durable value of one document, always written whole.

    applied_through: Raft index of the last entry that changed it; replay skips its commands up to and including that entry.
    alive: False for the tombstone of a deleted document, which keeps its sessions.
    frozen: why the document takes no more commands; empty when it does.
    upgraded_index: of the newest upgrade in this epoch; 0 while there was none. upgrade_failed: the deployment (its number in
        the space) that failed this document, which keeps its code until there is another; 0 when none did.
    """

    format: int
    applied_through: int
    epoch: int
    index: int
    alive: bool
    frozen: str
    code_hash: bytes
    state: bytes
    sessions: StoredTable
    chain: bytes
    upgraded_index: int = 0
    upgrade_failed: int = 0


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Record)


Waiting = tuple[int | None, tuple[str, ...], bool]
"""What a document waits for: its earliest time in Unix milliseconds, the principals that it asks, sorted, and whether it has
connections, which will end."""
NOT_WAITING: Waiting = (None, (), False)


def waiting_of(body: bytes) -> Waiting:
    """What the document of a stored record waits for; for a record that does not decode, nothing."""
    try:
        record = decode_record(body)
    except StorageDamaged:
        return NOT_WAITING
    if not record.alive or record.frozen:
        return NOT_WAITING
    waits = waits_of(record.state)
    return waits.due_ms, waits.asked, waits.connected


def decode_record(body: bytes) -> Record:
    """Read a record. Raises StorageDamaged."""
    try:
        record = _decoder.decode(body)
    except msgspec.DecodeError as error:
        raise StorageDamaged(f"a document record does not decode: {error}") from error
    if record.format != RECORD_FORMAT:
        raise StorageDamaged(f"record format {record.format} is not {RECORD_FORMAT}")
    return record


@dataclass(slots=True)
class Ran:
    """The commands of one document that ran in one entry and epoch, in order, and how each ended.

    first_index: the position of the first. first_seed: the first one's seed. existence_touched: not all were messages.
    before, after: the start of the chain without and with them, once they are bound into it.
    """

    epoch: int
    first_index: int
    now_ms: int
    first_seed: bytes
    existence_touched: bool = False
    offsets: list[int] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    answers: list[bytes] = field(default_factory=list)
    writes: list[bytes] = field(default_factory=list)
    before: bytes = b""
    after: bytes = b""


class LiveDocument:
    """One document in memory, alive or a tombstone or not yet created (epoch 0).

    replay_through: applied_through of the record it was loaded from: commands of entries up to here are in it already.
    first_unsaved: Raft index of the oldest entry whose effect is not in the stored record; 0 when clean.
    unsaved_bytes: command bytes since the stored record. touched_ms: node's clock at the last command or read (cache order
        only).
    settled: the revision (see Compilations) at which it was found to have the code that it should; this node's business.
    passing: what its newest commands emitted, until viewers have been served.
    ring: recent changes as (index after, changes, bytes), for viewers who missed them.
    """

    __slots__ = (
        "applied_through",
        "chain",
        "code_hash",
        "epoch",
        "first_unsaved",
        "frozen",
        "id",
        "index",
        "instance",
        "passing",
        "program",
        "replay_through",
        "ring",
        "ring_bytes",
        "sessions",
        "settled",
        "stored_waiting",
        "touched_ms",
        "unsaved_bytes",
        "upgrade_failed",
        "upgraded_index",
    )

    def __init__(self, document: DocumentId) -> None:
        self.id = document
        self.epoch = 0
        self.index = 0
        self.frozen = ""
        self.code_hash = b""
        self.program: Program | None = None
        self.instance: Instance | None = None
        self.sessions = SessionTable()
        self.chain = NO_CHAIN
        self.applied_through = 0
        self.replay_through = 0
        self.first_unsaved = 0
        self.unsaved_bytes = 0
        self.touched_ms = 0.0
        self.stored_waiting = NOT_WAITING
        """What the index on disk says, since the record was written."""
        self.passing: Passing | None = None
        self.ring: deque[tuple[int, Any, int]] = deque()
        self.ring_bytes = 0
        self.upgraded_index = 0
        self.upgrade_failed = 0
        self.settled = 0

    @classmethod
    def load(cls, document: DocumentId, body: bytes, program: Program | None) -> LiveDocument:
        """From a stored record; `program` is None for a tombstone. Raises StorageDamaged."""
        record = decode_record(body)
        live = cls(document)
        live.epoch, live.index, live.frozen = record.epoch, record.index, record.frozen
        live.code_hash, live.chain = record.code_hash, record.chain
        live.sessions = SessionTable(record.sessions)
        live.upgraded_index, live.upgrade_failed = record.upgraded_index, record.upgrade_failed
        live.applied_through = live.replay_through = record.applied_through
        if record.alive:
            assert program is not None, "a living document needs its code"
            live.program = program
            live.instance = program.load(document, record.state)
            live.stored_waiting = live.waiting
        return live

    @property
    def alive(self) -> bool:
        return self.instance is not None

    @property
    def due_ms(self) -> int | None:
        """The earliest thing that time must do, Unix milliseconds; None when there is none. A frozen document's time stands."""
        instance = self.instance
        return None if instance is None or self.frozen else instance.due_ms

    @property
    def waiting(self) -> Waiting:
        """What it waits for now. A frozen document takes neither alarms nor answers, and is told of nobody."""
        instance = self.instance
        if instance is None or self.frozen:
            return NOT_WAITING
        return instance.due_ms, instance.asked, instance.has_connections

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.index)

    def record(self) -> bytes:
        """The record of the present state."""
        state = self.instance.dump() if self.instance is not None else b""
        return _encoder.encode(
            Record(
                RECORD_FORMAT,
                self.applied_through,
                self.epoch,
                self.index,
                self.instance is not None,
                self.frozen,
                self.code_hash,
                state,
                self.sessions.stored(),
                self.chain,
                self.upgraded_index,
                self.upgrade_failed,
            )
        )

    def record_bytes(self) -> int:
        """Approximate size of the record."""
        return (self.instance.size_bytes() if self.instance is not None else 0) + 256 * (1 + len(self.sessions))

    def size_bytes(self) -> int:
        """Approximate size in memory: the record's and what is kept for viewers."""
        return self.record_bytes() + self.ring_bytes

    def extend_chain(self, ran: Ran) -> None:
        """Bind the commands of one entry and their outcomes into the chain, once an entry and epoch, in order; a second call
        changes nothing.
        """
        if ran.after:
            return
        ran.before = self.chain[:CHAIN_MARK_BYTES]
        commands = ran.commands
        payloads = [command.payload for command in commands]
        headers = [(command.kind, command.channel, command.principal) for command in commands]
        content = blake2b(
            _encoder.encode((payloads, ran.answers, ran.writes)), key=ran.first_seed, digest_size=CHAIN_BYTES
        ).digest()
        place = _encoder.encode((ran.epoch, ran.first_index, ran.now_ms, headers, ran.codes))
        self.chain = blake2b(self.chain + content + place, digest_size=CHAIN_BYTES).digest()
        ran.after = self.chain[:CHAIN_MARK_BYTES]

    def push_change(self, outcome: Outcome, ring_bytes_max: int) -> None:
        """Keep what changed for viewers who are behind; the oldest falls out when the ring is full."""
        cost = outcome.change_bytes + 64
        self.ring.append((self.index, outcome.changes, cost))
        self.ring_bytes += cost
        while self.ring_bytes > ring_bytes_max and len(self.ring) > 1:
            self.ring_bytes -= self.ring.popleft()[2]

    def changes_since(self, index: int) -> list[Any] | None:
        """Changes of positions index+1 .. now in this epoch, or None when the ring no longer reaches back that far."""
        if index == self.index:
            return []
        ring = self.ring
        if not ring or ring[0][0] > index + 1 or index > self.index:
            return None
        newest: list[Any] = []
        for at, changes, _ in reversed(ring):  # most viewers lack the last ones only
            if at <= index:
                break
            if changes is not None:
                newest.append(changes)
        newest.reverse()
        return newest

    def clear_ring(self) -> None:
        """Forget changes: history was cut (delete, recreate, freeze)."""
        self.ring.clear()
        self.ring_bytes = 0
