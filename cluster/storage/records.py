"""The durable records of a shard's documents, in generations, and the index of those that wait: by time and by who is asked.

A generation is one complete set of records. A snapshot is received into the next generation while the present one goes on;
`set_generation` in the batch that also resets the log switches over. The document's own log index inside its record decides
what replay skips (design, invariant 6); this module does not look into bodies. So whoever puts a record says in the same batch
what its document waits for, when that is something else than before.

Invariant: a body comes back exactly as put under this shard, generation and document, or not at all: StorageDamaged.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from cluster.errors import StorageDamaged
from cluster.ids import DocumentId, ShardId
from cluster.storage import keys
from cluster.storage.engine import Batch, Engine, Family
from cluster.storage.scanning import scan_bytes

_META = Family.META
_RECORDS = Family.RECORDS
_WAITS = Family.WAITS
_GENERATION = struct.Struct(">I")
_KINDS = (keys.SHARD_GENERATION, keys.SHARD_METADATA, keys.SHARD_PARTIAL, keys.SHARD_LACKING, keys.SHARD_DAMAGED)


class RecordStore:
    """Records and single values of one shard. `generation` is the one that counts; 0 for a shard never seen before."""

    __slots__ = ("_engine", "_generation", "_shard")

    def __init__(self, engine: Engine, shard: ShardId) -> None:
        """Raises StorageDamaged when the stored generation does not open."""
        assert 0 <= shard <= keys.SHARD_MAX
        self._engine = engine
        self._shard = shard
        body = self._load(keys.SHARD_GENERATION)
        if body is not None and len(body) != _GENERATION.size:
            raise StorageDamaged(f"generation of shard {shard} is not a number", shard=shard)
        self._generation: int = 0 if body is None else _GENERATION.unpack(body)[0]

    @property
    def generation(self) -> int:
        return self._generation

    def set_generation(self, batch: Batch, generation: int) -> None:
        """Switch to another generation: together with ShardLog.reset in one batch, this installs a snapshot."""
        assert self._generation <= generation <= keys.GENERATION_MAX, "generations only rise"
        self._store(batch, keys.SHARD_GENERATION, _GENERATION.pack(generation))
        self._generation = generation

    def metadata(self) -> bytes | None:
        """The shard's metadata record, opaque here. Raises StorageDamaged."""
        return self._load(keys.SHARD_METADATA)

    def put_metadata(self, batch: Batch, body: bytes) -> None:
        """Replace the shard's metadata record."""
        self._store(batch, keys.SHARD_METADATA, body)

    def transfer_note(self, kind: int) -> bytes | None:
        """What the shard notes about a snapshot under way (SHARD_PARTIAL), history it lacks (SHARD_LACKING) or damage
        (SHARD_DAMAGED); opaque here. Raises StorageDamaged."""
        return self._load(kind)

    def put_transfer_note(self, batch: Batch, kind: int, body: bytes | None) -> None:
        """Replace such a note, or remove it with None."""
        if body is None:
            batch.delete(_META, keys.shard_meta(self._shard, kind))
        else:
            self._store(batch, kind, body)

    def put(self, batch: Batch, generation: int, document: DocumentId, body: bytes) -> None:
        """Replace a document's record."""
        key = keys.record(keys.records_prefix(self._shard, generation), document)
        batch.put(_RECORDS, key, keys.seal(_RECORDS, key, body))

    def delete(self, batch: Batch, generation: int, document: DocumentId) -> None:
        """Remove a document's record."""
        batch.delete(_RECORDS, keys.record(keys.records_prefix(self._shard, generation), document))

    def get(self, generation: int, document: DocumentId) -> bytes | None:
        """A document's record, None when there is none. Raises StorageDamaged."""
        key = keys.record(keys.records_prefix(self._shard, generation), document)
        value = self._engine.get(_RECORDS, key)
        return None if value is None else keys.unseal(_RECORDS, key, value)

    def index(
        self,
        batch: Batch,
        generation: int,
        document: DocumentId,
        old: tuple[int | None, tuple[str, ...], bool],
        new: tuple[int | None, tuple[str, ...], bool],
    ) -> None:
        """Say what a document waits for, which was `old`: its earliest time, Unix milliseconds, the principals it asks, and
        whether it has connections.
        """
        shard = self._shard
        if old[0] != new[0]:
            prefix = keys.waits_due(shard, generation)
            if old[0] is not None:
                batch.delete(_WAITS, prefix + keys.due_name(old[0], document))
            if new[0] is not None:
                _put_empty(batch, prefix + keys.due_name(new[0], document))
        for principal in (set(old[1]) ^ set(new[1])) if old[1] != new[1] else ():
            key = keys.waits_asked(shard, generation, document.space, principal) + document.key.encode()
            if principal in new[1]:
                _put_empty(batch, key)
            else:
                batch.delete(_WAITS, key)

        if old[2] != new[2]:
            key = keys.waits_connected(shard, generation) + keys.record_name(document)
            if new[2]:
                _put_empty(batch, key)
            else:
                batch.delete(_WAITS, key)

    def connected(self, generation: int, after: bytes, limit: int) -> list[bytes]:
        """At most `limit` names (`keys.record_name`) of documents that have connections, in order, above the name `after`.
        Raises StorageDamaged."""
        prefix = keys.waits_connected(self._shard, generation)
        start = prefix + after + b"\0" if after else prefix
        return [key[len(prefix) :] for key in self._scan_empty(start, keys.after_prefix(prefix), limit)]

    def due(self, generation: int, after: bytes, now_ms: int, limit: int) -> list[bytes]:
        """At most `limit` documents by time, behind the name `after` and not later than `now_ms`: see `keys.due_of`. Raises
        StorageDamaged."""
        prefix = keys.waits_due(self._shard, generation)
        start = prefix + after + b"\0" if after else prefix
        end = prefix + keys.due_before(now_ms)
        return [key[len(prefix) :] for key in self._scan_empty(start, end, limit)]

    def asking(self, generation: int, space: str, principal: str, after_key: str, limit: int) -> list[str]:
        """At most `limit` keys of a space's documents that ask a principal something, above `after_key` ("" for all). Raises
        StorageDamaged."""
        prefix = keys.waits_asked(self._shard, generation, space, principal)
        start = prefix + after_key.encode() + b"\0" if after_key else prefix
        return [key[len(prefix) :].decode() for key in self._scan_empty(start, keys.after_prefix(prefix), limit)]

    def _scan_empty(self, start: bytes, end: bytes, limit: int) -> list[bytes]:
        found = list(self._engine.scan(_WAITS, start, end, limit=limit)) if start < end else []
        for key, value in found:
            keys.unseal(_WAITS, key, value)
        return [key for key, _ in found]

    def scan(
        self, generation: int, space: str, key_prefix: str, after_key: str | None, limit: int
    ) -> Iterator[tuple[str, bytes]]:
        """At most `limit` (key, body) of a space's records whose key starts with `key_prefix` and is above `after_key` (None or
        "" for all), in order of the keys' UTF-8 bytes. Raises StorageDamaged at a record that does not open."""
        whole_space = keys.record(keys.records_prefix(self._shard, generation), DocumentId(space, ""))
        start = whole_space + key_prefix.encode()
        end = keys.after_prefix(start)
        if after_key:
            start = max(start, whole_space + after_key.encode() + b"\0")
        if start < end:
            for key, value in self._engine.scan(_RECORDS, start, end, limit=limit):
                yield key[len(whole_space) :].decode(), keys.unseal(_RECORDS, key, value)

    def scan_all(self, generation: int, after_key: bytes | None, limit_bytes: int) -> list[tuple[bytes, bytes]]:
        """(name, body) of the records of all spaces above the name `after_key` (None or b"" for all), in order, stopping after
        `limit_bytes` but never before one record; an empty list is the end. A name is `keys.record_name` of the document.

        Raises StorageDamaged. Each call sees the records of its own moment: whoever builds a snapshot from several calls
        names the log index of the oldest and leaves the rest to replay (records say what they have applied).
        """
        prefix = keys.records_prefix(self._shard, generation)
        start = prefix + after_key + b"\0" if after_key else prefix
        pairs = scan_bytes(self._engine, _RECORDS, start, keys.after_prefix(prefix), limit_bytes)
        return [(key[len(prefix) :], keys.unseal(_RECORDS, key, value)) for key, value in pairs]

    def put_named(self, batch: Batch, generation: int, name: bytes, body: bytes) -> None:
        """Replace the record with this name: what `scan_all` gave on another node. Raises InvalidName, batch untouched."""
        keys.check_record_name(name)
        key = keys.records_prefix(self._shard, generation) + name
        batch.put(_RECORDS, key, keys.seal(_RECORDS, key, body))

    def drop_generation(self, batch: Batch, generation: int) -> None:
        """Remove every record of a generation, and what they wait for. Not of the present one."""
        assert generation != self._generation, "the present generation is not dropped"
        prefix = keys.records_prefix(self._shard, generation)
        for family in (_RECORDS, _WAITS):
            batch.delete_range(family, prefix, keys.after_prefix(prefix))

    def _load(self, kind: int) -> bytes | None:
        key = keys.shard_meta(self._shard, kind)
        value = self._engine.get(_META, key)
        return None if value is None else keys.unseal(_META, key, value)

    def _store(self, batch: Batch, kind: int, body: bytes) -> None:
        key = keys.shard_meta(self._shard, kind)
        batch.put(_META, key, keys.seal(_META, key, body))


def _put_empty(batch: Batch, key: bytes) -> None:
    batch.put(_WAITS, key, keys.seal(_WAITS, key, b""))


def erase_records(shard: ShardId, batch: Batch) -> None:
    """Remove every record and single value of a shard, readable or not: the replica is gone from this node."""
    start, end = keys.records_prefix(shard, 0), keys.records_prefix(shard, keys.GENERATION_MAX) + b"\xff"
    for family in (_RECORDS, _WAITS):
        batch.delete_range(family, start, end)
    for kind in _KINDS:
        batch.delete(_META, keys.shard_meta(shard, kind))
