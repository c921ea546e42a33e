"""Where everything lies on disk: the key of every stored value, and the checksum that seals it.

Integers are big-endian and unsigned, so that byte order is numeric order. Names never contain a zero byte (cluster/ids.py
refuses control characters), so a zero byte ends a name and keeps the order of names.

    META     0x00 name                                      node-wide: b"format", b"identity"
             0x01 shard:u32 kind:u8                         per shard: hard state, snapshot, generation, metadata, what a
                                                            snapshot under way has brought, which history is lacking, damage
             0x02 shard:u32 first_index:u64                 term that begins at this log entry
    LOG      shard:u32 index:u64                            one Raft entry: term:u64 payload
    RECORDS  shard:u32 generation:u32 space 0x00 key        one document's record
    HISTORY  shard:u32 space 0x00 key 0x00 epoch:u32 first_index:u64
                                                            count:u32 and the commands of one document from one entry
    BUNDLES  hash:32                                        a bundle; the name is its checksum
    WAITS    shard:u32 generation:u32 0x01 due_ms:u64 space 0x00 key
                                                            an empty value: the document has something to do then
             shard:u32 generation:u32 0x02 space 0x00 principal 0x00 key
                                                            an empty value: the document asks the principal something
             shard:u32 generation:u32 0x03 space 0x00 key   an empty value: the document has connections

Invariant: every value except a bundle is sealed: crc32 over (family, key, body) stands before the body. A value that rotted,
or that came back for another key, does not open. It does not detect a value that is missing, or an older value of the same
key: whoever expects a key says so (cluster/storage/log.py for entries).
"""

from __future__ import annotations

import struct
from zlib import crc32

from cluster.errors import InvalidName, StorageDamaged
from cluster.ids import DocumentId, LogIndex, ShardId, check_key, check_space
from cluster.storage.engine import Family

CHECKSUM_BYTES = 4
HISTORY_COUNT_BYTES = 4
"""A history value begins with the number of its commands."""

META_FORMAT = b"\x00format"
META_IDENTITY = b"\x00identity"

SHARD_HARD_STATE = 1
SHARD_SNAPSHOT = 2
SHARD_GENERATION = 3
SHARD_METADATA = 4
SHARD_PARTIAL = 5
SHARD_LACKING = 6
SHARD_DAMAGED = 7

_FAMILY_SEED = {family: crc32(family.value.encode()) for family in Family}
_SHARD_INDEX = struct.Struct(">IQ")
_SHARD_PAIR = struct.Struct(">II")
_SHARD_PAIR_KIND = struct.Struct(">IIB")
_U64 = struct.Struct(">Q")
_EPOCH_INDEX = struct.Struct(">IQ")
_CHECKSUM = struct.Struct(">I")
_U32 = struct.Struct(">I")
_SHARD_KIND = struct.Struct(">BIB")
_TERM_START = struct.Struct(">BIQ")

SHARD_MAX = 0xFFFF_FFFF
GENERATION_MAX = 0xFFFF_FFFF
INDEX_MAX = 0xFFFF_FFFF_FFFF_FFFF


def family_seed(family: Family) -> int:
    """Where the checksum of a family's keys starts, so that a value can not pass in another family."""
    return _FAMILY_SEED[family]


def seal(family: Family, key: bytes, body: bytes) -> bytes:
    """Checksum and body, as stored under `key`."""
    return _CHECKSUM.pack(crc32(body, crc32(key, _FAMILY_SEED[family]))) + body


def unseal(family: Family, key: bytes, value: bytes) -> bytes:
    """The body of a stored value. Raises StorageDamaged when it is not what `seal` made for exactly this key."""
    body = value[CHECKSUM_BYTES:]
    if len(value) < CHECKSUM_BYTES or _CHECKSUM.unpack_from(value)[0] != crc32(body, crc32(key, _FAMILY_SEED[family])):
        raise StorageDamaged(f"checksum mismatch in {family.value} at {key.hex()}", family=family.value, key=key.hex())
    return body


def after_prefix(prefix: bytes) -> bytes:
    """The smallest key that is above every key starting with `prefix`. Requires a prefix that is not all 0xff."""
    stripped = prefix.rstrip(b"\xff")
    assert stripped, "a prefix of only 0xff has no upper bound"
    return stripped[:-1] + bytes((stripped[-1] + 1,))


def shard_meta(shard: ShardId, kind: int) -> bytes:
    """META key of one of a shard's single values."""
    return _SHARD_KIND.pack(1, shard, kind)


def term_start(shard: ShardId, first_index: int) -> bytes:
    """META key that says: a term begins at this entry. INDEX_MAX itself is never an entry and serves as upper bound."""
    return _TERM_START.pack(2, shard, first_index)


def term_start_index(key: bytes) -> LogIndex:
    """The entry index that a `term_start` key names."""
    return LogIndex(_TERM_START.unpack(key)[2])


def log_entry(shard: ShardId, index: int) -> bytes:
    """LOG key of an entry. INDEX_MAX itself is never an entry and serves as upper bound."""
    return _SHARD_INDEX.pack(shard, index)


def log_entry_index(key: bytes) -> LogIndex:
    """The index in a LOG key."""
    return LogIndex(_SHARD_INDEX.unpack(key)[1])


def records_prefix(shard: ShardId, generation: int) -> bytes:
    """What every record key of one generation starts with."""
    return _SHARD_PAIR.pack(shard, generation)


def record(prefix: bytes, document: DocumentId) -> bytes:
    """RECORDS key of a document under a generation's prefix."""
    return b"%b%b\0%b" % (prefix, document.space.encode(), document.key.encode())


def record_name(document: DocumentId) -> bytes:
    """A record's key without shard and generation: what a snapshot carries from node to node."""
    return b"%b\0%b" % (document.space.encode(), document.key.encode())


def document_of(name: bytes) -> DocumentId:
    """Whose `record_name` this is."""
    space, _, key = name.partition(b"\0")
    return DocumentId(space.decode(), key.decode())


def check_record_name(name: bytes) -> None:
    """Raise InvalidName unless `name` is `record_name` of a legal document: it comes from another node."""
    _check_document(*name.partition(b"\0"))


def check_history_name(name: bytes) -> None:
    """Raise InvalidName unless `name` is a HISTORY key without its shard: it comes from another node."""
    document, position = name[: -_EPOCH_INDEX.size], name[-_EPOCH_INDEX.size :]
    if len(position) < _EPOCH_INDEX.size or document[-1:] != b"\0":
        raise InvalidName(f"history name {name!r} is cut short")
    _check_document(*document[:-1].partition(b"\0"))


def _check_document(space: bytes, zero: bytes, key: bytes) -> None:
    try:
        check_space(space.decode())
        check_key(key.decode())
    except UnicodeDecodeError:
        raise InvalidName(f"stored name {space + zero + key!r} is not UTF-8") from None


def waits_due(shard: ShardId, generation: int) -> bytes:
    """What every WAITS key of documents by time starts with."""
    return _SHARD_PAIR_KIND.pack(shard, generation, 1)


def due_name(due_ms: int, document: DocumentId) -> bytes:
    """A WAITS key by time, under its prefix: in order of time, then of names."""
    return b"%b%b\0%b" % (_U64.pack(due_ms), document.space.encode(), document.key.encode())


def due_before(due_ms: int) -> bytes:
    """Above every `due_name` up to `due_ms`, below all others."""
    return _U64.pack(min(due_ms + 1, INDEX_MAX))


def due_of(name: bytes) -> tuple[int, DocumentId]:
    """What a `due_name` names."""
    space, _, key = name[_U64.size :].partition(b"\0")
    return _U64.unpack_from(name)[0], DocumentId(space.decode(), key.decode())


def waits_asked(shard: ShardId, generation: int, space: str, principal: str) -> bytes:
    """What every WAITS key of a space's documents that ask a principal starts with."""
    return b"%b%b\0%b\0" % (_SHARD_PAIR_KIND.pack(shard, generation, 2), space.encode(), principal.encode())


def waits_connected(shard: ShardId, generation: int) -> bytes:
    """What every WAITS key of documents that have connections starts with; their `record_name` follows."""
    return _SHARD_PAIR_KIND.pack(shard, generation, 3)


def history_shard(shard: ShardId) -> bytes:
    """What every history key of a shard starts with."""
    return _U32.pack(shard)


def history_document(shard: ShardId, document: DocumentId) -> bytes:
    """What every history key of a document starts with."""
    return b"%b%b\0%b\0" % (_U32.pack(shard), document.space.encode(), document.key.encode())


def history_entry(prefix: bytes, epoch: int, first_index: int) -> bytes:
    """HISTORY key under a document's prefix."""
    return prefix + _EPOCH_INDEX.pack(epoch, first_index)


def history_position(key: bytes) -> tuple[int, int]:
    """(epoch, first_index) of a HISTORY key."""
    epoch, first_index = _EPOCH_INDEX.unpack_from(key, len(key) - _EPOCH_INDEX.size)
    return epoch, first_index
