"""What the log holds: entries that batch commands. Encoded once, by the leader, with one call an entry.

A command carries everything that its handler may observe, together with the entry's time and seed. Apply reads nothing else.
"""

from __future__ import annotations

import enum
from hashlib import blake2b

import msgspec
from msgspec import Struct

from cluster.errors import StorageDamaged
from cluster.ids import LogIndex

SEMANTICS = 1
"""Number of the rules that apply follows. A binary runs the current and the previous one."""

COMMANDS_MAX = 512
"""Commands in one entry. What is larger is cut, not to save anything (entries are cheap: they share appends, writes and
syncs) but to let apply answer in pieces: clients that wait for their answers would otherwise move in step with the whole
batch.
"""

ENTRY_BYTES_MAX = 4 * 1024 * 1024
"""Payload bytes gathered into one entry; one larger command still travels alone."""

SEED_BYTES = 32
SEED_OWN_BYTES = 4
"""The end of a seed, in which commands of one entry differ."""

CHAIN_MARK_BYTES = 8


class CommandKind(enum.IntEnum):
    """Stable numbers: they are in the log."""

    CREATE = 1
    SEND = 2
    DELETE = 3
    ALARM = 4
    ANSWER = 5
    UPGRADE = 6
    CONNECT = 7
    DISCONNECT = 8
    REPAIR = 9
    THAW = 10
    FORK = 11


TIME_PRINCIPAL = "system:time@moot"
"""Who sends what a leader makes because its time has come: alarms, and the end of asks. Nobody can sign in as it."""


class Command(Struct, array_like=True, frozen=True, gc=False):
    """One input to one document.

    channel: the handler; ALARM_CHANNEL and ANSWER_CHANNEL say that the payload names what is armed, CONNECT_CHANNEL and
        DISCONNECT_CHANNEL that it names a connection, which is the principal's, REPAIR_CHANNEL that it is an operator's order.
    code_hash: CREATE: the code the document gets. SEND: the code that the payload was checked against; a document that
        runs other code by then checks it again at apply.
    session, sequence, acked_through: see `cluster.session.table`; an empty session asks for nothing.
    """

    kind: int
    space: str
    key: str
    channel: str
    payload: bytes
    principal: str
    session: bytes
    sequence: int
    acked_through: int
    code_hash: bytes


class Entry(Struct, array_like=True, frozen=True):
    """One log entry. `now_ms` never falls within a shard; `seed` is 32 bytes from the leader's operating system."""

    semantics: int
    now_ms: int
    seed: bytes
    commands: list[Command]


class HistoryRow(Struct, array_like=True, frozen=True):
    """The commands of one document from one entry, as its history keeps them: enough to run them again without the log.

    offsets: place of each command in its entry (its seed derives from it). codes, answers: how each ended. writes: CRC-32 of
        each one's tracked writes. before, after: the first CHAIN_MARK_BYTES of the document's chain before and after the row;
        with them `command_marks` finds the command at which two replicas part.
    """

    log_index: int
    now_ms: int
    seed: bytes
    offsets: list[int]
    commands: list[Command]
    codes: list[int]
    answers: list[bytes]
    writes: list[int]
    before: bytes
    after: bytes


class _RowPlace(Struct, array_like=True, frozen=True):
    """The beginning of a HistoryRow; the rest is skipped, not read."""

    log_index: int


_encoder = msgspec.msgpack.Encoder()
_place_decoder = msgspec.msgpack.Decoder(_RowPlace)
_entry_decoder = msgspec.msgpack.Decoder(Entry)
_row_decoder = msgspec.msgpack.Decoder(HistoryRow)


def encode_entry(entry: Entry) -> bytes:
    """Bytes of an entry; never empty."""
    return _encoder.encode(entry)


def decode_entry(payload: bytes) -> Entry:
    """Read a committed payload. Raises StorageDamaged: what a quorum stored is not what a leader made."""
    try:
        entry = _entry_decoder.decode(payload)
    except msgspec.DecodeError as error:
        raise StorageDamaged(f"a committed entry does not decode: {error}") from error
    if entry.semantics != SEMANTICS:
        raise StorageDamaged(f"entry has semantics {entry.semantics}; this release runs {SEMANTICS}")
    return entry


def encode_row(row: HistoryRow) -> bytes:
    """Bytes of a history row."""
    return _encoder.encode(row)


def row_index(body: bytes) -> LogIndex:
    """The entry that a history row is from, without reading the row. Raises StorageDamaged."""
    try:
        return LogIndex(_place_decoder.decode(body).log_index)
    except msgspec.DecodeError as error:
        raise StorageDamaged(f"a history row does not decode: {error}") from error


def decode_row(body: bytes) -> HistoryRow:
    """Read a history row. Raises StorageDamaged."""
    try:
        return _row_decoder.decode(body)
    except msgspec.DecodeError as error:
        raise StorageDamaged(f"a history row does not decode: {error}") from error


def command_marks(row: HistoryRow) -> list[bytes]:
    """One mark a command: of two replicas' rows of the same entry, the first different marks stand at the first command before
    which the documents, or after which the commands, outcomes or writes differ. The last one is the chain's own beginning, so
    it differs whenever the chains do.
    """
    mark = _encoder.encode((row.before, row.log_index, row.now_ms, row.seed))
    marks = []
    for outcome in zip(row.offsets, row.commands, row.codes, row.answers, row.writes, strict=True):
        mark = blake2b(mark + _encoder.encode(outcome), digest_size=CHAIN_MARK_BYTES).digest()
        marks.append(mark)
    marks[-1] = row.after
    return marks


def command_seed(entry_seed: bytes, offset: int) -> bytes:
    """The seed of one command: the entry's with the command's offset folded into its last four bytes. Seeds only ever serve
    as keys of BLAKE2b, which keeps streams of different keys apart, so nothing more is needed than that they differ.
    """
    common, last = entry_seed[:-SEED_OWN_BYTES], int.from_bytes(entry_seed[-SEED_OWN_BYTES:], "big")
    return common + (last ^ offset).to_bytes(SEED_OWN_BYTES, "big")


def command_seeds(entry: Entry) -> list[bytes]:
    """The seeds of an entry's commands, in order."""
    common, last = entry.seed[:-SEED_OWN_BYTES], int.from_bytes(entry.seed[-SEED_OWN_BYTES:], "big")
    return [common + (last ^ offset).to_bytes(SEED_OWN_BYTES, "big") for offset in range(len(entry.commands))]
